"""Encoder features on disk: computed once, memory-mapped ever after.

A store is a folder of two files: `index.json` says whose features these are, and `features.f16` holds
them, (N, L, D) little-endian half floats, row after row. Rows are only ever appended, so an interrupted
store goes on where its file ends.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from captioner.errors import DatasetError
from captioner.images import load_image, preprocess
from captioner.models.encoder import ImageEncoder
from captioner.prefetch import map_ahead

_INDEX, _FEATURES = "index.json", "features.f16"
_BATCH = 32


def fingerprint(encoder: ImageEncoder) -> str:
    """Hash of all that features depend on: the network, its weights, grid and preprocessing."""
    settings = {"encoder": encoder.config.to_dict(), "preprocessing": encoder.preprocessing.to_dict()}
    # Where the weights came from says nothing that the weights themselves do not.
    del settings["encoder"]["weights"]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


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
        self.shape: tuple[int, int, int] = (len(index["images"]), *index["shape"])
        size = (folder / _FEATURES).stat().st_size if (folder / _FEATURES).exists() else 0
        if size != 2 * int(np.prod(self.shape)):
            raise DatasetError(f"{folder}: the feature store is not finished; build it again to go on with it")
        self._rows = np.memmap(folder / _FEATURES, dtype="<f2", mode="r", shape=self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, rows: Sequence[int]) -> Tensor:
        """Copy the given rows out of the file: (B, L, D) float16."""
        return torch.from_numpy(self._rows[list(rows)])

    @classmethod
    def build(
        cls,
        folder: Path,
        images: Sequence[Path],
        encoder: ImageEncoder,
        device: torch.device,
        *,
        mirrored: bool = False,
        precision: torch.dtype = torch.float32,
        label: str = "features",
    ) -> FeatureStore:
        """Open the store of these photos, computing what it lacks.

        Parameters
        ----------
        folder : Path
            Made if absent.
        images : sequence of Path
            In the order of the rows; photos are told apart by their file names and sizes.
        encoder : ImageEncoder
            On `device`.
        mirrored : bool
            Swap left and right before the encoder sees a photo.
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
        """
        index = {
            "fingerprint": fingerprint(encoder),
            "encoder": encoder.config.to_dict(),
            "mirrored": mirrored,
            "precision": str(precision).removeprefix("torch."),
            "shape": [encoder.grid**2, encoder.feature_dim],
            "images": [[path.name, path.stat().st_size] for path in images],
        }
        if (folder / _INDEX).exists():
            _refuse_other(folder, _read_index(folder), index)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f"{_INDEX}.partial"
            partial.write_text(json.dumps(index))
            os.replace(partial, folder / _INDEX)
        row_bytes = 2 * encoder.grid**2 * encoder.feature_dim
        path = folder / _FEATURES
        done = path.stat().st_size // row_bytes if path.exists() else 0
        if done < len(images):
            with path.open("ab") as file:
                file.truncate(done * row_bytes)  # an interrupted write may have left part of a row
                bar = tqdm(total=len(images), initial=done, desc=label)
                with bar, torch.autocast(device.type, precision, enabled=precision != torch.float32):
                    _append(file, images[done:], encoder, device, mirrored, bar)
        return cls(folder)


@torch.inference_mode()
def _append(
    file: Any, images: Sequence[Path], encoder: ImageEncoder, device: torch.device, mirrored: bool, bar: Any
) -> None:
    def pixels(path: Path) -> Tensor:
        upright = preprocess(load_image(path), encoder.preprocessing)
        return upright.flip(-1) if mirrored else upright

    batch: list[Tensor] = []
    for tensor in map_ahead(pixels, images, workers=2, ahead=2 * _BATCH):
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
        raise DatasetError("the encoder gives features that half precision cannot hold; choose another encoder")
    file.write(rows.cpu().contiguous().numpy().astype("<f2", copy=False).data)
    file.flush()


def _read_index(folder: Path) -> dict[str, Any]:
    try:
        index = json.loads((folder / _INDEX).read_text())
        return {key: index[key] for key in ("fingerprint", "encoder", "mirrored", "precision", "shape", "images")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{folder}: not a feature store ({error}); delete it, or choose another folder") from error


def _refuse_other(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Never let features of one thing pass for those of another."""
    if found["fingerprint"] != wanted["fingerprint"]:
        raise DatasetError(
            f"{folder}: made by another encoder or with other weights or preprocessing ({found['encoder']}, not "
            f"{wanted['encoder']}); delete it, or choose another folder"
        )
    for key in ("mirrored", "precision"):
        if found[key] != wanted[key]:
            raise DatasetError(
                f"{folder}: made with {key} = {found[key]}, not {wanted[key]}; delete it, or choose another folder"
            )
    if found["images"] != wanted["images"]:
        raise DatasetError(
            f"{folder}: made from other photos ({len(found['images'])}, not {len(wanted['images'])}, or of other names "
            "or sizes); delete it, or choose another folder"
        )
