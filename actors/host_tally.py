"""What a host counts between two reports."""

from dataclasses import dataclass, field

from actors.ports import Lost


@dataclass(kw_only=True, slots=True)
class HostTally:
    """Counts since the last report; the names are those of `HostReport`."""

    lost: list[Lost] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    grounded_agent_ticks: int = 0
    dreamed_agent_ticks: int = 0
    commit_bytes: int = 0
    inserted_items: int = 0
    commit_s: list[float] = field(default_factory=list)
    tick_s: list[float] = field(default_factory=list)
    starved_s: float = 0.0
    blocked_s: float = 0.0
    store_away_s: float = 0.0
