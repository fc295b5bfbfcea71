"""Make the histories that lie beside the bundled models: `python docs/make_histories.py [RUNS]`."""

import json
import sys
from pathlib import Path

from captioner.checkpoint_files import BUNDLED, read_config
from captioner.history import METRICS, Row, read_metrics

# The runs that made each model, one after the other.
STAGES = {
    "flickr8k-soft": ("flickr8k-soft-finetune", "flickr8k-soft-scst"),
    "flickr8k-hard": ("flickr8k-hard-scst",),
}
KEPT = ("step", "epoch", "train/cross_entropy", "train/cider", *(f"dev/bleu{n}" for n in range(1, 5)), "dev/cider")
MOST_STEPS = 250  # of a stage; more are averaged


def main() -> None:
    """Write `metrics.jsonl` for every bundled model from the runs that made it."""
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
    for name, stages in STAGES.items():
        rows: list[Row] = []
        for stage in stages:
            rows += _after(rows, _thin(_kept(runs / stage)))
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (BUNDLED.with_name(name) / METRICS).write_text(text, encoding="utf-8")
        print(f"{name}: {len(rows)} rows of {' and '.join(stages)}")


def _kept(run: Path) -> list[Row]:
    """Read what a run wrote up to the epoch that it kept, from which the next one went on."""
    rows = read_metrics(run)
    epoch = read_config(run / "best")["notes"]["epoch"]
    end = next(row["step"] for row in rows if row.get("epoch") == epoch)
    return [row for row in rows if row["step"] <= end]


def _thin(rows: list[Row]) -> list[Row]:
    steps = [row for row in rows if "epoch" not in row]
    size = -(-len(steps) // MOST_STEPS)
    means = [_mean(steps[start : start + size]) for start in range(0, len(steps), size)]
    scored = [row for row in rows if "epoch" in row]
    kept = sorted(means + scored, key=lambda row: int(row["step"]))
    return [{key: round(row[key], 3) for key in KEPT if key in row} for row in kept]


def _mean(rows: list[Row]) -> Row:
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]} | {"step": rows[len(rows) // 2]["step"]}


def _after(before: list[Row], rows: list[Row]) -> list[Row]:
    last = {key: max((row.get(key, 0) for row in before), default=0) for key in ("step", "epoch")}
    return [{key: value + last.get(key, 0) for key, value in row.items()} for row in rows]


if __name__ == "__main__":
    main()
