"""What episodic memory brings back, as slots of the model.

Axes: B worlds, A agents, L ticks, M recalled items, F numbers of each, D width, H × W cells, K tokens a cell remembers.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from world.envs.grounded import BoolArray, Float32Array, Int32Array
from world.field import NUM_AGE_BUCKETS, Uint16Array, age_buckets
from world.model.memory.episodic import ITEM_SIZE, NUM_NEAR, EpisodicMemory, experiences, spots
from world.model.memory.interface import Memory, Trace

NUM_COLUMNS = ITEM_SIZE + 4
"""F: the item, its age bucket, its place relative to the agent (y, x), and whether there is one."""


def recall(memory: Memory, poses: Int32Array, tick: int, count: int, *, has_pose: bool) -> Int32Array:
    """Return what agents at poses (A, 2) recall at a tick: (A, M, F), zeros where there are fewer than `count`."""
    recalled = np.zeros((len(poses), count, NUM_COLUMNS), np.int32)
    memory.update(tick)
    for agent, spot in enumerate(spots(poses, has_pose=has_pose)):
        for slot, trace in enumerate(memory.retrieve(spot, count)):
            recalled[agent, slot] = _row(trace, spot.y, spot.x, tick)
    return recalled


def recalled_in_order(
    newest: Uint16Array,
    poses: Int32Array,
    actions: Int32Array,
    rewards: Float32Array,
    is_first: BoolArray,
    *,
    count: int,
    asked: BoolArray,
    has_pose: bool,
) -> Int32Array:
    """Live through L consecutive ticks of one world, and return what its agents recall before each: (L, A, M, F).

    Windows (L, A, H, W), poses (L, A, 2), actions and rewards (L, A), is_first (L,). Where an episode begins, all is
    forgotten. Ticks that are not `asked` (L,) are lived through, and their rows stay zero.
    """
    recalled = np.zeros((*actions.shape, count, NUM_COLUMNS), np.int32)
    memory = EpisodicMemory()
    for tick in range(len(actions)):
        if is_first[tick]:
            memory = EpisodicMemory()
        if asked[tick]:
            recalled[tick] = recall(memory, poses[tick], tick, count, has_pose=has_pose)
        items = experiences(newest[tick], actions[tick], rewards[tick])
        for item, spot in zip(items, spots(poses[tick], has_pose=has_pose), strict=True):
            memory.write(item, spot, tick)
    return recalled


def _row(trace: Trace, y: int, x: int, tick: int) -> list[int]:
    age = int(age_buckets(np.array([trace.tick], np.int32), tick)[0])
    return [*trace.item.tolist(), age, trace.place.y - y, trace.place.x - x, 1]


class RecallSlots(nn.Module):
    """Embeds recalled items with the tables that cells and actions have; an empty slot is zero."""

    def __init__(self, token_width: int, width: int) -> None:
        super().__init__()
        self.near = nn.Linear(NUM_NEAR * token_width, width)
        self.given = nn.Embedding(3, width)
        self.age = nn.Embedding(NUM_AGE_BUCKETS, width)
        nn.init.normal_(self.given.weight, std=0.3)
        nn.init.normal_(self.age.weight, std=0.3)

    def forward(self, recalled: Tensor, tokens: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return slots (N, M, D) and places (N, M, 2) of recalled (N, M, F), with the tables of tokens and actions."""
        near, action, given, age = recalled[..., :NUM_NEAR], *recalled[..., NUM_NEAR : ITEM_SIZE + 1].unbind(-1)
        embedded = self.near(tokens[near].flatten(-2)) + actions[action] + self.given(given) + self.age(age)
        return embedded * recalled[..., -1:], recalled[..., -3:-1]


def nothing_recalled(batch: int, agents: int) -> NDArray[np.int64]:
    """Return the recalled items (B, A, 0, F) of a model that has no slots for any."""
    return np.zeros((batch, agents, 0, NUM_COLUMNS), np.int64)
