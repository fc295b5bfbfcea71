"""How fast captioning is: `python benchmarks/caption.py [--quick] [--photos DIR]`; the last line is a JSON object.

Photos per second of `python -m captioner caption FOLDER --output FILE`, files, JPEG decoding and writing included and
the start of the process left out, against two yardsticks that take turns with it:

- `share_of_encoder`: over the encoder alone on photos ready in memory, in its best precision and batch size here, all
  cores at one batch or each at one of its own;
- `times_plain`: over the plain way: load, encode and beam-search one at a time in float32, as most people write it.

Besides: where the time goes, what a start costs, how memory grows with the photos, which captions depend on batch size
or precision, and the same command with ResNet-101 at 14 x 14 and a beam of 5, its weights made up, cut at 15 words.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent.parent))  # as a script, too, it is part of the package of benchmarks

from benchmarks import peak
from captioner.checkpoint import load_checkpoint, save_checkpoint
from captioner.checkpoint_files import BUNDLED
from captioner.config import DecoderConfig, DecodingOptions, EncoderConfig, ModelConfig
from captioner.devices import Precision, choose_device
from captioner.ending import OK, run_to_end
from captioner.errors import CaptionerError
from captioner.images import load_image
from captioner.models.decoder import AttentionDecoder
from captioner.models.show_attend_tell import ShowAttendTell
from captioner.pipeline import Captioner, Photo, compute_alone
from captioner.vocabulary import Vocabulary, detokenize

ROOT = Path(__file__).parent.parent
OPTIONS = DecodingOptions(beam_size=3)
PHOTOS, QUICK_PHOTOS = 500, 200
MEMORY_SIZES, QUICK_MEMORY_SIZES = (100, 1_000, 10_000), (50, 200)
TUTORIAL_VOCABULARY = 9_490  # words of COCO's captions that occur five times


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Speed of captioning folders, against the encoder alone.")
    parser.add_argument("--photos", type=Path, default=ROOT / "examples", help="folder of photos (default: examples/)")
    parser.add_argument("--quick", action="store_true", help="fewer photos, one round, no memory at 10,000 photos")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    options = parser.parse_args(arguments)

    def work() -> int:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(options.photos, options.device, options.quick, Path(folder))))
        return OK

    return run_to_end("caption.py", work)


def measure(source: Path, device: str, quick: bool, folder: Path) -> dict[str, object]:
    """All figures."""
    originals = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not originals:
        raise CaptionerError(f"{source}: no photo in it; give a folder of JPEG or PNG photos")
    photos = repeat(originals, QUICK_PHOTOS if quick else PHOTOS, folder / "photos")
    tutorial = save_tutorial(folder / "resnet101")
    paths = sorted(photos.iterdir())
    captioner = Captioner.load(device=device)
    precision, batch, lanes = best_encoder(paths, device)
    print(f"the encoder is fastest in {precision} with {lanes} batches of {batch} photos at once", flush=True)
    alone = Captioner.load(device=device, precision=precision)
    ready = [alone.read(path) for path in paths[:96]]
    ways: dict[str, Callable[[], float]] = {
        "ours": lambda: command(photos, folder, device),
        "encoder": lambda: encoder_alone(alone, ready, batch, lanes),
        "plain": lambda: plain(paths[: 10 if quick else 40], device),
        "resnet101": lambda: command(photos, folder, device, "--checkpoint", tutorial, "--beam", 5, "--max-length", 15),
    }
    best = dict.fromkeys(ways, 0.0)
    for number in range(1 if quick else 3):
        for name, way in ways.items():
            rate = way()
            best[name] = max(best[name], rate)
            print(f"round {number + 1}: {name} {rate:.1f} photos/s", flush=True)
    stages = time_by_stage(captioner, paths[:96])
    print("milliseconds a photo, one stage at a time: " + ", ".join(f"{k} {v}" for k, v in stages.items()), flush=True)
    memory = {}
    for count in QUICK_MEMORY_SIZES if quick else MEMORY_SIZES:
        memory[count] = peak_megabytes(repeat(originals, count, folder / f"photos-{count}"), folder, device)
        print(f"{count:>6,} photos: {memory[count]} MB at most", flush=True)
    return {
        "images_per_s": round(best["ours"], 1),
        # Whichever of its two measurements was the faster.
        "share_of_encoder": round(best["ours"] / max(best["encoder"], 1e3 / stages["encode"]), 3),
        "times_plain": round(best["ours"] / best["plain"], 2),
        "resnet101_images_per_s": round(best["resnet101"], 1),
        "stage_ms": stages,
        "peak_megabytes": memory,
        "spread_megabytes": max(memory.values()) - min(memory.values()),
        **cold_start(paths[0], 1 if quick else 5),
        **differing(paths[: 40 if quick else 300], device),
        "precision": precision,
        "device": torch.cuda.get_device_name() if captioner.device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }


def repeat(originals: Sequence[Path], count: int, folder: Path) -> Path:
    """Make a folder of so many photos, under names of their own."""
    folder.mkdir()
    for number, path in zip(range(count), itertools.cycle(originals)):
        target = folder / f"{number}{path.suffix}"
        try:
            os.link(path, target)
        except OSError:
            shutil.copy(path, target)
    return folder


def run(*arguments: object) -> tuple[str, int]:
    """Run `python -m captioner` with arguments; its messages, and its peak memory in megabytes."""
    return peak.run([sys.executable, "-m", "captioner", *map(str, arguments)])


def command(photos: Path, folder: Path, device: str, *more: object) -> float:
    """Photos per second as the command itself says: from the first file taken to the last line written."""
    output = folder / "captions.jsonl"
    output.unlink(missing_ok=True)
    said, _ = run("caption", photos, "--output", output, "--device", device, *more)
    rate = re.search(r"([\d.]+) photos/s", said)
    if rate is None:
        raise CaptionerError(f"no rate in what the command said: {said}")
    return float(rate[1])


def peak_megabytes(photos: Path, folder: Path, device: str) -> int:
    """Peak memory of the command."""
    output = folder / "captions.jsonl"
    output.unlink(missing_ok=True)
    return run("caption", photos, "--output", output, "--device", device)[1]


def encoder_alone(captioner: Captioner, photos: Sequence[Photo], batch: int, lanes: int) -> float:
    """Photos per second of the encoder on pixels ready in memory, all cores at one batch, or each at one of its own."""
    pixels = torch.stack([photo.pixels for photo in photos]).to(captioner.device)
    captioner.model.encoder.at_once = batch

    @torch.inference_mode()
    def encode(part: Tensor) -> None:
        captioner.model.encoder(part)

    alone = partial(compute_alone, torch.get_num_threads()) if lanes > 1 else None
    with ThreadPoolExecutor(lanes, initializer=alone) as pool:
        return len(photos) / seconds(lambda: list(pool.map(encode, torch.split(pixels, batch))), captioner.device)


def best_encoder(paths: Sequence[Path], device: str) -> tuple[Precision, int, int]:
    """Precision, batch size and number of batches at once at which the encoder is fastest."""
    rates: dict[tuple[Precision, int, int], float] = {}
    for precision in get_args(Precision)[1:]:
        captioner = Captioner.load(device=device, precision=precision)
        photos = [captioner.read(path) for path in paths[:64]]
        for lanes in {1, torch.get_num_threads() if captioner.device.type == "cpu" else 1}:
            for batch in (1, 2, 4, 8, 16, 32):
                rates[precision, batch, lanes] = encoder_alone(captioner, photos, batch, lanes)
    return max(rates, key=rates.__getitem__)


@torch.inference_mode()
def plain(paths: Sequence[Path], device: str) -> float:
    """Photos per second one at a time, as most people write it."""
    model, vocabulary = load_checkpoint(BUNDLED)
    where = choose_device(device)
    model.to(where)

    def caption_all() -> None:
        for path in paths:
            plain_caption(model, vocabulary, path, where)

    return len(paths) / seconds(caption_all, where)


def plain_caption(model: ShowAttendTell, vocabulary: Vocabulary, path: Path, device: torch.device) -> str:
    """Caption one photo: read it whole, encode it, search with its features repeated for every row of the beam."""
    wanted = model.encoder.preprocessing
    image = load_image(path).resize((wanted.input_size, wanted.input_size), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image)).to(device).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (wanted.mean, wanted.std))
    grid = model.encoder.network(((pixels - mean) / std).unsqueeze(0)).flatten(2).transpose(1, 2)
    features = functional.layer_norm(grid, grid.shape[-1:]).expand(OPTIONS.beam_size, -1, -1)
    decoder = model.decoder
    keys, hidden, cell = (
        decoder.attention.score.key(features),  # type: ignore[union-attr, operator]
        torch.tanh(decoder.init_hidden(features.mean(1))),
        torch.tanh(decoder.init_cell(features.mean(1))),
    )
    captions = [[vocabulary.bos]] * OPTIONS.beam_size
    totals = torch.zeros(OPTIONS.beam_size, 1, device=device)
    finished: list[tuple[float, list[int]]] = []
    for t in range(OPTIONS.max_length):
        last = torch.tensor([caption[-1] for caption in captions], device=device)
        log_probs, hidden, cell = plain_step(decoder, last, features, keys, hidden, cell)
        log_probs[:, [vocabulary.pad, vocabulary.bos, vocabulary.unk]] = -torch.inf
        if t == 0:
            log_probs[:, vocabulary.eos] = log_probs[1:] = -torch.inf
        best, index = (totals + log_probs).flatten().topk(OPTIONS.beam_size - len(finished))
        places = [divmod(i, log_probs.shape[1]) for i in index.tolist()]
        longer = [[*captions[row], word] for row, word in places]
        ended = [i for i, caption in enumerate(longer) if caption[-1] == vocabulary.eos]
        finished += [(float(best[i]) / (t + 1) ** OPTIONS.length_penalty, longer[i]) for i in ended]
        kept = [i for i in range(len(longer)) if i not in ended]
        if not kept:
            break
        captions, totals = [longer[i] for i in kept], best[kept].unsqueeze(1)
        rows = torch.tensor([places[i][0] for i in kept], device=device)
        features, keys, hidden, cell = features[rows], keys[rows], hidden[rows], cell[rows]
    _, tokens = max(finished, default=(0.0, captions[0]))
    return detokenize(vocabulary.decode(tokens[1:-1]))


def plain_step(
    decoder: AttentionDecoder, tokens: Tensor, features: Tensor, keys: Tensor, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One word, by the formulas of the paper, for rows K: their log-probabilities (K, V), and the next state."""
    score = decoder.attention.score  # type: ignore[union-attr]
    energies = score.energy(torch.tanh(keys + score.query(hidden).unsqueeze(1))).squeeze(-1)  # type: ignore[operator, union-attr]
    alpha = torch.softmax(energies, -1)
    context = torch.sigmoid(decoder.gate(hidden)) * (alpha.unsqueeze(-1) * features).sum(1)
    embedded = decoder.embedding(tokens)
    gates = decoder.lstm_word(embedded) + decoder.lstm_state(torch.cat([context, hidden], 1))
    i, f, g, o = gates.chunk(4, 1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    hidden = torch.sigmoid(o) * torch.tanh(cell)
    deep = embedded + decoder.output_hidden(hidden) + decoder.output_context(context)
    return torch.log_softmax(decoder.output_word(deep), -1), hidden, cell


def save_tutorial(folder: Path) -> Path:
    """Save a model of the sizes of the most used public tutorial; what its weights are does not matter for speed."""
    torch.manual_seed(0)
    vocabulary = Vocabulary([f"word{number}" for number in range(TUTORIAL_VOCABULARY)])
    encoder = EncoderConfig("resnet101", weights="none", grid=14)
    save_checkpoint(folder, ShowAttendTell(ModelConfig(encoder, DecoderConfig(), len(vocabulary))), vocabulary)
    return folder


def time_by_stage(captioner: Captioner, paths: Sequence[Path]) -> dict[str, float]:
    """Milliseconds a photo takes in each stage, one after the other, each with all threads to itself."""
    photos = [captioner.read(path) for path in paths]
    parts = [photos[i : i + 32] for i in range(0, len(photos), 32)]
    features = [captioner.encode(part) for part in parts]

    def search() -> None:
        for part, grid in zip(parts, features, strict=True):
            captioner.describe(part, grid, OPTIONS)

    stages: dict[str, Callable[[], object]] = {
        "read": lambda: [captioner.read(path) for path in paths],
        "encode": lambda: [captioner.encode(part) for part in parts],
        "search": search,
    }
    return {name: round(1e3 * seconds(stage, captioner.device) / len(paths), 2) for name, stage in stages.items()}


def cold_start(photo: Path, times: int) -> dict[str, float]:
    """Compare a process that captions one photo, and one that prints help, with one that imports torch alone."""
    commands = {
        "torch": ["-c", "import torch, torchvision"],
        "caption": ["-m", "captioner", "caption", str(photo)],
        "help": ["-m", "captioner", "--help"],
    }
    best = dict.fromkeys(commands, float("inf"))
    for name, arguments in list(commands.items()) * times:
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)
        best[name] = min(best[name], time.perf_counter() - start)
    return {
        "cold_start_s": round(best["caption"], 2),
        "cold_start_times_torch": round(best["caption"] / best["torch"], 2),
        "help_times_torch": round(best["help"] / best["torch"], 3),
    }


def differing(paths: Sequence[Path], device: str) -> dict[str, float]:
    """Share of captions that another batch size, or another precision, changes."""

    def captions(precision: Precision, batch_size: int) -> list[str]:
        captioner = Captioner.load(device=device, precision=precision)
        return [caption.text for caption in captioner.caption_many(paths, OPTIONS, batch_size)]

    def share(one: Sequence[str], other: Sequence[str]) -> float:
        return round(float(np.mean([a != b for a, b in zip(one, other, strict=True)])), 4)

    exact, quick = captions("float32", 32), captions("bfloat16", 32)
    return {
        "differ_by_batch_size_float32": share(exact, captions("float32", 1)),
        "differ_by_batch_size_bfloat16": share(quick, captions("bfloat16", 1)),
        "differ_by_precision": share(exact, quick),
    }


def seconds(step: Callable[[], object], device: torch.device) -> float:
    """Time of a step after one that does not count."""
    step()
    _synchronize(device)
    start = time.perf_counter()
    step()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(main())
