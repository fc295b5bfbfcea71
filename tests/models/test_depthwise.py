from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

from captioner.config import EncoderConfig
from captioner.models.depthwise import QuickDepthwise, QuickDepthwiseSame, quicken_training
from captioner.models.encoder import ImageEncoder


def gradients(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Of the input and every parameter, for a loss that tells all of the output apart."""
    module.zero_grad()
    x = x.clone().requires_grad_()
    y = module(x)
    (y * torch.sin(torch.arange(y.numel()).view_as(y))).sum().backward()
    found = [x.grad, *(p.grad for p in module.parameters())]
    return [g for g in found if g is not None]


@pytest.mark.parametrize("kind", [nn.Conv2d, Conv2dSame])
@pytest.mark.parametrize("kernel", [5, 7, (5, 7)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [8, 9])
def test_output_and_gradients_are_those_of_torch(kind: type, kernel: int, stride: int, size: int) -> None:
    torch.manual_seed(0)
    padding = {} if kind is Conv2dSame else {"padding": 2}
    plain = nn.Sequential(kind(6, 6, kernel, stride, groups=6, bias=False, **padding)).double()
    quick = copy.deepcopy(plain)
    quicken_training(quick)
    assert type(quick[0]) in (QuickDepthwise, QuickDepthwiseSame)
    x = torch.randn(2, 6, size, size, dtype=torch.double)
    assert torch.equal(quick(x), plain(x))
    for found, expected in zip(gradients(quick, x), gradients(plain, x), strict=True):
        assert found == pytest.approx(expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_autocast_computes_in_half_precision_and_leaves_gradients_in_single(stride: int) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(6, 6, 5, stride, 2, groups=6, bias=False))
    quick = copy.deepcopy(plain)
    quicken_training(quick)
    x = torch.randn(2, 6, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert quick(x).dtype == torch.bfloat16
        found = gradients(quick, x)
    for half, whole in zip(found, gradients(plain, x), strict=True):
        assert half.dtype == torch.float32
        assert float((half - whole).norm()) < 0.02 * float(whole.norm())


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
        nn.Conv2d(6, 6, 5, padding=2, groups=2, bias=False),
        nn.Conv2d(6, 12, 5, padding=2, groups=6, bias=False),
        nn.Conv2d(6, 6, 5, padding=4, dilation=2, groups=6, bias=False),
        nn.Conv2d(6, 6, 5, padding=2, groups=6),
        nn.Conv2d(6, 6, 5, padding="same", groups=6, bias=False),
        nn.Conv2d(6, 6, 5, padding=2, groups=6, bias=False, padding_mode="reflect"),
        nn.Conv2d(6, 6, 4, padding=2, groups=6, bias=False),
    ],
    ids=["small", "groups", "wider", "dilated", "bias", "same", "reflect", "even"],
)
def test_other_convolutions_are_left_alone(conv: nn.Conv2d) -> None:
    network = nn.Sequential(conv)
    quicken_training(network)
    assert type(network[0]) is nn.Conv2d


def test_an_encoder_is_trained_by_it_and_can_still_be_cut() -> None:
    encoder = ImageEncoder(EncoderConfig("efficientnet_lite0", weights="none", input_size=64))
    encoder.fine_tune(5)
    assert any(type(module) is QuickDepthwise for module in encoder.network.modules())
    assert any(type(module) is QuickDepthwiseSame for module in encoder.network.modules())
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    frozen = encoder.cut(5)
    assert encoder.finish(frozen(pixels)).detach() == pytest.approx(encoder(pixels).detach())
