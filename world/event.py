"""World events: what befalls a world beside its agents' actions, told by somebody outside.

An event has a kind, which its environment names, and a place. It is given as a short text, "rain of saplings at
(12, 9)" or "a wall rises here", or as a row of numbers; several may befall one tick.

Axes: E event slots of a tick.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from world.envs.grounded import Int32Array
from world.errors import ConfigError

MAX_EVENTS: Final = 4
"""E: slots for events that begin in one tick."""
NO_EVENT: Final = 0
"""Kind of an empty slot."""

_TEXT = re.compile(r"\s*(?P<phrase>[^()]*?)\s+(?:at\s+\(\s*(?P<y>-?\d{1,9})\s*,\s*(?P<x>-?\d{1,9})\s*\)|here)\s*")


class WorldEvent(NamedTuple):
    """One event."""

    kind: int
    """From 1: its number among the phrases of the environment. 0 stands for none."""
    y: int
    x: int


def parse_event(text: str, phrases: Sequence[str], here: tuple[int, int] | None = None) -> WorldEvent:
    """Return the event that a text tells: one of `phrases`, then "at (y, x)", or "here" where that is a place.

    Raises `ConfigError` with what could have been said.
    """
    found = _TEXT.fullmatch(text)
    phrase = " ".join(found["phrase"].lower().split()) if found else ""
    if found is None or phrase not in phrases:
        known = ", ".join(f'"{phrase} at (y, x)"' for phrase in phrases)
        raise ConfigError(
            f"no event of this world is told by {text!r}; " + (f"say {known}" if known else "it has none")
        )
    if found["y"] is None and here is None:
        raise ConfigError(f'{text!r}: "here" is a place for somebody who stands in the world; say "at (y, x)"')
    y, x = (int(found["y"]), int(found["x"])) if found["y"] is not None else here  # type: ignore[misc]
    return WorldEvent(phrases.index(phrase) + 1, y, x)


def event_text(event: WorldEvent, phrases: Sequence[str]) -> str:
    """Return the text that tells an event."""
    return f"{phrases[event.kind - 1]} at ({event.y}, {event.x})"


def event_slots(events: Sequence[WorldEvent]) -> Int32Array:
    """Return rows (E, 3) of kind, y, x; empty slots are zeros. Raises `ConfigError` for more than there are slots."""
    if len(events) > MAX_EVENTS:
        raise ConfigError(f"{len(events)} events in one tick; there is room for {MAX_EVENTS}")
    slots = np.zeros((MAX_EVENTS, 3), np.int32)
    if events:
        slots[: len(events)] = events
    return slots
