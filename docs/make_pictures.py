"""Draw the pictures of the documents: `python docs/make_pictures.py`."""

from pathlib import Path

from captioner import Captioner
from captioner.images import load_image
from captioner.visualization import filmstrip

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Write `docs/filmstrip.png`."""
    photo = ROOT / "examples" / "photographer.jpg"
    caption = Captioner.load(device="cpu").caption(photo)
    figure = filmstrip(load_image(photo), caption.words, caption.attention, caption.region)
    figure.savefig(ROOT / "docs" / "filmstrip.png", dpi=90)


if __name__ == "__main__":
    main()
