"""Draw the pictures of the documents: `python docs/make_pictures.py`."""

from pathlib import Path

from captioner import Captioner, DecodingOptions
from captioner.checkpoint_files import BUNDLED
from captioner.images import load_image
from captioner.visualization import filmstrip

ROOT = Path(__file__).parent.parent
PHOTO = ROOT / "examples" / "photographer.jpg"
PICTURES = {
    "soft": (BUNDLED, DecodingOptions()),
    "hard": (BUNDLED.with_name("flickr8k-hard"), DecodingOptions(context="argmax")),
    "hard-drawn": (BUNDLED.with_name("flickr8k-hard"), DecodingOptions(context="sample")),
}


def main() -> None:
    """Write `docs/attention-NAME.png`, one photo under every kind of attention."""
    image = load_image(PHOTO)
    for name, (checkpoint, options) in PICTURES.items():
        caption = Captioner.load(checkpoint, device="cpu", precision="float32").caption(PHOTO, options)
        figure = filmstrip(image, caption.words, caption.attention, caption.region, caption.locations)
        figure.savefig(ROOT / "docs" / f"attention-{name}.png", dpi=90)
        print(f"{name}: {caption.text}")


if __name__ == "__main__":
    main()
