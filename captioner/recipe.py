"""A whole training run as a TOML file says it: data, model, training and decoding."""

from __future__ import annotations

import tomllib
import typing
from dataclasses import dataclass, field
from pathlib import Path

from captioner.config import DecoderConfig, DecodingOptions, EncoderConfig
from captioner.errors import CaptionerError
from captioner.settings import Settings


@dataclass(frozen=True)
class DataConfig(Settings):
    """Where captioned photos are and what is kept of their captions.

    Parameters
    ----------
    root : str
        Folder of the data set; a relative one is looked for under the environment variable `CAPTIONER_DATA`.
    format : {"flickr8k", "flickr30k", "coco", "karpathy", "csv", "jsonl", "folder"}
        How the captions are written down; see `captioner.data.readers`.
    captions : str, optional
        File of the captions, under `root`; `{split}` stands for the split's name, where each has a file of its own.
        The format's usual one if not given.
    images : str, optional
        Folder of the photos, under `root`, likewise.
    min_count : int
        A word enters the vocabulary if the train split holds it at least so often.
    max_length : int
        Training captions are cut after so many words; references never are.
    mirror : bool
        Train on every photo and its mirror image by turns, unless its captions tell left from right.
    crop : float
        Largest share of a photo's width, and of its height, cut off at random in all views but the first.
    views : int
        Views of every photo that are stored, one an epoch by turns: the first is the photo as it is, every other one is
        cropped, and every second one mirrored, as `crop` and `mirror` say. Features that are computed as they are
        needed have a new view every epoch.
    """

    root: str
    format: typing.Literal["flickr8k", "flickr30k", "coco", "karpathy", "csv", "jsonl", "folder"] = "flickr8k"
    captions: str | None = None
    images: str | None = None
    min_count: int = 5
    max_length: int = 25
    mirror: bool = False
    crop: float = 0.0
    views: int = 1

    def _faults(self) -> typing.Iterator[str]:
        if self.format == "folder" and self.captions is not None:
            yield f"captions = {self.captions!r}: with format = 'folder' they stand beside the photos; leave it out"
        for format, name in (("coco", "captions"), ("folder", "images")):
            value = getattr(self, name)
            if self.format == format and value is not None and "{split}" not in value:
                yield f"{name} = {value!r}: with format = {format!r} each split has its own; put {{split}} in it"
        for name in ("min_count", "max_length", "views"):
            if getattr(self, name) < 1:
                yield f"{name} = {getattr(self, name)} must be at least 1"
        if not 0 <= self.crop <= 0.9:
            yield f"crop = {self.crop} must lie in 0..0.9"
        if self.views > 1 and not self.mirror and not self.crop:
            yield f"views = {self.views} would be all alike without mirror or crop"
        elif self.views > 2 and not self.crop:
            yield f"views = {self.views} would be alike but for two without crop; set views = 2, or crop"


@dataclass(frozen=True)
class HardAttentionConfig(Settings):
    """How hard attention is trained; see `captioner.training.hard_attention`.

    Parameters
    ----------
    estimator : {"paper", "per_word"}
        What a location is rewarded with: the likelihood of the whole caption against one moving average, or that of the
        words from its own on, each against a moving average of its own.
    reinforce : float
        lambda_r, weight of the REINFORCE term; at 1 the estimator of the bound's gradient is unbiased, for images whose
        locations are drawn (`sampling`).
    entropy : float
        lambda_e, weight of the entropy of the attention.
    baseline_decay : float
        Share of a moving average kept at each batch, of which a step has `accumulate`.
    sampling : float
        Probability that the words of an image are looked for at sampled locations rather than everywhere.
    sampling_warmup : float
        Share of the run over which that probability rises from 0.
    """

    estimator: typing.Literal["paper", "per_word"] = "paper"
    reinforce: float = 0.1
    entropy: float = 0.002
    baseline_decay: float = 0.9
    sampling: float = 0.5
    sampling_warmup: float = 0.0

    def _faults(self) -> typing.Iterator[str]:
        for name in ("reinforce", "entropy"):
            if getattr(self, name) < 0:
                yield f"{name} = {getattr(self, name)} must not be negative"
        if not 0 <= self.baseline_decay < 1:
            yield f"baseline_decay = {self.baseline_decay} must lie in 0..1, 1 excluded"
        if not 0 < self.sampling <= 1:
            yield f"sampling = {self.sampling} must lie in 0..1, 0 excluded"
        if not 0 <= self.sampling_warmup <= 1:
            yield f"sampling_warmup = {self.sampling_warmup} must lie in 0..1"


