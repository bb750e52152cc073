"""Configuration of a world host."""

from dataclasses import dataclass

from world.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldHostConfig:
    """How a host paces, commits and publishes."""

    commit_every_s: float = 0.03
    """Ticks younger than this wait for others, so that one round trip and one fsync carry many."""
    max_ticks_per_commit: int = 64
    """Ticks of one world in one commit."""
    keyframe_every_s: float = 10.0
    """Longest time between two keyframes of a world that ticks."""
    keyframe_every_bytes: int = 256 * 1024
    """Effects, before encoding, after which a keyframe is due."""
    keyframe_every_ticks: int = 256
    """Ticks after which a keyframe is due; bounds how long a restore takes, and a visit to any tick of the past."""
    max_keyframes_per_commit: int = 32
    """Worlds that were adopted together would else all be due together, and every tenth second would be a long one."""
    chunk_ticks: int = 32
    """Ticks of one world sent to replay together."""
    max_chunks_in_flight: int = 3
    """Chunks sent and not yet acknowledged; grounded worlds pause rather than exceed it."""
    credit_items: int = 256
    """Agent-ticks of credit asked for at once; the limiter's `max_insert_items` bounds it."""
    dream_ticks_per_s: float = 4.0
    """Pace of each dreamed world, so that dreams do not starve the learner."""
    grounded_ticks_per_s: float = 0.0
    """Pace of each grounded world; 0: as fast as replay and limiter allow."""
    inbox_every_s: float = 0.1
    """Time between two looks at the inboxes of all hosted worlds, in one round trip."""
    lease_s: float = 10.0
    """A world whose host is silent for this long may be taken; idle worlds are renewed at a third of it."""
    retry_after_s: float = 0.05
    """First pause before a call that failed is repeated; doubles up to a second."""
    stop_within_s: float = 5.0
    """Time in which a stopping host hands over what it holds."""
    torch_threads: int = 1
    """Threads of the batched tick."""
    niceness: int = 5
    """Added to the process's own, so that hosts yield to the learner; 0 to 19."""

    def __post_init__(self) -> None:
        for name in (
            "commit_every_s", "keyframe_every_s", "dream_ticks_per_s", "inbox_every_s", "lease_s", "retry_after_s",
            "stop_within_s",
        ):  # fmt: skip
            if not getattr(self, name) > 0:
                raise ConfigError(f"host.{name} must be > 0, got {getattr(self, name)}")
        for name in (
            "max_ticks_per_commit", "keyframe_every_bytes", "keyframe_every_ticks", "chunk_ticks",
            "max_chunks_in_flight", "credit_items", "torch_threads", "max_keyframes_per_commit",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ConfigError(f"host.{name} must be >= 1, got {getattr(self, name)}")
        if self.grounded_ticks_per_s < 0:
            raise ConfigError(f"host.grounded_ticks_per_s must be >= 0, got {self.grounded_ticks_per_s}")
        if not 0 <= self.niceness <= 19:
            raise ConfigError(f"host.niceness must be in 0 … 19, got {self.niceness}")
