"""What a store answers when it refuses, as errors: one wording for every store."""

from collections.abc import Sequence
from typing import Final

from world.errors import (
    Conflict,
    CorruptRecord,
    Fenced,
    Gap,
    LeaseHeld,
    NewerSchema,
    NotRunning,
    Pinned,
    StoreError,
    UnknownWorld,
    WorldExists,
)
from world.snapshot import WorldId

PAUSED_BY_LOG = "log"
"""Why a world is paused that reached the cap of its log; empty where a person paused it."""
UNFINISHED = "unfinished"
"""Why a world is quarantined that is being made of another's past, or whose maker died of it."""
REASONS: Final = {
    PAUSED_BY_LOG: "its log is as long as it may be, and waits to be archived",
    UNFINISHED: "whoever made it was stopped before it was whole; delete it, and make it again",
}
"""What a person is told of them."""

_IDLE: Final = {
    "paused": "it is paused; `worlds resume` lets it go on",
    "quarantined": "it is quarantined; `worlds repair` offers the newest tick at which it verifies",
    "deleted": "it was deleted, and its history with it",
}
"""Why a world of each status is not running."""


def unreadable(error: CorruptRecord) -> str:
    """Return what stands in the place of a world's status where its record cannot be read."""
    return "newer" if isinstance(error, NewerSchema) else "damaged"


def refusal(world: WorldId, answer: Sequence[str], *, builds_on: int | None = None) -> StoreError:
    """Return the error for an answer: its code, then what the store says of it."""
    code, *details = answer
    if code == "NO_WORLD":
        return UnknownWorld(f"world {world!r}: the store has no world of this id")
    if code == "GONE":
        return UnknownWorld(f"world {world!r}: {_IDLE['deleted']}")
    if code == "FENCED":
        epoch, owner = details
        return Fenced(f"world {world!r}: it is in epoch {epoch}, owned by {owner or 'nobody'}; drop it and reload")
    if code == "NOT_RUNNING":
        if details[1:] == [PAUSED_BY_LOG]:
            return NotRunning(
                f"world {world!r}: it is paused, for its log is as long as it may be and nobody archives it;"
                " it goes on by itself once it is archived"
            )
        if details[1:] == [UNFINISHED]:
            return NotRunning(f"world {world!r}: {REASONS[UNFINISHED]}")
        return NotRunning(f"world {world!r}: {_IDLE.get(details[0], f'it is {details[0]}')}")
    if code == "PINNED":
        return Pinned(
            f"world {world!r}: world {details[0]!r} was forked from it and reads its past from there; delete that one"
            " first"
        )
    if code == "GAP":
        return Gap(f"world {world!r}: commit builds on tick {builds_on}, stored tick is {details[0]}; reload it")
    if code == "CONFLICT":
        return Conflict(f"world {world!r}: tick {details[0]} is stored already, with another digest; reload it")
    if code == "CHANGED":
        return Conflict(
            f"world {world!r}: its past is another now than was read, it is at tick {details[0]}; do it again"
        )
    if code == "DAMAGED":
        return CorruptRecord(
            f"world {world!r}: its record does not verify, in field {details[0]!r}; restore it from a backup, or delete"
            " it"
        )
    if code == "UNCHAINED":
        return CorruptRecord(
            f"world {world!r}: its log has another digest at tick {details[0]} than its record, or no such tick;"
            " restore it from a backup, or see what `worlds repair` offers"
        )
    if code == "HELD":
        owner, left_ms = details
        return LeaseHeld(f"world {world!r}: {owner!r} holds its lease for {int(left_ms) / 1000:.1f} s more")
    if code == "EXISTS":
        return WorldExists(f"world {world!r}: it exists already, with other content; choose another id")
    return StoreError(f"world {world!r}: the store answered {' '.join(answer)!r}, which nobody expects")
