"""The encoder: a pretrained CNN that yields a grid of features, frozen, fine-tuned, or cut where one becomes the other.

Shapes: B batch, S input side, D feature channels, L = rows x columns grid locations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from captioner.config import EncoderConfig, PreprocessingConfig
from captioner.errors import CaptionerError
from captioner.models.backbones import build_backbone, load_weights, read_weights
from captioner.models.cutting import cut
from captioner.models.depthwise import quicken_training

# Of a batch, what a CPU takes at once: activations of more are too large for its caches and for malloc to keep.
_CPU_PIXELS = 4 * 384**2
_LARGEST = 2048  # input_size that a configuration may ask for


class ImageEncoder(nn.Module):
    """A pretrained CNN as a grid of feature vectors (Xu et al. 2015, section 3.1.1).

    It is frozen unless `fine_tune` is called.

    Parameters
    ----------
    config : EncoderConfig
        `weights` is not read here; see `ImageEncoder.pretrained`.

    Attributes
    ----------
    config : EncoderConfig
        The given one, `grid` and `input_size` filled in.
    preprocessing : PreprocessingConfig
        What turns a photo into its input.
    feature_dim : int
        D.
    grid : int
        Rows, and columns, of the feature grid.
    at_once : int
        Photos of a batch that a CPU takes at once.
    shape : tuple of int
        (L, D), what it gives for a photo.

    Raises
    ------
    CaptionerError
        If the name is unknown, or the network cannot give the requested grid.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        backbone = build_backbone(config.name)
        self.network = backbone.network.eval()
        self.feature_dim, self.grid, size = _fit_grid(self.network, config, backbone.native_size)
        self.config = EncoderConfig(config.name, config.weights, self.grid, size, config.geometry)
        self.preprocessing = PreprocessingConfig(size, backbone.mean, backbone.std, config.geometry)
        self._load_default = backbone.load_default
        self._rest: tuple[fx.GraphModule, ...] = ()  # once it is cut
        self.at_once = max(1, _CPU_PIXELS // size**2)
        self.shape: tuple[int, ...] = (self.grid**2, self.feature_dim)
        self.requires_grad_(False)

    @classmethod
    def pretrained(cls, config: EncoderConfig) -> ImageEncoder:
        """Build the encoder and load the weights that `config.weights` names."""
        encoder = cls(config)
        if config.weights == "default":
            encoder._load_default()
        elif config.weights != "none":
            load_weights(encoder.network, read_weights(config.weights), config.weights)
        return encoder

    def train(self, mode: bool = True) -> ImageEncoder:
        """Stay in evaluation mode whatever is asked: BatchNorm keeps its statistics, fine-tuned or not."""
        return super().train(False)

    def fine_tune(self, stage: int) -> list[nn.Parameter]:
        """Let the encoder be trained from a stage on; what comes before it stays frozen.

        Parameters
        ----------
        stage : int
            Stage k begins where the map of features shrinks to 1 / 2^k of the photo's side; a dilated last stage keeps
            the number it has without dilation. A ResNet's `layer3` and `layer4` are stages 4 and 5.

        Returns
        -------
        list of Parameter
            What is trained.

        Raises
        ------
        CaptionerError
            If the network has no such stage.
        """
        chosen = self._from_stage(stage)
        for parameter in chosen.values():
            parameter.requires_grad_(True)
        quicken_training(self.network)
        return list(chosen.values())

    def cut(self, stage: int) -> FrozenPart:
        """Cut the encoder before what `fine_tune` would train, and let `finish` go on from there ever after.

        Returns
        -------
        FrozenPart
            What comes before, with the encoder's own weights.

        Raises
        ------
        CaptionerError
            If the network has no such stage, or cannot be cut there.
        """
        size = self.preprocessing.input_size
        parts = cut(self.network, self._from_stage(stage), size)
        if parts is None:
            raise CaptionerError(
                f"fine_tune_from = {stage}: encoder {self.config.name} cannot be cut in two there; set features = "
                "'computed'"
            )
        first, second = parts
        # In a tuple, for its modules are in this module already.
        self._rest = (second,)
        return FrozenPart(self, first)

    def finish(self, kept: Tensor) -> Tensor:
        """Return the feature grid of what the frozen part gave, once the encoder is cut.

        Parameters
        ----------
        kept : Tensor
            (B, C, rows, columns), from `FrozenPart`.

        Returns
        -------
        Tensor
            (B, L, D) features.
        """
        if not self._rest:
            raise RuntimeError("the encoder is whole; cut it first")
        (rest,) = self._rest
        maps = kept.to(next(rest.parameters()).dtype).contiguous(memory_format=torch.channels_last)
        return _cells(rest(maps))

    def _from_stage(self, stage: int) -> dict[str, nn.Parameter]:
        # Of a network of its own, for dilation hides where the last stage begins.
        stages = _stages(build_backbone(self.config.name).network.eval(), self.preprocessing.input_size)
        if not 1 <= stage <= max(stages.values()):
            raise CaptionerError(
                f"fine_tune_from = {stage}: encoder {self.config.name} has stages 1 to {max(stages.values())}"
            )
        return {name: p for name, p in self.network.named_parameters() if stages.get(name, 0) >= stage}

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the feature grid of a batch.

        Parameters
        ----------
        pixels : Tensor
            (B, 3, S, S) uint8, from `captioner.images.preprocess`.

        Returns
        -------
        Tensor
            (B, L, D) features, cells in reading order.
        """
        return _by_parts(pixels, self.at_once, lambda part: _cells(self.network(_normalised(part, self))))


class FrozenPart(nn.Module):
    """What of an encoder comes before the part that is fine-tuned; see `ImageEncoder.cut`.

    Attributes
    ----------
    config, preprocessing
        The encoder's.
    shape : tuple of int
        (C, rows, columns), what it gives for a photo.
    nodes : list of str
        Names of its operations, which say where it ends.
    """

    def __init__(self, encoder: ImageEncoder, network: fx.GraphModule) -> None:
        super().__init__()
        self.config, self.preprocessing, self.at_once = encoder.config, encoder.preprocessing, encoder.at_once
        self.network = network
        self.shape: tuple[int, ...] = _measure_map(network, self.preprocessing.input_size)
        self.nodes = [node.name for node in network.graph.nodes]

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the maps (B, C, rows, columns) that a batch of pixels (B, 3, S, S) uint8 has come to."""
        return _by_parts(pixels, self.at_once, lambda part: cast(Tensor, self.network(_normalised(part, self))))


def _by_parts(pixels: Tensor, at_once: int, see: Callable[[Tensor], Tensor]) -> Tensor:
    if pixels.dtype != torch.uint8:
        raise TypeError(f"pixels must be uint8, not {pixels.dtype}: the encoder scales them itself")
    if pixels.device.type == "cpu":
        return torch.cat([see(part) for part in torch.split(pixels, at_once)])
    return see(pixels)


def _normalised(pixels: Tensor, encoder: ImageEncoder | FrozenPart) -> Tensor:
    mean = torch.tensor(encoder.preprocessing.mean, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(encoder.preprocessing.std, device=pixels.device).view(3, 1, 1)
    images = pixels.float().div_(255).sub_(mean).div_(std).to(next(encoder.network.parameters()).dtype)
    return images.contiguous(memory_format=torch.channels_last)


def _cells(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2)  # (B, D, rows, columns) -> (B, L, D)


def _fit_grid(network: nn.Module, config: EncoderConfig, native_size: int) -> tuple[int, int, int]:
    """Make the network give the requested grid: by its last stage dilated, else by the input size.

    Returns
    -------
    feature_dim, grid, input_size : int
    """
    size = config.input_size or native_size
    feature_dim, grid = _measure(network, size)
    if config.grid is None or config.grid == grid:
        return feature_dim, grid, size
    if config.grid == 2 * grid and _dilate_last_stage(network, size):
        return *_measure(network, size), size
    better = config.grid * round(size / grid)
    cure = "leave grid out"
    if 32 <= better <= _LARGEST:
        finer_dim, finer = _measure(network, better)
        if finer == config.grid:
            if config.input_size is None:
                return finer_dim, finer, better
            cure = f"set input_size = {better}, or leave input_size or grid out"
    raise CaptionerError(
        f"encoder {config.name}: grid = {config.grid} cannot be had from input_size = {size}, which gives {grid} x "
        f"{grid}; {cure}"
    )


def _stages(network: nn.Module, size: int) -> dict[str, int]:
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
    channels, rows, _ = _measure_map(network, size)
    return channels, rows


@torch.no_grad()
def _measure_map(network: nn.Module, size: int) -> tuple[int, int, int]:
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


def _dilate_last_stage(network: nn.Module, size: int) -> bool:
    """Give the last stage stride 1, and its later convolutions holes in place of it, so the grid doubles.

    Every kernel then meets the same neighbours as before, at twice the density, so pretrained weights
    keep their meaning (Yu and Koltun 2016). What `output_stride=16` does in timm, for any CNN.

    Returns
    -------
    bool
        False, and nothing changed, if the last reduction is not by convolutions with an odd kernel.
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
        return False
    for module in cast(list[nn.Conv2d], reductions):
        module.stride = (1, 1)
    for module in cast(list[nn.Conv2d], later):
        module.dilation = (2 * module.dilation[0], 2 * module.dilation[1])
        if not isinstance(module.padding, str):
            module.padding = (2 * module.padding[0], 2 * module.padding[1])
    return True
