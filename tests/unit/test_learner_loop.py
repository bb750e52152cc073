"""The learner's loop and its prefetching: what is granted is drawn or given back, and everything comes when due."""

import math
import threading
from collections.abc import Callable

import numpy as np
import pytest

from learner.learner import Evaluation, StepMetrics
from learner.limiter import Grant, LimiterConfig, LimiterState, RateLimiter
from learner.loop import CollectionState, LearnerLoop, LoopConfig
from learner.prefetch import PrefetchConfig, Prefetcher
from learner.weights import WeightSet
from tests.host_cases import Clock
from world.errors import DiskFull

PREFETCH = PrefetchConfig(num_sequences=2, length=4, num_agents=2, retry_after_s=0.001)
_BATCH = {"actions": np.zeros((2, 4, 2), np.int32)}
_PATIENCE_S = 600.0


class LockedLimiter:
    """A limiter that the test and the thread may ask at once, as its process would be."""

    def __init__(self, *, inserts: int = 0) -> None:
        config = LimiterConfig(
            samples_per_insert=1.0, min_items=1, max_ahead_items=10**6, max_sample_items=16, retry_after_s=0.001
        )
        self._limiter, self._lock = RateLimiter(config), threading.Lock()
        self._limiter.load(LimiterState(inserts=inserts, samples=0))

    def request_samples(self, num_items: int) -> Grant:
        """As the limiter."""
        with self._lock:
            return self._limiter.request_samples(num_items)

    def return_samples(self, num_items: int) -> None:
        """As the limiter."""
        with self._lock:
            self._limiter.return_samples(num_items)

    def drain(self) -> None:
        """As the limiter."""
        with self._lock:
            self._limiter.drain()

    @property
    def samples(self) -> int:
        """Granted and not given back."""
        with self._lock:
            return self._limiter.state().samples


class Source:
    """Sequences, or none."""

    def __init__(self, answer: Callable[[], dict[str, np.ndarray] | None] = lambda: _BATCH) -> None:
        self._answer = answer

    def draw(self, num_sequences: int, length: int) -> dict[str, np.ndarray] | None:
        """Answer."""
        return self._answer()


class StepCounter:
    """A learner that only counts."""

    def __init__(self, clock: Clock, *, step: int = 0) -> None:
        self._clock, self.step = clock, step

    def train_step(self, columns: object) -> StepMetrics:
        """Take a tenth of a second."""
        self.step += 1
        self._clock.sleep(0.1)
        return StepMetrics(step=self.step, losses={"total": 2.0}, grad_norm=1.0, step_s=0.1, nonfinite=False)

    def evaluate(self) -> Evaluation:
        """Say when."""
        return Evaluation(self.step, {}, passed_gate=False)

    def weights(self, *, epoch: int, version: int) -> WeightSet:
        """Nothing but their number."""
        return WeightSet(epoch, version, (), (), (), np.zeros(0, np.uint8))


class Ports:
    """Remembers what was published and saved."""

    def __init__(self) -> None:
        self.published: list[tuple[int, int]] = []
        self.saved: list[tuple[int, int, int]] = []
        self.away = False
        self.busy_for = 0
        """So many times shards are asked in vain."""
        self.full = False

    def publish(self, weights: WeightSet) -> None:
        """Remember."""
        self.published.append(weights.order)

    def collection_state(self) -> CollectionState | None:
        """Nothing was collected."""
        self.busy_for -= 1
        if self.away or self.busy_for >= 0:
            return None
        return CollectionState(LimiterState(inserts=0, samples=0), {})

    def save(self, learner: StepCounter, epoch: int, version: int, collection: CollectionState) -> None:
        """Remember."""
        if self.full:
            raise DiskFull("no space")
        self.saved.append((learner.step, epoch, version))


class Bench:
    """A loop over all of these."""

    def __init__(self, *, inserts: int = 10**6, step: int = 0, **changes: object) -> None:
        self.clock, self.ports, self.limiter = Clock(), Ports(), LockedLimiter(inserts=inserts)
        self.learner = StepCounter(self.clock, step=step)
        settings = {"publish_every_steps": 5, "evaluate_every_s": 1e9, "checkpoint_every_s": 1e9} | changes
        self.prefetcher = Prefetcher(PREFETCH, limiter=self.limiter, source=Source())
        self.loop = LearnerLoop(
            LoopConfig(**settings),  # type: ignore[arg-type]
            learner=self.learner,  # type: ignore[arg-type]
            prefetcher=self.prefetcher,
            ports=self.ports,  # type: ignore[arg-type]
            epoch=3,
            version=40,
            clock=self.clock,
        )

    def train_to(self, step: int) -> None:
        """Go there, however often the prefetching thread must be waited for."""
        for _ in range(1000):
            if self.learner.step >= step:
                return
            self.loop.train_until(step, 100.0)
        raise AssertionError("no batches came")


