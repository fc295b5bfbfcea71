"""The encoder: a pretrained CNN that yields a grid of features, frozen, fine-tuned, or cut where one becomes the other.

Shapes: B batch, S input side, D feature channels, L = rows x columns grid locations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, fx, nn

from captioner.config import EncoderConfig, PreprocessingConfig
from captioner.ending import is_out_of_memory
from captioner.errors import CaptionerError
from captioner.models.backbones import build_backbone, load_weights, read_weights
from captioner.models.cutting import cut
from captioner.models.depthwise import quicken_training
from captioner.models.grids import fit_grid, measure_map, stages_of

# Of a batch, what a CPU takes at once: activations of more are too large for its caches and for malloc to keep.
_CPU_PIXELS = 4 * 384**2


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
        self.feature_dim, self.grid, size = fit_grid(self.network, config, backbone.native_size)
        self.config = EncoderConfig(config.name, config.weights, self.grid, size, config.geometry)
        self.preprocessing = PreprocessingConfig(size, backbone.mean, backbone.std, config.geometry)
        self._load_default = backbone.load_default
        self._rest: tuple[fx.GraphModule, ...] = ()  # once it is cut
        self.at_once = max(1, _CPU_PIXELS // size**2)
        self.shape: tuple[int, ...] = (self.grid**2, self.feature_dim)
        self.requires_grad_(False)

    @classmethod
    def pretrained(cls, config: EncoderConfig) -> ImageEncoder:
        """Build the encoder and load the weights that `config.weights` names.

        Raises
        ------
        CaptionerError
            If there are none, or they are not those of this encoder.
        """
        encoder = cls(config)
        if config.weights == "default":
            try:
                encoder._load_default()
            except CaptionerError:
                raise
            # No weights of this name, no way to them, a broken copy: errors of many types say so.
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                raise CaptionerError(
                    f"encoder name = {config.name!r}: no default weights to be had ({error}); name a file of them as "
                    "encoder.weights, or take 'none'"
                ) from error
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
            the number it has without dilation. A ResNet's `layer3` and `layer4` are stages 4 and 5, from ResNet-50 on
            without their first convolution, which comes before the map shrinks.

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
        stages = stages_of(build_backbone(self.config.name).network.eval(), self.preprocessing.input_size)
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
        self.shape: tuple[int, ...] = measure_map(network, self.preprocessing.input_size)
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
