"""The measurements by name: what is run, in which order, and for how long at most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measurement:
    """A module of this package with a function `measure(quick)` that yields results.

    Attributes:
        seconds: it is given up after so long.
    """

    name: str
    module: str
    about: str
    seconds: float = 600


SUITE = (
    Measurement("start-up", "start_up", "import tmcr, tmcr --help, loading the model"),
    Measurement("end-to-end", "end_to_end", "the whole scorer against its encoders alone, two models"),
    Measurement("stages", "stages", "what each step of the scorer costs one core"),
    Measurement("file-sizes", "file_sizes", "photos per second from 12-megapixel files and from 500-pixel files"),
    Measurement("decoding", "decoding", "12-megapixel JPEGs against plain Pillow, and the effect on the score"),
    Measurement("backends", "backends", "bf16, int8, ONNX Runtime, OpenVINO, torch.compile against fp32 eager"),
    Measurement("flops", "flops", "achieved FLOP/s against the machine's own matrix peak"),
    Measurement("peers", "peers", "tmcr score against scripts as people write them, same encoders"),
    Measurement("resume", "resume", "a run that was killed half-way against an undisturbed one"),
    Measurement("ray", "ray_engine", "tmcr score --engine ray against the local engine"),
    Measurement("memory", "memory", "peak memory over more and more photos", 900),
    Measurement("rescore", "rescore", "tmcr rescore over photos whose features are kept"),
    Measurement("traversal", "traversal", "the traversal loss against plain loops"),
    Measurement("clusters", "clusters", "K-means of the training photos against scikit-learn's"),
    Measurement("tag-building", "tag_builder", "the tag builder on generated comments"),
    Measurement("ava-labels", "read_ava", "reading AVA's labels at full size"),
)
