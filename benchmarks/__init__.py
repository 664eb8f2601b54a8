"""Measurements of speed and memory (`python -m benchmarks`), and plain loops for tests and timings to compare with."""
