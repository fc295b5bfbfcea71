"""The training loop. It knows no objective: that comes in, and so does the score that picks the best epoch."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from captioner.checkpoint import load_training_state, save_checkpoint
from captioner.config import Recipe, TrainConfig
from captioner.data.dataset import Batch, CaptionDataset, bucketed_batches
from captioner.errors import CaptionerError
from captioner.models.show_attend_tell import ShowAttendTell
from captioner.prefetch import map_ahead
from captioner.training.objective import Objective
from captioner.vocabulary import Vocabulary

_LOG_STEPS = 20


@dataclass
class Progress:
    """How far a run has come: `batch` steps into epoch `epoch`, `step` in all."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_score: float = -math.inf
    best_epoch: int = 0


class RunLog:
    """Scalars of a run, to `metrics.jsonl` and to TensorBoard beside it.

    Parameters
    ----------
    folder : Path
        Of the run.
    step : int
        Where the run stands; what an interrupted run wrote past it is dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        path = folder / "metrics.jsonl"
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= step]
        partial = folder / "metrics.jsonl.partial"
        partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        os.replace(partial, path)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder), purge_step=step + 1 if step else None)  # type: ignore[no-untyped-call]

    def write(self, step: int, **scalars: float) -> None:
        """Write named scalars of one step."""
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        self._file.flush()
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Write out what is pending."""
        self._file.close()
        self._board.close()  # type: ignore[no-untyped-call]


def _whole_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    # A line without its newline was torn by the kill; so is whatever follows it.
    return [line.rstrip("\n") for line in path.open(encoding="utf-8") if line.endswith("}\n")]


def steps_in(data: CaptionDataset, config: TrainConfig) -> int:
    """Count the steps of a whole run."""
    return math.ceil(len(data) / config.images_per_batch) * config.epochs


def fit(
    model: ShowAttendTell,
    vocabulary: Vocabulary,
    data: CaptionDataset,
    objective: Objective,
    validate: Callable[[], dict[str, float]],
    score: str,
    recipe: Recipe,
    folder: Path,
    resume: bool,
) -> Progress:
    """Train the decoder until the epochs are over or the score on dev stops rising.

    `folder` receives `last/`, which a resumed run starts from, `best/`, the half-precision checkpoint of
    the best epoch, `metrics.jsonl` and TensorBoard's file.

    Parameters
    ----------
    model : ShowAttendTell
        On the device to train on; from `folder/last` if `resume`.
    validate : callable
        Scores the model on dev, named.
    score : str
        Which of these is to rise.
    resume : bool
        Go on from `folder/last` exactly where it was written.

    Raises
    ------
    CaptionerError
        If the loss stops being finite.
    """
    config = recipe.train
    device = next(model.decoder.parameters()).device
    optimizer = _optimizer(model.decoder, config)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(config, steps_in(data, config)))
    progress = Progress()
    torch.manual_seed(config.seed)
    if resume:
        state = load_training_state(folder / "last")
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        objective.load_state_dict(state["objective"])
        progress = Progress(**state["progress"])
        _set_random_state(state["random"])

    def save_last() -> None:
        state = {
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "objective": objective.state_dict(),
            "progress": dataclasses.asdict(progress),
            "random": _random_state(),
        }
        save_checkpoint(folder / "last", model, vocabulary, training_state=state, notes={"recipe": recipe.to_dict()})

    log = RunLog(folder, progress.step)
    while progress.epoch < config.epochs and progress.epoch - progress.best_epoch < config.patience:
        start = time.monotonic()
        batches = bucketed_batches(data.lengths, config.images_per_batch, config.seed, progress.epoch)
        model.train()
        bar = tqdm(total=len(batches), initial=progress.batch, desc=f"epoch {progress.epoch + 1}/{config.epochs}")
        with bar:
            read = partial(data.batch, epoch=progress.epoch)
            for batch in map_ahead(read, batches[progress.batch :], workers=1, ahead=2):
                logs = _step(model, batch, objective, optimizer, config, device)
                scheduler.step()
                progress.batch += 1
                progress.step += 1
                bar.update()
                if progress.step % _LOG_STEPS == 0:
                    scalars = {f"train/{name}": float(value) for name, value in logs.items()}
                    bar.set_postfix(loss=f"{scalars['train/loss']:.3f}")
                    log.write(progress.step, **scalars, learning_rate=float(scheduler.get_last_lr()[0]))
                if progress.step % config.checkpoint_steps == 0 and progress.batch < len(batches):
                    save_last()
        seconds = time.monotonic() - start
        model.eval()
        scores = validate()
        progress.epoch, progress.batch = progress.epoch + 1, 0
        shown = {f"dev/{name}": value for name, value in scores.items()}
        log.write(progress.step, epoch=progress.epoch, **shown, seconds=seconds)
        tqdm.write(f"epoch {progress.epoch}: " + ", ".join(f"{k} {v:.2f}" for k, v in shown.items()))
        if scores[score] > progress.best_score:
            progress.best_score, progress.best_epoch = scores[score], progress.epoch
            notes = {"recipe": recipe.to_dict(), "epoch": progress.epoch, "dev": scores}
            save_checkpoint(folder / "best", model, vocabulary, dtype=torch.float16, notes=notes)
        save_last()
    log.close()
    return progress


def _step(
    model: ShowAttendTell,
    batch: Batch,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    device: torch.device,
) -> dict[str, Tensor]:
    dtype = getattr(torch, config.precision)
    batch = Batch(batch.features.to(device, dtype), batch.tokens.to(device))
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        output = objective(model.decoder, batch)
    _require_finite(output.loss, "loss")
    optimizer.zero_grad(set_to_none=True)
    output.loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(model.decoder.parameters(), config.clip_norm)
    # Before it can reach the weights, and with them the next checkpoint.
    _require_finite(norm, "gradient's norm")
    optimizer.step()
    return {"loss": output.loss.detach(), **output.logs, "gradient_norm": norm}


def _require_finite(value: Tensor, name: str) -> None:
    if not torch.isfinite(value):
        raise CaptionerError(
            f"the {name} is {float(value)}; training stopped, the last checkpoint is intact. Lower learning_rate"
        )


def _optimizer(decoder: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    matrices = [p for p in decoder.parameters() if p.dim() >= 2]
    vectors = [p for p in decoder.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def _schedule(config: TrainConfig, steps: int) -> Callable[[int], float]:
    """Linear warm-up, then a cosine to zero."""
    warmup = max(1, round(config.warmup * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return factor


def _random_state() -> dict[str, Any]:
    """State of every generator that training draws from."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
