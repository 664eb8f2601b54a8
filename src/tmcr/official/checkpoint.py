"""Reading the authors' file: a state dict and nothing that would run."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tmcr.errors import ModelError, first_line

_PARTS = ("AL", "TF_Fea_shift", "AL_Fea_shift", "regression")
_PICKLES = tuple(bytes([0x80, version]) for version in range(2, 6))  # how such files begin, where they are no archives


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Name → tensor of the authors' state dict.

    Raises:
        ModelError: the file is not there, is not such a state dict, or could only be read by running code in it.
    """
    try:
        with path.open("rb") as file:
            if file.read(2) not in (b"PK", *_PICKLES):
                raise ModelError(f"{path}: is no checkpoint; download TMCR_AVA.pt, which the paper's authors hand out")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; give the TMCR_AVA.pt that the paper's authors hand out") from None
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or "Unsupported" in str(error):
            raise ModelError(
                f"{path} holds a whole pickled model, as the authors' ranking stage saves it; reading it would run "
                "code from the file, so it is refused: give the state dict TMCR_AVA.pt"
            ) from None
        raise ModelError(f"{path}: is no checkpoint, or is damaged; download TMCR_AVA.pt again") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ModelError(f"{path}: cannot be read as a checkpoint ({first_line(error)}); download it again") from None
    for wrapper in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"{path}: holds no state dict (names and tensors); give the authors' TMCR_AVA.pt")
    tensors = {str(name).removeprefix("module."): value for name, value in content.items()}
    found = {name.partition(".")[0] for name in tensors}
    if missing := [part for part in _PARTS if part not in found]:
        has = ", ".join(sorted(found)[:5]) or "nothing"
        raise ModelError(f"{path}: has no {missing[0]}.*, so it is not the authors' TMCR; it has {has}")
    if unknown := found - set(_PARTS):
        raise ModelError(f"{path}: has {min(unknown)}.*, which the authors' TMCR does not have")
    if broken := [name for name, value in tensors.items() if not value.double().isfinite().all()]:
        raise ModelError(f"{path}: {broken[0]} is not finite; download the checkpoint again")
    return tensors
