"""Where the model looked, as a file per photo: numbers (npz) or a picture (png)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from captioner.batch.hashes import hash64
from captioner.ending import unstoppable
from captioner.files import cannot_write, replacing

if TYPE_CHECKING:
    from captioner.pipeline import Caption

_LONGEST_STEM = 48  # characters; of 4 bytes each, the name still fits the 255 bytes that file systems allow


def save_attention(image: str, caption: Caption, kind: str, folder: Path) -> str:
    """Write a photo's attention.

    Parameters
    ----------
    image : str
        Path of the photo.
    kind : {"npz", "png"}
        `npz` holds `Caption.attention_arrays`; `png` is a filmstrip.
    folder : Path
        Where to; made if it is not there.

    Returns
    -------
    str
        Path of the file, relative to the folder that `folder` lies in.

    Raises
    ------
    ImageReadError
        If the photo, which a picture needs, cannot be read any more.
    CaptionerError
        If the file cannot be written.
    """
    # Photos of different folders may share a name; the hash of the whole path tells them apart.
    name = f"{Path(image).stem[:_LONGEST_STEM]}-{hash64(image):016x}.{kind}"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    with replacing(folder / name, sync=False) as file:
        if kind == "npz":
            _save_numbers(caption, file)
        else:
            _save_picture(image, caption, file)
    return f"{folder.name}/{name}"


def _save_numbers(caption: Caption, file: BinaryIO) -> None:
    import numpy as np

    # Stopped as it begins, NumPy's archive would complain in a traceback when it is thrown away.
    with unstoppable():
        np.savez_compressed(file, **caption.attention_arrays())


def _save_picture(image: str, caption: Caption, file: BinaryIO) -> None:
    from captioner.images import load_image
    from captioner.visualization import filmstrip

    figure = filmstrip(load_image(image), caption.words, caption.attention, caption.region, caption.locations)
    figure.savefig(file, format="png")
