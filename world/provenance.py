"""Who did what, and who changed which cell: read off logged effects, and inferred where they do not say it.

Effects say what agents did, which world events befell, and which cells turned out changed, not which did which.
Inferred here: an agent that left or entered a cell changed it; else a world event within whose reach it lies; else the
nearest agent that acted beside it without moving; what nothing of that explains is nature's: the world's own rules, or
chance. A cell that nobody watched at the tick before changed some time since then, through nobody knows whom, unless an
event tells.

Axes: A agents, n changed cells, m world events.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from world.envs.grounded import EVENT_REACH, BoolArray, Int32Array, gone
from world.event import WorldEvent
from world.field import MAP, NEVER, SCREEN, UNSEEN, IntpArray
from world.snapshot import Snapshot, TickEffects

Cause = Literal["reset", "seen first", "moved", "event", "acted", "nature", "unwatched", "own view"]
"""reset: an episode began. seen first: nobody had looked before. own view: an agent's screen or status, not the map."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CellChange:
    """One cell that turned out changed at one tick, and what explains it."""

    tick: int
    layer: Literal["map", "screen"]
    y: int
    x: int
    before: int
    """Token; 0: nobody had seen the cell."""
    after: int
    cause: Cause
    agents: tuple[int, ...]
    """Who explains it, several where it cannot be told whose act it was. Where nobody is to blame: who saw it."""
    events: tuple[int, ...]
    """Which events of the tick explain it, in the order of `TickStory.events`."""
    inferred: bool
    """Whether the cause is a conclusion rather than what the log says."""
    since: int
    """It changed after this tick, which is when somebody last saw the cell; the tick before, if it was watched."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentDeed:
    """What one agent did at one tick."""

    agent: int
    action: int
    reward: float
    pose: tuple[int, int] | None
    """None once it has left."""
    moved: tuple[int, int]
    terminated: bool
    truncated: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class TickStory:
    """What happened at one tick."""

    tick: int
    is_first: bool
    weights_version: int
    deeds: tuple[AgentDeed, ...]
    events: tuple[WorldEvent, ...]
    """What befell the tick, in order."""
    changes: tuple[CellChange, ...]


def stories(snapshot: Snapshot, effects: Iterable[TickEffects]) -> Iterator[TickStory]:
    """Tell what each tick did, advancing the snapshot before the first of them. Raises `CorruptRecord`."""
    for tick in effects:
        yield TickStory(
            tick=tick.tick,
            is_first=tick.is_first,
            weights_version=tick.weights_version,
            deeds=_deeds(snapshot, tick),
            events=tuple(WorldEvent(kind, y, x) for kind, y, x in tick.events.tolist()),
            changes=_changes(snapshot, tick),
        )
        snapshot.apply(tick, verify=False)


def cell_changes(snapshot: Snapshot, effects: Iterable[TickEffects], y: int, x: int) -> Iterator[CellChange]:
    """Tell when one cell of the map changed, and through whom; where there is no map, of the screen.

    Advances the snapshot before the first tick. Raises `CorruptRecord`.
    """
    layer = MAP if snapshot.field.layout.map_rows else SCREEN
    for tick in effects:
        changes = tick.changes
        here = (changes.layer == layer) & (changes.y == y) & (changes.x == x)
        if here.any():
            yield from (change for change in _changes(snapshot, tick, only=np.flatnonzero(here)))
        elif tick.is_first and snapshot.field.layers[layer].current(_one(y), _one(x))[0] != UNSEEN:
            # A new episode begins with an empty field: the cell is forgotten with all others.
            yield _forgotten(snapshot, tick, layer, y, x)
        snapshot.apply(tick, verify=False)


def _deeds(snapshot: Snapshot, tick: TickEffects) -> tuple[AgentDeed, ...]:
    left = gone(tick.poses)
    stays = left | gone(snapshot.poses) | tick.is_first
    moved = np.where(stays[:, None], 0, tick.poses - snapshot.poses)
    return tuple(
        AgentDeed(
            agent=agent,
            action=int(tick.actions[agent]),
            reward=float(tick.rewards[agent]),
            pose=None if left[agent] else (int(tick.poses[agent, 0]), int(tick.poses[agent, 1])),
            moved=(int(moved[agent, 0]), int(moved[agent, 1])),
            terminated=bool(tick.terminated[agent]),
            truncated=bool(tick.truncated[agent]),
        )
        for agent in range(len(tick.poses))
    )


def _changes(snapshot: Snapshot, tick: TickEffects, only: IntpArray | None = None) -> tuple[CellChange, ...]:
    logged, field = tick.changes, snapshot.field
    indices = np.arange(len(logged.token)) if only is None else only
    told = []
    for index in indices.tolist():
        layer, y, x = int(logged.layer[index]), int(logged.y[index]), int(logged.x[index])
        before, seen_at = UNSEEN, NEVER
        if not tick.is_first:
            tokens, _, seen = field.layers[layer].read(_one(y), _one(x))
            before, seen_at = int(tokens[0, 0]), int(seen[0])
        cause, agents, events, inferred = _cause(snapshot, tick, layer, y, x, before, seen_at)
        told.append(
            CellChange(
                tick=tick.tick,
                layer="map" if layer == MAP else "screen",
                y=y,
                x=x,
                before=before,
                after=int(logged.token[index]),
                cause=cause,
                agents=agents,
                events=events,
                inferred=inferred,
                since=seen_at,
            )
        )
    return tuple(told)


def _cause(
    snapshot: Snapshot, tick: TickEffects, layer: int, y: int, x: int, before: int, seen_at: int
) -> tuple[Cause, tuple[int, ...], tuple[int, ...], bool]:
    """Return the cause, the agents and the events of the tick that explain it, and whether that is inferred."""
    layout, cell = snapshot.field.layout, np.array([y, x])
    if tick.is_first:
        return "reset", (), (), False
    if layer == SCREEN:
        own_rows = layout.rows - layout.map_rows
        return "own view", (y // own_rows,) if own_rows else (), (), False
    low = cell - tick.poses + [layout.map_rows // 2, layout.cols // 2]
    sees = np.asarray(((low >= 0) & (low < [layout.map_rows, layout.cols])).all(axis=1))
    if before == UNSEEN:
        return "seen first", _chosen(sees), (), False
    moved = (tick.poses != snapshot.poses).any(axis=1)
    came_or_went = np.asarray(moved & ((tick.poses == cell).all(axis=1) | (snapshot.poses == cell).all(axis=1)))
    if came_or_went.any():
        return "moved", _chosen(came_or_went), (), True
    befell = _chosen(np.asarray(np.abs(tick.events[:, 1:] - cell).max(axis=1, initial=0) <= EVENT_REACH))
    if befell:
        return "event", (), befell, True
    if seen_at < tick.tick - 1:
        return "unwatched", _chosen(sees), (), False
    away = np.abs(snapshot.poses - cell)
    acted = (away.max(axis=1) <= 1) & ~moved & (tick.actions != 0)
    if acted.any():
        steps = np.where(acted, away.sum(axis=1), np.iinfo(np.int32).max)
        return "acted", _chosen(np.asarray(steps == steps.min())), (), True
    return "nature", (), (), True


def _forgotten(snapshot: Snapshot, tick: TickEffects, layer: int, y: int, x: int) -> CellChange:
    tokens, _, seen = snapshot.field.layers[layer].read(_one(y), _one(x))
    return CellChange(
        tick=tick.tick,
        layer="map" if layer == MAP else "screen",
        y=y,
        x=x,
        before=int(tokens[0, 0]),
        after=UNSEEN,
        cause="reset",
        agents=(),
        events=(),
        inferred=False,
        since=int(seen[0]),
    )


def _chosen(chosen: BoolArray) -> tuple[int, ...]:
    return tuple(np.flatnonzero(chosen).tolist())


def _one(value: int) -> Int32Array:
    return np.array([value], np.int32)
