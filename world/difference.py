"""How two worlds differ: cells of their fields, and where their agents are.

Axes: A agents, n cells.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from world.envs.grounded import Int32Array, gone
from world.errors import ConfigError
from world.field import MAP, UNSEEN, Layer, Uint16Array
from world.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class CellDifference:
    """A cell whose newest token differs; 0: nobody has seen it there."""

    layer: Literal["map", "screen"]
    y: int
    x: int
    one: int
    other: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """What differs between two worlds."""

    same_state: bool
    """Nothing at all differs but tick, seed and episode: not even when a cell was seen."""
    cells: tuple[CellDifference, ...]
    """By layer, row and column."""
    cells_seen: tuple[int, int]
    """Cells of the shown layers that somebody has seen, in each."""
    poses: tuple[tuple[int, tuple[int, int] | None, tuple[int, int] | None], ...]
    """Agents that are elsewhere: agent, place in the one, place in the other; None where it has left."""
    agents: tuple[int, int]


def difference(one: Snapshot, other: Snapshot) -> Difference:
    """Compare two worlds of one layout. Raises `ConfigError` for others."""
    if one.field.layout != other.field.layout:
        raise ConfigError(
            f"worlds of different layouts have no cells in common: {one.field.layout}, {other.field.layout}"
        )
    cells: list[CellDifference] = []
    seen = np.zeros(2, np.int64)
    for index, (a, b) in enumerate(zip(one.field.layers, other.field.layers, strict=True)):
        y, x = _places(a, b)
        left, right = a.current(y, x), b.current(y, x)
        seen += [np.count_nonzero(left != UNSEEN), np.count_nonzero(right != UNSEEN)]
        cells += _differing(index, y, x, left, right)
    shared = min(len(one.poses), len(other.poses))
    elsewhere = np.flatnonzero((one.poses[:shared] != other.poses[:shared]).any(axis=1))
    same_poses = one.poses.shape == other.poses.shape and not len(elsewhere)
    return Difference(
        same_state=one.field.digest() == other.field.digest()
        and same_poses
        and np.array_equal(one.memory, other.memory),
        cells=tuple(cells),
        cells_seen=(int(seen[0]), int(seen[1])),
        poses=tuple((int(agent), _place(one.poses[agent]), _place(other.poses[agent])) for agent in elsewhere),
        agents=(len(one.poses), len(other.poses)),
    )


def _places(one: Layer, other: Layer) -> tuple[Int32Array, Int32Array]:
    """Return y, x (n,) of the cells of all chunks of either."""
    chunks = np.unique(np.concatenate([one.arrays()["coordinates"], other.arrays()["coordinates"]]), axis=0)
    side = int(np.sqrt(one.arrays()["seen_at"].shape[1]))
    cells = np.indices((side, side)).reshape(2, -1).T
    places = (chunks.astype(np.int32)[:, None, :] * side + cells).reshape(-1, 2).astype(np.int32)
    places = places[np.lexsort((places[:, 1], places[:, 0]))]
    return places[:, 0], places[:, 1]


def _differing(index: int, y: Int32Array, x: Int32Array, one: Uint16Array, other: Uint16Array) -> list[CellDifference]:
    name: Literal["map", "screen"] = "map" if index == MAP else "screen"
    return [
        CellDifference(name, int(y[at]), int(x[at]), int(one[at]), int(other[at]))
        for at in np.flatnonzero(one != other)
    ]


def _place(pose: Int32Array) -> tuple[int, int] | None:
    return None if gone(pose) else (int(pose[0]), int(pose[1]))
