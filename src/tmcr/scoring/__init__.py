"""Many photos, from wherever they are, into results that survive anything: sources, pipeline, parts, run."""
