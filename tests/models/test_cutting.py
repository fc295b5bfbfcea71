"""Networks cut in two before what is fine-tuned."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from captioner.config import EncoderConfig
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
        assert torch.allclose(encoder.finish(maps), encoder(pixels), atol=1e-5)
    assert encoder(pixels).shape[1:] == encoder.shape


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


def test_a_network_in_which_nothing_travels_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Winding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.begin, self.end = nn.Conv2d(3, 4, 2, stride=2), nn.Conv2d(7, 4, 2, stride=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.end(torch.cat([self.begin(x), x[:, :, ::2, ::2]], 1))  # type: ignore[no-any-return]

    # The pixels go everywhere; before them there is only their own place.
    parts = cut(Winding(), {"end.weight"}, 8)
    assert parts is not None
    x = torch.rand(2, 3, 8, 8)
    assert parts[0](x).shape[1] == 7

    class Deciding(Winding):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > 0 else x

    assert cut(Deciding(), {"end.weight"}, 8) is None
    encoder = made("resnet18")
    monkeypatch.setattr("captioner.models.encoder.cut", lambda *_: None)
    with pytest.raises(CaptionerError, match="fine_tune_from = 5: encoder resnet18 cannot be cut in two"):
        encoder.cut(5)
