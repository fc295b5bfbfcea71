from __future__ import annotations

import pytest
import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn

from captioner.config import EncoderConfig
from captioner.models.encoder import ImageEncoder
from captioner.models.inference import SlicedSame, fold_batch_norm, slice_same


def seasoned(network: nn.Module) -> nn.Module:
    """Give every BatchNorm statistics and weights of its own, as training would."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_var, module.weight):
                nn.init.uniform_(tensor, 0.5, 1.5)  # type: ignore[arg-type]
            for tensor in (module.running_mean, module.bias):
                nn.init.normal_(tensor, std=0.1)  # type: ignore[arg-type]
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("resnet18", 0),
        ("resnext50_32x4d", 0),
        ("vgg11_bn", 0),
        ("vgg11", 0),
        ("mobilenet_v3_small", 0),
        ("shufflenet_v2_x0_5", 0),
        ("inception_v3", 0),
        ("densenet121", 62),  # those before a convolution, not after one
        ("efficientnet_lite0", 0),
        ("timm:resnet10t", 0),
        ("timm:mobilenetv2_035", 0),
    ],
)
@torch.inference_mode()
def test_folding_changes_no_feature(name: str, left: int) -> None:
    encoder = ImageEncoder(EncoderConfig(name, weights="none", input_size=96 if name != "inception_v3" else 128))
    seasoned(encoder.network)
    size = encoder.preprocessing.input_size
    pixels = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    before, there = encoder(pixels), norms(encoder.network)
    assert fold_batch_norm(encoder.network) == there - left
    assert norms(encoder.network) == left
    torch.testing.assert_close(encoder(pixels), before, rtol=1e-3, atol=1e-4 * float(before.abs().max()))


class Odd(nn.Module):
    """What must not be folded: a result used twice, a module used twice."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.shared = shared
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.norm(self.conv(self.norm(x))) if self.shared else x + self.norm(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("shared", [True, False])
def test_what_is_used_twice_stays_as_it_is(shared: bool) -> None:
    network = seasoned(Odd(shared))
    assert fold_batch_norm(network) == 0
    assert norms(network) == 1


class Branching(nn.Module):
    """Cannot be traced: what it does depends on its data."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) if x.sum() > 0 else x  # type: ignore[no-any-return]


def test_a_network_that_cannot_be_traced_stays_as_it_is() -> None:
    assert fold_batch_norm(seasoned(Branching())) == 0


@torch.inference_mode()
def test_the_activation_of_a_folded_norm_remains() -> None:
    network = seasoned(nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4)))
    x = torch.randn(1, 3, 8, 8)
    before = network(x)
    assert before.min() == 0
    assert fold_batch_norm(network) == 1
    torch.testing.assert_close(network(x), before)


@pytest.mark.parametrize("size", [7, 8, 9, 12])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_a_slice_is_as_good_as_padding(size: int, kernel: int, stride: int, dilation: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(Conv2dSame(2, 3, kernel, stride=stride, dilation=dilation).double())
    x = torch.randn(1, 2, size, size + 1, dtype=torch.float64)
    before = network(x)
    slice_same(network)
    assert isinstance(network[0], SlicedSame)
    torch.testing.assert_close(network(x), before)


@torch.inference_mode()
@pytest.mark.parametrize("options", [{"input_size": 96}, {"input_size": 104}, {"input_size": 96, "grid": 6}])
def test_slices_change_no_feature(options: dict[str, int]) -> None:
    encoder = ImageEncoder(EncoderConfig("efficientnet_lite0", weights="none", **options))  # type: ignore[arg-type]
    size = encoder.preprocessing.input_size
    pixels = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    before = encoder(pixels)
    slice_same(encoder.network)
    torch.testing.assert_close(encoder(pixels), before, rtol=1e-3, atol=1e-4 * float(before.abs().max()))
