"""The slots of one update: what is given to the model about every agent's window, as tensors.

Axes: B worlds (or rows of a batch), A agents, N = B·A windows, H × W cells, K tokens a cell remembers,
S status cells, D components of recurrent memory, E event slots.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from world.model.memory.recall import nothing_recalled

UNKNOWN_DISPLACEMENT = 10
"""Given in place of a displacement class that is asked for."""


@dataclass(frozen=True, slots=True)
class Slots:
    """What is known before an update; integer tensors are int64."""

    tokens: Tensor
    """(B, A, H, W, K) newest first; 0 is UNSEEN."""
    ages: Tensor
    """(B, A, H, W, K + 1) age buckets."""
    status: Tensor
    """(B, A, S)"""
    poses: Tensor
    """(B, A, 2)"""
    turns: Tensor
    """(B, A) place in the order of acting."""
    memory: Tensor
    """(B, A, D) float32"""
    identity: Tensor
    """(B, A) in [0, NUM_IDENTITIES): who is who. Drawn anew for every sequence, so that no agent is special."""
    events: Tensor
    """(B, E, 3) world events of this tick: kind, y, x; kind 0 is an empty slot."""
    dreamed: Tensor
    """(B,) 1 where what is known was dreamed, and may be wrong; 0 where it was seen."""
    recalled: Tensor
    """(B, A, M, F) what each agent recalls, as `world.model.memory.recall` says; most models have no slots for it."""

    def to(self, device: torch.device | str) -> "Slots":
        """Return the same slots on another device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in self.__dataclass_fields__})

    def of_worlds(self, rows: Tensor) -> "Slots":
        """Return the slots of some worlds (rows,) alone."""
        return replace(self, **{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})

    @classmethod
    def from_arrays(
        cls,
        *,
        tokens: Any,
        ages: Any,
        status: Any,
        poses: Any,
        turns: Any,
        memory: Any,
        identity: Any,
        events: Any,
        dreamed: Any = None,
        recalled: Any = None,
    ) -> "Slots":
        """Convert numpy columns of shapes as above; without `dreamed` all was seen, without `recalled` nothing is."""
        integers = {
            "tokens": tokens,
            "ages": ages,
            "status": status,
            "poses": poses,
            "turns": turns,
            "identity": identity,
            "events": events,
            "dreamed": np.zeros(len(poses)) if dreamed is None else dreamed,
            "recalled": nothing_recalled(*poses.shape[:2]) if recalled is None else recalled,
        }
        return cls(
            memory=torch.from_numpy(np.array(memory, np.float32)),
            **{name: torch.from_numpy(np.array(column, np.int64)) for name, column in integers.items()},
        )


def places_in_windows(poses: Tensor, of: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return for poses `of` (B, J, 2) their cell (B, A, J) in each agent's window, and whether they are inside.

    A window is centred on its agent's pose (B, A, 2). Cells outside are clipped, so that the index is valid.
    """
    size = torch.tensor([height, width], device=poses.device)
    cell = of[:, None] - poses[:, :, None] + size // 2
    clipped = cell.minimum(size - 1).clamp(min=0)
    return clipped[..., 0] * width + clipped[..., 1], (clipped == cell).all(-1)


def steps_of(displacement: Tensor) -> Tensor:
    """Return rows and columns (…, 2) of displacement classes (…) other than ELSEWHERE."""
    return torch.stack([displacement // 3 - 1, displacement % 3 - 1], dim=-1)
