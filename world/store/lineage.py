"""Forks, rewinds and deletion: what is done to worlds as wholes. Every step may be repeated, after any crash.

A fork pins its parent first, then is made; a janitor drops pins whose fork never came to be. What a rewind in place
cuts off is kept as a fork that holds it.
"""

import hashlib
import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from world.errors import Conflict, CorruptRecord, LeaseHeld, NoHistory, Pinned, UnknownWorld
from world.live import fork_dream, resume
from world.snapshot import Kind, Snapshot, WorldId
from world.store.codec import effects_of, encode_snapshot, seal_effects, seal_snapshot, snapshot_payload
from world.store.history import History, Reached
from world.store.log import LogEntry
from world.store.past import NO_DAMAGE, Damage, HistoricStore, Line, Past, SegmentRef
from world.store.records import Status, WorldRecord
from world.store.segment import MAX_SEGMENT_TICKS, Logged, Segment

PIN_GRACE_S: Final = 3600.0
"""A pin without a fork is dropped after this long."""


@dataclass(frozen=True, slots=True)
class Rewound:
    """What a rewind in place came to."""

    world: WorldId
    tick: int
    kept_as: WorldId | None
    """The fork that holds the ticks that were cut off; None where there were none."""


def new_world_id() -> WorldId:
    """Return an id that no world has."""
    return WorldId("w" + secrets.token_hex(6))


