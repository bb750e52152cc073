"""Processes that are none: they answer when time has passed, die when told, and remember what they were asked."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from actors.ports import (
    Call,
    HostReport,
    LimiterReport,
    Lost,
    PeerFailed,
    PeerLost,
    ShardReport,
    WeightsReport,
)
from learner.learner import Evaluation
from learner.loop import LearnerReport
from learner.replay import ReplayStats
from learner.segments import ScanReport
from tests.host_cases import Clock
from world.errors import LivingWorldsError
from world.snapshot import WorldId
from world.store.records import WorldRecord

_STATS = ReplayStats(
    budget_bytes=1000,
    num_bytes=0,
    disk_bytes=0,
    items=0,
    chunks=0,
    worlds=0,
    inserts=0,
    samples=0,
    evictions=0,
    duplicates=0,
    dropped=0,
    restored=0,
    oldest_age_s=0.0,
    scanned=ScanReport(),
)


class Answer:
    """An answer that comes after a while, unless its process is killed or stopped first."""

    def __init__(self, process: "Process", value: object, after_s: float) -> None:
        self._process, self._incarnation = process, process.incarnation
        self._value, self._at = value, process.clock.now + after_s

    def done(self) -> bool:
        """Whether it came, or cannot come any more."""
        if self._process.incarnation != self._incarnation:
            return True
        return not self._process.stuck and self._process.clock.now >= self._at

    def result(self) -> object:
        """Return or raise it."""
        if self._process.incarnation != self._incarnation:
            raise PeerLost("it died")
        if isinstance(self._value, BaseException):
            raise self._value
        return self._value


class Process:
    """Something with a pid that can die, hang, and come back with nothing in memory."""

    def __init__(self, name: str, clock: Clock, pid: int) -> None:
        self.name, self.clock, self.pid = name, clock, pid
        self.incarnation = 0
        self.alive, self.stuck = True, False
        self.worlds: dict[WorldId, int] = {}
        self.refusals: list[BaseException] = []
        """What its next calls raise."""
        self.fails_at_work = False
        """It takes worlds, in whichever process, and cannot tick them."""

    def die(self) -> None:
        """Lose everything; nobody answers until it is made again."""
        self.incarnation += 1
        self.alive, self.stuck, self.worlds = False, False, {}

    def revive(self) -> None:
        """Begin again under another pid."""
        if not self.alive:
            self.alive, self.pid = True, self.pid + 1000

    def answer(self, value: object, after_s: float = 0.01) -> Answer:
        """Return an answer under way."""
        if self.refusals:
            value = self.refusals.pop(0)
        if not self.alive:
            value = PeerLost("it is not there")
        return Answer(self, value, after_s)


class FakeFleet:
    """A fleet whose processes are plain objects in one process."""

    def __init__(self, clock: Clock, *, hosts: Sequence[str], shards: Sequence[str]) -> None:
        self.clock = clock
        self.hosts, self.shards = tuple(hosts), tuple(shards)
        names = (*hosts, *shards, "learner", "limiter", "weights")
        self.processes = {name: Process(name, clock, pid) for pid, name in enumerate(names, start=10)}
        self.asked: list[tuple[str, str]] = []
        """(process, method) in order."""
        self.killed: list[tuple[str, int | None]] = []
        self.ensured: list[str] = []
        self.unplaceable: set[str] = set()
        """Processes that find no place when they are made again."""
        self.cannot_host: dict[WorldId, Lost] = {}
        self.evaluation: Evaluation | None = None
        self.steps = 0
        self.owed_steps = 0
        """Steps that a draining limiter still grants."""
        self.draining = False
        self.most_under_way = 0

    def ensure(self, name: str) -> None:
        """Make it again."""
        self.ensured.append(name)
        if name not in self.unplaceable:
            self.processes[name].revive()

    def kill(self, name: str, pid: int | None) -> None:
        """Kill it."""
        self.killed.append((name, pid))
        self.processes[name].die()

    def wait(self, calls: Sequence[Call[object]], timeout_s: float) -> None:
        """Let time pass until one is done."""
        self.most_under_way = max(self.most_under_way, len(calls))
        ends_at = self.clock.now + timeout_s
        while self.clock.now < ends_at and not any(call.done() for call in calls):
            self.clock.sleep(0.01)

    def adopt(self, host: str, worlds: Sequence[WorldId]) -> Call[HostReport]:
        """Take worlds."""
        process = self._asked(host, "adopt")
        lost = []
        for world in worlds:
            if world in self.cannot_host:
                lost.append(self.cannot_host[world])
            elif any(world in self.processes[other].worlds for other in self.hosts if other != host):
                lost.append(Lost(world, "LeaseHeld", "another holds it"))
            elif process.alive:
                process.worlds[world] = 0
        return process.answer(self._host_report(process, tuple(lost)))  # type: ignore[return-value]

    def drop(self, host: str, worlds: Sequence[WorldId]) -> Call[HostReport]:
        """Give worlds up."""
        process = self._asked(host, "drop")
        for world in worlds:
            process.worlds.pop(world, None)
        return process.answer(self._host_report(process))  # type: ignore[return-value]

    def run_until(self, host: str, targets: Mapping[WorldId, int], budget_s: float) -> Call[HostReport]:
        """Tick."""
        process = self._asked(host, "run_until")
        if process.fails_at_work:
            return process.answer(FAILURE)  # type: ignore[return-value]
        ticked = {world: min(tick + 10, targets.get(world, 0)) for world, tick in process.worlds.items()}
        process.worlds = {world: max(tick, process.worlds[world]) for world, tick in ticked.items()}
        return process.answer(self._host_report(process), after_s=budget_s if process.worlds else 0.01)  # type: ignore[return-value]

    def stop_host(self, host: str) -> Call[HostReport]:
        """Hand everything over."""
        process = self._asked(host, "stop")
        process.worlds = {}
        return process.answer(self._host_report(process))  # type: ignore[return-value]

    def train_until(self, step: int, budget_s: float) -> Call[LearnerReport]:
        """Step."""
        process = self._asked("learner", "train_until")
        if self.draining:
            self.steps, self.owed_steps = self.steps + min(self.owed_steps, 2), max(self.owed_steps - 2, 0)
        else:
            self.steps += 5
        return process.answer(self._learner_report(process), after_s=budget_s)  # type: ignore[return-value]

    def stop_learner(self) -> Call[LearnerReport]:
        """Save."""
        process = self._asked("learner", "stop")
        return process.answer(self._learner_report(process))  # type: ignore[return-value]

    def drain_limiter(self) -> Call[None]:
        """Grant only what is owed."""
        self.draining = True
        return self._asked("limiter", "drain").answer(None)  # type: ignore[return-value]

    def limiter_report(self) -> Call[LimiterReport]:
        """Counts."""
        process = self._asked("limiter", "report")
        return process.answer(LimiterReport(process.pid, 0, 0, 0.0))  # type: ignore[return-value]

    def shard_report(self, shard: str) -> Call[ShardReport]:
        """Counts."""
        process = self._asked(shard, "report")
        return process.answer(ShardReport(process.pid, _STATS))  # type: ignore[return-value]

    def close_shard(self, shard: str) -> Call[None]:
        """Seal."""
        return self._asked(shard, "close").answer(None)  # type: ignore[return-value]

    def weights_report(self) -> Call[WeightsReport]:
        """What is kept."""
        process = self._asked("weights", "report")
        return process.answer(WeightsReport(process.pid, (1, 1)))  # type: ignore[return-value]

    def hosted(self) -> dict[str, set[WorldId]]:
        """Return which worlds each host has."""
        return {host: set(self.processes[host].worlds) for host in self.hosts}

    def _asked(self, name: str, method: str) -> Process:
        self.asked.append((name, method))
        return self.processes[name]

    def _host_report(self, process: Process, lost: tuple[Lost, ...] = ()) -> HostReport:
        return HostReport(
            host=process.name,
            pid=process.pid,
            ticks=dict(process.worlds),
            num_agents=0,
            lost=lost,
            notes=(),
            grounded_agent_ticks=0,
            dreamed_agent_ticks=0,
            commit_bytes=0,
            inserted_items=0,
            commit_s=(),
            tick_s=(),
            weights=(0, 0),
            starved_s=0.0,
            blocked_s=0.0,
            store_away_s=0.0,
            store_silent=False,
        )

    def _learner_report(self, process: Process) -> LearnerReport:
        return LearnerReport(
            pid=process.pid,
            step=self.steps,
            weights=(1, 1),
            steps=0,
            step_s=(),
            data_wait_s=0.0,
            loss=1.0,
            grad_norm=1.0,
            nonfinite=0,
            evaluation=self.evaluation,
            drained=self.draining and not self.owed_steps,
        )


class Witness:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.restarts: list[str] = []
        self.guests: list[WorldId] = []
        self.reports: list[object] = []

    def host(self, report: HostReport) -> None:
        """Remember."""
        self.reports.append(report)

    def learner(self, report: LearnerReport) -> None:
        """Remember."""
        self.reports.append(report)

    def shard(self, name: str, report: ShardReport) -> None:
        """Remember."""
        self.reports.append(report)

    def limiter(self, report: LimiterReport) -> None:
        """Remember."""
        self.reports.append(report)

    def weights(self, report: WeightsReport) -> None:
        """Remember."""
        self.reports.append(report)

    def restarted(self, name: str) -> None:
        """Remember."""
        self.restarts.append(name)

    def welcomed(self, record: WorldRecord) -> None:
        """Remember."""
        self.guests.append(record.world)

    def event(self, text: str) -> None:
        """Remember."""
        self.events.append(text)


def shard_report(pid: int, *, inserts: int, samples: int) -> ShardReport:
    """Return a shard's report with these counts."""
    return ShardReport(pid, replace(_STATS, inserts=inserts, samples=samples))


FAILURE = PeerFailed("KeyError: 'a mistake of ours'")
Refusal = LivingWorldsError
