"""Training from recorded data: one learner, one shard, one budget. Knows nothing of Ray and Redis.

A training that was interrupted goes on from its newest checkpoint, with the share of its budget that was left, and
draws the batches that it would have drawn.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from learner.allocation import keep_freed_memory
from learner.checkpoint import Manifest, has_checkpoint, load_newest, save_checkpoint
from learner.learner import Evaluation, Learner
from learner.limiter import LimiterState
from learner.prefetch import PrefetchConfig, Prefetcher
from learner.recorded import RecordedSource, Unlimited
from learner.replay import ReplayShard
from world.durable import disk_full_told
from world.errors import CheckpointError, ConfigError

_LOG_FILE = "training.jsonl"
_PATIENCE_S = 0.5
_MOST_JUDGING = 0.05
"""Share of the time that evaluations may take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How long is trained: one of the two is given."""

    seconds: float | None = None
    """Wall time of steps, evaluations and checkpoints together."""
    steps: int | None = None

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.steps is None):
            raise ConfigError("a training has a budget of seconds or one of steps")
        if not (self.seconds or self.steps or 0) > 0:
            raise ConfigError(f"a budget must be > 0, got {self.seconds if self.steps is None else self.steps}")

    def done(self, step: int, elapsed_s: float) -> float:
        """Return the share in [0, 1] that is used up."""
        if self.steps is not None:
            return min(step / self.steps, 1.0)
        assert self.seconds is not None
        return min(elapsed_s / self.seconds, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """What goes on beside the steps."""

    evaluate_every_s: float = 60.0
    """Least time between two evaluations on held-out worlds; it is longer where they take more than a twentieth of all
    time."""
    checkpoint_every_s: float = 120.0
    """Time between two checkpoints: what a killed training loses at most."""
    prefetch_batches: int = 2
    """Batches drawn ahead."""
    torch_threads: int = 2
    """Threads of a step on the CPU."""

    def __post_init__(self) -> None:
        for name in ("evaluate_every_s", "checkpoint_every_s", "prefetch_batches", "torch_threads"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"training.{name} must be > 0, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingStatus:
    """Where a training is."""

    step: int
    elapsed_s: float
    done: float
    """Share of the budget."""
    loss: float
    """Mean of the last steps; not a number before the first."""
    windows_per_s: float
    """Agent-ticks trained on a second, since the status before; in the last one, before it was judged."""
    nonfinite: int
    """Steps left out, of all."""
    evaluation: Evaluation | None
    """The newest."""


@dataclass(slots=True)
class _Tally:
    """Since the last status."""

    began: float
    losses: list[float] = field(default_factory=list)
    items: int = 0


class Training:
    """Drives a learner through its budget. `go_on` may be called again after it was stopped."""

    def __init__(
        self,
        config: TrainingConfig,
        budget: Budget,
        *,
        learner: Learner,
        shard: ReplayShard,
        num_agents: int,
        directory: Path,
        tokenizer: str,
        made: Mapping[str, object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin at the newest checkpoint in `directory`, if there is one.

        `tokenizer` is the digest of the one that made the data, and `made` goes into every checkpoint's manifest.
        Raises `CheckpointError` for a checkpoint that is damaged or of another model.
        """
        torch.set_num_threads(config.torch_threads)
        keep_freed_memory()
        self._config, self._budget, self._clock = config, budget, clock
        self._learner, self._directory, self._tokenizer, self._made = learner, directory, tokenizer, made
        self._trained_s, self._nonfinite = _restore(learner, directory)
        self._evaluation: Evaluation | None = None
        self._prefetcher = Prefetcher(
            PrefetchConfig(
                num_sequences=learner.config.batch_sequences,
                length=learner.config.sampled_ticks,
                num_agents=num_agents,
                depth=config.prefetch_batches,
            ),
            limiter=Unlimited(),
            source=RecordedSource(shard, past_ticks=learner.config.past_ticks, num_draws=learner.step),
        )

    @property
    def done(self) -> float:
        """Share of the budget that is behind."""
        return self._budget.done(self._learner.step, self._trained_s)

    def go_on(self, stop: Callable[[], bool], tell: Callable[[TrainingStatus], None]) -> TrainingStatus:
        """Train until the budget is used up or `stop` says so, then evaluate and save. Raises `DiskFull`."""
        began = self._clock() - self._trained_s
        evaluated_at = saved_at = self._clock()
        evaluate_after = self._config.evaluate_every_s
        tally = _Tally(self._clock())
        status = self._status(tally)
        while self.done < 1.0 and not stop():
            columns = self._prefetcher.next(_PATIENCE_S)
            if columns is not None:
                metrics = self._learner.train_step(columns, done=self.done)
                # Ticks that only memory is run over are not trained on.
                tally.items += columns["actions"][:, self._learner.config.past_ticks :].size
                tally.losses.append(metrics.losses["total"])
                self._nonfinite += metrics.nonfinite
            now = self._clock()
            if now - evaluated_at >= evaluate_after:
                self._evaluate(baselines=False)
                evaluated_at = self._clock()
                evaluate_after = max(self._config.evaluate_every_s, (evaluated_at - now) / _MOST_JUDGING)
            if now - saved_at >= self._config.checkpoint_every_s:
                self._save()
                saved_at = self._clock()
            self._trained_s = self._clock() - began
            if self._clock() - tally.began >= _PATIENCE_S:
                status = self._status(tally)
                tell(status)
                tally = _Tally(self._clock())
        if tally.losses:
            status = self._status(tally)
        self._evaluate(baselines=True)
        self._save()
        status = replace(status, evaluation=self._evaluation)
        tell(status)
        return status

    def close(self) -> None:
        """End the thread that draws batches."""
        self._prefetcher.close()

    def _evaluate(self, *, baselines: bool) -> None:
        self._evaluation = self._learner.evaluate(baselines=baselines)
        line = {"trained_s": round(self._trained_s, 1), **self._judged()}
        path, data = self._directory.parent / _LOG_FILE, json.dumps(line, allow_nan=False) + "\n"
        with disk_full_told(path, len(data)), path.open("a", encoding="utf-8") as log:
            log.write(data)

    def _save(self) -> None:
        learner = self._learner
        manifest = Manifest(
            step=learner.step,
            weights_epoch=1,
            weights_version=max(learner.step, 1),
            # Nothing was collected that a run which goes on from here would have to keep pace with.
            limiter=LimiterState(inserts=0, samples=0),
            replay={},
            random=learner.random_state(),
            model_config=asdict(learner.model.config),
            tokenizer_digest=self._tokenizer,
            made={
                **self._made,
                "trained_s": self._trained_s,
                "nonfinite": self._nonfinite,
                "budget": asdict(self._budget),
                "held_out": self._judged(),
            },
        )
        save_checkpoint(self._directory, learner.state_parts(), manifest)

    def _judged(self) -> dict[str, object]:
        """Return the newest scores on held-out worlds as plain values; what is not a number is null."""
        if self._evaluation is None:
            return {}
        metrics = {
            name: {part: value if value is not None and math.isfinite(value) else None for part, value in row.items()}
            for name, row in ((name, asdict(row)) for name, row in self._evaluation.metrics.items())
        }
        return {"step": self._evaluation.step, "metrics": metrics}

    def _status(self, tally: _Tally) -> TrainingStatus:
        seconds = max(self._clock() - tally.began, 1e-9)
        return TrainingStatus(
            step=self._learner.step,
            elapsed_s=self._trained_s,
            done=self.done,
            loss=sum(tally.losses) / len(tally.losses) if tally.losses else math.nan,
            windows_per_s=tally.items / seconds,
            nonfinite=self._nonfinite,
            evaluation=self._evaluation,
        )


def _restore(learner: Learner, directory: Path) -> tuple[float, int]:
    """Bring the learner to the newest checkpoint, if there is one; return how long it was trained, and steps left out.

    Raises `CheckpointError` if that is damaged, of another model, or was not made by a training.
    """
    if not has_checkpoint(directory):
        return 0.0, 0
    checkpoint = load_newest(directory)
    made = checkpoint.manifest.made
    trained_s, nonfinite = made.get("trained_s"), made.get("nonfinite")
    if not isinstance(trained_s, int | float) or not isinstance(nonfinite, int):
        raise CheckpointError(f"{checkpoint.path}: was not made by a training; choose another --out")
    learner.load_parts(checkpoint.parts, step=checkpoint.manifest.step, random_state=checkpoint.manifest.random)
    return float(trained_s), nonfinite
