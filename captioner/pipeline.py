"""From photos to captions: the class most users need."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from captioner.checkpoint import load_checkpoint
from captioner.checkpoint_files import BUNDLED
from captioner.config import END, DecodingOptions
from captioner.devices import Precision, choose_device, choose_precision
from captioner.errors import CaptionerError, ImageReadError
from captioner.hypotheses import Hypothesis
from captioner.images import ImageSource, load_pixels, seen_region
from captioner.models.attention import EVERYWHERE
from captioner.models.inference import quicken
from captioner.models.show_attend_tell import ShowAttendTell
from captioner.prefetch import map_ahead
from captioner.search import check_options, search
from captioner.vocabulary import Vocabulary, detokenize

Given = TypeVar("Given", bound=ImageSource)
Item = TypeVar("Item")
_CPU_BATCH, _GPU_BATCH = 32, 128  # photos searched at once, by each core or by the whole GPU
_WIDE_BEAM = 25  # captions kept; beyond it fewer photos are searched at once
_MOST_AT_ONCE = 1000  # photos of a batch, or threads, that may be asked for


@dataclass(frozen=True, eq=False)
class Caption:
    """A sentence about a photo, and where the model looked for each of its words.

    Attributes
    ----------
    text : str
        The sentence, lower case.
    words : tuple of str
        Its T words.
    log_prob : float
        Natural log-probability of the sentence, the end token included if it was reached.
    word_probs : tuple of float
        Probability of each word, given those before it.
    attention : ndarray
        (T, rows, columns) float32, the distribution of where each word was looked for; each map sums to 1.
    locations : tuple of (row, column), optional
        The one cell of the grid each word was looked for at, if hard attention chose one; None if the model saw
        all cells by their weights.
    width, height : int
        Of the upright photo, pixels.
    region : tuple of 4 floats
        Left, top, right, bottom of the part of the photo that the maps cover, pixels.
    betas : tuple of float
        How much the model used the photo for each word, 0..1.
    ended : bool
        Whether it came to its end, rather than being cut at the most words allowed.
    choices : tuple of tuple of (str, float)
        For each word, the likeliest words in its place and their probabilities, likeliest first, "." being the end of
        the caption; empty unless `DecodingOptions.top_words` asks for them.
    alternatives : tuple of Caption
        The other captions found or drawn, best first.
    """

    text: str
    words: tuple[str, ...]
    log_prob: float
    word_probs: tuple[float, ...]
    attention: np.ndarray
    locations: tuple[tuple[int, int], ...] | None
    width: int
    height: int
    region: tuple[float, float, float, float]
    betas: tuple[float, ...]
    ended: bool
    choices: tuple[tuple[tuple[str, float], ...], ...] = ()
    alternatives: tuple[Caption, ...] = ()

    def attention_arrays(self) -> dict[str, Any]:
        """Where the model looked, as arrays for a file (`numpy.savez`).

        Returns
        -------
        dict of str to ndarray
            `words`, `attention` (T, rows, columns), `region`, `width`, `height` and, if hard attention chose cells,
            `locations` (T, 2).
        """
        arrays = {
            "words": np.array(self.words, dtype=np.str_),
            "attention": self.attention.astype(np.float32),
            "region": np.array(self.region, np.float64),
            "width": np.array(self.width, np.int64),
            "height": np.array(self.height, np.int64),
        }
        if self.locations is not None:
            arrays["locations"] = np.array(self.locations, np.int64).reshape(-1, 2)
        return arrays


@dataclass(frozen=True)
class Photo:
    """A photo as the model sees it.

    Attributes
    ----------
    pixels : Tensor
        (3, S, S) uint8.
    width, height : int
        Of the upright photo, pixels.
    """

    pixels: Tensor
    width: int
    height: int


class Captioner:
    """Captions photos with a trained model.

    Parameters
    ----------
    model : ShowAttendTell
        On the device to compute on.
    vocabulary : Vocabulary
        The one it was trained with.

    Attributes
    ----------
    device : torch.device
    precision : {"float32", "bfloat16"}
        In which it computes there.

    Examples
    --------
    >>> captioner = Captioner.load()
    >>> captioner.caption("photo.jpg").text  # doctest: +SKIP
    'a dog runs through the grass'
    """

    def __init__(self, model: ShowAttendTell, vocabulary: Vocabulary) -> None:
        self.model = model.eval()
        self.model.encoder.to(memory_format=torch.channels_last)
        self.vocabulary = vocabulary
        parameter = next(model.decoder.parameters())
        self.device = parameter.device
        self.precision = cast(Precision, str(parameter.dtype).removeprefix("torch."))

    @classmethod
    def load(
        cls, checkpoint: str | Path | None = None, device: str = "auto", precision: Precision = "auto"
    ) -> Captioner:
        """Load a checkpoint folder; the bundled model if none is named.

        Parameters
        ----------
        checkpoint : path, optional
            As training writes it.
        device : str
            `auto`, `cpu`, `cuda` or `cuda:N`.
        precision : {"auto", "float32", "bfloat16"}
            Of weights and activations; `auto` is the faster one on the device.

        Raises
        ------
        CheckpointError
            If there is no whole checkpoint.
        CaptionerError
            If the device is not there.
        """
        where = choose_device(device)
        model, vocabulary = load_checkpoint(Path(checkpoint or BUNDLED))
        quicken(model.encoder.network)
        return cls(model.to(where, choose_precision(precision, where)), vocabulary)

    def caption(self, image: ImageSource, options: DecodingOptions | None = None) -> Caption:
        """Caption one photo.

        Raises
        ------
        ImageReadError
            If it cannot be read.
        CaptionerError
            If the model cannot follow the options, or its numbers are no probabilities.
        """
        return next(self.caption_many([image], options))

    def caption_many(
        self,
        images: Iterable[ImageSource],
        options: DecodingOptions | None = None,
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> Iterator[Caption]:
        """Caption photos in batches, in order, reading ahead of the model.

        Parameters
        ----------
        images : iterable of image sources
            Taken as they are needed; may be endless.
        options : DecodingOptions, optional
        batch_size : int, optional
            Photos searched at once, up to 1,000: 32 on a CPU, 128 on a GPU, fewer with a beam beyond 25.
        workers : int, optional
            Threads that read photos, up to 1,000: a quarter of the CPU's cores but at least two, or for a GPU all of
            them.

        Raises
        ------
        ImageReadError
            At the first photo that cannot be read; see `attempt_many` to go on past it.
        CaptionerError
            As `caption` does; or if `batch_size` or `workers` is beyond its bounds.
        """
        for _, result in self.attempt_many(images, options, batch_size, workers):
            if isinstance(result, ImageReadError):
                raise result
            yield result

    def attempt_many(
        self,
        images: Iterable[Given],
        options: DecodingOptions | None = None,
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> Iterator[tuple[Given, Caption | ImageReadError]]:
        """Caption photos as `caption_many` does, giving each beside its caption or the error that barred it."""
        on_cpu, threads = self.device.type == "cpu", torch.get_num_threads()
        options = options or DecodingOptions()
        if batch_size is None:
            batch_size = _CPU_BATCH if on_cpu else _GPU_BATCH
            # A wide beam takes its memory for every photo of a batch.
            batch_size = max(1, batch_size * _WIDE_BEAM // max(_WIDE_BEAM, options.beam_size))
        if workers is None:
            workers = max(2, threads // 4 if on_cpu else os.cpu_count() or 1)
        for name, value in (("batch_size", batch_size), ("workers", workers)):
            if not 1 <= value <= _MOST_AT_ONCE:
                raise CaptionerError(f"{name} = {value} must lie in 1..{_MOST_AT_ONCE}")
        self.check(options)
        read = map_ahead(self._attempt_read, images, workers=workers, ahead=batch_size)
        # Cores that work on batches of their own never wait for each other, as those that share one do at every layer.
        lanes = threads if on_cpu else 1
        batches = _batches(read, batch_size, lanes)
        first, second = next(batches, []), next(batches, None)
        if second is None:
            yield from self._attempt_batch(first, options)
            return
        batches = chain([first, second], batches)
        del first, second  # or their pixels would be kept to the end

        work = partial(self._attempt_batch, options=options)
        alone = partial(compute_alone, threads)
        for results in map_ahead(work, batches, workers=lanes, ahead=lanes + 1, prepare=alone):
            yield from results

    def check(self, options: DecodingOptions) -> None:
        """Refuse options that the model cannot follow.

        Raises
        ------
        CaptionerError
            If `options.context` is one that only hard attention knows, and the model has another; if the vocabulary
            lacks a word of `options.prefix`.
        """
        check_options(options, self.model.decoder.config.attention, self.vocabulary)

    def read(self, source: ImageSource) -> Photo:
        """Read a photo as the model is to see it.

        Raises
        ------
        ImageReadError
            If it cannot be read.
        """
        pixels, (width, height) = load_pixels(source, self.model.encoder.preprocessing)
        return Photo(pixels, width, height)

    @torch.inference_mode()
    def encode(self, photos: Sequence[Photo]) -> Tensor:
        """Features (B, L, D) of one or more photos."""
        return self.model.encoder(torch.stack([photo.pixels for photo in photos]).to(self.device))  # type: ignore[no-any-return]

    def describe(self, photos: Sequence[Photo], features: Tensor, options: DecodingOptions) -> list[Caption]:
        """Caption photos whose features (B, L, D) are known."""
        captions = []
        beams = search(self.model.decoder, features, self.vocabulary, options)
        for photo, hypotheses in zip(photos, beams, strict=True):
            best, *others = (self._to_caption(photo, hypothesis) for hypothesis in hypotheses)
            captions.append(replace(best, alternatives=tuple(others)))
        return captions

    def _attempt_read(self, source: Given) -> tuple[Given, Photo | ImageReadError]:
        try:
            return source, self.read(source)
        except ImageReadError as error:
            # Anew, for this one's traceback holds on to the picture, and a batch may hold many such.
            return source, ImageReadError(str(error))

    def _attempt_batch(
        self, batch: Sequence[tuple[Given, Photo | ImageReadError]], options: DecodingOptions
    ) -> list[tuple[Given, Caption | ImageReadError]]:
        photos = [photo for _, photo in batch if isinstance(photo, Photo)]
        captions = iter(self.describe(photos, self.encode(photos), options) if photos else [])
        return [(source, photo if isinstance(photo, ImageReadError) else next(captions)) for source, photo in batch]

    def _to_caption(self, photo: Photo, hypothesis: Hypothesis) -> Caption:
        words = self.vocabulary.decode(hypothesis.tokens)
        grid = self.model.encoder.grid
        everywhere = EVERYWHERE in hypothesis.locations
        return Caption(
            text=detokenize(words),
            words=tuple(words),
            log_prob=hypothesis.log_prob,
            word_probs=tuple(np.exp(hypothesis.token_log_probs).tolist()),
            attention=hypothesis.attention.numpy().reshape(-1, grid, grid),
            locations=None if everywhere else tuple(divmod(location, grid) for location in hypothesis.locations),
            width=photo.width,
            height=photo.height,
            region=seen_region(photo.width, photo.height, self.model.encoder.preprocessing),
            betas=hypothesis.betas,
            ended=hypothesis.ended,
            choices=tuple(
                tuple((self._name(token), math.exp(log_prob)) for token, log_prob in top)
                for top in hypothesis.top_words
            ),
        )

    def _name(self, token: int) -> str:
        return END if token == self.vocabulary.eos else self.vocabulary.words[token]


def _batches(items: Iterable[Item], size: int, lanes: int) -> Iterator[list[Item]]:
    """Cut a stream into batches, its end into equally many for every lane, so that none is left idle by the last."""
    stream = iter(items)
    ahead = list(islice(stream, size))
    while len(more := list(islice(stream, size))) == size:
        yield ahead
        ahead = more
    ahead += more
    rounds = math.ceil(len(ahead) / (size * lanes))
    parts = min(len(ahead), rounds * lanes)
    for part in range(parts):
        yield ahead[part * len(ahead) // parts : (part + 1) * len(ahead) // parts]


def compute_alone(others: int) -> None:
    """Have this thread compute by itself; new threads go on with `others` threads each."""
    torch.get_num_threads()  # a thread's first look at its number takes that of new threads, and would undo the next
    torch.set_num_threads(1)
    # That was for this thread and for those to come; the latter is taken back by one of them.
    thread = threading.Thread(target=torch.set_num_threads, args=(others,))
    thread.start()
    thread.join()
