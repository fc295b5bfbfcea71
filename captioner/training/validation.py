"""Scores on dev as training goes: captions searched for freely, as they will be in use."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from captioner.config import DecodingOptions
from captioner.data.annotations import CaptionedImage
from captioner.data.dataset import Source
from captioner.metrics.bleu import bleu
from captioner.metrics.cider import cider_d
from captioner.models.show_attend_tell import ShowAttendTell
from captioner.prefetch import map_ahead
from captioner.search import search
from captioner.training.distributed import gather, share
from captioner.vocabulary import Vocabulary, tokenize

_BATCH = 64


class Validation:
    """Captions the photos of a split and scores the captions; several processes share the work.

    Parameters
    ----------
    images : sequence of CaptionedImage
        Whose captions are the references; see `captioner.data.annotations.for_scoring`.
    source : Source
        Rows in the same order.
    vocabulary : Vocabulary
    options : DecodingOptions
        How captions are searched for.
    precision : torch.dtype
        Arithmetic of what is computed of the encoder.
    """

    def __init__(
        self,
        images: Sequence[CaptionedImage],
        source: Source,
        vocabulary: Vocabulary,
        options: DecodingOptions,
        precision: torch.dtype,
    ) -> None:
        self.references = [[tokenize(caption) for caption in image.captions] for image in images]
        self.source = source
        self.vocabulary = vocabulary
        self.options = options
        self.precision = precision

    def __call__(self, model: ShowAttendTell) -> dict[str, float]:
        """Score a model in evaluation mode: `bleu1` to `bleu4` and `cider`, which is CIDEr-D, percent.

        The scores are the same on every process.
        """
        own = share(list(range(len(self.source))))
        batches = [own[start : start + _BATCH] for start in range(0, len(own), _BATCH)]
        captions = [
            caption
            for inputs in map_ahead(lambda rows: self.source.read(rows, 0), batches, workers=1, ahead=2)
            for caption in self._captions(model, inputs)
        ]
        captions = gather(captions)
        scores = {f"bleu{n}": score.value for n, score in enumerate(bleu(self.references, captions), 1)}
        return {**scores, "cider": cider_d(self.references, captions).value}

    @torch.inference_mode()
    def _captions(self, model: ShowAttendTell, inputs: torch.Tensor) -> list[list[str]]:
        device = next(model.decoder.parameters()).device
        with torch.autocast(device.type, self.precision, enabled=self.precision != torch.float32):
            features = model.features(inputs.to(device))
        found = search(model.decoder, features.float(), self.vocabulary, self.options)
        return [self.vocabulary.decode(beam[0].tokens) for beam in found]
