"""Photos of a data set as model input, each in as many views as training wants."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from captioner.config import PreprocessingConfig
from captioner.data.annotations import CaptionedImage
from captioner.images import load_image, preprocess
from captioner.recipe import DataConfig
from captioner.vocabulary import tokenize

_SIDES = {"left", "right"}


class Photos:
    """Photos, row after row; view 0 of each is the photo itself, the others are cropped, and the odd ones mirrored.

    A photo is not mirrored if a caption of it tells left from right. The crop of a view depends on the
    photo's name and the view's number alone, so that it is the same when a run is resumed or a store built again.

    Parameters
    ----------
    images : sequence of CaptionedImage
        In the order of the rows.
    preprocessing : PreprocessingConfig
        Of the encoder.
    data : DataConfig
        `mirror` and `crop`.
    """

    def __init__(self, images: Sequence[CaptionedImage], preprocessing: PreprocessingConfig, data: DataConfig) -> None:
        self.paths = [image.path for image in images]
        self.preprocessing = preprocessing
        self.mirror, self.crop = data.mirror, data.crop
        self._sided = {row for row, image in enumerate(images) if any(_tells_sides(c) for c in image.captions)}

    def __len__(self) -> int:
        return len(self.paths)

    def pixels(self, row: int, view: int = 0) -> Tensor:
        """Model input (3, S, S) uint8 of one photo.

        Raises
        ------
        ImageReadError
            If the photo cannot be read.
        """
        image = load_image(self.paths[row])
        if view and self.crop:
            image = _cropped(image, self.crop, random.Random(os.fsencode(f"{view} {self.paths[row].name}")))
        if self._mirrored(row, view):
            image = ImageOps.mirror(image)
        return preprocess(image, self.preprocessing)

    def read(self, rows: Sequence[int], epoch: int) -> Tensor:
        """Model input (B, 3, S, S) uint8 of the given photos, each in a new view every epoch."""
        # NumPy's, not torch's stack: see `preprocess`.
        return torch.from_numpy(np.stack([self.pixels(row, row + epoch).numpy() for row in rows]))

    def describe(self, view: int) -> dict[str, Any]:
        """Say what sets a view apart from the photos themselves, for the index of a store of it."""
        mirrored = self.mirror and view % 2 == 1
        return {
            "view": view,
            "crop": self.crop if view else 0.0,
            "mirrored": mirrored,
            "unmirrored": sorted(self._sided) if mirrored else [],
        }

    def _mirrored(self, row: int, view: int) -> bool:
        return self.mirror and view % 2 == 1 and row not in self._sided


def _tells_sides(caption: str) -> bool:
    # Half a million captions take a minute to tokenise; few of them hold the letters.
    text = caption.lower()
    return any(side in text for side in _SIDES) and not _SIDES.isdisjoint(tokenize(caption))


def _cropped(image: Image.Image, most: float, draw: random.Random) -> Image.Image:
    """Cut up to a share `most` of the width and of the height off, anywhere."""
    width, height = (max(1, round(side * (1 - draw.uniform(0, most)))) for side in image.size)
    left, top = draw.randint(0, image.width - width), draw.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height))
