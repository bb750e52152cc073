"""One tick of dreamed worlds: the model advances them, agents and all, as one batch.

Axes: B worlds, A agents, N = B·A windows, H × W cells, P = H·W, S status cells, U actions, V tokens.

All randomness comes from uniform draws keyed by (world's seed, tick): a repeated tick is the same tick, and no
generator has to be kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world.envs.grounded import BoolArray, Float32Array, Int32Array, Uint8Array
from world.errors import ConfigError
from world.field import Uint16Array
from world.model.query import Query
from world.model.slots import Slots
from world.model.world_model import WorldModel
from world.trajectory import ELSEWHERE, NUM_DISPLACEMENTS, STAY
from world.window import owners, unmerged

DrawArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class DreamConfig:
    """How outcomes are sampled."""

    passes: int = 1
    """K: unmasking passes; each reveals a share of the cells, spread evenly, and the next ones see it."""
    temperature: float = 1.0
    """Of cells and displacements. 0: the most likely."""
    least_chance: float = 0.0
    """Of a token, below which it is never drawn: what a network believes of a thousand impossible tokens adds up."""

    def __post_init__(self) -> None:
        if not 1 <= self.passes <= 16:
            raise ConfigError(f"dream.passes must lie in 1 … 16, got {self.passes}")
        if not 0.0 <= self.temperature <= 2.0:
            raise ConfigError(f"dream.temperature must lie in [0, 2], got {self.temperature}")
        if not 0.0 <= self.least_chance <= 0.5:
            raise ConfigError(f"dream.least_chance must lie in [0, 0.5], got {self.least_chance}")


@dataclass(frozen=True, slots=True)
class Dreamt:
    """What a joint action led to, over worlds (B, A, …)."""

    actions: Int32Array
    displacement: Uint8Array
    tokens: Uint16Array
    """(B, A, H, W) cells of the windows, one truth for cells that several windows share."""
    status: Uint16Array
    """(B, A, S)"""
    rewards: Float32Array
    terminated: BoolArray


def draws_for(seeds: Sequence[int], tick: Sequence[int], count: int) -> DrawArray:
    """Return uniform draws (B, count) in [0, 1), by counter: equal for equal (seed, tick)."""
    return np.stack(
        [
            # As uint64: numpy makes a list that holds a number beyond 2^63 into floats, and seeds would collide.
            np.random.Generator(np.random.Philox(key=np.array([seed & (2**64 - 1), at], np.uint64))).random(
                count, np.float32
            )
            for seed, at in zip(seeds, tick, strict=True)
        ]
    )


class Dreamer:
    """Samples ticks from a world model."""

    def __init__(self, model: WorldModel, config: DreamConfig) -> None:
        self._model, self._config = model, config

    def _draw(self, logits: Tensor, draws: Tensor) -> Tensor:
        config = self._config
        return _sample(logits, draws, temperature=config.temperature, least_chance=config.least_chance)

    @torch.inference_mode()
    def tick(
        self, slots: Slots, seeds: Sequence[int], ticks: Sequence[int], actions: Int32Array | None = None
    ) -> Dreamt:
        """Advance worlds by one tick. Without `actions` (B, A), or where one is negative, the learned policy acts.

        Order: actions, displacements given actions, cells given displacements.
        """
        model, passes = self._model, self._config.passes
        has_pose = model.dynamics.has_pose
        batch, agents, height, width = slots.tokens.shape[:4]
        cells, num_status = height * width, slots.status.shape[2]
        per_agent = 4 + num_status + cells
        draws = torch.from_numpy(draws_for(seeds, ticks, agents * per_agent)).view(batch, agents, per_agent)
        poses = slots.poses.numpy().astype(np.int32)
        merged = owners(poses, height, width) if has_pose else unmerged(batch, agents, height, width)
        merge = torch.from_numpy(np.array(merged[1])).flatten(1)

        answer = model.answer(Query(slots))
        wanted = None if actions is None else torch.from_numpy(actions.astype(np.int64))
        if wanted is None or (wanted < 0).any():
            own = _sample(answer.log_policy(), draws[..., 0])
            chosen = own if wanted is None else torch.where(wanted < 0, own, wanted)
        else:
            chosen = wanted
        answer = answer.given(actions=chosen)
        # On a map nobody sees beyond the window they were in; on a screen there is no place to go to.
        classes = torch.arange(NUM_DISPLACEMENTS)
        impossible = classes == ELSEWHERE if has_pose else classes != STAY
        moves = answer.displacement_logits().float().masked_fill(impossible, float("-inf"))
        displacement = self._draw(moves, draws[..., 1])
        answer = answer.given(displacement=displacement)
        # Shared cells have one place, so they are revealed in one pass; and one draw, their owner's.
        turn = reveal_order(slots.poses, height, width, passes, draws[:, 0, 3])
        chance = draws[..., 4 + num_status :].flatten(1)
        given = torch.full((batch, agents * cells), model.mask)
        for number in range(passes):
            if number:
                answer = answer.given(tokens=given.view(batch, agents, height, width))
            sampled = self._draw(answer.token_logits().flatten(1, 3), chance).gather(1, merge)
            given = torch.where(turn.flatten(1) == number, sampled, given)
        status = self._draw(answer.status_logits(), draws[..., 4 : 4 + num_status])
        ends = torch.sigmoid(answer.continuation_logits().float()) < draws[..., 2]
        return Dreamt(
            actions=chosen.numpy().astype(np.int32),
            displacement=displacement.numpy().astype(np.uint8),
            tokens=given.view(batch, agents, height, width).numpy().astype(np.uint16),
            status=status.numpy().astype(np.uint16),
            rewards=model.reward.mean(answer.reward_logits()).numpy().astype(np.float32),
            terminated=ends.numpy(),
        )


def reveal_order(poses: Tensor, height: int, width: int, passes: int, draw: Tensor) -> Tensor:
    """Return the pass (B, A, H, W) in which each cell is revealed: neighbours in different ones, by world coordinates.

    Cells are coloured by row + 2·column modulo K (row + column for K = 2), so that of two cells next to each other in
    a row or column never both are drawn blindly: what moves from one to the other is drawn once. Which colour comes
    first is drawn (B,) anew at every tick.
    """
    grid = torch.cartesian_prod(torch.arange(height) - height // 2, torch.arange(width) - width // 2)
    places = poses[:, :, None] + grid
    colour = places[..., 0] + (2 if passes > 2 else 1) * places[..., 1]
    revealed = (colour + (draw * passes).long()[:, None, None]) % passes
    return revealed.view(*poses.shape[:2], height, width)


def _sample(logits: Tensor, draws: Tensor, *, temperature: float = 1.0, least_chance: float = 0.0) -> Tensor:
    """Return indices (…) from logits (…, V) by inverting their distribution at draws (…)."""
    if not logits.numel():
        return torch.zeros(draws.shape, dtype=torch.int64)
    if temperature == 0.0:
        return logits.argmax(-1)
    chances = torch.softmax(logits.float() / temperature, dim=-1)
    if least_chance:
        likeliest = chances.amax(-1, keepdim=True)
        chances = chances.masked_fill(chances < torch.clamp(likeliest, max=least_chance), 0.0)
    cumulative = chances.cumsum(-1)
    # Scaled by the last sum, which is a little beside 1 by rounding, so that no draw falls off the end.
    return torch.searchsorted(cumulative, (draws * cumulative[..., -1])[..., None], right=True)[..., 0].clamp(
        max=logits.shape[-1] - 1
    )