class Lineage:
    """Makes worlds of worlds."""

    def __init__(self, store: HistoricStore, history: History) -> None:
        self._store, self._history, self._kept = store, history, history.kept
        self.notes: list[str] = []
        """What a person should know of what was done."""

    def fork(self, parent: WorldId, tick: int, child: WorldId, *, dream: bool, name: str = "") -> WorldRecord:
        """Make a world that begins as `parent` was at `tick`, with randomness of its own, and return its record.

        A dream is forked as a dream. The environment of a grounded world repeats its actions from the keyframe before.
        Raises as `History.reach` does, `NotRunning` for a deleted parent, `Conflict` where the parent is rewound
        meanwhile.
        """
        reached = self._history.reach(parent, tick)
        snapshot = replace(self._present(reached, as_dream=dream), seed=_seed_of(child))
        if dream and reached.record.kind == "grounded":
            snapshot = fork_dream(snapshot, snapshot.seed)
        record = _child(reached, child, name, kind=snapshot.kind)
        self._kept.pin(reached.record.world, tick, child)
        self._store.create(record, snapshot)
        return self._made(reached.record.world, child)

    def rewound(self, parent: WorldId, tick: int, child: WorldId, *, name: str = "") -> WorldRecord:
        """Make a world that is `parent` as it was at `tick`, its seed included, and return its record.

        Its chain goes on from the parent's. Raises as `fork` does.
        """
        reached = self._history.reach(parent, tick)
        record = _child(reached, child, name, kind=reached.record.kind)
        self._kept.pin(reached.record.world, tick, child)
        self._kept.make(_line(record, reached))
        self._store.set_status(child, "running")
        return self._made(reached.record.world, child)

    def rewind_in_place(self, world: WorldId, tick: int) -> Rewound:
        """Take a world itself back to `tick`, once all it did since is kept as a fork, which is paused.

        Raises `LeaseHeld` if it runs on a host: pause it first. `Conflict` if it moved on meanwhile, `NoHistory` for a
        tick before its own beginning, and as `reach`.
        """
        past, reached = self._kept.past(world), self._reach_own(world, tick)
        if tick == past.record.tick:
            return Rewound(world, tick, None)
        if past.record.status == "running" and past.record.owner:
            raise LeaseHeld(f"world {world!r}: {past.record.owner!r} runs it; pause it first")
        present = self._present(reached)
        kept_as = self._keep_future(past, reached, present)
        self._cut(past, reached, present)
        return Rewound(world, tick, kept_as)

    def cut(self, world: WorldId, tick: int, damage: Damage = NO_DAMAGE) -> None:
        """Take a world back to `tick`; what it did since is gone, and what is damaged. Raises as `rewind_in_place`."""
        past, reached = self._kept.past(world), self._reach_own(world, tick)
        self._cut(past, reached, self._present(reached), damage)

    def delete(self, world: WorldId) -> None:
        """Delete a world with its history and its archive. Raises `UnknownWorld`, and `Pinned` if it has forks."""
        forks = [pin.child for pin in self._kept.pins(world)]
        if forks:
            raise Pinned(f"world {world!r}: its past is also that of {', '.join(map(repr, forks))}; delete those first")
        parent = self._kept.delete(world)
        self._history.archive.remove(world)
        if parent is not None:
            self._kept.unpin(parent, world)

    def forget(self, world: WorldId, before: int) -> int:
        """Drop archived history that is older than a tick, whole segments of it; return the first tick that is kept.

        The states of ticks from there on can still be visited. Raises `UnknownWorld`, and `Pinned` if it has forks.
        """
        past = self._kept.past(world)
        keep = 0
        for index, ref in enumerate(past.segments):
            # A line must begin with a keyframe, for there is no other to start from.
            if ref.first - 1 <= before and self._history.archive.read(world, ref).keyframe:
                keep = index
        if keep:
            self._kept.forget(world, past.segments[keep].first)
            for ref in past.segments[:keep]:
                self._history.archive.discard(world, ref)
        return self._kept.past(world).first_tick - 1

    def sweep(self, world: WorldId, *, grace_s: float = PIN_GRACE_S) -> int:
        """Drop the pins of forks that never came to be, and files that nothing refers to; return how many of both."""
        num = 0
        for pin in self._kept.pins(world):
            if pin.age_s < grace_s:
                continue
            try:
                if self._store.record(pin.child).status != "deleted":
                    continue
            except CorruptRecord:
                # It may be there, damaged: that is for a person to see.
                continue
            except UnknownWorld:
                pass
            self._kept.unpin(world, pin.child)
            num += 1
        past = self._kept.past(world)
        return num + self._history.archive.sweep(world, past.segments, past.archived_to)

    def _made(self, parent: WorldId, child: WorldId) -> WorldRecord:
        """Return a fork's record, having made sure that its past did not change while it was made."""
        if child not in [pin.child for pin in self._kept.pins(parent)]:
            record = self._store.record(child)
            if record.parent == parent:
                self._kept.delete(child)
                raise Conflict(f"world {parent!r}: it was rewound while {child!r} was forked from it; do it again")
        return self._store.record(child)

    def _reach_own(self, world: WorldId, tick: int) -> Reached:
        reached = self._history.reach(world, tick)
        if reached.record.world != world:
            raise NoHistory(
                f"world {world!r}: at tick {tick} it was still world {reached.record.world!r}; fork that one there"
            )
        return reached

    def _present(self, reached: Reached, *, as_dream: bool = False) -> Snapshot:
        """Return the state that was reached; a grounded one with its environment there, unless it is to be dreamed."""
        record = reached.record
        if as_dream or record.kind == "dreamed":
            return reached.state()
        live = resume(
            record.world,
            env_name=record.env,
            snapshot=reached.beginning(),
            effects=reached.effects(),
            each_verified=False,
        )
        if live.lost_episode:
            self.notes.append(f"a new episode begins with its next tick: {live.lost_episode}")
        return live.keyframe()

    def _cut(self, past: Past, reached: Reached, present: Snapshot, damage: Damage = NO_DAMAGE) -> None:
        status: Status = "running" if past.record.status == "quarantined" else past.record.status
        record = replace(past.record, tick=reached.tick, weights_version=_weights_version(reached))
        keyframe = encode_snapshot(present, chain=reached.digest)
        line = Line(record=record, at=reached.tick, digest=reached.digest, keyframe=keyframe, entries=())
        self._kept.rewind(past, line, status, damage=damage)

    def _keep_future(self, past: Past, reached: Reached, present: Snapshot) -> WorldId:
        """Make the fork that holds all ticks after `reached`, and give it the forks that build on them."""
        world, tick = past.record.world, reached.tick
        child, newest = _future_id(past), self._history.reach(world, past.record.tick)
        record = replace(
            past.record,
            world=child,
            name=f"{past.record.name} from tick {tick} to {past.record.tick}, cut off",
            parent=world,
            fork_tick=tick,
        )
        self._kept.pin(world, tick, child)
        line = _line(record, newest)
        if newest.at > tick:
            keyframe = snapshot_payload(present, chain=reached.digest)
            line = replace(line, segments=self._copied(past, tick, newest.at, child, reached.digest, keyframe))
        self._kept.make(line)
        for pin in self._kept.pins(world):
            if pin.tick > tick:
                self._kept.pin(child, pin.tick, pin.child)
                # One that is not there is being made, and finds its pin gone; or never was, and the janitor sees it.
                with suppress(UnknownWorld):
                    self._kept.set_parent(pin.child, child)
                self._kept.unpin(world, pin.child)
        return child

    def _copied(
        self, past: Past, after: int, last: int, child: WorldId, base: bytes, keyframe: bytes
    ) -> tuple[SegmentRef, ...]:
        """Return segments with ticks after + 1 … last for `child`: shared where whole ones fit, else written.

        `base` and `keyframe` are of tick `after`.
        """
        archive, world = self._history.archive, past.record.world
        refs, tick = list[SegmentRef](), after + 1
        while tick <= last:
            index = past.segment_at(tick)
            end = min(last, tick + MAX_SEGMENT_TICKS - 1)
            if index is not None:
                ref = past.segments[index]
                end = min(end, past.end_of(index))
                # The first one must begin with a keyframe, for there is no other to start from.
                whole = archive.read(world, ref)
                if (ref.first, ref.last) == (tick, end) and (whole.keyframe or not keyframe):
                    archive.share(ref, of=world, with_=child)
                    refs.append(ref)
                    tick, base, keyframe = end + 1, whole.end, b""
                    continue
            ticks = tuple(self._history.own(past, tick, end, base))
            refs.append(archive.write(child, Segment(base=base, keyframe=keyframe, ticks=ticks)))
            tick, base, keyframe = end + 1, ticks[-1].digest, b""
        return tuple(refs)


