"""Whether a model looks at what it says: attention against the outlines of the objects that its words name.

Counted are the words that name a category of COCO (`captioner.data.instances.named_categories`) of which an object has
been outlined in the part of the photo that the model sees. Two maps that know nothing of the photo are put to the same
words: the flat one, and one that prefers the centre.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from captioner.data.instances import Instances, named_categories
from captioner.metrics.attention import Region, area, centre, mass, pointing, uniform
from captioner.pipeline import Caption


class Pointed(NamedTuple):
    """Sums over the words of one photo's caption, from which every figure of `Localization` is made.

    Attributes
    ----------
    words : int
        Those that name a category which is there; the sums are over them.
    absent : int
        Those that name one which is not.
    area : float
        Share of what the model sees that the objects cover; it is also the mass of the flat map.
    pointing, pointing_uniform, pointing_centre : float
        Hits of the pointing game by the model's maps, flat ones, and ones that prefer the centre.
    mass, mass_centre : float
        Attention that lies on the objects.
    """

    words: int = 0
    absent: int = 0
    area: float = 0.0
    pointing: float = 0.0
    pointing_uniform: float = 0.0
    pointing_centre: float = 0.0
    mass: float = 0.0
    mass_centre: float = 0.0


@dataclass(frozen=True)
class Localization:
    """How well attention lies on objects, over all words of all captions.

    Attributes
    ----------
    statistics : ndarray
        (N photos, 8), a `Pointed` a row. All figures are ratios of its columns' sums, so that a bootstrap over photos
        need only draw rows.
    """

    statistics: np.ndarray

    @property
    def total(self) -> Pointed:
        """The sums over all photos."""
        words, absent, *sums = self.statistics.sum(0).tolist()
        return Pointed(int(words), int(absent), *sums)

    @property
    def photos(self) -> int:
        """How many photos have a word that counts."""
        return int((self.statistics[:, Pointed._fields.index("words")] > 0).sum())

    @property
    def there(self) -> float:
        """Share of the words naming a category whose object is there, percent."""
        total = self.total
        return _percent(total.words, total.words + total.absent)

    @property
    def means(self) -> dict[str, float]:
        """Mean over the words that count, percent, of all that `Pointed` sums over them, by its names."""
        total = self.total
        return {name: _percent(value, total.words) for name, value in total._asdict().items() if name in _SUMS}

    @property
    def mass_over_area(self) -> float:
        """How many times as much attention lies on the objects as would if it were flat."""
        total = self.total
        return total.mass / total.area if total.area else float("nan")


_SUMS = Pointed._fields[2:]


def localize(captions: Iterable[tuple[str, Caption]], instances: Mapping[str, Instances]) -> Localization:
    """Measure attention on photos whose objects are outlined.

    Parameters
    ----------
    captions : iterable of (str, Caption)
        File name of every photo and what a model says of it. Of photos that `instances` lacks no word counts.
    instances : mapping of str to Instances
        By file name.
    """
    rows = [point(caption, instances[name]) if name in instances else Pointed() for name, caption in captions]
    return Localization(np.array(rows, np.float64).reshape(-1, len(Pointed._fields)))


def point(caption: Caption, instances: Instances) -> Pointed:
    """Measure the attention of one caption."""
    region = _in_pixels_of(instances, caption)
    words = []
    for index, category in named_categories(caption.words):
        mask = instances.mask(category)
        covered = area(mask, region)
        if covered == 0:
            words.append(Pointed(absent=1))
            continue
        attention = caption.attention[index]
        flat, middle = uniform(*attention.shape), centre(*attention.shape)
        words.append(
            Pointed(
                words=1,
                area=covered,
                pointing=pointing(attention, mask, region),
                pointing_uniform=pointing(flat, mask, region),
                pointing_centre=pointing(middle, mask, region),
                mass=mass(attention, mask, region),
                mass_centre=mass(middle, mask, region),
            )
        )
    return Pointed(*map(sum, zip(*words, strict=True))) if words else Pointed()


def _in_pixels_of(instances: Instances, caption: Caption) -> Region:
    """Bring the region of a caption to the outlines' pixels, should the photo be a smaller copy."""
    across, down = instances.width / caption.width, instances.height / caption.height
    left, top, right, bottom = caption.region
    return left * across, top * down, right * across, bottom * down


def _percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole else float("nan")
