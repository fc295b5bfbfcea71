"""Draw a hundred dev photos with their captions, to be read by hand: `python docs/make_sheets.py CHECKPOINT FOLDER`."""

import argparse
import random
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

from captioner import Captioner
from captioner.data.annotations import read_split
from captioner.recipe import DataConfig

PHOTOS, A_SHEET, COLUMNS = 100, 20, 5


def main() -> None:
    """Write `sheet-1.png` and so on, and `captions.tsv`, whose lines hold a number, a photo and its caption."""
    parser = argparse.ArgumentParser(description="Draw a hundred dev photos of Flickr8k with their captions.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    captioner, folder = Captioner.load(options.checkpoint), options.folder
    folder.mkdir(parents=True, exist_ok=True)
    paths = sorted(image.path for image in read_split(DataConfig("flickr8k"), "dev"))
    chosen = random.Random(PHOTOS).sample(paths, PHOTOS)
    captions = [caption.text for caption in captioner.caption_many(chosen)]
    lines = [f"{n}\t{path.name}\t{text}\n" for n, (path, text) in enumerate(zip(chosen, captions, strict=True), 1)]
    (folder / "captions.tsv").write_text("".join(lines), encoding="utf-8")
    for start in range(0, PHOTOS, A_SHEET):
        figure, axes = plt.subplots(A_SHEET // COLUMNS, COLUMNS, figsize=(15, 14), layout="constrained")
        for number, (ax, path) in enumerate(zip(axes.flat, chosen[start : start + A_SHEET], strict=True), start):
            photo = Image.open(path)
            # Copies that are squeezed to a square were 4 : 3, most of them.
            ax.imshow(photo, aspect=0.75 if photo.width == photo.height else "equal")
            ax.set_title(textwrap.fill(f"{number + 1}. {captions[number]}", 38), fontsize=10)
            ax.axis("off")
        figure.savefig(folder / f"sheet-{start // A_SHEET + 1}.png", dpi=80)
        plt.close(figure)


if __name__ == "__main__":
    main()
