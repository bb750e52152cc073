"""The ports between processes: what one needs of another, without saying how they are joined.

Nothing here knows Ray. `actors.clients` joins the ports through it; tests join them in one process.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from learner.limiter import Grant
from learner.replay import ReplayStats
from world.errors import LivingWorldsError
from world.snapshot import WorldId
from world.trajectory import Chunk

if TYPE_CHECKING:
    # It stands on torch, which shards and limiter need not load.
    from learner.weights import WeightSet

T_co = TypeVar("T_co", covariant=True)


class PeerLost(LivingWorldsError):
    """A process died or could not be reached during a call: the outcome is unknown, and asking again is safe."""


class PeerFailed(LivingWorldsError):
    """A process met an error that is no part of our tree: a mistake of ours, told with its last line."""


class Call(Protocol[T_co]):
    """An answer that is under way."""

    def done(self) -> bool:
        """Return whether `result` would answer at once."""

    def result(self) -> T_co:
        """Return the answer. Raises `PeerLost`, or what the other side raised."""


@dataclass(frozen=True, slots=True)
class Inserted:
    """What became of one chunk."""

    items: int
    """Agent-ticks that are new in replay."""
    duplicates: int
    """Agent-ticks that were there already."""


class ReplaySink(Protocol):
    """Where chunks go: each to the shard of its world."""

    def insert(self, chunk: Chunk) -> Call[Inserted]:
        """Send a chunk. Repeating is harmless: a shard knows chunks by world, epoch and tick."""


class InsertLimiter(Protocol):
    """Who says how much may be collected. Answers within moments; a limiter that is away grants nothing."""

    def request_inserts(self, num_items: int) -> Grant:
        """Ask to insert `num_items` agent-ticks: all or none."""

    def return_inserts(self, num_items: int) -> None:
        """Give back what was granted and will not be inserted."""

    def settle_inserts(self, num_items: int) -> None:
        """Say that replay has so many of the granted items: they are lost no more when this process dies."""


class WeightsSource(Protocol):
    """Where new weights come from."""

    def poll(self, newer_than: tuple[int, int]) -> "WeightSet | None":
        """Return weights newer than (epoch, version) if some have arrived; never waits."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A world that a host let go."""

    world: WorldId
    error: str
    """Class of the error in `world.errors`."""
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class HostReport:
    """What a host did since its last report. Counts are of this report alone."""

    host: str
    pid: int
    ticks: dict[WorldId, int]
    """Last acknowledged tick of every world hosted now."""
    num_agents: int
    """Agents of all worlds hosted now."""
    lost: tuple[Lost, ...]
    notes: tuple[str, ...]
    """What a person should know: an episode that could not go on, say."""
    grounded_agent_ticks: int
    """Acknowledged."""
    dreamed_agent_ticks: int
    """Acknowledged."""
    commit_bytes: int
    """Effects of acknowledged ticks, before they are encoded."""
    inserted_items: int
    commit_s: tuple[float, ...]
    """Duration of each group commit."""
    tick_s: tuple[float, ...]
    """Duration of each batched tick."""
    weights: tuple[int, int]
    """(epoch, version) in use; (0, 0) before any."""
    starved_s: float
    """Time in which grounded worlds waited for credit."""
    blocked_s: float
    """Time in which grounded worlds waited for replay to take their chunks."""
    store_away_s: float
    """Time in which the store did not answer."""
    store_silent: bool
    """A commit is still without its answer; if not, whoever had to wait has been answered since."""


@dataclass(frozen=True, slots=True)
class ShardReport:
    """A replay shard's counts."""

    pid: int
    stats: ReplayStats


@dataclass(frozen=True, slots=True)
class LimiterReport:
    """What the limiter has granted."""

    pid: int
    inserts: int
    samples: int
    error: float
    """Items still to be sampled for the ratio to be exact; negative if too many were."""


@dataclass(frozen=True, slots=True)
class WeightsReport:
    """What the weight store keeps."""

    pid: int
    newest: tuple[int, int]
    """(epoch, version); (0, 0) before any."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Sequences from one shard."""

    columns: dict[str, NDArray[np.generic]]
    """(B, L, …) of `Transitions`; empty where no chunk is long enough."""
    held_items: int
    """Agent-ticks in the shard: its share of the draws should be as large."""