@dataclass(frozen=True)
class SelfCriticalConfig(Settings):
    """How captions are rewarded; see `captioner.training.self_critical`.

    Parameters
    ----------
    samples : int
        Captions drawn for each photo.
    baseline : {"others", "greedy"}
        What a caption's reward is measured against: the mean reward of the photo's other samples, or the reward of the
        caption that greedy search finds.
    bleu : float
        Weight of a caption's BLEU-4, 0 to 1, that is added to its CIDEr-D, 0 to 10.
    """

    samples: int = 5
    baseline: typing.Literal["others", "greedy"] = "others"
    bleu: float = 0.0

    def _faults(self) -> typing.Iterator[str]:
        least = 2 if self.baseline == "others" else 1
        if not least <= self.samples <= 1000:
            yield f"samples = {self.samples} must lie in {least}..1000 with baseline = {self.baseline!r}"
        if self.bleu < 0:
            yield f"bleu = {self.bleu} must not be negative"


@dataclass(frozen=True)
class TrainConfig(Settings):
    """How a model is trained.

    Parameters
    ----------
    objective : {"cross_entropy", "self_critical"}
        Likelihood of the true captions (a bound on it if the attention is hard), or CIDEr-D of the model's own.
    start : str, optional
        Checkpoint whose weights and words the run starts from; fresh ones if not given. It must be of the recipe's
        encoder and decoder, but for dropout, and for soft attention that is to become hard or the other way round;
        its weights take the place of those that the recipe names.
    epochs : int
        Passes over the train split, and the length of the learning-rate schedule.
    images_per_batch : int
        Photos in a step, over all processes; each brings all its captions.
    accumulate : int
        Parts a process computes its share of a step in, one after the other, to save memory.
    learning_rate : float
        Peak of a linear warm-up followed by a cosine to zero.
    warmup : float
        Share of all steps spent warming up.
    weight_decay : float
        AdamW's, on matrices only.
    clip_norm : float
        Largest global gradient norm.
    average : float
        Largest share that a moving average of the weights keeps of itself at a step. At step t that is t / (t + 9)
        first, which reaches 0.995 after 1,791 steps. What is scored on dev and kept as best is the average. 0 for none.
    doubly_stochastic : float
        Weight of the attention regulariser (section 4.2.1; scaling in `captioner.training.objective`).
    select_by : {"bleu4", "cider"}
        Score on dev by which the best epoch is chosen.
    patience : int
        Epochs without a better score on dev before training stops.
    precision : {"float32", "bfloat16", "float16"}
        Arithmetic of the encoder and of the decoder's forward pass; weights stay float32. float16, with its loss
        scaled, is for GPUs without bfloat16.
    features : {"stored", "computed"}
        What the frozen part of the encoder gives: computed once and kept on disk, or in every step.
    fine_tune_from : int, optional
        Train the encoder too, from this stage on: a stage begins where the map of features is halved, so stage 4 is
        what works at a 16th of the photo's size or less.
    encoder_learning_rate : float
        Peak learning rate of what is trained of the encoder, which needs `fine_tune_from`.
    checkpoint_steps : int
        Steps between two resumable checkpoints, besides the one after each epoch.
    seed : int
        Of weights, batches, dropout, and captions and locations that are sampled.
    hard_attention : HardAttentionConfig
        Only if the decoder's attention is hard; of self-critical training only `sampling`.
    self_critical : SelfCriticalConfig
        Only if that is the objective. Captions are drawn as long as those that `decoding.max_length` allows on dev.
    """

    objective: typing.Literal["cross_entropy", "self_critical"] = "cross_entropy"
    start: str | None = None
    epochs: int = 10
    images_per_batch: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 1e-2
    clip_norm: float = 5.0
    average: float = 0.0
    doubly_stochastic: float = 0.1
    select_by: typing.Literal["bleu4", "cider"] = "bleu4"
    patience: int = 10
    precision: typing.Literal["float32", "bfloat16", "float16"] = "bfloat16"
    features: typing.Literal["stored", "computed"] = "stored"
    fine_tune_from: int | None = None
    encoder_learning_rate: float = 1e-4
    checkpoint_steps: int = 200
    seed: int = 0
    hard_attention: HardAttentionConfig = field(default_factory=HardAttentionConfig)
    self_critical: SelfCriticalConfig = field(default_factory=SelfCriticalConfig)

    def _faults(self) -> typing.Iterator[str]:
        for name in ("epochs", "images_per_batch", "accumulate", "patience", "checkpoint_steps"):
            if getattr(self, name) < 1:
                yield f"{name} = {getattr(self, name)} must be at least 1"
        if self.accumulate > self.images_per_batch:
            yield f"accumulate = {self.accumulate} must not be more than images_per_batch = {self.images_per_batch}"
        for name in ("learning_rate", "encoder_learning_rate", "clip_norm"):
            if getattr(self, name) <= 0:
                yield f"{name} = {getattr(self, name)} must be positive"
        for name in ("weight_decay", "doubly_stochastic"):
            if getattr(self, name) < 0:
                yield f"{name} = {getattr(self, name)} must not be negative"
        if not 0 <= self.average < 1:
            yield f"average = {self.average} must lie in 0..1, 1 excluded"
        if not 0 <= self.seed < 2**40:
            # The order of batches is drawn from a multiple of it.
            yield f"seed = {self.seed} must lie in 0..2^40, 2^40 excluded"
        if not 0 <= self.warmup < 1:
            yield f"warmup = {self.warmup} must lie in 0..1, 1 excluded"
        if self.fine_tune_from is not None and self.fine_tune_from < 1:
            yield f"fine_tune_from = {self.fine_tune_from} must be at least 1"
        if self.fine_tune_from is None and self.encoder_learning_rate != TrainConfig.encoder_learning_rate:
            yield "encoder_learning_rate is for training from stage fine_tune_from on; add that, or leave it out"
        if self.objective == "self_critical" and self.start is None:
            yield "objective = 'self_critical' needs start, a checkpoint trained with 'cross_entropy'"
        if self.objective == "self_critical" and self.hard_attention != HardAttentionConfig(
            sampling=self.hard_attention.sampling
        ):
            yield "hard_attention: objective = 'self_critical' reads sampling alone; leave the others out"
        if self.objective != "self_critical" and self.self_critical != SelfCriticalConfig():
            yield "self_critical is for objective = 'self_critical'; add that, or leave it out"


