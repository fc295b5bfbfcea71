"""Whether a model looks at what it says: attention against the outlines of the objects that its words name.

Counted are the words that name a category of COCO (`captioner.data.instances.named_categories`) of which an object has
been outlined in the part of the photo that the model sees. Two maps that know nothing of the photo are put to the same
words: the flat one, and one that prefers the centre.
"""

from __future__ import annotations

from typing import NamedTuple

from captioner.data.instances import Instances, named_categories
from captioner.metrics.attention import area, centre, mass, pointing, uniform
from captioner.pipeline import Caption
from captioner.regions import Region, scaled


class Pointed(NamedTuple):
    """Sums over the words of one photo's caption, of which every figure is a ratio.

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


def point(caption: Caption, instances: Instances) -> Pointed:
    """Measure the attention of one caption, on a photo that the outlines fit."""
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
    return scaled(caption.region, instances.width / caption.width, instances.height / caption.height)
