"""What a run looks like at one moment, added up from what its processes report."""

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from actors.ports import HostReport, LimiterReport, ShardReport, WeightsReport
from learner.limiter import LimiterState
from learner.loop import LearnerReport
from world.evaluation.metrics import MetricRow
from world.snapshot import WorldId
from world.store.records import WorldRecord

_RATE_WINDOW_S = 10.0
"""Rates are over this much of the past."""
_NUM_COMMITS = 2000
_NUM_EVENTS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStatus:
    """Everything that is shown of a run, and written to its metrics once a second."""

    elapsed_s: float
    grounded_worlds: int
    dreamed_worlds: int
    agents: int
    agent_ticks: int
    """Acknowledged since this command began."""
    agent_ticks_per_s: float
    dreamed_agent_ticks: int
    """Of those, in dreamed worlds."""
    commits: int
    commit_p50_s: float
    commit_p99_s: float
    replay_fill: float
    """Share of the budget of all shards in use."""
    replay_bytes: int
    replay_items: int
    samples_per_insert: float
    """Measured at the shards over the whole life of the run; 0 before the first insert."""
    inserted_items: int
    sampled_items: int
    limiter_error: float
    """Items still to be sampled for the ratio to be exact."""
    learner_step: int
    steps_per_s: float
    loss: float | None
    metrics: Mapping[str, MetricRow]
    """On held-out seeds; empty before the first evaluation."""
    evaluated_step: int | None
    gate_passed: bool
    weights: tuple[int, int]
    """(epoch, version) published last."""
    policy_lag: int
    """Versions by which the host furthest behind is behind."""
    restarts: int
    starved_s: float
    store_away_s: float

    def as_json(self) -> dict[str, object]:
        """Return plain values; what is not a number is null."""
        return {name: plain(value) for name, value in asdict(self).items()}


