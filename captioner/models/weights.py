"""Weights from files of strangers: nothing in them is run, and they fit before they are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import safetensors.torch
import torch
from torch import Tensor

from captioner.errors import CaptionerError


def read_tensors(path: Path) -> dict[Any, Any]:
    """Read a `.safetensors` file, or what `torch.save` wrote of tensors and plain values; nothing in it is run.

    Raises
    ------
    CaptionerError
        If it is neither, or cannot be read.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        if _is_inflated(path):
            raise CaptionerError(f"{path}: is larger once unpacked, which torch.save never does; get a whole copy")
        found = torch.load(path, map_location="cpu", weights_only=True)
    except CaptionerError:
        raise
    except OSError as error:
        raise CaptionerError(f"{path}: cannot be read ({error.strerror or error}); get a whole copy") from error
    # torch and safetensors report a wrong file by a dozen types of error, torch at length and advising to trust it.
    except Exception as error:
        raise CaptionerError(
            f"{path}: damaged, or more than tensors and plain values ({type(error).__name__}); get a whole copy"
        ) from error
    if not isinstance(found, dict):
        raise CaptionerError(f"{path}: holds no state dict; get a whole copy")
    return found


def _is_inflated(path: Path) -> bool:
    if not is_zipfile(path):
        return False
    try:
        with ZipFile(path) as archive:
            return sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size
    except BadZipFile:
        return False  # torch will say so


def require_fit(own: Mapping[str, Tensor], given: Mapping[Any, Any], source: str) -> None:
    """Refuse weights that a network cannot take; it may have no values yet, and there may be more weights than it has.

    Raises
    ------
    CaptionerError
        If a tensor is absent or of another shape or kind, or holds what is no finite number.
    """
    wrong = [name for name, tensor in own.items() if not _fits(tensor, given.get(name))]
    if wrong:
        raise CaptionerError(
            f"{source}: {len(wrong)} of {len(own)} tensors absent or of another shape or type, {wrong[0]} first"
        )
    for name, tensor in own.items():
        if not is_finite(given[name].to(tensor.dtype)):
            raise CaptionerError(f"{source}: {name} holds numbers that are not finite; get a whole copy")


def _fits(own: Tensor, given: Any) -> bool:
    return (
        isinstance(given, Tensor)
        and given.shape == own.shape
        and given.is_floating_point() == own.is_floating_point()
        and not given.is_complex()
        and given.layout == torch.strided
        and given.device.type == "cpu"
    )


def is_finite(values: Tensor) -> bool:
    """Whether all are numbers and none is infinite."""
    # The sum, which takes no memory, is not finite if one of them is not; it may overflow, too.
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())
