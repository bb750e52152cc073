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
    offsets = poses[:, :, None] - poses[:, None]
    rows, cols = (offsets[..., axis, None] + np.arange(size) for axis, size in enumerate((height, width)))
    beyond = [_beyond(places, size) for places, size in ((rows, height), (cols, width))]
    owner = np.maximum(beyond[0][..., :, None], beyond[1][..., None, :]).argmin(axis=2)
    batch, agent, y, x = np.ogrid[tuple(map(slice, owner.shape))]
    index = owner * (height * width) + rows[batch, agent, owner, y] * width + cols[batch, agent, owner, x]
    return owner == agent, index.astype(np.intp)


def _beyond(places: Int32Array, size: int) -> Int32Array:
    """Return how far rows or columns of windows (…) are from the middle; outside, farther than any."""
    return np.where((places >= 0) & (places < size), np.abs(places - size // 2), np.iinfo(np.int32).max)


def stood_on(poses: Int32Array, height: int, width: int) -> BoolArray:
    """Return on which cells (…, A, H, W) of the windows at poses (…, A, 2) somebody stands."""
    offset = poses[..., None, :, :] - poses[..., :, None, :]
    y, x = (offset[..., axis, None] + size // 2 == np.arange(size) for axis, size in enumerate((height, width)))
    stood: BoolArray = (y[..., :, None] & x[..., None, :]).any(axis=-3)
    return stood


def unmerged(batch: int, agents: int, height: int, width: int) -> tuple[BoolArray, IntpArray]:
    """Return the same as `owners` where windows are screens: each agent's cells are its own."""
    index = np.arange(agents * height * width, dtype=np.intp).reshape(agents, height, width)
    return np.ones((batch, *index.shape), np.bool_), np.broadcast_to(index, (batch, *index.shape))


def views_after(tokens: Uint16Array, displacement: Int32Array, margin: int) -> Uint16Array:
    """Return what each agent sees (A, R, C) after moving by (A, 2) ≤ margin within its window of tokens (A, H, W)."""
    rows, cols = tokens.shape[1] - 2 * margin, tokens.shape[2] - 2 * margin
    return tokens[in_view_after(displacement, rows, cols, margin)]


def in_view_after(
    displacement: Int32Array, rows: int, cols: int, margin: int
) -> tuple[IntpArray, IntpArray, IntpArray]:
    """Return where in its window (H, W) each agent looks after moving by (A, 2) ≤ margin: the index of agents, rows and
    columns, which broadcast to (A, R, C).
    """
    agents = np.arange(len(displacement))[:, None, None]
    y = displacement[:, 0, None, None] + margin + np.arange(rows)[:, None]
    x = displacement[:, 1, None, None] + margin + np.arange(cols)
    return agents, y, x
