"""One world as the store in this process's memory holds it."""

from dataclasses import dataclass, field, replace

from world.snapshot import WorldId
from world.store.in_process_inbox import InProcessStream
from world.store.log import KEYFRAMES_KEPT, LogCaps, LogEntry
from world.store.past import SegmentRef
from world.store.records import FencingToken, WorldRecord


@dataclass(slots=True)
class InProcessWorld:
    """Frames and what is said of them; whoever touches it holds the store's lock."""

    record: WorldRecord
    created: bytes
    """Digest of the chain at `born_at`."""
    born_at: int
    digest: bytes
    """Of the chain at the last tick."""
    active_at: float
    archived_to: int
    caps: LogCaps
    made_at: int
    """Order in which worlds were made."""
    nonce: bytes = b""
    lease_until: float = 0.0
    gone: bool = False
    """Deleted for good."""
    log: dict[int, LogEntry] = field(default_factory=dict)
    keyframes: dict[int, bytes] = field(default_factory=dict)
    segments: tuple[SegmentRef, ...] = ()
    pins: dict[WorldId, tuple[int, float]] = field(default_factory=dict)
    """Tick that a fork builds on, and when it was pinned."""
    inbox: InProcessStream = field(default_factory=InProcessStream)
    log_bytes: int = 0
    """Of the frames that are not archived, up to the newest keyframe."""

    @property
    def num_bytes(self) -> int:
        """Of all frames."""
        return sum(len(entry.frame) for entry in self.log.values()) + sum(map(len, self.keyframes.values()))

    def at_cap(self, tick: int) -> bool:
        """Whether it may not go on to a tick before more of it is archived."""
        return 0 < self.caps.ticks < tick - self.archived_to

    def half_way_to_cap(self) -> bool:
        """Whether enough is archived for it to go on."""
        short = not self.caps.ticks or 2 * (self.record.tick - self.archived_to) <= self.caps.ticks
        return short and (not self.caps.bytes or 2 * self.log_bytes <= self.caps.bytes)

    def count_log(self) -> None:
        """Count anew what is not archived, up to the newest keyframe."""
        ticks = range(self.archived_to + 1, max(self.keyframes) + 1)
        self.log_bytes = sum(len(self.log[tick].frame) for tick in ticks if tick in self.log)

    def owned_by(self, token: FencingToken) -> bool:
        """Whether a token is the present owner's."""
        return bool(token.nonce) and (self.record.epoch, self.nonce) == (token.epoch, token.nonce)

    def fenced(self) -> tuple[str, ...]:
        """What a displaced owner is answered."""
        return "FENCED", str(self.record.epoch), self.record.owner

    def not_running(self) -> tuple[str, ...]:
        """What is answered of a world that does not run."""
        return "NOT_RUNNING", self.record.status, self.record.reason

    def set(self, **fields: object) -> None:
        """Replace fields of the record."""
        self.record = replace(self.record, **fields)  # type: ignore[arg-type]

    def trim(self, hot_log_ticks: int) -> None:
        """Delete what lies before the hot log, the last keyframes, and all that is archived."""
        kept = sorted(self.keyframes, reverse=True)[:KEYFRAMES_KEPT]
        if len(kept) == KEYFRAMES_KEPT:
            bound = min(kept[-1], self.record.tick - hot_log_ticks, self.archived_to)
            # So that the log begins with a keyframe.
            bound = max((at for at in self.keyframes if at <= bound), default=bound)
            self.keyframes = {at: keyframe for at, keyframe in self.keyframes.items() if at >= bound}
            self.log = {tick: entry for tick, entry in self.log.items() if tick >= bound}