def _line(record: WorldRecord, reached: Reached) -> Line:
    return Line(
        record=record,
        at=reached.at,
        digest=reached.base,
        keyframe=seal_snapshot(reached.keyframe),
        entries=tuple(map(_entry, reached.ticks)),
    )


def _entry(logged: Logged) -> LogEntry:
    return LogEntry(logged.tick, logged.digest, seal_effects(logged.payload))


def _child(reached: Reached, child: WorldId, name: str, *, kind: Kind) -> WorldRecord:
    of = reached.record
    return replace(
        of,
        world=child,
        name=name or f"{of.name} from tick {reached.tick}",
        kind=kind,
        tick=reached.tick,
        status="running",
        owner="",
        epoch=0,
        weights_version=_weights_version(reached),
        parent=of.world,
        fork_tick=reached.tick,
        reason="",
    )


def _weights_version(reached: Reached) -> int:
    if not reached.ticks:
        return reached.record.weights_version
    return effects_of(reached.ticks[-1].payload).weights_version


def _seed_of(child: WorldId) -> int:
    """Return a seed that is the world's own, the same whenever its fork is repeated."""
    words = np.frombuffer(hashlib.blake2b(child.encode(), digest_size=8).digest(), np.uint64)
    return int(words[0] >> np.uint64(2))


def _future_id(past: Past) -> WorldId:
    """Return the id of the fork that holds a world's future: the same for the same future."""
    of = f"{past.record.world}/{past.record.epoch}/{past.record.tick}/{past.digest.hex()}"
    return WorldId("w" + hashlib.blake2b(of.encode(), digest_size=6).hexdigest())
