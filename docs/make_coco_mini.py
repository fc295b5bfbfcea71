"""Cut COCO 2017 down to the photos in `coco-mini.txt`: `python docs/make_coco_mini.py COCO OUTPUT`."""

import json
import shutil
import sys
from collections import defaultdict
from pathlib import Path

LIST = Path(__file__).with_name("coco-mini.txt")


def main() -> None:
    """Copy the photos, and what COCO's annotation files tell of them."""
    if len(sys.argv) != 3:
        sys.exit(f"usage: python {sys.argv[0]} COCO OUTPUT")
    coco, output = map(Path, sys.argv[1:])
    chosen: dict[str, set[int]] = defaultdict(set)
    for line in LIST.read_text().split():
        folder, name = line.split("/")
        chosen[folder].add(int(Path(name).stem))
        (output / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(coco / line, output / line)
    (output / "annotations").mkdir(exist_ok=True)
    for folder, ids in chosen.items():
        for kind in ("captions", "instances"):
            name = f"annotations/{kind}_{folder}.json"
            content = json.loads((coco / name).read_text())
            content["images"] = [row for row in content["images"] if row["id"] in ids]
            content["annotations"] = [row for row in content["annotations"] if row["image_id"] in ids]
            (output / name).write_text(json.dumps(content))


if __name__ == "__main__":
    main()
