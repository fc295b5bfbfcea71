"""What a recipe takes, before it is run: `python benchmarks/training_cost.py RECIPE`.

Needs neither photos nor weights: captions are made up, as many and as long as those of COCO's train split, weights are
random, and none of that changes how long a step takes. Times of arithmetic are given as a share of what this machine
makes of a product of two square matrices, too. With a single thread on a CPU (`OMP_NUM_THREADS=1`) they are the
processor's own, which whatever else it is busy with does not lengthen.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent.parent))  # where train.py is

from captioner.config import ModelConfig
from captioner.data.annotations import list_split
from captioner.data.dataset import CaptionDataset, bucketed_batches
from captioner.devices import choose_device
from captioner.ending import OK, run_to_end
from captioner.errors import CaptionerError
from captioner.images import load_image, preprocess
from captioner.models.encoder import FrozenPart, ImageEncoder
from captioner.models.inference import quickened
from captioner.models.show_attend_tell import ShowAttendTell
from captioner.recipe import DataConfig, Recipe
from captioner.training.trainer import Trainer
from captioner.vocabulary import Vocabulary
from train import build_objective, frozen_part

ROOT = Path(__file__).parent.parent
WORDS = 10_000  # about what COCO's train split has at min_count = 5
MATRIX, ENCODER_BATCH, PHOTO = 4096, 32, (640, 480)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Time, memory and disk that a recipe takes.")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--photos", type=int, default=118_287, metavar="N", help="to train on (default: COCO's 118287)")
    parser.add_argument("--batch", type=int, metavar="N", help="photos in a step (default: the recipe's)")
    parser.add_argument("--steps", type=int, default=3, metavar="N", help="that are timed (default: 3)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    options = parser.parse_args(arguments)

    def work() -> int:
        measure(options)
        return OK

    return run_to_end("training_cost.py", work)


def measure(options: argparse.Namespace) -> None:
    """Print the table."""
    if options.photos < 2 or options.steps < 1 or (options.batch is not None and options.batch < 1):
        raise CaptionerError("--photos needs at least 2, --steps and --batch at least 1")
    device = choose_device(options.device)
    recipe = Recipe.read(options.recipe)
    recipe = replace(
        recipe, train=replace(recipe.train, images_per_batch=options.batch or recipe.train.images_per_batch)
    )
    dtype = getattr(torch, recipe.train.precision)
    count = options.photos
    clock = _Clock(device)
    row = "| {:<44} | {:>14} | {:>22} |".format
    print(row(options.recipe.stem, "measured", f"times {count:,} photos"))
    print("|---|---|---|")

    square = torch.randn(MATRIX, MATRIX, device=device).to(dtype)
    peak = 2 * MATRIX**3 / clock.seconds(lambda: square @ square, 5)
    print(row(f"product of matrices, {recipe.train.precision}", f"{peak / 1e12:.2f} TFLOP/s", ""), flush=True)

    encoder = ImageEncoder(recipe.encoder).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    photo = io.BytesIO()
    Image.open(ROOT / "examples" / "raccoon.jpg").convert("RGB").resize(PHOTO).save(photo, "JPEG", quality=95)
    read = clock.seconds(lambda: preprocess(load_image(photo.getvalue()), encoder.preprocessing), 20)
    print(row("a photo read and resized, one thread", f"{1000 * read:.1f} ms", _hours(read * count)), flush=True)
    side = encoder.preprocessing.input_size
    pixels = torch.randint(0, 256, (ENCODER_BATCH, 3, side, side), dtype=torch.uint8, device=device)

    frozen = frozen_part(encoder, recipe.train)
    stored = recipe.train.features == "stored"
    encode_by = quickened(frozen) if stored else encoder  # as a store is made, or as a step computes

    @torch.no_grad()
    def encode() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            encode_by(pixels)

    work = _flops(encode) / ENCODER_BATCH
    time_taken = clock.seconds(encode, 2) / ENCODER_BATCH
    share = f"{work / 1e9:.0f} GFLOP, {work / time_taken / peak:.0%} of a product's speed"
    print(row(f"a photo encoded ({share})", f"{1000 * time_taken:.2f} ms", _hours(time_taken * count)))
    size = 2 * math.prod(frozen.shape)
    views = recipe.data.views
    if stored:
        print(row(f"features of a photo, {views} stored", f"{size:,} bytes", f"{views * size * count / 1e9:.1f} GB"))

    with tempfile.TemporaryDirectory() as folder:
        _write_captions(Path(folder), count)
        before, start = _resident(), clock.now()
        images = list_split(DataConfig(folder, "coco"), "train")
        # Counted as in training, but as many in the end however few the photos.
        Vocabulary.build((c for image in images for c in image.captions), recipe.data.min_count)
        vocabulary = Vocabulary([f"word{number}" for number in range(WORDS)])
        source = _MadeUp(count, frozen, recipe)
        data = CaptionDataset(images, source, vocabulary, recipe.data.max_length)
        model = ShowAttendTell(ModelConfig(recipe.encoder, recipe.decoder, len(vocabulary)), encoder).to(device)
        model.decoder.expect_words(data.word_counts(len(vocabulary)))
        objective = build_objective(recipe, vocabulary, data, images).to(device)
        captions, taken = sum(len(image.captions) for image in images), clock.now() - start
        del images
        text = f"{captions:,} captions, {len(vocabulary):,} words: read, counted, numbered"
        print(row(text, f"{taken:.0f} s", f"{(_resident() - before) / 1e9:.2f} GB kept"), flush=True)
        trainer = Trainer(model, vocabulary, data, objective, lambda _: {}, recipe, Path(folder), resume=False)
    model.train()
    batches = bucketed_batches(data.lengths, recipe.train.images_per_batch, recipe.train.seed, 0)
    if len(batches) <= options.steps:
        raise CaptionerError(
            f"--photos {options.photos} make {len(batches)} steps; --steps {options.steps} need one more"
        )
    steps = iter([trainer._read(0, rows) for rows in batches[: options.steps + 1]])
    counter = _Operations()

    def step() -> None:
        trainer._step(next(steps), [])

    with counter:
        work = _flops(step)
    time_taken = clock.seconds(step, options.steps, warm=False)
    share = f"{work / 1e9:,.0f} GFLOP, {work / time_taken / peak:.0%}; {counter.count:,} operations"
    label = f"a step of {recipe.train.images_per_batch} photos ({share})"
    print(row(label, f"{time_taken:.3f} s", f"{_hours(time_taken * len(batches))} an epoch"))
    epochs = recipe.train.epochs
    print(row(f"{epochs} epochs of {len(batches):,} steps", "", _hours(time_taken * len(batches) * epochs)))
    print(row("peak memory of all this", f"{_peak(device) / 1e9:.1f} GB", ""))


class _MadeUp:
    """Features, or pixels, of as many photos as there are captions for; all alike, for what they hold costs nothing."""

    def __init__(self, count: int, encoder: ImageEncoder | FrozenPart, recipe: Recipe) -> None:
        self.count = count
        side = encoder.preprocessing.input_size
        stored = recipe.train.features == "stored"
        self.one = (
            torch.rand(1, *encoder.shape).half()
            if stored
            else torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)
        )

    def __len__(self) -> int:
        return self.count

    def read(self, rows: Sequence[int], epoch: int) -> Tensor:
        return self.one.repeat(len(rows), *[1] * (self.one.dim() - 1))


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what a GPU would be asked to do one by one."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        self.count += 1
        return function(*arguments, **(named or {}))


class _Clock:
    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.now = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.monotonic

    def seconds(self, function: Callable[[], Any], times: int, warm: bool = True) -> float:
        """Mean time of a call."""
        if warm:
            function()
        self._wait()
        start = self.now()
        for _ in range(times):
            function()
        self._wait()
        return (self.now() - start) / times

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _write_captions(root: Path, count: int) -> None:
    """Five captions a photo, in COCO's official format; lengths as COCO's, words by Zipf's law."""
    draw = np.random.default_rng(0)
    lengths = np.rint(7 + draw.gamma(2, 1.8, 5 * count)).astype(int)
    odds = 1 / np.arange(1, WORDS + 1)
    numbers = draw.choice(WORDS, lengths.sum(), p=odds / odds.sum())
    # Now and then a word of the photo's own, for a reward that finds its captions unrelated refuses them.
    numbers[::3] = np.repeat(np.arange(5 * count) // 5 % WORDS, lengths)[::3]
    words = np.char.add("word", numbers.astype(str))
    texts = [" ".join(part) + "." for part in np.split(words, np.cumsum(lengths)[:-1])]
    content = {
        "images": [{"id": n, "file_name": f"{n:012}.jpg"} for n in range(count)],
        "annotations": [{"id": n, "image_id": n // 5, "caption": text} for n, text in enumerate(texts)],
    }
    (root / "annotations").mkdir()
    (root / "train2017").mkdir()
    (root / "annotations" / "captions_train2017.json").write_text(json.dumps(content))


def _flops(function: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return int(counter.get_total_flops())


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    sys.exit(main())
