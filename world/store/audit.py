"""Verifying a world: every segment, every link of the chain, every keyframe in its place, and the states between.

It reads what is there and changes nothing. Rolling a world back is for a person to decide.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from world.errors import CorruptRecord, NewerSchema, NoHistory
from world.snapshot import Snapshot, WorldId
from world.store.codec import effects_of, snapshot_of, unseal_snapshot
from world.store.history import History
from world.store.log import LogEntry, chain, payload_of
from world.store.past import NO_DAMAGE, Damage, Past
from world.store.segment import Logged

_PAGE: Final = 512
_CHECK_EVERY: Final = 64
"""Ticks between comparisons of the whole state with its digest."""
_MAX_PROBLEMS: Final = 20
_ATTEMPTS: Final = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """What verifying one world's own line came to."""

    world: WorldId
    tick: int
    """That the world is at."""
    first_tick: int
    ticks: int
    """Verified: chained to the one before, and leading to the state that was committed."""
    segments: int
    keyframes: int
    problems: tuple[str, ...]
    """What does not verify: the first 20."""
    missing: tuple[str, ...]
    """Segments that are not in this archive; they may be in another."""
    newest_verified: int | None
    """Newest tick whose state verifies; None: no state does."""
    damage: Damage = NO_DAMAGE
    """Copies among the problems, which a repair drops."""

    @property
    def verified(self) -> bool:
        """Whether all that is here verifies."""
        return not self.problems


def audit(history: History, world: WorldId) -> Audit:
    """Verify one world's own line; what lies before a fork is its parent's to verify.

    Raises `UnknownWorld`, `CorruptRecord` where there is no record to begin with, and `NewerSchema` where a newer
    program wrote any of it: whether that is sound, only it can say.
    """
    for _ in range(_ATTEMPTS):
        past = history.kept.past(world)
        walk = _Walk(history, past)
        try:
            walk.cold()
            walk.hot()
        except NewerSchema as error:
            raise NewerSchema(f"world {world!r}: {error}") from None
        found = walk.found()
        now = history.kept.past(world)
        # What was archived and trimmed while it was walked through looks like a gap, and is none.
        if found.verified or (now.archived_to, now.keyframes) == (past.archived_to, past.keyframes):
            break
    return found


def _wrong(error: CorruptRecord) -> str:
    """Return what is wrong. Raises `NewerSchema`: what this program cannot read is not damaged."""
    if isinstance(error, NewerSchema):
        raise error
    return str(error)


