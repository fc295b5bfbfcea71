"""Encoder features on disk, or maps of an encoder's frozen part: computed once, read row by row ever after.

A store is a folder of two files: `index.json` says whose features these are, and `features.f16` holds
them, (N, L, D) or (N, C, rows, columns) little-endian half floats, row after row. Rows are only ever
appended, so an interrupted store goes on from its last whole batch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captioner.data.photos import Photos
from captioner.errors import DatasetError
from captioner.files import cannot_write, lock, replacing, write_all
from captioner.models.encoder import FrozenPart, ImageEncoder
from captioner.models.inference import quickened
from captioner.plain_json import parse_json
from captioner.prefetch import map_ahead
from captioner.progress import Bar

_INDEX, _FEATURES, _LOCK = "index.json", "features.f16", "lock"
_BATCH = 32
_READERS = 4  # threads that decode photos


def fingerprint(encoder: ImageEncoder | FrozenPart) -> str:
    """Hash of all that features depend on: the network, its weights, grid and preprocessing."""
    settings: dict[str, Any] = {"encoder": encoder.config.to_dict(), "preprocessing": encoder.preprocessing.to_dict()}
    # Where the weights came from says nothing that the weights themselves do not.
    del settings["encoder"]["weights"]
    if isinstance(encoder, FrozenPart):
        settings["part"] = encoder.nodes
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in encoder.state_dict().items():
        # Checkpoints keep matrices in half precision; the features of one are those of the other.
        kept = tensor.half() if tensor.dim() >= 2 else tensor
        digest.update(name.encode() + kept.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def store_name(root: str, split: str, precision: str, encoder: ImageEncoder | FrozenPart) -> str:
    """Name the folder of a split's features, of the first view, by all that they depend on but the photos."""
    return f"{Path(root).name}-{split}-{precision}-{fingerprint(encoder)[:12]}"


class FeatureStore:
    """Features of a list of photos, read row by row from disk.

    Parameters
    ----------
    folder : Path
        What `FeatureStore.build` made.

    Raises
    ------
    DatasetError
        If the folder holds no whole store.
    """

    def __init__(self, folder: Path) -> None:
        index = _read_index(folder)
        self.shape: tuple[int, ...] = (len(index["images"]), *index["shape"])
        size = (folder / _FEATURES).stat().st_size if (folder / _FEATURES).exists() else 0
        if size != 2 * math.prod(self.shape):
            raise DatasetError(
                f"{folder}: the feature store is not finished, or is too large; build it again to go on with it, or "
                "delete it"
            )
        self._file = (folder / _FEATURES).open("rb", buffering=0)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, rows: Sequence[int]) -> Tensor:
        """Copy the given rows out of the file: (B, L, D) or (B, C, rows, columns), float16."""
        found = np.empty((len(rows), *self.shape[1:]), "<f2")
        for row, place in zip(rows, found, strict=True):
            # Not a memory map, whose pages count as the process's own: memory would grow with the store.
            if os.preadv(self._file.fileno(), [place.data], row * place.nbytes) != place.nbytes:
                raise DatasetError(f"{self._file.name}: cut short while it was read; build it again")
        return torch.from_numpy(found)

    @classmethod
    def build(
        cls,
        folder: Path,
        photos: Photos,
        encoder: ImageEncoder | FrozenPart,
        device: torch.device,
        *,
        view: int = 0,
        precision: torch.dtype = torch.float32,
        label: str = "features",
    ) -> FeatureStore:
        """Open the store of these photos, computing what it lacks.

        One process computes; others that want the same store wait for it.

        Parameters
        ----------
        folder : Path
            Made if absent.
        photos : Photos
            In the order of the rows; they are told apart by their file names and sizes.
        encoder : ImageEncoder or FrozenPart
            On `device`.
        view : int
            Which view of every photo.
        precision : torch.dtype
            Arithmetic of the encoder, by autocast unless it is float32.
        label : str
            Name on the progress bar.

        Raises
        ------
        DatasetError
            If the folder holds features of another encoder, other weights, preprocessing or photos.
        ImageReadError
            If a photo cannot be read; what was computed before it stays.
        CaptionerError
            If the folder cannot be written, as on a full disk; what was computed stays, too.
        """
        index = {
            "fingerprint": fingerprint(encoder),
            "encoder": encoder.config.to_dict(),
            "view": photos.describe(view),
            "precision": str(precision).removeprefix("torch."),
            "shape": list(encoder.shape),
            "images": [[path.name, path.stat().st_size] for path in photos.paths],
        }
        with _building(folder):
            if (folder / _INDEX).exists():
                _refuse_other(folder, _read_index(folder), index)
            else:
                with replacing(folder / _INDEX) as file:
                    file.write(json.dumps(index).encode())
            row_bytes = 2 * math.prod(encoder.shape)
            path = folder / _FEATURES
            done = path.stat().st_size // row_bytes if path.exists() else 0
            if done < len(photos):
                # A batch is computed whole: of how many photos it is shows in the last bits of their features.
                done -= done % _BATCH
                with path.open("ab", buffering=0) as file:
                    file.truncate(done * row_bytes)
                    bar = Bar(total=len(photos), initial=done, desc=label)
                    with bar, torch.autocast(device.type, precision, enabled=precision != torch.float32):
                        _append(file, photos, done, view, quickened(encoder), device, bar)
        return cls(folder)


