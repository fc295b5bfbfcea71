"""Making a trained network faster to run without changing what it computes."""

from __future__ import annotations

import copy
import math
from typing import TypeVar, cast

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

# Subclasses may do more than their names say, such as standardise their weights.
CONVOLUTIONS, NORMS = (nn.Conv2d, Conv2dSame), (nn.BatchNorm2d, BatchNormAct2d)


class Tracer(fx.Tracer):
    """Follows the data between convolutions and normalisations, not into them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Say whether a module is one node of the graph."""
        return isinstance(m, CONVOLUTIONS + NORMS) or super().is_leaf_module(m, module_qualified_name)


Part = TypeVar("Part", bound=nn.Module)


def quickened(encoder: Part) -> Part:
    """Copy an encoder, or its frozen part, as one that gives the same features sooner; before it is fine-tuned."""
    quick = copy.deepcopy(encoder)
    quicken(cast(nn.Module, quick.network))
    return quick


def quicken(network: nn.Module) -> None:
    """Let a network, in place, give the same sooner, once it is no longer trained."""
    fold_batch_norm(network)
    slice_same(network)


@torch.no_grad()
def fold_batch_norm(network: nn.Module) -> int:
    """Fold every BatchNorm that follows a convolution into that convolution's weights, in place.

    In evaluation mode a BatchNorm scales and shifts every channel by constants, which the convolution before it can do
    by its weights and bias.

    Parameters
    ----------
    network : Module
        In evaluation mode and float32.

    Returns
    -------
    int
        How many were folded; 0 if what follows what cannot be known beforehand.
    """
    try:
        graph = Tracer().trace(network)
    # A network may be any Python code, over which tracing stumbles in as many ways.
    except Exception:
        return 0
    modules = dict(network.named_modules())
    nodes = [node for node in graph.nodes if node.op == "call_module"]
    calls = [node.target for node in nodes]
    folded = 0
    for node in nodes:
        before = next(iter(node.args), None)
        if not isinstance(before, fx.Node) or before.op != "call_module":
            continue
        conv, norm = modules[cast(str, before.target)], modules[cast(str, node.target)]
        if type(conv) not in CONVOLUTIONS or type(norm) not in NORMS:
            continue
        # Of a result or a module that is used twice, one use would be wrong afterwards.
        if len(before.users) > 1 or calls.count(before.target) > 1 or calls.count(node.target) > 1:
            continue
        _fold(cast(nn.Conv2d, conv), cast(nn.BatchNorm2d, norm))
        parent, _, name = cast(str, node.target).rpartition(".")
        setattr(modules[parent], name, _what_is_left(norm))
        folded += 1
    return folded


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias
    )


def _what_is_left(norm: nn.Module) -> nn.Module:
    if not isinstance(norm, BatchNormAct2d):
        return nn.Identity()
    activation = cast(nn.Module, norm.act)
    if getattr(activation, "inplace", None) is False:
        activation.inplace = True  # type: ignore[assignment]  # it alone is given the convolution's result
    return activation


class SlicedSame(Conv2dSame):  # type: ignore[misc]
    """TensorFlow's "same" convolution without the padded copy of its input that timm makes.

    It pads one more on one side than on the other, which torch's convolutions cannot do. But with a stride more on
    either side, all that comes out besides is a row and a column in front, to be left out.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, rows, columns)."""
        padding, kept = [], []
        for n, k, stride, dilation in zip(x.shape[2:], self.kernel_size, self.stride, self.dilation, strict=True):
            out = math.ceil(n / stride)
            total = max((out - 1) * stride + (k - 1) * dilation + 1 - n, 0)
            first = total % 2
            padding.append(total // 2 + first * stride)
            kept.append(slice(first, first + out))
        weight, bias = self.weight, self.bias
        y = functional.conv2d(x, weight, bias, self.stride, tuple(padding), self.dilation, self.groups)
        return y[:, :, kept[0], kept[1]]


def slice_same(network: nn.Module) -> None:
    """Turn every `Conv2dSame` into a `SlicedSame`, in place."""
    for module in network.modules():
        if type(module) is Conv2dSame:
            module.__class__ = SlicedSame  # it has the same parameters and attributes
