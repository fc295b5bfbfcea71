"""Grids of a network's features: how fine they are, how to have them finer, and where its stages begin."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from captioner.config import EncoderConfig
from captioner.errors import CaptionerError

_LARGEST = 2048  # input_size that a configuration may ask for
_FINEST = 64  # grid that it may ask for


def fit_grid(network: nn.Module, config: EncoderConfig, native_size: int) -> tuple[int, int, int]:
    """Make the network give the requested grid: by its last stage dilated, else by the input size.

    Returns
    -------
    feature_dim, grid, input_size : int

    Raises
    ------
    CaptionerError
        If it cannot be had.
    """
    size = config.input_size or native_size
    feature_dim, grid = _measure(network, size)
    if config.grid is None and grid > _FINEST:
        raise CaptionerError(
            f"encoder {config.name}: input_size = {size} gives a grid of {grid} x {grid}, more than {_FINEST}; lower it"
        )
    if config.grid is None or config.grid == grid:
        return feature_dim, grid, size
    if config.grid == 2 * grid and (undo := _dilate_last_stage(network, size)):
        dilated_dim, dilated = _try(network, size)
        if dilated == config.grid:
            return dilated_dim, dilated, size
        if dilated:
            # A map with an odd side has a cell less than twice what its stride leaves.
            raise CaptionerError(
                f"encoder {config.name}: grid = {config.grid} cannot be had from input_size = {size}, where dilation "
                f"gives {dilated} x {dilated}; choose an input_size that 32 divides, or leave grid out"
            )
        # Later layers rely on the map's size.
        undo()
    better = config.grid * round(size / grid)
    cure = "leave grid out"
    if 32 <= better <= _LARGEST:
        finer_dim, finer = _try(network, better)
        if finer == config.grid:
            if config.input_size is None:
                return finer_dim, finer, better
            cure = f"set input_size = {better}, or leave input_size or grid out"
    raise CaptionerError(
        f"encoder {config.name}: grid = {config.grid} cannot be had from input_size = {size}, which gives {grid} x "
        f"{grid}; {cure}"
    )


def stages_of(network: nn.Module, size: int) -> dict[str, int]:
    """Stage of every parameter that a forward pass meets: how often the map has been halved by then."""
    _, grid = _measure(network, size)
    stages: dict[str, int] = {}
    reached = 0

    def record(prefix: str, module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal reached
        # Squeeze-and-excite convolutions see a single cell, which is no halving.
        is_map = isinstance(output, Tensor) and output.dim() == 4 and output.shape[-1] == output.shape[-2]
        if is_map and output.shape[-1] >= grid:
            reached = max(reached, round(math.log2(size / output.shape[-1])))
        for name, _ in module.named_parameters(recurse=False):
            stages[f"{prefix}.{name}"] = reached

    hooks = [
        module.register_forward_hook(partial(record, prefix))
        for prefix, module in network.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    _measure(network, size)
    for hook in hooks:
        hook.remove()
    return stages


def _measure(network: nn.Module, size: int) -> tuple[int, int]:
    channels, rows, _ = measure_map(network, size)
    return channels, rows


def _try(network: nn.Module, size: int) -> tuple[int, int]:
    """Measure what may not be had: (0, 0) then."""
    try:
        return _measure(network, size)
    except CaptionerError:
        return 0, 0


@torch.no_grad()
def measure_map(network: nn.Module, size: int) -> tuple[int, int, int]:
    """Find what a network gives for an input (1, 3, size, size): channels, rows and columns.

    Raises
    ------
    CaptionerError
        If it cannot take such an input, or gives something else than one square map.
    """
    # On shapes alone, which take neither time nor memory.
    tensors = {name: tensor.to("meta") for name, tensor in (*network.named_parameters(), *network.named_buffers())}
    try:
        features = torch.func.functional_call(network, tensors, torch.zeros(1, 3, size, size, device="meta"))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise CaptionerError(
            f"input_size = {size}: the network cannot take it ({str(error)[:200]}); choose another, or another network"
        ) from error
    shape = tuple(features.shape) if isinstance(features, Tensor) else ()
    if len(shape) != 4 or shape[2] != shape[3]:
        raise CaptionerError(
            f"the network gives {shape or 'several tensors'}, not a square map of features; choose a CNN"
        )
    return shape[1], shape[2], shape[3]


def _dilate_last_stage(network: nn.Module, size: int) -> Callable[[], None] | None:
    """Give the last stage stride 1, and its later convolutions holes in place of it, so the grid doubles.

    Every kernel then meets the same neighbours as before, at twice the density, so pretrained weights
    keep their meaning (Yu and Koltun 2016). What `output_stride=16` does in timm, for any CNN.

    Returns
    -------
    callable or None
        Undoes it; None, and nothing changed, if the last reduction is not by convolutions with an odd kernel.
    """
    seen: list[tuple[nn.Module, int, int]] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if inputs[0].dim() == 4:
            seen.append((module, inputs[0].shape[-1], output.shape[-1]))

    leaves = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)]
    hooks = [leaf.register_forward_hook(record) for leaf in leaves]
    _, grid = _measure(network, size)
    for hook in hooks:
        hook.remove()
    # Squeeze-and-excite convolutions see a single cell whatever the grid, so sizes alone tell stages apart.
    reductions = [module for module, before, after in seen if after == grid < before]
    later = [module for module, before, after in seen if before == after == grid]
    if not reductions or not all(isinstance(m, nn.Conv2d) and m.kernel_size[0] % 2 == 1 for m in reductions + later):
        return None
    settings = ("stride", "dilation", "padding")
    before = [(module, name, getattr(module, name)) for module in reductions + later for name in settings]
    for module in cast(list[nn.Conv2d], reductions):
        module.stride = (1, 1)
    for module in cast(list[nn.Conv2d], later):
        module.dilation = (2 * module.dilation[0], 2 * module.dilation[1])
        if not isinstance(module.padding, str):
            module.padding = (2 * module.padding[0], 2 * module.padding[1])

    def undo() -> None:
        for module, name, value in before:
            setattr(module, name, value)

    return undo
