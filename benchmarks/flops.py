"""How much of the machine the encoders use: achieved FLOP/s divided by its own peak in matrix products.

The peak is measured, not read from a data sheet: the fastest square matrix product of several sizes, timed anew in turn
with the encoders.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.models import device_name, encode, large_assessor, on_gpu, prepared_photos, usual_batch
from benchmarks.photos import SMALL, write_photos
from benchmarks.record import Result, result
from benchmarks.timing import Samples, alternated
from tmcr.assessor import Assessor, load
from tmcr.encoders import pixel_values
from tmcr.hardware import Hardware
from tmcr.preparation import Prepared

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Product:
    """Square matrices and room for their product."""

    a: Tensor
    b: Tensor
    out: Tensor

    @classmethod
    def of(cls, size: int, dtype: torch.dtype, device: torch.device) -> Product:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        return cls(a, b, torch.empty_like(a))

    @property
    def flops(self) -> int:
        return 2 * len(self.a) ** 3

    def __call__(self) -> None:
        torch.mm(self.a, self.b, out=self.out)
        if self.a.is_cuda:
            torch.cuda.synchronize()


def measure(quick: bool) -> Iterator[Result]:
    starter = load("starter", precision="fp32")
    device, name = starter.hardware.device, device_name(starter)
    sizes = (512, 1024) if quick else (4096, 8192) if on_gpu(starter) else (1024, 2048, 4096)
    products: dict[str, Product] = {}
    for kind, dtype in DTYPES.items():
        products[kind], peak = fastest([Product.of(size, dtype, device) for size in sizes], rounds=3 if quick else 7)
        yield result(
            f"{kind} matrix peak", _giga(peak), "GFLOP/s", device=name, threads=torch.get_num_threads(),
            note=f"the fastest of square products of {', '.join(map(str, sizes))}: {len(products[kind].a)}",
        )  # fmt: skip
    batch = usual_batch(starter, 16)
    yield from share(starter, products, count=(2 if quick else 8) * batch, batch=batch, rounds=2 if quick else 7)
    large = large_assessor()
    count, batch = (256 if quick else 512, 64) if on_gpu(large) else (1, 1) if quick else (2, 2)
    yield from share(large, products, count=count, batch=batch, rounds=1 if quick else 3)


def share(assessor: Assessor, products: dict[str, Product], *, count: int, batch: int, rounds: int) -> Iterator[Result]:
    """What both encoders achieve in fp32 and bf16, and its share of the peak."""
    with tempfile.TemporaryDirectory() as name:
        prepared = prepared_photos(assessor, write_photos(Path(name), count, SMALL))
    flops = count_flops(lambda: encode_in_this_thread(assessor, prepared[0])) * count
    hardware = assessor.hardware
    halved = Hardware(hardware.device, bf16=True, photo_workers=hardware.photo_workers)
    half = Assessor(assessor.model, assessor.image_text, halved)
    ways: dict[str, Callable[[], object]] = {
        "fp32": lambda: encode(assessor, prepared, batch),
        "bf16": lambda: encode(half, prepared, batch),
        **{f"{kind} peak": product for kind, product in products.items()},
    }
    seconds = alternated(ways, rounds=rounds)
    for kind, product in products.items():
        achieved, peak = seconds[kind].rate(flops), seconds[f"{kind} peak"].rate(product.flops)
        yield result(
            f"{assessor.name}, {kind}", _giga(achieved), "GFLOP/s", ratio=achieved.over(peak),
            to=f"{kind} matrix peak", photos=count, threads=torch.get_num_threads(), device=device_name(assessor),
            note=f"{flops / count / 1e9:.3g} GFLOP a photo, batches of {batch}",
        )  # fmt: skip


def count_flops(step: Callable[[], object]) -> int:
    """Floating-point operations of matrix products and convolutions; a multiply–add counts as two."""
    # Fused attention on CPUs is unknown to the counter; written out, it is made of products that it counts.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    if not (flops := int(counter.get_total_flops())):
        raise RuntimeError("no operation was counted; those of other threads are not seen")
    return flops


def encode_in_this_thread(assessor: Assessor, photo: Prepared) -> None:
    """Both encoders over one photo; the counter does not see the threads of a backend."""
    with torch.inference_mode():
        for encoder, encode_one, pixels in (
            (assessor.image_text, assessor.image_text.encode_images, photo.for_tags),
            (assessor.model.encoder, assessor.model.encoder, photo.for_levels),
        ):
            if encoder is not None and encode_one is not None and pixels is not None:
                seen = torch.from_numpy(pixels[None].copy()).to(assessor.hardware.device)
                encode_one(pixel_values(seen, encoder.preprocess))


def fastest(products: list[Product], *, rounds: int) -> tuple[Product, Samples]:
    """The product of the highest FLOP/s, and these."""
    rates = [alternated({"product": each}, rounds=rounds)["product"].rate(each.flops) for each in products]
    best = max(range(len(rates)), key=lambda number: rates[number].median)
    return products[best], rates[best]


def _giga(rate: Samples) -> Samples:
    return rate.map(lambda value: value / 1e9)
