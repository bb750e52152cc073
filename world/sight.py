"""Sight: which cells of windows somebody sees, stands on or comes to, as tensors; `world.window` has it for arrays.

Axes: B worlds, A agents, H × W cells of a window, P = H·W.
"""

import torch
from torch import Tensor

from world.field import NOW, UNSEEN
from world.model.slots import places_in_windows, steps_of
from world.trajectory import NUM_DISPLACEMENTS, STAY

_BESIDE = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))


def places_of(poses: Tensor, height: int, width: int, *, shared: bool = True) -> Tensor:
    """Return the places (B, A, P, 2) of cells of windows about poses (B, A, 2), far apart where no map is shared."""
    rows, cols = (torch.arange(size, device=poses.device) - size // 2 for size in (height, width))
    places = poses[:, :, None] + torch.cartesian_prod(rows, cols)
    if shared:
        return places
    agents = torch.arange(poses.shape[1], device=poses.device)
    return torch.stack([places[..., 0] + (2 * height * agents)[:, None], places[..., 1]], dim=-1)


def seen_afterwards(poses: Tensor, displacement: Tensor, height: int, width: int, margin: int) -> Tensor:
    """Return which cells (B, A, H, W) of the windows at poses (B, A, 2) somebody sees after moving by classes (B, A).

    Views are windows less a margin.
    """
    moved = steps_of(displacement)
    inside = []
    for axis, size in enumerate((height, width)):
        places = poses[..., axis, None] + torch.arange(size, device=poses.device) - size // 2
        first = (poses + moved)[..., axis] - size // 2 + margin
        from_first = places[..., None] - first[:, None, None]
        inside.append((from_first >= 0) & (from_first < size - 2 * margin))
    return (inside[0][:, :, :, None] & inside[1][:, :, None]).any(-1)


def stood_on_afterwards(poses: Tensor, displacement: Tensor, height: int, width: int) -> Tensor:
    """Return on which cells (B, A, H, W) of the windows at poses (B, A, 2) somebody stands after moving by classes
    (B, A).
    """
    place, inside = places_in_windows(poses, poses + steps_of(displacement), height, width)
    stood = torch.zeros(*poses.shape[:2], height * width, device=poses.device).scatter_add(2, place, inside.float())
    return stood.view(*poses.shape[:2], height, width) > 0


def in_sight(tokens: Tensor, ages: Tensor) -> Tensor:
    """Return which cells (B, A, H, W) are seen now with all four beside them, by their newest tokens and how long ago
    they were seen, (B, A, H, W) both.
    """
    now = (ages == NOW) & (tokens != UNSEEN)
    return _beside(now).all(-1)


def tokens_beside(tokens: Tensor) -> Tensor:
    """Return the tokens (B, A, H, W, 5) in cells (B, A, H, W) and in the four beside each; beyond a window UNSEEN."""
    return _beside(tokens)


def occupied(poses: Tensor, turns: Tensor, displacement: Tensor) -> Tensor:
    """Return which displacement classes (B, A, 10) would bring agents at poses (B, A, 2) to a cell that another is on.

    Who acted before, by turns (B, A), has moved by its class (B, A); who acts later has not. To stay is none of them.
    """
    classes = torch.arange(NUM_DISPLACEMENTS, device=poses.device)
    has_acted = turns[:, None] < turns[:, :, None]
    others = torch.where(has_acted[..., None], (poses + steps_of(displacement))[:, None], poses[:, None])
    reached = poses[:, :, None] + steps_of(classes)
    is_other = ~torch.eye(turns.shape[1], dtype=torch.bool, device=poses.device)
    taken = (reached[:, :, :, None] == others[:, :, None]).all(-1) & is_other[:, None]
    return taken.any(-1) & (classes != STAY)


def watched(asked: Tensor, merge: Tensor, height: int, width: int) -> Tensor:
    """Return which cells (B, A·P) are drawn with all four beside them, of those asked for (B, A·P), each in the window
    of one agent, as `merge` says.
    """
    drawn = asked.gather(1, merge).view(len(merge), -1, height, width)
    return _beside(drawn).all(-1).flatten(1)


def _beside(cells: Tensor) -> Tensor:
    """Return what is in cells (…, H, W) and in the four beside each (…, H, W, 5); beyond the window nothing."""
    height, width = cells.shape[-2:]
    padded = torch.nn.functional.pad(cells, (1, 1, 1, 1))
    return torch.stack([padded[..., 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width] for dy, dx in _BESIDE], dim=-1)
