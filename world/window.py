"""Windows that overlap are merged: every cell is answered for once, in the window where it is most central.

Axes: B worlds, A agents, H × W cells of a window, R × C cells of a view.
"""

import numpy as np

from world.envs.grounded import BoolArray, Int32Array
from world.field import IntpArray, Uint16Array


def owners(poses: Int32Array, height: int, width: int) -> tuple[BoolArray, IntpArray]:
    """Return for each cell of each window whether it is answered here, and where it is answered.

    Poses (B, A, 2) → `here` (B, A, H, W), and `index` (B, A, H, W) into the A·H·W cells of the same world. A cell
    near the edge of one window lacks neighbours there; another agent's window may have them.
    """
    half = np.array([height // 2, width // 2])
    cells = np.moveaxis(np.indices((height, width)), 0, -1) - half
    places = poses[:, :, None, None, :] + cells
    relative = places[:, :, :, :, None, :] - poses[:, None, None, None, :, :]
    beyond = np.abs(relative).astype(np.int64)
    distance = beyond.max(axis=-1)
    inside = ((relative + half >= 0) & (relative + half < [height, width])).all(axis=-1)
    owner = np.where(inside, distance, np.iinfo(np.int64).max).argmin(axis=-1)
    chosen = np.take_along_axis(relative, owner[..., None, None], axis=-2)[..., 0, :] + half
    index = owner * (height * width) + chosen[..., 0] * width + chosen[..., 1]
    here = owner == np.arange(poses.shape[1])[:, None, None]
    return here, index.astype(np.intp)


def unmerged(batch: int, agents: int, height: int, width: int) -> tuple[BoolArray, IntpArray]:
    """Return the same as `owners` where windows are screens: each agent's cells are its own."""
    index = np.arange(agents * height * width, dtype=np.intp).reshape(agents, height, width)
    return np.ones((batch, *index.shape), np.bool_), np.broadcast_to(index, (batch, *index.shape))


def views_after(tokens: Uint16Array, displacement: Int32Array, margin: int) -> Uint16Array:
    """Return what each agent sees (A, R, C) after moving by (A, 2) ≤ margin within its window of tokens (A, H, W)."""
    rows, cols = tokens.shape[1] - 2 * margin, tokens.shape[2] - 2 * margin
    agents = np.arange(len(tokens))[:, None, None]
    y = displacement[:, 0, None, None] + margin + np.arange(rows)[:, None]
    x = displacement[:, 1, None, None] + margin + np.arange(cols)
    return tokens[agents, y, x]
