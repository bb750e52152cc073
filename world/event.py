"""World events: what befalls a world beside its agents' actions, told by somebody outside.

An event has a kind, which its environment names, and a place. It is given as a short text, "rain of saplings at
(12, 9)" or "a wall rises here", or as a row of numbers; several may befall one tick.

Axes: E event slots of a tick, n events, A agents.
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
_ANOTHER: Final = 0.125
"""Chance that an event which befalls a world by itself does not come alone."""
_STREAM: Final = np.array([0, 0, 0, 1], np.uint64)
"""Of the counters of (seed, tick): dreams of the same seed draw from another one."""

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


def event_slots(events: Sequence[WorldEvent] | Int32Array) -> Int32Array:
    """Return rows (E, 3) of kind, y, x; empty slots are zeros. Raises `ConfigError` for more than there are slots."""
    if len(events) > MAX_EVENTS:
        raise ConfigError(f"{len(events)} events in one tick; there is room for {MAX_EVENTS}")
    slots = np.zeros((MAX_EVENTS, 3), np.int32)
    if len(events):
        slots[: len(events)] = events
    return slots


def event_rows(slots: Int32Array) -> Int32Array:
    """Return the events (n, 3) of slots (E, 3), in order."""
    rows: Int32Array = slots[slots[:, 0] != NO_EVENT]
    return rows


def drawn_events(
    seed: int, tick: int, rate: float, *, poses: Int32Array, view: tuple[int, int], num_kinds: int
) -> Int32Array:
    """Return events (n, 3) that befall the tick after `tick` by themselves, equal for equal arguments.

    With chance `rate` there is one, now and then more. Each is of any kind alike, at any place alike of what a random
    agent sees: rows and columns of a `view` around one of `poses` (A, 2).
    """
    key = np.array([seed & (2**64 - 1), tick], np.uint64)
    draws = np.random.Generator(np.random.Philox(key=key, counter=_STREAM)).random((MAX_EVENTS, 5))
    if draws[0, 0] >= rate:
        return np.zeros((0, 3), np.int32)
    count = 1 + int(np.logical_and.accumulate(draws[1:, 0] < _ANOTHER).sum())
    bounds = np.array([num_kinds, len(poses), *view])
    kind, agent, row, col = (draws[:count, 1:] * bounds).astype(np.int32).T
    place = poses[agent] + np.stack([row - view[0] // 2, col - view[1] // 2], axis=1)
    return np.concatenate([1 + kind[:, None], place], axis=1).astype(np.int32)
