"""Configuration of the supervisor."""

from dataclasses import dataclass

from world.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class SupervisorConfig:
    """How processes are asked, watched, and stopped."""

    call_s: float = 1.0
    """Budget of one call to a host or the learner; between calls the supervisor has a say."""
    probe_every_s: float = 1.0
    """Time between two questions to shards, limiter, weight store and the embedded server."""
    stall_after_s: float = 60.0
    """A call that is late by this much is stuck: its process is killed and rebuilt."""
    placement_within_s: float = 90.0
    """A process must answer for the first time within this."""
    host_lost_after_s: float = 8.0
    """Worlds of a host that has been away for this long go to others, who have them as soon as its leases end."""
    store_retry_s: float = 0.5
    """Pause before a host that could not adopt or hand over, since the store was away, is asked again."""
    fork_retry_s: float = 10.0
    """Pause before a dream is forked again that could not be, since the store was away."""
    failures_in_a_row: int = 3
    """So many errors of one process without a success between them end the run."""
    drain_within_s: float = 4.0
    """Time in which a stopping learner samples what the limiter still calls for."""
    stop_within_s: float = 14.0
    """Time in which everything has stopped, or is given up."""

    def __post_init__(self) -> None:
        for name in (
            "call_s", "probe_every_s", "stall_after_s", "placement_within_s", "host_lost_after_s", "store_retry_s",
            "fork_retry_s", "stop_within_s",
        ):  # fmt: skip
            if not getattr(self, name) > 0:
                raise ConfigError(f"supervisor.{name} must be > 0, got {getattr(self, name)}")
        if self.drain_within_s < 0:
            raise ConfigError(f"supervisor.drain_within_s must be >= 0, got {self.drain_within_s}")
        if self.failures_in_a_row < 1:
            raise ConfigError(f"supervisor.failures_in_a_row must be >= 1, got {self.failures_in_a_row}")
