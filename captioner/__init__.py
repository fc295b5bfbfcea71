"""Show, Attend and Tell: captions for photos, and where the model looked for every word.

>>> from captioner import Captioner
>>> Captioner.load().caption("photo.jpg").text  # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

from captioner.errors import CaptionerError, CheckpointError, DatasetError, ImageReadError
from captioner.version import VERSION

if TYPE_CHECKING:
    from captioner.config import DecodingOptions
    from captioner.pipeline import Caption, Captioner

__all__ = [
    "Caption",
    "Captioner",
    "CaptionerError",
    "CheckpointError",
    "DatasetError",
    "DecodingOptions",
    "ImageReadError",
]
__version__ = VERSION

_HOMES = {"Caption": "pipeline", "Captioner": "pipeline", "DecodingOptions": "config"}


def __getattr__(name: str) -> Any:
    # Names that bring torch along are looked up when first used, so that the command line's --help is instant.
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"captioner.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'captioner' has no attribute {name!r}")
