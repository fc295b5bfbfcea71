"""What a model is and how it writes: the settings that a checkpoint stores, and those of a search."""

from __future__ import annotations

import typing
from dataclasses import dataclass

from captioner.settings import Settings

END = "."  # the end of a caption where a word is named: words are never punctuation


@dataclass(frozen=True)
class PreprocessingConfig(Settings):
    """How an upright RGB photo becomes the square that an encoder sees.

    Parameters
    ----------
    input_size : int
        Side of the square, pixels.
    mean, std : tuple of 3 floats
        Per-channel statistics, for pixel values in 0..1.
    geometry : {"squash", "center_crop"}
        `squash` resizes the whole photo to the square, whatever its aspect ratio; `center_crop`
        keeps the ratio and cuts the largest centred square.
    """

    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    geometry: typing.Literal["squash", "center_crop"] = "squash"

    def _faults(self) -> typing.Iterator[str]:
        if not 32 <= self.input_size <= 2048:
            yield f"input_size = {self.input_size} must lie in 32..2048"
        if min(self.std) <= 0:
            yield f"std = {self.std} must be positive"


@dataclass(frozen=True)
class EncoderConfig(Settings):
    """Which network looks at the photo, and how finely.

    Parameters
    ----------
    name : str
        A torchvision CNN (`resnet101`), `timm:NAME`, or `efficientnet_lite0` / `efficientnet_lite2`.
    weights : str
        `default` (the weights the library names, fetched by it if need be), `none` (random), or the path of
        a local `.pth`, `.pt` or `.safetensors` file for the same network.
    grid : int, optional
        Rows, and columns, of the feature grid; the network's own at its input size if not given.
    input_size : int, optional
        Side of the square input, pixels; the size the weights were trained at if not given, or the one
        that gives `grid`.
    geometry : {"squash", "center_crop"}
        See `PreprocessingConfig`.
    """

    name: str
    weights: str = "default"
    grid: int | None = None
    input_size: int | None = None
    geometry: typing.Literal["squash", "center_crop"] = "squash"

    def _faults(self) -> typing.Iterator[str]:
        if self.grid is not None and not 1 <= self.grid <= 64:
            yield f"grid = {self.grid} must lie in 1..64"
        if self.input_size is not None and not 32 <= self.input_size <= 2048:
            yield f"input_size = {self.input_size} must lie in 32..2048"


@dataclass(frozen=True)
class DecoderConfig(Settings):
    """Kind and sizes of the attention LSTM (Xu et al. 2015, section 3.1).

    Parameters
    ----------
    embedding_dim, hidden_dim, attention_dim : int
        E, H and A of the decoder's formulas.
    dropout : float
        Probability of zeroing a unit of the deep output; none inside the LSTM.
    feature_dropout : float
        Probability of zeroing a channel of the features, over the whole photo.
    attention : {"soft", "hard", "none"}
        Deterministic (section 4.2), stochastic (section 4.1), or the mean feature at every word.
    score : {"additive", "dot"}
        What rates the locations; see `captioner.models.attention`.
    """

    embedding_dim: int = 512
    hidden_dim: int = 512
    attention_dim: int = 512
    dropout: float = 0.5
    feature_dropout: float = 0.0
    attention: typing.Literal["soft", "hard", "none"] = "soft"
    score: typing.Literal["additive", "dot"] = "additive"

    def _faults(self) -> typing.Iterator[str]:
        for name in ("embedding_dim", "hidden_dim", "attention_dim"):
            if not 1 <= getattr(self, name) <= 16384:
                yield f"{name} = {getattr(self, name)} must lie in 1..16384"
        for name in ("dropout", "feature_dropout"):
            if not 0 <= getattr(self, name) < 1:
                yield f"{name} = {getattr(self, name)} must lie in 0..1, 1 excluded"


@dataclass(frozen=True)
class ModelConfig(Settings):
    """Everything needed to rebuild a model around its weights."""

    encoder: EncoderConfig
    decoder: DecoderConfig
    vocabulary_size: int

    def _faults(self) -> typing.Iterator[str]:
        if self.vocabulary_size < 5:
            yield f"vocabulary_size = {self.vocabulary_size} must hold four special tokens and at least one word"


@dataclass(frozen=True)
class DecodingOptions(Settings):
    """How words are searched for.

    Parameters
    ----------
    beam_size : int
        Hypotheses kept per image; 1 is greedy.
    max_length : int
        Most words a caption may have.
    length_penalty : float
        Hypotheses are ranked by log-probability / length ** length_penalty, the length counting the end
        token: 0 ranks by the bare sum, which favours short captions, 1 by the mean per token.
    context : {"expectation", "argmax", "sample"}
        What a model with hard attention sees for a word: all locations by their weights, the likeliest one,
        or one drawn at random. Other models know only the first.
    seed : int
        Of all that is drawn. What is drawn for a photo depends on the photos in its batch, too.
    prefix : tuple of str
        Words every caption begins with. A last word "." is the end of the caption, which is then just rated.
    top_words : int
        How many of the likeliest words to tell for each place in a caption.
    temperature : float
        0 searches for the best captions; above it `beam_size` captions are drawn, word by word, from the
        model's probabilities to the power of 1 / temperature.
    """

    beam_size: int = 3
    max_length: int = 20
    length_penalty: float = 0.7
    context: typing.Literal["expectation", "argmax", "sample"] = "expectation"
    seed: int = 0
    prefix: tuple[str, ...] = ()
    top_words: int = 0
    temperature: float = 0.0

    def _faults(self) -> typing.Iterator[str]:
        if not 1 <= self.beam_size <= 1000:
            yield f"beam_size = {self.beam_size} must lie in 1..1000"
        if not 1 <= self.max_length <= 1000:
            yield f"max_length = {self.max_length} must lie in 1..1000"
        if not 0 <= self.length_penalty <= 10:
            yield f"length_penalty = {self.length_penalty} must lie in 0..10"
        if not 0 <= self.seed < 2**63:
            yield f"seed = {self.seed} must lie in 0..2^63, 2^63 excluded"
        if END in self.prefix[:-1] or self.prefix == (END,):
            yield f"prefix = {self.prefix} may have {END!r}, which ends a caption, only as its last word of several"
        words = len(self.prefix) - (END in self.prefix)
        if words > self.max_length:
            yield f"prefix = {self.prefix} has {words} words, max_length = {self.max_length} must leave room for them"
        if not 0 <= self.top_words <= 100:
            yield f"top_words = {self.top_words} must lie in 0..100"
        if not 0 <= self.temperature <= 10:
            yield f"temperature = {self.temperature} must lie in 0..10"