@dataclass(frozen=True)
class Recipe(Settings):
    """A whole training run, as committed in `recipes/`."""

    data: DataConfig
    encoder: EncoderConfig
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decoding: DecodingOptions = field(default_factory=DecodingOptions)

    def _faults(self) -> typing.Iterator[str]:
        varied = self.data.mirror or self.data.crop > 0
        if self.train.features == "stored" and varied and self.data.views == 1:
            yield "data.mirror and data.crop need data.views = 2 or more with train.features = 'stored'"
        if self.train.features == "computed" and self.data.views > 1:
            yield f"data.views = {self.data.views} is for train.features = 'stored'; computed ones have no end of views"
        if self.train.hard_attention != HardAttentionConfig() and self.decoder.attention != "hard":
            yield "train.hard_attention is for decoder.attention = 'hard'; add that, or leave it out"
        if self.decoding.context != "expectation" and self.decoder.attention != "hard":
            yield (
                f"decoding.context = {self.decoding.context!r} needs decoder.attention = 'hard', not "
                f"{self.decoder.attention!r}; leave it at 'expectation'"
            )

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a recipe from a TOML file.

        Raises
        ------
        CaptionerError
            If the file is absent, is not TOML, or holds a wrong setting.
        """
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            raise CaptionerError(f"{path}: cannot read the recipe ({error}); give the path of a .toml file") from error
        except (ValueError, RecursionError) as error:
            raise CaptionerError(f"{path}: not valid TOML ({error}); recipes/ has examples") from error
        try:
            return cls.from_dict(values)
        except CaptionerError as error:
            raise CaptionerError(f"{path}: {error}") from error
