"""The world host: many worlds as one batch; commit, then publish.

A host owns worlds through fencing tokens. It ticks those that are due, commits their effects in groups, and only
after the acknowledgement lets anybody see them. It knows nothing of Ray, and reaches everything through ports.
"""

import heapq
import os
import secrets
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from actors.host_config import WorldHostConfig
from actors.host_tally import HostTally
from actors.hosted import HostedWorld, raw_bytes
from actors.inboxes import HostInboxes, asked_of
from actors.outbox import ChunkOutbox
from actors.ports import HostReport, InsertLimiter, Lost, ReplaySink, WeightsSource
from world.envs.grounded import Int32Array
from world.errors import CorruptRecord, EnvironmentUnusable, LivingWorldsError, NewerSchema, StoreFull, StoreUnavailable
from world.live import LiveWorld, resume
from world.snapshot import Snapshot, TickEffects, WorldId
from world.store.inbox import Inbox
from world.store.records import Ack, Commit, WorldRecord, WorldStore
from world.tick import Ticked
from world.trajectory import Chunk

_POLL_S = 0.02
_LEAST_PAUSE_S = 0.001


class BatchTicker(Protocol):
    """What advances worlds as one batch; `world.tick.Ticker` is it."""

    weights_version: int
    """Of the weights in use; 0 before any."""

    def load_weights(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Swap all weights between two ticks."""

    @property
    def num_actions(self) -> int:
        """Actions that an agent can choose from."""

    @property
    def num_events(self) -> int:
        """Kinds of world events that can befall a world."""

    def tick(
        self, worlds: Sequence[LiveWorld], actions: Int32Array | None = None, events: Int32Array | None = None
    ) -> list[Ticked]:
        """Advance each world by one tick, in place; `actions` (B, A) that are not negative are taken.

        `events` (B, E, 3), where they are no empty slots, befall the worlds.
        """


def revive(record: WorldRecord, snapshot: Snapshot, effects: tuple[TickEffects, ...]) -> LiveWorld:
    """Make a world live at its last committed tick, from its newest keyframe and the effects since, verified."""
    return resume(record.world, env_name=record.env, snapshot=snapshot, effects=effects)


class WorldHost:
    """Owns and ticks worlds until told otherwise. Nothing happens between its calls."""

    def __init__(
        self,
        name: str,
        *,
        config: WorldHostConfig,
        store: WorldStore,
        sink: ReplaySink,
        limiter: InsertLimiter,
        weights: WeightsSource,
        ticker: BatchTicker,
        inbox: Inbox | None = None,
        memory_shape: tuple[int, int] | None = None,
        revive: Callable[[WorldRecord, Snapshot, tuple[TickEffects, ...]], LiveWorld] = revive,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`memory_shape` is (A, D), the agents of a world and what each remembers, where the ticker needs one."""
        self.name = name
        self._config, self._store, self._limiter, self._weights = config, store, limiter, weights
        self._ticker, self._memory_shape, self._revive = ticker, memory_shape, revive
        self._inboxes = HostInboxes(inbox, config.inbox_every_s)
        self._clock, self._sleep = clock, sleep
        self._outbox = ChunkOutbox(
            sink, max_in_flight=config.max_chunks_in_flight, retry_after_s=config.retry_after_s, clock=clock
        )
        self._hosted: dict[WorldId, HostedWorld] = {}
        self._sent: list[Commit] = []
        self._oldest_unacknowledged_at: float | None = None
        self._credit = 0
        self._credit_not_before = 0.0
        self._weights_order = (0, 0)
        self._tally = HostTally()

    def adopt(self, worlds: Iterable[WorldId]) -> HostReport:
        """Take these worlds, each at its last committed tick. What could not be taken is reported as lost.

        Raises `StoreUnavailable`; worlds taken before that stay taken.
        """
        for world in worlds:
            if world not in self._hosted:
                try:
                    self._hosted[world] = self._take(world)
                except StoreUnavailable:
                    raise
                except LivingWorldsError as error:
                    self._tally.lost.append(Lost(world, type(error).__name__, str(error)))
        return self._report()

    def drop(self, worlds: Iterable[WorldId]) -> HostReport:
        """Commit what these worlds did, give them up, and end their leases. Raises `StoreUnavailable`."""
        self._hand_over(worlds)
        return self._report()

    def run_until(self, targets: Mapping[WorldId, int], budget_s: float) -> HostReport:
        """Tick hosted worlds up to the named ticks, for at most `budget_s`.

        On return every tick is acknowledged, unless the store does not answer: then worlds do not advance, and the
        same commits are sent again, by this call and the next. Raises `StoreFull` or `DiskFull` where the store or
        replay has no space; nothing is lost, and calling again goes on.
        """
        deadline = self._clock() + budget_s
        answered = self._commit(deadline) if self._sent else True
        while answered and (now := self._clock()) < deadline:
            self._pump()
            self._pull_weights()
            self._inboxes.read(self._hosted.values(), now)
            due = self._due(targets, now)
            if due:
                self._tick(due)
            if not due or self._commit_is_due():
                answered = self._commit(deadline)
            if not due and answered:
                if all(hosted.tick >= targets.get(hosted.world, 0) for hosted in self._hosted.values()):
                    break
                self._wait(targets, deadline)
        if answered:
            self._commit(deadline)
        self._pump()
        self._renew_idle()
        return self._report()

    def stop(self) -> HostReport:
        """Commit with keyframes, hand over every chunk, give credit back and end the leases."""
        deadline = self._clock() + self._config.stop_within_s
        self._hand_over(list(self._hosted))
        while not self._outbox.empty and self._clock() < deadline:
            self._sleep(0.01)
            self._pump()
        if self._credit:
            self._limiter.return_inserts(self._credit)
            self._credit = 0
        return self._report()

    def _take(self, world: WorldId) -> HostedWorld:
        try:
            token = self._store.acquire(world, owner=self.name, nonce=secrets.token_bytes(16))
            record, snapshot, effects = self._store.load(world)
            if self._memory_shape not in (None, snapshot.memory.shape):
                # All worlds of a host are one batch: a single one that does not fit would stop the others.
                raise EnvironmentUnusable(
                    f"world {world!r}: agents and their memories are {snapshot.memory.shape}, those of this run are"
                    f" {self._memory_shape}; host it with a run of the preset and the agents that it was made with"
                )
            live = self._revive(record, snapshot, effects)
            # After taking it: from now on nobody else moves its cursor.
            inbox = self._inboxes.progress(world)
        except NewerSchema:
            raise
        except CorruptRecord:
            # A person decides what becomes of it; until then nobody need try again.
            self._store.set_status(world, "quarantined")
            raise
        if live.lost_episode:
            self._tally.notes.append(f"world {world!r} begins a new episode: {live.lost_episode}")
        return HostedWorld(live, token, self._config, now=self._clock(), inbox=inbox)

    def _hand_over(self, worlds: Iterable[WorldId]) -> None:
        leaving = set(worlds)
        if not self._commit(self._clock() + self._config.stop_within_s, keyframes=leaving):
            raise StoreUnavailable(f"host {self.name!r}: the store did not answer, so its worlds cannot be handed over")
        answered = True
        for world in leaving:
            hosted = self._hosted.pop(world, None)
            if hosted is not None:
                self._put(hosted.flush())
                answered = answered and self._release(hosted)

    def _release(self, hosted: HostedWorld) -> bool:
        """End a lease, which would end by itself; return False if the store did not answer."""
        try:
            self._store.release(hosted.token)
        except StoreUnavailable:
            return False
        return True

    def _due(self, targets: Mapping[WorldId, int], now: float) -> list[HostedWorld]:
        unfinished = [h for h in self._hosted.values() if h.tick < targets.get(h.world, 0)]
        if all(hosted.due_at > now for hosted in unfinished):
            return []
        # Those that will be due in a moment go with those that are.
        unfinished = [hosted for hosted in unfinished if hosted.due_at <= now + hosted.leeway_s]
        grounded = [hosted for hosted in unfinished if hosted.kind == "grounded"]
        # Dreams need weights; on a fresh run they wait for the first.
        dreamed = [hosted for hosted in unfinished if hosted.kind == "dreamed" and self._ticker.weights_version]
        return dreamed + self._affordable([] if self._outbox.blocked else grounded, now)

    def _affordable(self, grounded: list[HostedWorld], now: float) -> list[HostedWorld]:
        """Return the worlds that credit suffices for, those that are behind first."""
        need = sum(hosted.num_agents for hosted in grounded)
        if need > self._credit and now >= self._credit_not_before:
            grant = self._limiter.request_inserts(self._config.credit_items)
            self._credit += grant.granted
            self._credit_not_before = now + grant.retry_after_s
        credit, affordable = self._credit, []
        for hosted in sorted(grounded, key=lambda hosted: hosted.tick):
            if hosted.num_agents <= credit:
                credit -= hosted.num_agents
                affordable.append(hosted)
        return affordable

    def _tick(self, due: list[HostedWorld]) -> None:
        began = self._clock()
        actions, events = asked_of(due, self._ticker.num_actions, self._ticker.num_events)
        ticks = self._ticker.tick([hosted.live for hosted in due], actions, events)
        now = self._clock()
        for hosted, ticked in zip(due, ticks, strict=True):
            hosted.ticked(ticked, now)
            if hosted.kind == "grounded" and ticked.row is not None:
                self._credit -= hosted.num_agents
        self._tally.tick_s.append(now - began)
        if self._oldest_unacknowledged_at is None:
            self._oldest_unacknowledged_at = began

    def _commit_is_due(self) -> bool:
        oldest = self._oldest_unacknowledged_at
        return oldest is not None and (
            self._clock() - oldest >= self._config.commit_every_s
            or any(h.num_unacknowledged >= self._config.max_ticks_per_commit for h in self._hosted.values())
        )

    def _commit(self, deadline: float, *, keyframes: Container[WorldId] = ()) -> bool:
        """Make all ticks durable, then publish them. Return False if the store did not answer until `deadline`."""
        if not self._sent:
            now = self._clock()
            due = self._keyframes_due(now)
            pending = [h.pending_commit(keyframe=h.world in due or h.world in keyframes) for h in self._hosted.values()]
            self._sent = [commit for commit in pending if commit is not None]
        if not self._sent:
            return True
        answers = self._send(deadline)
        if answers is None:
            return False
        sent, self._sent, self._oldest_unacknowledged_at = self._sent, [], None
        full: StoreFull | None = None
        for commit, answer in zip(sent, answers, strict=True):
            if isinstance(answer, Ack):
                self._acknowledged(commit)
            elif isinstance(answer, StoreFull):
                self._sent.append(commit)
                full = answer
            else:
                self._let_go(commit.token.world, answer)
        if full is not None:
            raise full
        return True

    def _keyframes_due(self, now: float) -> set[WorldId]:
        """Return the worlds whose keyframe goes with this commit: not all at once, the most overdue first."""
        ticked = (hosted for hosted in self._hosted.values() if hosted.num_unacknowledged)
        overdue = [(late, hosted.world) for hosted in ticked if (late := hosted.keyframe_overdue(now)) >= 0]
        return {world for _, world in heapq.nlargest(self._config.max_keyframes_per_commit, overdue)}

    def _send(self, deadline: float) -> list[Ack | Exception] | None:
        pause = self._config.retry_after_s
        while True:
            began = self._clock()
            try:
                answers = self._store.commit(self._sent)
            except StoreUnavailable:
                if self._clock() + pause >= deadline:
                    self._tally.store_away_s += self._clock() - began
                    return None
                self._sleep(pause)
                self._tally.store_away_s += self._clock() - began
                pause = min(2 * pause, 1.0)
            else:
                self._tally.commit_s.append(self._clock() - began)
                return answers

    def _acknowledged(self, commit: Commit) -> None:
        hosted = self._hosted[commit.token.world]
        agent_ticks = len(commit.effects) * hosted.num_agents
        self._tally.commit_bytes += sum(map(raw_bytes, commit.effects))
        if hosted.kind == "grounded":
            self._tally.grounded_agent_ticks += agent_ticks
        else:
            self._tally.dreamed_agent_ticks += agent_ticks
        self._put(hosted.acknowledge(commit, self._clock()))

    def _let_go(self, world: WorldId, error: Exception) -> None:
        """Stop a world that another owns, whose log went on without us, or that is too large to be committed.

        What it did here since never happened. What was acknowledged before stays true, so it still goes to replay.
        """
        # It may wait for an answer that it has no use for any more.
        self._sent = [commit for commit in self._sent if commit.token.world != world]
        hosted = self._hosted.pop(world, None)
        if hosted is None:
            return
        self._put(hosted.flush())
        if hosted.kind == "grounded":
            self._credit += hosted.unacknowledged_items
        self._tally.lost.append(Lost(world, type(error).__name__, str(error)))

    def _put(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            self._outbox.put(chunk)

    def _pump(self) -> None:
        """Send chunks, and settle what replay has acknowledged."""
        try:
            self._outbox.pump()
        finally:
            inserted = self._outbox.take_totals()
            self._tally.inserted_items += inserted.items
            if settled := inserted.items + inserted.duplicates:
                self._limiter.settle_inserts(settled)

    def _pull_weights(self) -> None:
        weights = self._weights.poll(self._weights_order)
        if weights is not None:
            self._ticker.load_weights(weights.tensors(), weights.version)
            self._weights_order = weights.order

    def _renew_idle(self) -> None:
        now = self._clock()
        idle = [h for h in self._hosted.values() if now - h.committed_at >= self._config.lease_s / 3]
        if not idle:
            return
        try:
            answers = self._store.renew([hosted.token for hosted in idle])
        except StoreUnavailable:
            # The next call tries again; whether the world is still ours is for the commit to say.
            return
        for hosted, answer in zip(idle, answers, strict=True):
            if isinstance(answer, Exception):
                self._let_go(hosted.world, answer)
            else:
                hosted.committed_at = now

    def _wait(self, targets: Mapping[WorldId, int], deadline: float) -> None:
        """Sleep until something may be due: a pace, credit, replay's answer, or new weights."""
        now = self._clock()
        unfinished = [h for h in self._hosted.values() if h.tick < targets.get(h.world, 0)]
        waiting = [h for h in unfinished if h.kind == "grounded" and h.due_at <= now]
        wake_at = min([now + _POLL_S, deadline, *(h.due_at for h in unfinished if h.due_at > now)])
        pause = max(wake_at - now, _LEAST_PAUSE_S)
        if waiting and self._outbox.blocked:
            self._tally.blocked_s += pause
        elif waiting:
            self._tally.starved_s += pause
        self._sleep(pause)

    def _report(self) -> HostReport:
        tally, self._tally = self._tally, HostTally()
        return HostReport(
            host=self.name,
            pid=os.getpid(),
            ticks={world: hosted.acknowledged_tick for world, hosted in self._hosted.items()},
            num_agents=sum(hosted.num_agents for hosted in self._hosted.values()),
            lost=tuple(tally.lost),
            notes=tuple(tally.notes),
            grounded_agent_ticks=tally.grounded_agent_ticks,
            dreamed_agent_ticks=tally.dreamed_agent_ticks,
            commit_bytes=tally.commit_bytes,
            inserted_items=tally.inserted_items,
            commit_s=tuple(tally.commit_s),
            tick_s=tuple(tally.tick_s),
            weights=self._weights_order,
            starved_s=tally.starved_s,
            blocked_s=tally.blocked_s,
            store_away_s=tally.store_away_s,
            store_silent=bool(self._sent),
        )