class _Walk:
    """A walk along a line, which goes on after every problem as well as it can."""

    def __init__(self, history: History, past: Past) -> None:
        self._history, self._past, self._world = history, past, past.record.world
        self._problems: list[str] = []
        self._missing: list[str] = []
        self._at = past.first_tick - 1
        self._digest: bytes | None = None
        self._state: Snapshot | None = None
        self._promised = b""
        """Digest that the state should have."""
        self._ticks = self._segments = self._keyframes = self._unchecked = 0
        self._newest: int | None = None
        self._copies_broken = False
        self._keyframes_broken: list[int] = []

    def cold(self) -> None:
        """Walk through all segments."""
        past = self._past
        for index, ref in enumerate(past.segments):
            try:
                segment = self._history.archive.load(self._world, ref)
            except CorruptRecord as error:
                self._lose(_wrong(error), past.end_of(index))
                continue
            except NoHistory as error:
                self._check_state()
                self._missing.append(str(error))
                self._state, self._digest, self._at = None, None, past.end_of(index)
                continue
            self._segments += 1
            if segment.first != self._at + 1:
                self._lose(f"no segment holds ticks {self._at + 1} to {segment.first - 1}", segment.first - 1)
            if self._digest is not None and segment.base != self._digest:
                self._lose(f"the chain of digests breaks at tick {segment.first}, where a segment begins", self._at)
            self._digest = segment.base
            if segment.keyframe:
                self._check_keyframe(segment.keyframe, self._at)
            for logged in segment.ticks[: past.end_of(index) - segment.first + 1]:
                self._step(logged)

    def hot(self) -> None:
        """Walk through the log, of which some may be archived too."""
        past, tick = self._past, self._past.archived_to
        if self._at != tick:
            self._lose(f"the segments end at tick {self._at}, the world is archived up to {tick}", tick)
        self._overlap()
        self._kept_keyframe(tick)
        for entry in self._entries(tick + 1):
            if entry.tick != self._at + 1:
                self._lose(f"the log lacks ticks {self._at + 1} to {entry.tick - 1}", entry.tick - 1)
            try:
                payload = payload_of(entry)
            except CorruptRecord as error:
                self._lose(_wrong(error), entry.tick)
                self._digest = entry.digest
                self._kept_keyframe(entry.tick)
                continue
            if self._digest is not None and chain(self._digest, payload) != entry.digest:
                self._lose(f"the chain of digests breaks at tick {entry.tick}", entry.tick)
                self._digest = entry.digest
                self._kept_keyframe(entry.tick)
                continue
            self._step(Logged(entry.tick, entry.digest, payload))
        if self._at != past.record.tick:
            self._lose(f"the log ends at tick {self._at}, the world is at {past.record.tick}", past.record.tick)
        elif self._digest != past.digest:
            self._lose(f"the log ends at tick {self._at} with another digest than the world's", self._at)
            self._newest = None if self._newest == self._at else self._newest

    def found(self) -> Audit:
        """Return what was found."""
        past = self._past
        self._check_state()
        return Audit(
            world=self._world,
            tick=past.record.tick,
            first_tick=past.first_tick,
            ticks=self._ticks,
            segments=self._segments,
            keyframes=self._keyframes,
            problems=tuple(self._problems[:_MAX_PROBLEMS]),
            missing=tuple(self._missing[:_MAX_PROBLEMS]),
            newest_verified=self._newest,
            damage=Damage(self._copies_broken, tuple(self._keyframes_broken)),
        )

    def _step(self, logged: Logged) -> None:
        """Apply one tick that is chained to the one before."""
        self._at, self._digest = logged.tick, logged.digest
        if self._state is not None:
            try:
                effects = effects_of(logged.payload)
                self._state.apply(effects, verify=False)
            except CorruptRecord as error:
                self._lose(f"tick {logged.tick}: {_wrong(error)}", logged.tick)
                self._digest = logged.digest
            else:
                self._promised = effects.state_digest
                self._unchecked += 1
                if self._unchecked == _CHECK_EVERY:
                    self._check_state()
        self._kept_keyframe(logged.tick)

    def _check_state(self) -> None:
        """Compare the state with what was committed; if it fits, so did all that led to it."""
        if self._state is None or not self._unchecked:
            return
        if self._state.digest() != self._promised:
            self._problems.append(f"ticks {self._at - self._unchecked + 1} to {self._at} lead to another state")
            self._state = None
        else:
            self._ticks, self._newest = self._ticks + self._unchecked, self._at
        self._unchecked = 0

    def _kept_keyframe(self, tick: int) -> None:
        """Check the keyframe that the store holds of a tick, if it should."""
        if tick not in self._past.keyframes or tick != self._at:
            return
        frame = self._history.kept.keyframe(self._world, tick)
        try:
            if frame is not None:
                if not self._check_keyframe(unseal_snapshot(frame), tick):
                    self._keyframes_broken.append(tick)
            elif tick == self._past.keyframes[-1]:
                raise CorruptRecord("it is missing")
        except CorruptRecord as error:
            self._problems.append(f"keyframe of tick {tick}: {_wrong(error)}")
            self._keyframes_broken.append(tick)

    def _check_keyframe(self, payload: bytes, at: int) -> bool:
        """Compare a keyframe with the line that it stands in; go on from it where the state was lost."""
        self._check_state()
        try:
            snapshot, base = snapshot_of(payload)
            if snapshot.tick != at:
                raise CorruptRecord(f"it holds tick {snapshot.tick}")
            if self._digest is not None and base != self._digest:
                raise CorruptRecord("it belongs to another log")
            if self._state is not None and snapshot.digest() != self._state.digest():
                raise CorruptRecord("it is another state than its ticks lead to")
        except CorruptRecord as error:
            self._problems.append(f"keyframe of tick {at}: {_wrong(error)}")
            return False
        self._keyframes += 1
        self._digest, self._newest = base, at
        if self._state is None:
            self._state, self._unchecked = snapshot, 0
        return True

    def _lose(self, problem: str, at: int) -> None:
        """Note a problem after which the state is unknown, until a keyframe says it again, and go on at a tick."""
        self._check_state()
        self._problems.append(problem)
        self._state, self._digest, self._at = None, None, at

    def _overlap(self) -> None:
        """Verify what the log still holds of archived ticks: a host loads from there."""
        tick = self._past.archived_to
        first = min([at for at in self._past.keyframes if at <= tick], default=tick) + 1
        digest: bytes | None = None
        for entry in self._entries(first, tick):
            try:
                payload = payload_of(entry)
                if digest is not None and chain(digest, payload) != entry.digest:
                    raise CorruptRecord(f"the chain of digests breaks at tick {entry.tick}")
            except CorruptRecord as error:
                self._problems.append(f"in the log, though archived too: {_wrong(error)}")
                self._copies_broken = True
            digest = entry.digest
        if digest is not None and self._digest is not None and digest != self._digest:
            self._problems.append(f"the log has another digest at tick {tick} than the archive")
            self._copies_broken = True

    def _entries(self, first: int, last: int | None = None) -> Iterator[LogEntry]:
        last = self._past.record.tick if last is None else last
        while first <= last:
            try:
                page = self._history.kept.entries(self._world, first, min(last, first + _PAGE - 1))
            except CorruptRecord as error:
                self._problems.append(_wrong(error))
                page = []
            yield from page
            first += _PAGE
