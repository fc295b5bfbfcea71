"""Peak memory of `train.py` by the size of the data set: `python benchmarks/memory.py [--quick]`.

Runs `train.py` for an epoch on made-up stores of 1,000, 10,000 and 100,000 photos of five captions each; the last line
printed is a JSON object with the peaks, in megabytes. The stores are files of zeros, which take no room on disk; the
photos are one photo under many names. Captions are cut at 12 words, so that the largest batch is as large in few photos
as in many.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))  # as a script, too, it is part of the package of benchmarks

from benchmarks.made_up import captioned, write_store
from benchmarks.peak import run
from captioner.data.features import store_name
from captioner.ending import OK, run_to_end
from captioner.models.encoder import ImageEncoder
from captioner.recipe import Recipe

ROOT = Path(__file__).parent.parent
SIZES, QUICK_SIZES, DEV = (1_000, 10_000, 100_000), (100, 1_000), 64
RECIPE = """
[data]
format = "jsonl"
root = "{root}"
captions = "{{split}}.jsonl"
max_length = 12

[encoder]
name = "shufflenet_v2_x0_5"
weights = "none"

[decoder]
embedding_dim = 64
hidden_dim = 64
attention_dim = 64

[train]
epochs = 1
images_per_batch = 32
checkpoint_steps = 1000000

[decoding]
beam_size = 1
max_length = 5
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Peak memory of train.py by the number of photos.")
    parser.add_argument("--quick", action="store_true", help="100 and 1,000 photos alone")
    options = parser.parse_args(arguments)

    def work() -> int:
        peaks = {}
        for photos in QUICK_SIZES if options.quick else SIZES:
            with tempfile.TemporaryDirectory() as folder:
                peaks[photos] = peak_megabytes(photos, Path(folder))
            print(f"{photos:>7,} photos: {peaks[photos]} MB", flush=True)
        print(json.dumps({"peak_megabytes": peaks, "spread_megabytes": max(peaks.values()) - min(peaks.values())}))
        return OK

    return run_to_end("memory.py", work)


def peak_megabytes(photos: int, folder: Path) -> int:
    """Train on so many photos, and say how much memory the process had at most."""
    recipe_file = folder / "recipe.toml"
    recipe_file.write_text(RECIPE.format(root=folder))
    recipe = Recipe.read(recipe_file)
    torch.manual_seed(recipe.train.seed)  # the weights that train.py will draw
    encoder = ImageEncoder.pretrained(recipe.encoder)
    (folder / "images").mkdir()
    original = folder / "images" / "photo.jpg"
    Image.new("RGB", (32, 32)).save(original)
    for split, count in (("train", photos), ("dev", DEV)):
        paths = [folder / "images" / f"{split}{number}.jpg" for number in range(count)]
        for path in paths:
            path.symlink_to(original)
        with (folder / f"{split}.jsonl").open("w") as file:
            for image in captioned(paths):
                file.write(json.dumps({"image": image.path.name, "captions": image.captions}) + "\n")
        store = store_name(str(folder), split, recipe.train.precision, encoder)
        write_store(folder / "cache" / store, paths, encoder, recipe.train.precision, noise=False)
    command = [sys.executable, str(ROOT / "train.py"), str(recipe_file), "--output", str(folder / "run")]
    command += ["--cache", str(folder / "cache"), "--device", "cpu"]
    return run(command)[1]


if __name__ == "__main__":
    sys.exit(main())
