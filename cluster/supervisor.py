"""The supervisor: asks every process to go on, reads what it reports, and mends what is missing.

A plain class over ports. It compares what should be with what is, at every turn, and never remembers how it came to
that: a world that its host does not report is adopted again, whatever the reason.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from actors.ports import HostReport, LimiterReport, ShardReport, WeightsReport
from cluster.assignment import Assignment
from cluster.attended import Attended
from cluster.fleet_port import Fleet, Observer
from cluster.store_watch import StoreWatch
from cluster.supervisor_config import SupervisorConfig
from cluster.worlds import PlannedWorld
from learner.loop import LearnerReport
from world.errors import LivingWorldsError, StoreError, StoreFull, StoreUnavailable
from world.snapshot import WorldId
from world.store.records import WorldRecord

_AHEAD = 1_000_000
"""Destinations lie this far ahead of what was last reported: the budget ends a call, not the destination."""
_LOOK_EVERY_S = 0.2
"""While hosts are being stopped: one that has answered does not wait for the others."""


class Supervisor:
    """Keeps one call under way for each process, and every world on some host."""

    def __init__(
        self,
        config: SupervisorConfig,
        *,
        fleet: Fleet,
        hosts: Sequence[str],
        shards: Sequence[str],
        worlds: Sequence[WorldId],
        dreams: Sequence[PlannedWorld],
        fork: Callable[[PlannedWorld], int],
        ensure_store: Callable[[], bool | None],
        observers: Sequence[Observer],
        wished_places: Callable[[Sequence[WorldId]], Mapping[WorldId, str]] = lambda worlds: {},
        newcomers: Callable[[Collection[WorldId]], Iterable[WorldRecord]] = lambda known: (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the worlds that exist, grounded and dreamed, and the dreams that are still to be forked.

        `fork` makes a dreamed world and returns its tick; `ensure_store` restarts a server of our own that is away,
        and returns whether it was, None while that is under way; `wished_places` says on which host people want a
        world; `newcomers` finds worlds that people have made, or repaired, beside those it is told.
        """
        self._config, self._fleet, self._clock = config, fleet, clock
        self._fork, self._wished_places, self._observers = fork, wished_places, observers
        self._newcomers = newcomers
        self._store = StoreWatch(ensure_store, self._tell)
        self._hosts: dict[str, Attended[HostReport]] = {name: Attended(name, clock=clock) for name in hosts}
        self._shards: dict[str, Attended[ShardReport]] = {name: Attended(name, clock=clock) for name in shards}
        self._learner: Attended[LearnerReport] = Attended("learner", clock=clock)
        self._limiter: Attended[LimiterReport] = Attended("limiter", clock=clock)
        self._weights: Attended[WeightsReport] = Attended("weights", clock=clock)
        self._assignment = Assignment(hosts, clock=clock)
        for world in worlds:
            self._assignment.add(world)
        self._dreams = list(dreams)
        self._gate_passed, self._fork_not_before = False, float("-inf")
        self._stopping = False
        self._learner_step, self._drained = 0, False
        self._deaths: dict[str, int] = {}
        self._probed_at = float("-inf")
        self._lost_told: dict[WorldId, str] = {}

    @property
    def worlds(self) -> list[WorldId]:
        """Worlds that are on some host, or on their way to one; may be asked from any thread."""
        return self._assignment.worlds

    def step(self, wait_s: float = 0.1) -> None:
        """Take one turn: read reports, mend, send new calls, and wait a little for the next report.

        Raises what ends a run: `DiskFull`, `StoreFull`, no world left, or a process that keeps failing.
        """
        self._read_reports()
        self._mend_processes()
        self._fork_next()
        for name, host in self._hosts.items():
            if host.idle:
                self._ask_host(name, host)
        if self._learner.idle:
            self._train(self._config.call_s)
        if self._clock() - self._probed_at >= self._config.probe_every_s:
            self._probe()
        self._fleet.wait([attended.call for attended in self._everybody() if attended.call is not None], wait_s)

    def stop(self) -> None:
        """Stop in order: hosts commit and hand over, the learner samples what is owed and saves, shards seal.

        Whoever does not answer in time is passed over: what it held is in the store or in its segments. Raises the
        first refusal, after everything was tried.
        """
        config, refusals = self._config, list[LivingWorldsError]()
        self._stopping = True
        deadline = self._clock() + config.stop_within_s
        self._stop_hosts(deadline - config.stop_within_s / 2, refusals)
        # It may be in the midst of an evaluation.
        self._settle([self._learner], deadline - config.stop_within_s / 4, refusals)
        if self._learner.call is None:
            self._drain(min(deadline, self._clock() + config.drain_within_s), refusals)
        if self._learner.call is None:
            self._learner.send(self._fleet.stop_learner(), within_s=config.stop_within_s)
            self._settle([self._learner], deadline, refusals)
        self._probe()
        # What they count by now is what the run came to.
        self._settle(self._everybody(), min(deadline, self._clock() + config.stop_within_s / 8), refusals)
        closing = [self._fleet.close_shard(name) for name in self._shards]
        while self._clock() < deadline and not all(call.done() for call in closing):
            self._fleet.wait([call for call in closing if not call.done()], 0.1)
        for attended in self._everybody():
            if attended.call is not None:
                self._tell(f"{attended.name} did not stop in time; it goes on from what it kept")
        if refusals:
            raise refusals[0]

    def _everybody(self) -> list[Attended[Any]]:
        return [*self._hosts.values(), self._learner, *self._shards.values(), self._limiter, self._weights]

    def _read_reports(self) -> None:
        for host in self._hosts.values():
            try:
                hosted = host.take()
            except StoreUnavailable:
                if self._stopping:
                    raise
                # It could not adopt or hand over; what is missing is asked for again.
                host.rest(self._config.store_retry_s)
                self._store.missed()
                continue
            if hosted is not None:
                self._host_reported(hosted)
        if (trained := self._learner.take()) is not None:
            self._learner_reported(trained)
        for name, shard in self._shards.items():
            if (held := shard.take()) is not None:
                for observer in self._observers:
                    observer.shard(name, held)
        if (granted := self._limiter.take()) is not None:
            for observer in self._observers:
                observer.limiter(granted)
        if (kept := self._weights.take()) is not None:
            for observer in self._observers:
                observer.weights(kept)

    def _host_reported(self, report: HostReport) -> None:
        self._assignment.reported(report)
        self._assignment.set_available(report.host, True)
        if report.store_away_s:
            self._store.missed()
        if report.commit_s and not report.store_silent:
            self._store.answered()
        for text in report.notes:
            self._tell(text)
        for lost in report.lost:
            # What is tried again and again is told once.
            if self._lost_told.get(lost.world) != lost.message:
                self._tell(f"{report.host} let go of world {lost.world}: {lost.message}")
            self._lost_told[lost.world] = lost.message
        for world in report.ticks:
            self._lost_told.pop(world, None)
        for observer in self._observers:
            observer.host(report)
        if not self._assignment.worlds:
            reasons = "; ".join(sorted({lost.message for lost in self._assignment.abandoned.values()}))
            raise LivingWorldsError(f"no world can be hosted any more: {reasons}")

    def _learner_reported(self, report: LearnerReport) -> None:
        self._learner_step, self._drained = report.step, report.drained
        if report.evaluation is not None and report.evaluation.passed_gate and not self._gate_passed:
            self._gate_passed = True
            self._tell(f"the weights of step {report.evaluation.step} pass the gate: worlds may be dreamed")
        for observer in self._observers:
            observer.learner(report)

    def _ask_host(self, name: str, host: Attended[HostReport]) -> None:
        orders, config = self._assignment.orders(name), self._config
        if orders.drop:
            call = self._fleet.drop(name, orders.drop)
        elif orders.adopt:
            call = self._fleet.adopt(name, orders.adopt)
        else:
            targets = {world: tick + _AHEAD for world, tick in orders.hosted.items()}
            call = self._fleet.run_until(name, targets, config.call_s)
        host.send(call, within_s=config.call_s + config.stall_after_s)

    def _train(self, budget_s: float) -> None:
        call = self._fleet.train_until(self._learner_step + _AHEAD, budget_s)
        self._learner.send(call, within_s=budget_s + self._config.stall_after_s)

    def _probe(self) -> None:
        """Ask those who only answer for their counts: it shows too that they are alive."""
        self._probed_at, within_s = self._clock(), self._config.stall_after_s
        if not self._stopping:
            self._follow_people()
        for name, shard in self._shards.items():
            if shard.idle:
                shard.send(self._fleet.shard_report(name), within_s=within_s)
        if self._limiter.idle:
            self._limiter.send(self._fleet.limiter_report(), within_s=within_s)
        if self._weights.idle:
            self._weights.send(self._fleet.weights_report(), within_s=within_s)

    def _fork_next(self) -> None:
        """Fork one dream at a turn, so that the others are not kept waiting. Raises `StoreFull`."""
        if not self._dreams or not self._gate_passed or self._clock() < self._fork_not_before:
            return
        try:
            tick = self._fork(self._dreams[0])
        except StoreUnavailable:
            if not self._store.missed():
                self._fork_not_before = self._clock() + self._config.fork_retry_s
            return
        except StoreFull:
            raise
        except StoreError as error:
            # Its parent was deleted or is damaged, which keeps no other from being dreamed.
            self._tell(f"{self._dreams.pop(0).name} cannot be dreamed: {error}")
            return
        dream = self._dreams.pop(0)
        self._assignment.add(dream.world)
        self._tell(f"{dream.name} is dreamed from tick {tick} of world {dream.parent}")

    def _follow_people(self) -> None:
        """Take in worlds that people made or repaired, and move worlds to where people want them.

        A silent store would keep everybody waiting: it is not asked.
        """
        if self._store.away:
            return
        planned = [dream.world for dream in self._dreams]
        try:
            found = list(self._newcomers([*self._assignment.known, *planned]))
            wished = self._wished_places(self._assignment.worlds)
        except StoreUnavailable:
            self._store.missed()
            return
        for record in found:
            self._assignment.add(record.world)
            for observer in self._observers:
                observer.welcomed(record)
            self._tell(f"{record.kind} world {record.world} ({record.name}) is taken in at tick {record.tick}")
        for world, host in wished.items():
            self._assignment.wish(world, host)

    def _mend_processes(self) -> None:
        for attended in self._everybody():
            if attended.late:
                self._tell(f"{attended.name} does not answer: process {attended.pid} is killed")
                self._fleet.kill(attended.name, attended.pid)
                attended.give_up()
            if attended.failed:
                # What it holds in memory may be wrong by now; what it keeps is in the store or in its files.
                attended.failed = False
                self._tell(f"{attended.name} failed and is made anew: {attended.last_failure.splitlines()[0]}")
                self._fleet.kill(attended.name, attended.pid)
            if attended.failures >= self._config.failures_in_a_row:
                raise LivingWorldsError(f"{attended.name} fails again and again: {attended.last_failure}")
            if attended.away_since is not None and attended.idle:
                self._fleet.ensure(attended.name)
            if attended.deaths != self._deaths.get(attended.name, 0):
                self._deaths[attended.name] = attended.deaths
                for observer in self._observers:
                    observer.restarted(attended.name)
        for name, host in self._hosts.items():
            if host.away_since is not None:
                self._assignment.away(name)
                lost = self._clock() - host.away_since > self._config.host_lost_after_s
                self._assignment.set_available(name, not lost)

    def _stop_hosts(self, deadline: float, refusals: list[LivingWorldsError]) -> None:
        """Let each host hand over as soon as it has answered what it was asked before."""
        busy = dict(self._hosts)
        while busy and self._clock() < deadline:
            self._settle(busy.values(), min(deadline, self._clock() + _LOOK_EVERY_S), refusals)
            for name in [name for name, host in busy.items() if host.call is None]:
                busy.pop(name).send(self._fleet.stop_host(name), within_s=self._config.stop_within_s)
        self._settle(self._hosts.values(), deadline, refusals)

    def _drain(self, deadline: float, refusals: list[LivingWorldsError]) -> None:
        """Let the learner sample what the limiter still calls for, so that the ratio ends where it should."""
        draining = self._fleet.drain_limiter()
        while not draining.done() and self._clock() < deadline:
            self._fleet.wait([draining], 0.1)
        while self._learner.call is None and not self._drained and self._clock() < deadline and not refusals:
            self._train(min(0.5, max(deadline - self._clock(), 0.05)))
            self._settle([self._learner], deadline + 1, refusals)

    def _settle(self, attended: Iterable[Attended[Any]], deadline: float, refusals: list[LivingWorldsError]) -> None:
        """Wait for the calls under way, and note what was refused."""
        waiting = list(attended)
        while True:
            try:
                self._read_reports()
            except LivingWorldsError as refusal:
                refusals.append(refusal)
            calls = [a.call for a in waiting if a.call is not None]
            if not calls or self._clock() >= deadline:
                return
            self._fleet.wait(calls, 0.1)

    def _tell(self, text: str) -> None:
        for observer in self._observers:
            observer.event(text)