def plain(value: object) -> object:
    """Return a value as JSON can say it: numbers that are none become null."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class StatusBoard:
    """An observer that adds up what is reported."""

    def __init__(
        self,
        *,
        grounded: Iterable[WorldId],
        dreamed: Iterable[WorldId],
        counted_before: LimiterState,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the worlds, live or planned, and what was inserted and sampled by earlier commands."""
        self._grounded, self._dreamed, self._clock = set(grounded), set(dreamed), clock
        self._began = clock()
        self._before = counted_before
        self._hosts: dict[str, HostReport] = {}
        self._shards: dict[str, ShardReport] = {}
        self._gone = {"inserts": 0, "samples": 0}
        self._limiter_error = 0.0
        self._learner: LearnerReport | None = None
        self._loss: float | None = None
        self._published = (0, 0)
        self._commit_s: deque[float] = deque(maxlen=_NUM_COMMITS)
        self._progress: deque[tuple[float, int, int]] = deque()
        self._agent_ticks = self._dreamed_agent_ticks = self._commits = self._steps = self._restarts = 0
        self._starved_s = self._store_away_s = 0.0
        self.events: deque[tuple[int, str]] = deque(maxlen=_NUM_EVENTS)
        """What a person should know, numbered from 0, the newest last."""
        self._event_numbers = itertools.count()

    def host(self, report: HostReport) -> None:
        """A host reported."""
        self._hosts[report.host] = report
        self._agent_ticks += report.grounded_agent_ticks + report.dreamed_agent_ticks
        self._dreamed_agent_ticks += report.dreamed_agent_ticks
        self._commits += len(report.commit_s)
        self._commit_s.extend(report.commit_s)
        self._starved_s += report.starved_s
        self._store_away_s += report.store_away_s
        self._note_progress()

    def learner(self, report: LearnerReport) -> None:
        """The learner reported."""
        self._learner = report
        self._steps += report.steps
        self._published = max(self._published, report.weights)
        if not math.isnan(report.loss):
            self._loss = report.loss
        self._note_progress()

    def shard(self, name: str, report: ShardReport) -> None:
        """A shard reported; one that was restarted counts from nothing again."""
        before = self._shards.get(name)
        if before is not None and before.pid != report.pid:
            # What it took between its last report and its death is in its segments, and so among the restored.
            unseen = report.stats.restored - before.stats.items
            self._gone["inserts"] += before.stats.inserts + max(unseen, 0)
            self._gone["samples"] += before.stats.samples
        self._shards[name] = report

    def limiter(self, report: LimiterReport) -> None:
        """The limiter reported."""
        self._limiter_error = report.error

    def weights(self, report: WeightsReport) -> None:
        """The weight store reported."""
        self._published = max(self._published, report.newest)

    def restarted(self, name: str) -> None:
        """Another process answers under this name."""
        self._restarts += 1
        self.event(f"{name} was restarted")

    def welcomed(self, record: WorldRecord) -> None:
        """A world that people made is hosted from now on."""
        (self._grounded if record.kind == "grounded" else self._dreamed).add(record.world)

    def event(self, text: str) -> None:
        """Something a person should know."""
        self.events.append((next(self._event_numbers), text))

    def status(self) -> RunStatus:
        """Return the present moment."""
        hosted = {world for report in self._hosts.values() for world in report.ticks}
        stats = [report.stats for report in self._shards.values()]
        inserts = self._before.inserts + self._gone["inserts"] + sum(s.inserts for s in stats)
        samples = self._before.samples + self._gone["samples"] + sum(s.samples for s in stats)
        budget = sum(s.budget_bytes for s in stats)
        commits = np.array(self._commit_s or [0.0])
        evaluation = self._learner.evaluation if self._learner else None
        ticks_per_s, steps_per_s = self._rates()
        return RunStatus(
            elapsed_s=self._clock() - self._began,
            grounded_worlds=len(hosted & self._grounded),
            dreamed_worlds=len(hosted & self._dreamed),
            agents=sum(report.num_agents for report in self._hosts.values()),
            agent_ticks=self._agent_ticks,
            agent_ticks_per_s=ticks_per_s,
            dreamed_agent_ticks=self._dreamed_agent_ticks,
            commits=self._commits,
            commit_p50_s=float(np.percentile(commits, 50)),
            commit_p99_s=float(np.percentile(commits, 99)),
            replay_fill=sum(s.num_bytes for s in stats) / budget if budget else 0.0,
            replay_bytes=sum(s.num_bytes for s in stats),
            replay_items=sum(s.items for s in stats),
            samples_per_insert=samples / inserts if inserts else 0.0,
            inserted_items=inserts,
            sampled_items=samples,
            limiter_error=self._limiter_error,
            learner_step=self._learner.step if self._learner else 0,
            steps_per_s=steps_per_s,
            loss=self._loss,
            metrics=evaluation.metrics if evaluation else {},
            evaluated_step=evaluation.step if evaluation else None,
            gate_passed=bool(evaluation and evaluation.passed_gate),
            weights=self._published,
            policy_lag=max((self._lag(report) for report in self._hosts.values()), default=0),
            restarts=self._restarts,
            starved_s=self._starved_s,
            store_away_s=self._store_away_s,
        )

    def _lag(self, report: HostReport) -> int:
        return max(self._published[1] - report.weights[1], 0)

    def _note_progress(self) -> None:
        now = self._clock()
        self._progress.append((now, self._agent_ticks, self._steps))
        while now - self._progress[0][0] > _RATE_WINDOW_S:
            self._progress.popleft()

    def _rates(self) -> tuple[float, float]:
        """Return agent-ticks and steps per second over the window."""
        if not self._progress:
            return 0.0, 0.0
        (began, ticks, steps), now = self._progress[0], self._clock()
        if now - began < 0.5:
            return 0.0, 0.0
        return (self._agent_ticks - ticks) / (now - began), (self._steps - steps) / (now - began)
