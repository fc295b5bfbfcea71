"""Where to compute, and in what precision."""

from __future__ import annotations

from typing import Literal, cast, get_args

import torch

from captioner.errors import CaptionerError

Precision = Literal["auto", "float32", "bfloat16"]


def choose_precision(name: Precision, device: torch.device) -> torch.dtype:
    """Turn `auto`, `float32` or `bfloat16` into a type; `auto` is bfloat16 where the device multiplies it faster.

    Raises
    ------
    CaptionerError
        If it is none of them.
    """
    if name not in get_args(Precision):
        raise CaptionerError(f"precision = {name!r} must be one of {', '.join(get_args(Precision))}")
    if name != "auto":
        return cast(torch.dtype, getattr(torch, name))
    if device.type == "cuda":
        fast = torch.cuda.get_device_properties(device).major >= 8
    else:
        units = torch.cpu.get_capabilities()
        # The units alone are of no use without a library that has kernels for them.
        native = any(units.get(unit) for unit in ("amx_bf16", "avx512_bf16", "bf16"))
        fast = native and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return torch.bfloat16 if fast else torch.float32


def choose_device(name: str) -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:N` into a device that is there.

    Raises
    ------
    CaptionerError
        If it is not.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise ValueError("of this kind none is supported")
        torch.empty(0, device=device)
    # torch answers an unknown or absent device with errors of several types.
    except Exception as error:
        raise CaptionerError(f"device = {name!r} cannot be used ({error}); try cpu") from error
    return device