def test_the_loop_steps_to_its_destination_and_asking_again_is_harmless() -> None:
    bench = Bench()
    bench.train_to(12)
    assert bench.loop.train_until(12, 10.0).step == 12
    bench.loop.stop()


def test_weights_are_published_every_few_steps_with_a_version_that_only_rises() -> None:
    bench = Bench()
    bench.train_to(12)
    assert bench.ports.published == [(3, 41), (3, 42)]
    bench.loop.stop()
    assert bench.ports.published[-1] == (3, 43)


def test_a_learner_that_goes_on_from_a_checkpoint_publishes_at_once() -> None:
    bench = Bench(step=100)
    assert bench.ports.published == [(3, 41)]
    bench.loop.stop()


def test_evaluations_and_checkpoints_come_when_due() -> None:
    bench = Bench(evaluate_every_s=0.5, checkpoint_every_s=1.0)
    bench.train_to(40)
    report = bench.loop.train_until(40, 1.0)
    assert report.evaluation is not None
    assert len(bench.ports.saved) >= 3
    bench.loop.stop()


def test_stopping_saves_the_last_step_and_a_loop_that_never_stepped_saves_nothing() -> None:
    bench = Bench()
    bench.train_to(7)
    bench.loop.stop()
    assert [step for step, _, _ in bench.ports.saved] == [7]
    idle = Bench(inserts=0)
    idle.loop.stop()
    assert idle.ports.saved == []


def test_a_publication_that_is_refused_at_the_end_keeps_no_checkpoint_from_being_saved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(weights: WeightSet) -> None:
        raise DiskFull("the disk was full")

    bench = Bench()
    bench.train_to(7)
    monkeypatch.setattr(bench.ports, "publish", refuse)
    with pytest.raises(DiskFull, match="was full"):
        bench.loop.stop()
    assert [step for step, _, _ in bench.ports.saved] == [7]


def test_a_shard_that_is_busy_when_a_loop_stops_is_asked_again_for_the_last_checkpoint() -> None:
    bench = Bench()
    bench.train_to(7)
    bench.ports.busy_for = 3
    bench.loop.stop()
    assert [step for step, _, _ in bench.ports.saved] == [7]


def test_no_checkpoint_is_written_while_a_shard_is_away_and_the_next_one_is() -> None:
    bench = Bench(checkpoint_every_s=0.5)
    bench.ports.away = True
    bench.train_to(20)
    assert bench.ports.saved == []
    bench.ports.away = False
    bench.train_to(22)
    assert bench.ports.saved
    bench.loop.stop()


def test_a_full_disk_is_told() -> None:
    bench = Bench(checkpoint_every_s=0.5)
    bench.ports.full = True
    with pytest.raises(DiskFull):
        bench.train_to(20)
    bench.ports.full = False
    bench.loop.stop()


def test_what_was_granted_and_not_trained_on_is_given_back() -> None:
    bench = Bench()
    bench.train_to(9)
    bench.loop.stop()
    assert bench.limiter.samples == 9 * PREFETCH.num_items


def test_draining_ends_with_less_than_a_batch_owed() -> None:
    bench = Bench(inserts=10 * PREFETCH.num_items + 5)
    bench.train_to(3)
    bench.limiter.drain()
    for _ in range(1000):
        if bench.loop.train_until(10**6, 0.05).drained:
            break
    assert bench.learner.step == 10
    bench.loop.stop()
    assert bench.limiter.samples == 10 * PREFETCH.num_items


def test_without_sequences_the_grant_goes_back_and_is_asked_for_again() -> None:
    answers: list[dict[str, np.ndarray] | None] = [None, None]
    limiter = LockedLimiter(inserts=1000)
    prefetcher = Prefetcher(PREFETCH, limiter=limiter, source=Source(lambda: answers.pop() if answers else _BATCH))
    assert prefetcher.next(_PATIENCE_S) is not None
    prefetcher.close()
    assert limiter.samples == PREFETCH.num_items


def test_what_the_prefetching_thread_dies_of_is_told_where_it_can_be_acted_on() -> None:
    def fail() -> None:
        raise DiskFull("no space")

    prefetcher = Prefetcher(PREFETCH, limiter=LockedLimiter(inserts=1000), source=Source(fail))  # type: ignore[arg-type]
    with pytest.raises(DiskFull):
        while True:
            prefetcher.next(0.01)
    prefetcher.close()


def test_a_report_counts_since_the_last_one() -> None:
    bench = Bench()
    bench.train_to(5)
    report = bench.loop.train_until(5, 1.0)
    assert report.steps == 0
    assert math.isnan(report.loss)
    bench.loop.stop()
