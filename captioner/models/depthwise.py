"""Depthwise convolutions that are trained on a CPU several times faster than torch's own."""

from __future__ import annotations

from typing import Any, cast

import torch
from timm.layers import Conv2dSame, pad_same
from torch import Tensor, nn
from torch.nn import functional

Pair = tuple[int, int]
_SIDE = 3  # of kernels whose gradient oneDNN computes fast; that of larger ones takes ten times as long


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution, the gradient of whose kernel is put together from those of 3 x 3 parts of it.

    Every tap of a kernel meets the input on its own, so the part of the gradient that belongs to 3 x 3 of the taps is
    the gradient of a 3 x 3 convolution of the input moved by as much.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(x, weight, None, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        geometry = (ctx.stride, ctx.padding)
        for_x = _input_gradient(gradient, x, weight, *geometry) if ctx.needs_input_grad[0] else None
        for_weight = _kernel_gradient(gradient, x, weight, *geometry) if ctx.needs_input_grad[1] else None
        return for_x, for_weight, None, None


def _input_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    # In half precision it is slow if there is a stride.
    dtype = torch.float32 if stride != (1, 1) and gradient.dtype == torch.bfloat16 else gradient.dtype
    tensors = (tensor.to(dtype) for tensor in (gradient, x, weight))
    geometry = (stride, padding, (1, 1), False, (0, 0), len(weight))
    found = torch.ops.aten.convolution_backward(*tensors, None, *geometry, [True, False, False])[0]
    return cast(Tensor, found.to(gradient.dtype))


def _kernel_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    rows, columns = padding
    padded = functional.pad(x, (columns, columns, rows, rows))
    # Of the input, what a kernel of 3 x 3 meets as it goes over it.
    met = [(n - 1) * s + _SIDE for n, s in zip(gradient.shape[2:], stride, strict=True)]
    geometry = (stride, (0, 0), (1, 1), False, (0, 0), len(weight))
    whole, part = torch.empty_like(weight), weight[..., :_SIDE, :_SIDE]
    for i in range(0, weight.shape[2] - 1, _SIDE - 1):
        for j in range(0, weight.shape[3] - 1, _SIDE - 1):
            moved = padded[:, :, i : i + met[0], j : j + met[1]].contiguous(memory_format=torch.channels_last)
            found = torch.ops.aten.convolution_backward(gradient, moved, part, None, *geometry, [False, True, False])
            whole[:, :, i : i + _SIDE, j : j + _SIDE] = found[1]
    return whole


def _depthwise(x: Tensor, conv: nn.Conv2d, padding: Pair) -> Tensor:
    stride = cast(Pair, conv.stride)
    if x.device.type != "cpu":
        return functional.conv2d(x, conv.weight, None, stride, padding, groups=conv.groups)
    weight = conv.weight
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight = x.to(dtype), weight.to(dtype)
    return cast(Tensor, _Depthwise.apply(x, weight, stride, padding))  # type: ignore[no-untyped-call]


class QuickDepthwise(nn.Conv2d):
    """What `quicken_training` makes of a depthwise `Conv2d`."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, rows, columns)."""
        return _depthwise(x, self, cast(Pair, self.padding))


class QuickDepthwiseSame(Conv2dSame):  # type: ignore[misc]
    """What `quicken_training` makes of a depthwise `Conv2dSame`."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, rows, columns)."""
        return _depthwise(pad_same(x, self.kernel_size, self.stride, self.dilation), self, (0, 0))


def quicken_training(network: nn.Module) -> None:
    """Let the depthwise convolutions of a network, in place, be trained faster on a CPU: those larger than 3 x 3."""
    for module in network.modules():
        if type(module) in (nn.Conv2d, Conv2dSame) and _is_slow(cast(nn.Conv2d, module)):
            # It has the same parameters and attributes.
            module.__class__ = QuickDepthwise if type(module) is nn.Conv2d else QuickDepthwiseSame


def _is_slow(conv: nn.Conv2d) -> bool:
    return (
        conv.groups == conv.in_channels == conv.out_channels
        and all(side > _SIDE and side % 2 == 1 for side in conv.kernel_size)
        and conv.dilation == (1, 1)
        and conv.bias is None
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
    )