class StoredViews:
    """Stores of several views of the same photos, of which an epoch sees one of each photo, by turns.

    Parameters
    ----------
    views : sequence of FeatureStore
        Rows in the same order.
    """

    def __init__(self, views: Sequence[FeatureStore]) -> None:
        if len({len(view) for view in views}) != 1:
            raise ValueError(f"views of {sorted({len(view) for view in views})} photos")
        self.views = views

    def __len__(self) -> int:
        return len(self.views[0])

    def read(self, rows: Sequence[int], epoch: int) -> Tensor:
        """Copy the given rows, each out of its view of this epoch: (B, L, D) or (B, C, rows, columns), float16."""
        # NumPy's copy, not torch's: see `preprocess`.
        features = np.empty((len(rows), *self.views[0].shape[1:]), "<f2")
        for number, view in enumerate(self.views):
            places = [place for place, row in enumerate(rows) if (row + epoch) % len(self.views) == number]
            features[places] = view.read([rows[place] for place in places]).numpy()
        return torch.from_numpy(features)


@contextlib.contextmanager
def _building(folder: Path) -> Iterator[None]:
    """Let one process at a time build a store; the lock goes with the process, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _LOCK).open("w") as file:
            lock(file.fileno(), wait=True)
            yield
    except OSError as error:
        raise cannot_write(folder, error) from error


@torch.inference_mode()
def _append(
    file: Any, photos: Photos, done: int, view: int, encoder: ImageEncoder | FrozenPart, device: torch.device, bar: Any
) -> None:
    batch: list[Tensor] = []
    pixels = partial(photos.pixels, view=view)
    for tensor in map_ahead(pixels, range(done, len(photos)), workers=_READERS, ahead=2 * _BATCH):
        batch.append(tensor)
        bar.update()
        if len(batch) == _BATCH:
            _write(file, encoder(torch.stack(batch).to(device)))
            batch.clear()
    if batch:
        _write(file, encoder(torch.stack(batch).to(device)))
    os.fsync(file.fileno())


def _write(file: Any, features: Tensor) -> None:
    rows = features.half()
    if not torch.isfinite(rows).all():
        raise DatasetError(
            "the encoder gives features that half precision cannot hold; set features = 'computed', or choose another"
        )
    write_all(file, rows.cpu().contiguous().numpy().astype("<f2", copy=False).tobytes())


def _read_index(folder: Path) -> dict[str, Any]:
    try:
        index = parse_json((folder / _INDEX).read_text(encoding="utf-8"))
        index = {key: index[key] for key in ("fingerprint", "encoder", "view", "precision", "shape", "images")}
        if not isinstance(index["images"], list) or not _is_shape(index["shape"]):
            raise ValueError("no list of photos, or no shape of features")
        return index
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{folder}: not a feature store ({error}); delete it, or choose another folder") from error


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and len(value) in (2, 3) and all(isinstance(n, int) and 0 < n < 2**24 for n in value)


def _refuse_other(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Never let features of one thing pass for those of another."""
    if found["fingerprint"] != wanted["fingerprint"]:
        raise DatasetError(
            f"{folder}: made by another encoder or with other weights or preprocessing ({found['encoder']}, not "
            f"{wanted['encoder']}); delete it, or choose another folder"
        )
    if found["images"] != wanted["images"]:
        raise DatasetError(
            f"{folder}: made from other photos ({len(found['images'])}, not {len(wanted['images'])}, or of other names "
            "or sizes); delete it, or choose another folder"
        )
    if found["view"] != wanted["view"]:
        raise DatasetError(
            f"{folder}: made of other views, by mirror and crop or by which photos have captions that tell left from "
            "right; delete it, or choose another folder"
        )
    for key in ("precision", "shape"):
        if found[key] != wanted[key]:
            raise DatasetError(
                f"{folder}: made with {key} = {found[key]}, not {wanted[key]}; delete it, or choose another folder"
            )
