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
from world.model.slots import Slots
from world.model.world_model import WorldModel
from world.trajectory import ELSEWHERE, NUM_DISPLACEMENTS, STAY
from world.window import owners, unmerged

DrawArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class DreamConfig:
    """How outcomes are sampled."""

    passes: int = 1
    """K: unmasking passes; each reveals a random share of the cells, and the next ones see it."""
    temperature: float = 1.0
    """Of cells and displacements. 0: the most likely."""

    def __post_init__(self) -> None:
        if not 1 <= self.passes <= 16:
            raise ConfigError(f"dream.passes must lie in 1 … 16, got {self.passes}")
        if not 0.0 <= self.temperature <= 2.0:
            raise ConfigError(f"dream.temperature must lie in [0, 2], got {self.temperature}")


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

    @torch.inference_mode()
    def tick(
        self, slots: Slots, seeds: Sequence[int], ticks: Sequence[int], actions: Int32Array | None = None
    ) -> Dreamt:
        """Advance worlds by one tick. Without `actions` (B, A), or where one is negative, the learned policy acts.

        Order: actions, displacements given actions, cells given displacements.
        """
        model, passes = self._model, self._config.passes
        dynamics = model.dynamics
        batch, agents, height, width = slots.tokens.shape[:4]
        cells, num_status = height * width, slots.status.shape[2]
        per_agent = 3 + num_status + 2 * cells
        draws = torch.from_numpy(draws_for(seeds, ticks, agents * per_agent)).view(batch, agents, per_agent)
        poses = slots.poses.numpy().astype(np.int32)
        merged = owners(poses, height, width) if dynamics.has_pose else unmerged(batch, agents, height, width)
        merge = torch.from_numpy(np.array(merged[1])).flatten(1)

        given = torch.full((batch, agents, height, width), model.mask)
        given_status = torch.full((batch, agents, num_status), model.mask)
        encoded = dynamics.encode(slots, given, given_status)
        wanted = None if actions is None else torch.from_numpy(actions.astype(np.int64))
        if wanted is None or (wanted < 0).any():
            log_policy = model.policy(*model.behaviour_inputs(encoded)).unflatten(0, (batch, agents))
            own = _sample(log_policy, draws[..., 0], 1.0)
            chosen = own if wanted is None else torch.where(wanted < 0, own, wanted)
        else:
            chosen = wanted
        acted = dynamics.act(encoded, chosen)
        moves = dynamics.displacement_logits(acted).float()
        # On a map nobody sees beyond the window they were in; on a screen there is no place to go to.
        classes = torch.arange(NUM_DISPLACEMENTS)
        moves = moves.masked_fill(classes == ELSEWHERE if dynamics.has_pose else classes != STAY, float("-inf"))
        displacement = _sample(moves, draws[..., 1], self._config.temperature)
        outcome = dynamics.outcome(acted, displacement)
        # A cell is revealed in the pass that its draw falls into; shared cells have one draw, their owner's.
        turn = draws[..., 3 + num_status + cells :].flatten(1).gather(1, merge) * passes
        chance = draws[..., 3 + num_status : 3 + num_status + cells].flatten(1)
        for number in range(passes):
            if number:
                encoded = dynamics.encode(slots, given, given_status)
                outcome = dynamics.outcome(dynamics.act(encoded, chosen), displacement)
            logits = dynamics.token_logits(outcome).view(batch, agents * cells, -1)
            sampled = _sample(logits, chance, self._config.temperature).gather(1, merge)
            reveal = (turn < number + 1) & (given.flatten(1) == model.mask)
            given = torch.where(reveal, sampled, given.flatten(1)).view_as(given)
        rewards, continuations = model.agent_answers(outcome)
        status = _sample(
            dynamics.status_logits(outcome).view(batch, agents, num_status, model.mask),
            draws[..., 3 : 3 + num_status],
            self._config.temperature,
        )
        ends = torch.sigmoid(continuations.float()).view(batch, agents) < draws[..., 2]
        return Dreamt(
            actions=chosen.numpy().astype(np.int32),
            displacement=displacement.numpy().astype(np.uint8),
            tokens=given.numpy().astype(np.uint16),
            status=status.numpy().astype(np.uint16),
            rewards=model.reward.mean(rewards).view(batch, agents).numpy().astype(np.float32),
            terminated=ends.numpy(),
        )


def _sample(logits: Tensor, draws: Tensor, temperature: float) -> Tensor:
    """Return indices (…) from logits (…, V) by inverting their distribution at draws (…)."""
    if not logits.numel():
        return torch.zeros(draws.shape, dtype=torch.int64)
    if temperature == 0.0:
        return logits.argmax(-1)
    cumulative = torch.softmax(logits.float() / temperature, dim=-1).cumsum(-1)
    # Scaled by the last sum, which rounding leaves a little beside 1, so that no draw falls off the end.
    return torch.searchsorted(cumulative, (draws * cumulative[..., -1])[..., None], right=True)[..., 0].clamp(
        max=logits.shape[-1] - 1
    )
