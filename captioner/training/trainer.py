"""The training loop. It knows no objective: that comes in, and so does the score that picks the best epoch."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from captioner.checkpoint import save_checkpoint
from captioner.data.dataset import Batch, CaptionDataset, Totals, bucketed_batches
from captioner.ending import stop_requests
from captioner.errors import CaptionerError
from captioner.models.show_attend_tell import ShowAttendTell
from captioner.prefetch import map_ahead
from captioner.progress import Bar
from captioner.recipe import Recipe, TrainConfig
from captioner.training.averaging import WeightAverage
from captioner.training.distributed import add_over_processes, any_of_processes, processes, rank, share
from captioner.training.objective import LossOutput, Objective
from captioner.training.resuming import put_back
from captioner.training.run_log import RunLog
from captioner.vocabulary import Vocabulary

log = logging.getLogger(__name__)

_READERS = 4  # threads that read batches ahead; only decoding photos keeps more than one of them busy


@dataclass
class Progress:
    """How far a run has come: `batch` steps into epoch `epoch`, `step` in all."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_score: float = -math.inf
    best_epoch: int = 0


class RunStoppedError(CaptionerError):
    """The run was asked to stop, and has saved what it had.

    Attributes
    ----------
    signal : int
        What asked for it.
    """

    def __init__(self, number: int) -> None:
        super().__init__("interrupted, and saved; go on with --resume")
        self.signal = number


def steps_in(data: CaptionDataset, config: TrainConfig) -> int:
    """Count the steps of a whole run."""
    return math.ceil(len(data) / config.images_per_batch) * config.epochs


class _Rated(nn.Module):
    """A model under its objective, as one module for `DistributedDataParallel` to wrap."""

    def __init__(self, model: ShowAttendTell, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: Batch) -> LossOutput:
        return self.objective(self.model.decoder, batch._replace(features=self.model.features(batch.features)))


