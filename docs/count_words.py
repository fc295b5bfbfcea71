"""Count what the bundled models say and what people say of the same photos: `python docs/count_words.py`."""

from collections.abc import Iterable
from pathlib import Path

from captioner import Captioner
from captioner.checkpoint_files import BUNDLED
from captioner.data.annotations import CaptionedImage, list_split, read_split
from captioner.recipe import Recipe
from captioner.vocabulary import tokenize

RECIPE = Path(__file__).parent.parent / "recipes" / "flickr8k-soft.toml"
MEN = "man men boy boys guy guys male gentleman"
WOMEN = "woman women girl girls lady ladies female"
OTHERS = "person persons people child children kid kids baby toddler player players"
WORDS = {
    "man or boy": MEN,
    "woman or girl": WOMEN,
    "person": f"{MEN} {WOMEN} {OTHERS}",
    "dog": "dog dogs puppy puppies",
    "person or dog": f"{MEN} {WOMEN} {OTHERS} dog dogs puppy puppies",
    "bench": "bench benches",
}


def main() -> None:
    """Print the counts for the train photos, then those for each model on the dev photos."""
    data = Recipe.read(RECIPE).data
    train = list_split(data, "train")
    for name, words in WORDS.items():
        print(f"{name}: people say it of {sum(_said(image, words) for image in train)} of {len(train)} train photos")
    dev = read_split(data, "dev")
    for checkpoint in (BUNDLED, BUNDLED.with_name("flickr8k-hard")):
        print(f"{checkpoint.name}, {len(dev)} dev photos:")
        captions = list(Captioner.load(checkpoint, precision="float32").caption_many([image.path for image in dev]))
        for name, words in WORDS.items():
            named = [image for image, caption in zip(dev, captions, strict=True) if _in(caption.words, words)]
            agreed = sum(_said(image, words) for image in named)
            print(f"{name}: the model says it of {len(named)}, people say it of {agreed} of these")


def _said(image: CaptionedImage, words: str) -> bool:
    return any(_in(tokenize(caption), words) for caption in image.captions)


def _in(caption: Iterable[str], words: str) -> bool:
    return not set(words.split()).isdisjoint(caption)


if __name__ == "__main__":
    main()
