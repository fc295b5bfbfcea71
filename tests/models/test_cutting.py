"""Networks cut in two before what is fine-tuned."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from captioner.config import EncoderConfig
from captioner.data.features import fingerprint
from captioner.errors import CaptionerError
from captioner.models.cutting import cut
from captioner.models.encoder import ImageEncoder


def made(name: str, size: int = 64) -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(EncoderConfig(name, "none", None, size, "squash"))


@pytest.mark.parametrize(
    ("name", "stage", "kept"),
    [
        # Before the convolution that widens the map sixfold, not behind it.
        ("efficientnet_lite2", 5, (120, 4, 4)),
        ("efficientnet_lite2", 4, (48, 8, 8)),
        ("mobilenet_v3_large", 4, (40, 8, 8)),
        # Before a block's two ways part.
        ("resnet18", 5, (256, 4, 4)),
        ("timm:resnet26d", 4, (512, 8, 8)),
        ("densenet121", 5, (512, 2, 2)),
        ("shufflenet_v2_x0_5", 5, (96, 4, 4)),
        ("vgg11", 4, (512, 4, 4)),
        ("convnext_tiny", 5, (384, 4, 4)),
        ("timm:convnext_atto", 5, (160, 4, 4)),
    ],
)
def test_the_parts_give_what_the_whole_gives(name: str, stage: int, kept: tuple[int, ...]) -> None:
    encoder = made(name)
    first = encoder.cut(stage)
    pixels = torch.randint(0, 256, (9, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        maps = first(pixels)
        assert maps.shape[1:] == first.shape == kept
        features = encoder(pixels)
        assert (encoder.finish(maps) - features).abs().max() <= 1e-5 * features.abs().max()
    assert features.shape[1:] == encoder.shape


def test_all_that_is_trained_comes_after_the_cut() -> None:
    encoder = made("resnet18")
    first = encoder.cut(5)
    trained = encoder.fine_tune(5)
    assert not any(parameter.requires_grad for parameter in first.parameters())
    maps = first(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    torch.autograd.backward(encoder.finish(maps).square().sum())
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in trained)
    # What was learnt is the encoder's own, and what follows the cut is no second copy of it in a checkpoint.
    assert {f"network.{name}" for name, _ in encoder.network.named_parameters()} == {
        name for name, _ in encoder.named_parameters()
    }


class Winding(nn.Module):
    """Pixels go two ways from the start, and meet once."""

    def __init__(self) -> None:
        super().__init__()
        self.begin, self.end = nn.Conv2d(3, 4, 2, stride=2), nn.Conv2d(7, 4, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(torch.cat([self.begin(x), x[:, :, ::2, ::2]], 1))  # type: ignore[no-any-return]


class Deciding(Winding):
    """What follows what depends on the photo."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else x


def test_the_cut_is_where_all_ways_have_met() -> None:
    network, x = Winding(), torch.rand(2, 3, 8, 8)
    parts = cut(network, {"end.weight"}, 8)
    assert parts is not None
    assert parts[0](x).shape[1] == 7
    assert torch.equal(parts[1](parts[0](x)), network(x))


def test_where_no_map_goes_alone_there_is_no_cut() -> None:
    assert cut(Winding(), {"begin.weight"}, 8) is None
    assert cut(Deciding(), {"end.weight"}, 8) is None
    # Nothing is frozen; pixels are no map worth keeping.
    with pytest.raises(CaptionerError, match="fine_tune_from = 1: encoder resnet18 cannot be cut in two there; set"):
        made("resnet18").cut(1)


def test_a_dilated_stage_is_cut_off_like_any_other() -> None:
    encoder = ImageEncoder(EncoderConfig("resnet18", "none", 4, 64, "squash"))
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    assert encoder.cut(5).shape == (256, 4, 4)
    with torch.no_grad():
        assert torch.equal(encoder.finish(encoder.cut(5)(pixels)), encoder(pixels))


def test_parts_that_end_elsewhere_have_other_fingerprints() -> None:
    encoder = made("resnet18")
    # The same shape and the same weights before it, but for an activation.
    part, other = encoder.cut(5), encoder.cut(5)
    other.nodes = other.nodes[:-1]
    assert fingerprint(part) == fingerprint(encoder.cut(5)) != fingerprint(other)


def test_a_cut_is_found_wherever_the_weights_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, too: here one that is only pretended."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    monkeypatch.setattr("captioner.models.cutting.FakeTensorMode", lambda **_: mode)
    with mode, torch.device("cuda"):
        network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 4, 3))
    assert {parameter.device.type for parameter in network.parameters()} == {"cuda"}
    assert cut(network, {"2.weight"}, 8) is not None
