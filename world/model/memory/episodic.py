"""Episodic memory: what was met, word for word, found again by place and recency.

It beats a recurrence where one thing of many, long ago, decides; and it does not go stale under new weights, since
tokens are kept and not vectors. Not hosted: what it holds is not committed with a tick, so only learning and judging
use it (`learner.memory_bench`).

Axes: A agents, H × W cells of a window, k retrieved.
"""

import numpy as np

from world.envs.grounded import Int32Array
from world.errors import ConfigError, CorruptRecord
from world.field import MAP, SCREEN, Uint16Array
from world.model.memory.interface import Item, Spot, Trace, packed, unpacked

NUM_NEAR = 9
ITEM_SIZE = NUM_NEAR + 2
"""Numbers of an item: the tokens of the cells next to an agent and its own, what it did, and what that gave."""
NOTHING, GAIN, LOSS = range(3)
"""What an action gave."""
_LEAST_REWARD = 0.05
_REWARD_TICKS = 256
"""A reward makes an item worth as much as one that is so many ticks younger."""


class EpisodicMemory:
    """The last things met in a world, each once: what is met again as it was, at the same place, is only newer."""

    def __init__(self, capacity: int = 512) -> None:
        if capacity < 1:
            raise ConfigError(f"episodic memory holds >= 1 items, got {capacity}")
        self._capacity, self._tick = capacity, 0
        self._kept: dict[tuple[Spot, bytes], int] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def write(self, item: Item, place: Spot, tick: int) -> None:
        """Keep an item (11,); beyond the capacity, what is worth least goes."""
        assert item.shape == (ITEM_SIZE,), f"an item has {ITEM_SIZE} numbers, got {item.shape}"
        self._kept[place, item.astype("<u2").tobytes()] = tick
        self._tick = max(self._tick, tick)
        if len(self._kept) > self._capacity:
            del self._kept[min(self._kept, key=self._worth)]

    def retrieve(self, query: Spot, k: int) -> list[Trace]:
        """Return what was met nearest and latest: a doubling of its age counts as much as a cell of distance.

        On a screen there is no distance, and an agent has only what it met itself.
        """
        if query.layer == SCREEN:
            near = [entry for entry in self._kept if entry[0] == query]
        else:
            near = [entry for entry in self._kept if entry[0].layer == MAP]

        def cost(entry: tuple[Spot, bytes]) -> tuple[int, int, Spot, bytes]:
            place, tick = entry[0], self._kept[entry]
            age = max(self._tick - tick, 0)
            return abs(place.y - query.y) + abs(place.x - query.x) + (age + 1).bit_length(), -tick, *entry

        return [Trace(np.frombuffer(e[1], "<u2").copy(), e[0], self._kept[e]) for e in sorted(near, key=cost)[:k]]

    def update(self, tick: int) -> None:
        """Tell that it is this tick now."""
        self._tick = tick

    def forget(self, budget: int) -> None:
        """Give up items, old ones without a reward first."""
        for entry in sorted(self._kept, key=self._worth):
            if self.bits() <= budget:
                return
            del self._kept[entry]

    def state(self) -> bytes:
        """Return all items in order of age."""
        entries = sorted(self._kept, key=lambda entry: (self._kept[entry], *entry))
        return packed(
            {
                "places": np.array([place for place, _ in entries], "<i4").reshape(-1, 3),
                "ticks": np.array([self._kept[entry] for entry in entries], "<i4"),
                "items": np.frombuffer(b"".join(item for _, item in entries), "<u2").reshape(-1, ITEM_SIZE),
            }
        )

    def load(self, state: bytes) -> None:
        """Become what was saved. Raises `CorruptRecord`."""
        arrays = unpacked(state)
        shapes = {name: array.shape for name, array in arrays.items()}
        count = len(arrays.get("ticks", ()))
        if shapes != {"places": (count, 3), "ticks": (count,), "items": (count, ITEM_SIZE)} or count > self._capacity:
            raise CorruptRecord(f"memory: arrays {shapes} are not those of at most {self._capacity} items")
        rows = zip(arrays["places"].tolist(), arrays["items"], arrays["ticks"].tolist(), strict=True)
        self._kept = {(Spot(*place), item.astype("<u2").tobytes()): tick for place, item, tick in rows}
        self._tick = max(self._kept.values(), default=0)

    def bits(self) -> int:
        """Return the size of `state()`."""
        return 8 * len(self.state())

    def _worth(self, entry: tuple[Spot, bytes]) -> tuple[int, Spot, bytes]:
        given = entry[1][-2:] != NOTHING.to_bytes(2, "little")
        return self._kept[entry] + _REWARD_TICKS * given, *entry


def experiences(newest: Uint16Array, actions: Int32Array, rewards: np.ndarray) -> Uint16Array:
    """Return the items (A, 11) of agents with windows (A, H, W) of tokens, actions (A,) and rewards (A,)."""
    height, width = newest.shape[1:]
    y, x = max(height // 2 - 1, 0), max(width // 2 - 1, 0)
    near = newest[:, y : y + 3, x : x + 3].reshape(len(newest), -1)
    near = np.pad(near, ((0, 0), (0, NUM_NEAR - near.shape[1])))
    gave = np.where(rewards >= _LEAST_REWARD, GAIN, np.where(rewards <= -_LEAST_REWARD, LOSS, NOTHING))
    return np.concatenate([near, actions[:, None], gave[:, None]], axis=1).astype(np.uint16)


def spots(poses: Int32Array, *, has_pose: bool) -> list[Spot]:
    """Return where agents at poses (A, 2) are: in the world, or, without poses, each on its own screen."""
    if has_pose:
        return [Spot(MAP, y, x) for y, x in poses.tolist()]
    return [Spot(SCREEN, agent, 0) for agent in range(len(poses))]
