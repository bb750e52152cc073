"""The learner's loop: take batches, step, publish weights, evaluate, save checkpoints. A plain class over ports."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from learner.learner import Evaluation, Learner
from learner.limiter import LimiterState
from learner.prefetch import Prefetcher
from learner.replay import ShardState
from learner.weights import WeightSet
from world.errors import ConfigError

_LAST_TRIES = 5
"""To write the last checkpoint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """When the learner publishes, evaluates and saves."""

    publish_every_steps: int = 100
    """Steps between two publications of weights."""
    evaluate_every_s: float = 20.0
    """Time between two evaluations on held-out worlds."""
    checkpoint_every_s: float = 60.0
    """Time between two checkpoints: what a killed learner loses at most."""
    prefetch_batches: int = 2
    """Batches drawn ahead."""
    torch_threads: int = 2
    """Threads of a step on the CPU."""

    def __post_init__(self) -> None:
        for name in ("publish_every_steps", "prefetch_batches", "torch_threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"loop.{name} must be >= 1, got {getattr(self, name)}")
        for name in ("evaluate_every_s", "checkpoint_every_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"loop.{name} must be > 0, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class CollectionState:
    """What a checkpoint says of limiter and replay, all of one moment."""

    limiter: LimiterState
    shards: dict[str, ShardState]


class LoopPorts(Protocol):
    """What the loop needs of the outside."""

    def publish(self, weights: WeightSet) -> None:
        """Hand over weights; does not wait until they are kept."""

    def collection_state(self) -> CollectionState | None:
        """Return the state of limiter and replay, durable; None if one of them is away at the moment."""

    def save(self, learner: Learner, epoch: int, version: int, collection: CollectionState) -> None:
        """Write a checkpoint. Raises `DiskFull`; older ones are then untouched."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerReport:
    """Where the learner is, and what it did since its last report."""

    pid: int
    step: int
    weights: tuple[int, int]
    """(epoch, version) published last."""
    steps: int
    """Since the last report."""
    step_s: tuple[float, ...]
    data_wait_s: float
    loss: float
    """Mean since the last report; not a number without steps."""
    grad_norm: float
    nonfinite: int
    """Steps left out because loss or gradient were not finite."""
    evaluation: Evaluation | None
    """The newest; None before the first."""
    drained: bool
    """The limiter will grant no further batch."""


class LearnerLoop:
    """Drives one learner. Nothing happens between its calls, but that batches are prefetched."""

    def __init__(
        self,
        config: LoopConfig,
        *,
        learner: Learner,
        prefetcher: Prefetcher,
        ports: LoopPorts,
        epoch: int,
        version: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin at weights (epoch, version); a learner that has learned before publishes at once."""
        self._config, self._learner, self._prefetcher, self._ports = config, learner, prefetcher, ports
        self._clock = clock
        self._epoch, self._version = epoch, version
        self._published_step = learner.step
        self._evaluation: Evaluation | None = None
        self._evaluated_at = self._saved_at = clock()
        self._begin_tally()
        if learner.step:
            # It knows something already: whoever waits for the gate is told after the first step.
            self._evaluated_at = -math.inf
            self._publish()

    def train_until(self, step: int, budget_s: float) -> LearnerReport:
        """Step up to step number `step`, for at most about `budget_s`, evaluating and saving when due."""
        deadline = self._clock() + budget_s
        while self._learner.step < step and (now := self._clock()) < deadline:
            batch = self._prefetcher.next(deadline - now)
            began = self._clock()
            self._data_wait_s += began - now
            if batch is None:
                if self._prefetcher.drained:
                    break
                continue
            metrics = self._learner.train_step(batch)
            self._step_s.append(metrics.step_s)
            self._nonfinite += metrics.nonfinite
            self._losses.append(metrics.losses["total"])
            self._grad_norm = metrics.grad_norm
            if self._learner.step - self._published_step >= self._config.publish_every_steps:
                self._publish()
            self._evaluate_if_due()
            self._save_if_due()
        return self._report()

    def stop(self) -> LearnerReport:
        """Stop prefetching, publish, save a checkpoint, and report. Raises `DiskFull`."""
        self._prefetcher.close()
        try:
            if self._learner.step > self._published_step:
                self._publish()
        finally:
            # What publishing is refused with may be long over.
            if self._learner.step:
                # There is no later checkpoint that would make good for one that a busy disk kept a shard from.
                any(self._save() for _ in range(_LAST_TRIES))
        return self._report()

    def _publish(self) -> None:
        self._version += 1
        self._ports.publish(self._learner.weights(epoch=self._epoch, version=self._version))
        self._published_step = self._learner.step

    def _evaluate_if_due(self) -> None:
        if self._clock() - self._evaluated_at >= self._config.evaluate_every_s:
            self._evaluation = self._learner.evaluate()
            self._evaluated_at = self._clock()

    def _save_if_due(self) -> None:
        if self._clock() - self._saved_at >= self._config.checkpoint_every_s:
            self._save()

    def _save(self) -> bool:
        """Write a checkpoint, and return whether it could be written."""
        collection = self._ports.collection_state()
        if collection is None:
            # A shard is being restarted: a checkpoint without its watermark would not fit the others.
            return False
        self._ports.save(self._learner, self._epoch, self._version, collection)
        self._saved_at = self._clock()
        return True

    def _begin_tally(self) -> None:
        self._step_s: list[float] = []
        self._losses: list[float] = []
        self._data_wait_s, self._nonfinite, self._grad_norm = 0.0, 0, math.nan

    def _report(self) -> LearnerReport:
        report = LearnerReport(
            pid=os.getpid(),
            step=self._learner.step,
            weights=(self._epoch, self._version),
            steps=len(self._step_s),
            step_s=tuple(self._step_s),
            data_wait_s=self._data_wait_s,
            loss=sum(self._losses) / len(self._losses) if self._losses else math.nan,
            grad_norm=self._grad_norm,
            nonfinite=self._nonfinite,
            evaluation=self._evaluation,
            drained=self._prefetcher.drained,
        )
        self._begin_tally()
        return report