class Trainer:
    """Trains a model until the epochs are over or the score on dev stops rising.

    Every step draws its random numbers from a seed of its own, made of the run's, the step's and the process's numbers,
    so that a resumed run needs no state of any generator.

    Parameters
    ----------
    model : ShowAttendTell
        On the device to train on; from `folder/last` if `resume`.
    vocabulary : Vocabulary
    data : CaptionDataset
    objective : Objective
    validate : callable
        Scores the model on dev, named.
    recipe : Recipe
    folder : Path
        Receives `last/`, which a resumed run starts from, `best/`, the half-precision checkpoint of the best epoch,
        `metrics.jsonl` and TensorBoard's file.
    resume : bool
        Go on from `folder/last` exactly where it was written.
    digest : str, optional
        Of the photos and captions of both splits, which `last/` keeps, for none but these are gone on with.
    """

    def __init__(
        self,
        model: ShowAttendTell,
        vocabulary: Vocabulary,
        data: CaptionDataset,
        objective: Objective,
        validate: Callable[[ShowAttendTell], dict[str, float]],
        recipe: Recipe,
        folder: Path,
        resume: bool,
        digest: str | None = None,
    ) -> None:
        config = recipe.train
        self.model, self.vocabulary, self.data, self.objective = model, vocabulary, data, objective
        self.validate, self.recipe, self.folder, self.digest = validate, recipe, folder, digest
        self.device = next(model.decoder.parameters()).device
        fine_tuned = [] if config.fine_tune_from is None else model.encoder.fine_tune(config.fine_tune_from)
        self.parameters = [*model.decoder.parameters(), *fine_tuned]
        self.optimizer = _optimizer(model.decoder, fine_tuned, config)
        schedule = _schedule(config, steps_in(data, config))
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, schedule)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "float16")
        self.average = WeightAverage(model, config.average) if config.average else None
        self.progress = Progress()
        if resume:
            self.progress = Progress(**put_back(folder / "last", self._stateful(), dataclasses.asdict(self.progress)))
        self.rated: nn.Module = _Rated(model, objective)
        if processes() > 1:
            self.rated = DistributedDataParallel(self.rated)
            # A frozen encoder has hundreds, none of which a step changes; an objective's are the same everywhere.
            self.rated.broadcast_buffers = False

    def fit(self) -> Progress:
        """Train.

        Raises
        ------
        CaptionerError
            If the loss stops being finite.
        RunStoppedError
            If a signal asked for it (SIGTERM, Ctrl-C, the end of the terminal); all is saved.
        """
        config, progress = self.recipe.train, self.progress
        run_log = RunLog(self.folder, progress.step, progress.epoch) if rank() == 0 else None
        with stop_requests() as requests, contextlib.closing(run_log) if run_log else contextlib.nullcontext():
            while progress.epoch < config.epochs and progress.epoch - progress.best_epoch < config.patience:
                start, resumed = time.monotonic(), progress.batch > 0
                self.model.train()
                for logs in self._epoch(requests):
                    if run_log:
                        run_log.write(progress.step, **logs)
                # Of an epoch gone on with, what came before is not known.
                took = {} if resumed else {"seconds": time.monotonic() - start}
                self._save_last()  # validation may take long
                kept = (self.average.model if self.average else self.model).eval()
                scores = self.validate(kept)
                progress.epoch, progress.batch = progress.epoch + 1, 0
                shown = {f"dev/{name}": value for name, value in scores.items()}
                if run_log:
                    run_log.write(progress.step, epoch=progress.epoch, **shown, **took)
                    # Not to standard output, whose reader may leave before the run has ended.
                    log.info("epoch %d: %s", progress.epoch, ", ".join(f"{k} {v:.2f}" for k, v in shown.items()))
                if scores[config.select_by] > progress.best_score:
                    progress.best_score, progress.best_epoch = scores[config.select_by], progress.epoch
                    notes = {"recipe": self.recipe.to_dict(), "epoch": progress.epoch, "dev": scores}
                    self._save("best", kept, dtype=torch.float16, notes=notes)
                self._save_last()
        return progress

    def _epoch(self, requests: list[int]) -> Iterator[dict[str, float]]:
        """Go through what is left of an epoch, giving what to write down of every step."""
        config, progress = self.recipe.train, self.progress
        batches = bucketed_batches(self.data.lengths, config.images_per_batch, config.seed, progress.epoch)
        bar = Bar(
            total=len(batches),
            initial=progress.batch,
            desc=f"epoch {progress.epoch + 1}/{config.epochs}",
            disable=rank() > 0,
        )
        with bar:
            read = partial(self._read, progress.epoch)
            for parts in map_ahead(read, batches[progress.batch :], workers=_READERS, ahead=_READERS):
                learning_rate = float(self.scheduler.get_last_lr()[0])
                logs, stop = self._step(parts, requests)
                progress.batch += 1
                progress.step += 1
                bar.update()
                scalars = self._mean_over_processes(logs)
                bar.set_postfix(loss=f"{scalars['train/loss']:.3f}", refresh=False)
                yield {**scalars, "learning_rate": learning_rate}
                if stop or (progress.step % config.checkpoint_steps == 0 and progress.batch < len(batches)):
                    self._save_last()
                if stop:
                    raise RunStoppedError(requests[0] if requests else signal.SIGTERM)

    def _read(self, epoch: int, rows: list[int]) -> list[Batch]:
        """Read this process's share of a step, in as many parts as it is computed in."""
        totals = self.data.totals(rows, processes())
        own = share(rows)
        # All processes compute in as many parts, or their exchanges would not meet.
        count = min(self.recipe.train.accumulate, math.ceil(len(rows) / processes()))
        shares = [own[part::count] for part in range(count)]
        return [self.data.batch(some, epoch, totals) if some else self._nothing(rows, epoch) for some in shares]

    def _nothing(self, rows: list[int], epoch: int) -> Batch:
        """Make a batch that adds nothing to a step, for a process that must take its part in the exchange."""
        batch = self.data.batch(rows[:1], epoch, Totals(math.inf, math.inf, math.inf))
        return batch._replace(tokens=torch.full_like(batch.tokens, self.data.pad))

    def _step(self, parts: Sequence[Batch], requests: Sequence[int]) -> tuple[dict[str, Tensor], bool]:
        """Take one step.

        Returns
        -------
        logs : dict of Tensor
            This process's share of what is written down.
        stop : bool
            Whether a process was asked to stop.
        """
        config = self.recipe.train
        dtype = getattr(torch, config.precision)
        torch.manual_seed(_step_seed(config.seed, self.progress.step, rank()))
        self.optimizer.zero_grad(set_to_none=True)
        logs: dict[str, Tensor] = {}
        for number, part in enumerate(parts, 1):
            # Gradients are exchanged once a step, with its last part.
            held = isinstance(self.rated, DistributedDataParallel) and number < len(parts)
            with self.rated.no_sync() if held else contextlib.nullcontext():  # type: ignore[operator]
                features = part.features.to(self.device)
                features = features if features.dtype == torch.uint8 else features.to(dtype)
                with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
                    output = self.rated(part._replace(features=features, tokens=part.tokens.to(self.device)))
                self.scaler.scale(output.loss).backward()
            for name, value in {"loss": output.loss, **output.logs}.items():
                logs[name] = logs.get(name, 0) + value.detach()
        self.scaler.unscale_(self.optimizer)
        logs["gradient_norm"] = nn.utils.clip_grad_norm_(self.parameters, config.clip_norm)
        stop, diverged = any_of_processes([bool(requests), self._diverged(logs)], self.device)
        if diverged:
            # Before it can reach the weights, and with them the next checkpoint.
            raise CaptionerError(
                f"step {self.progress.step + 1}: the loss is {float(logs['loss'])} and the gradient's norm "
                f"{float(logs['gradient_norm'])} on a batch of {self._names(parts)}; training stopped, nothing of it "
                "is in a checkpoint. Lower learning_rate"
            )
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        # A lowered scale tells that the step was left out.
        if self.average and self.scaler.get_scale() >= scale:
            self.average.update()
        return logs, stop

    def _diverged(self, logs: dict[str, Tensor]) -> bool:
        if self.scaler.is_enabled() and torch.isfinite(logs["loss"]):
            # Gradients overflow now and then: such a step is left out and the scale lowered, as long as there is room.
            return bool(self.scaler.get_scale() < 1)
        return not bool(torch.isfinite(logs["loss"] + logs["gradient_norm"]))

    def _names(self, parts: Sequence[Batch]) -> str:
        names = [self.data.names[row] for part in parts for row in part.rows]
        return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

    def _mean_over_processes(self, logs: dict[str, Tensor]) -> dict[str, float]:
        values = torch.stack([value.float() for value in logs.values()])
        add_over_processes(values)
        return {f"train/{name}": value / processes() for name, value in zip(logs, values.tolist(), strict=True)}

    def _stateful(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.scaler,
            "objective": self.objective,
            **({"average": self.average} if self.average else {}),
        }

    def _save_last(self) -> None:
        state = {name: part.state_dict() for name, part in self._stateful().items()}
        state["progress"] = dataclasses.asdict(self.progress)
        notes = {"recipe": self.recipe.to_dict(), "data": self.digest}
        self._save("last", self.model, training_state=state, notes=notes)

    def _save(self, name: str, model: ShowAttendTell, **content: Any) -> None:
        if rank() == 0:
            save_checkpoint(self.folder / name, model, self.vocabulary, **content)


def _optimizer(decoder: nn.Module, fine_tuned: Sequence[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    groups = [
        {
            "params": [p for p in parameters if (p.dim() >= 2) == matrices],
            "lr": learning_rate,
            "weight_decay": config.weight_decay if matrices else 0.0,
        }
        for parameters, learning_rate in (
            (list(decoder.parameters()), config.learning_rate),
            (fine_tuned, config.encoder_learning_rate),
        )
        for matrices in (True, False)
        if parameters
    ]
    return torch.optim.AdamW(groups, fused=True)


def _schedule(config: TrainConfig, steps: int) -> Callable[[int], float]:
    """Linear warm-up, then a cosine to zero."""
    warmup = max(1, round(config.warmup * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return factor


def _step_seed(seed: int, step: int, process: int) -> int:
    digest = hashlib.sha256(f"{seed} {step} {process}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
