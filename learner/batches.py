"""Batches: sampled sequences of transitions, as tensors with the slots that are asked for masked.

Axes: B sequences, L ticks, A agents, H × W cells of a window, S status cells, D memory. Where a batch is folded,
the first axis is B·L rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world.errors import ConfigError
from world.field import NOW, UNSEEN
from world.model.dynamics import NUM_IDENTITIES
from world.model.memory.recall import recalled_in_order
from world.model.slots import UNKNOWN_DISPLACEMENT, Slots


@dataclass(frozen=True, slots=True)
class Past:
    """Rows (B·C, A, …) of C ticks before each sequence, of which nothing is asked: recurrent memory is run over them.

    `memory` of its slots is that of the first of these ticks, repeated. C may be 0.
    """

    slots: Slots
    actions: Tensor
    rewards: Tensor
    is_first: Tensor
    """(B, C)"""

    def to(self, device: torch.device) -> "Past":
        """Return the same past on another device."""
        return replace(self, **{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows (B·L, A, …) of what was known, done and followed."""

    past: Past
    slots: Slots
    """`memory` here is that of each sequence's first tick, repeated; the loss replaces it by scanning."""
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    displacement: Tensor
    next_tokens: Tensor
    next_status: Tensor
    is_first: Tensor
    """(B, L)"""
    given_tokens: Tensor
    """(B·L, A, H, W) the next token, or MASK."""
    given_status: Tensor
    """(B·L, A, S)"""
    given_displacement: Tensor
    """(B·L, A)"""
    given_actions: Tensor
    """(B·L, A) the action, or that it is asked for."""
    nothing_given: Tensor
    """(B·L,) rows in which all that follows is asked for: the only ones from which a policy may learn."""
    weights: Tensor
    """(B·L,) float32: what each row weighs where its action is asked for; less, the more often such rows are drawn."""

    @property
    def num_items(self) -> int:
        """Agent-ticks."""
        return int(self.actions.numel())

    def to(self, device: torch.device) -> "Batch":
        """Return the same batch on another device."""
        return replace(self, **{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskingConfig:
    """What training asks for."""

    fully_masked: float = 0.7
    """Share of rows in which everything is asked for, as in one-pass sampling."""
    hide_displacement: float = 0.1
    """Share of agents whose displacement is not given while status and cells are asked for; and as many, drawn anew,
    whose status is not given while cells are."""
    ask_actions: float = 0.1
    """Share of rows in which what follows is mostly given, and each agent's action asked for by the toss of a coin."""
    forget: float = 0.15
    """Share of rows of maps in which, on some sides, only what is in view is known. What worlds that were lived in for
    long do not know is hardly ever land; a model that knew no others would wall up whoever explores a young one."""

    def __post_init__(self) -> None:
        for name in ("fully_masked", "hide_displacement", "ask_actions", "forget"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"masking.{name} must lie in [0, 1], got {getattr(self, name)}")


def make_batch(
    columns: Mapping[str, NDArray[np.generic]],
    *,
    mask: int,
    unknown_action: int,
    config: MaskingConfig,
    rng: np.random.Generator,
    past_ticks: int = 0,
    num_recalled: int = 0,
    has_pose: bool = True,
) -> Batch:
    """Fold columns (B, C + L, A, …) of `Transitions`, of which the first C are past, and draw identities and masks.

    Where the model has slots for `num_recalled` items, what an episodic memory brings back is found by living through
    the sequences. Without a column of `weights` every row weighs the same, without one of `dreamed` all was seen.
    """
    recalled = _recalled(columns, past_ticks, num_recalled, has_pose=has_pose) if num_recalled else None
    past = {name: column[:, :past_ticks] for name, column in columns.items()}
    columns = {name: column[:, past_ticks:] for name, column in columns.items()}
    if has_pose:
        columns |= _forgotten(columns["tokens"], columns["ages"], config.forget, rng)
    batch, ticks, agents = columns["actions"].shape
    identity = np.stack([rng.permutation(NUM_IDENTITIES)[:agents] for _ in range(batch)])
    slots = _slots(columns, identity, recalled)
    next_tokens, next_status = _long(columns["next_tokens"]), _long(columns["next_status"])
    displacement = _long(columns["displacement"])
    rows = batch * ticks
    rate = torch.from_numpy(np.cos(np.pi / 2 * rng.random(rows)))
    rate[torch.from_numpy(rng.random(rows) < config.fully_masked)] = 1.0
    inverse = rng.random(rows) < config.ask_actions
    rate[torch.from_numpy(inverse)] *= 0.3 * torch.from_numpy(rng.random(int(inverse.sum())))
    actions = _long(columns["actions"])
    # By the toss of a coin, so that some know what the others did; and where one went often tells what it did.
    unasked = torch.from_numpy(~inverse[:, None] | (rng.random((rows, agents)) < 0.5))
    hidden = np.where(inverse, 0.5, config.hide_displacement)[:, None]
    hide, hide_status = (torch.from_numpy(rng.random((rows, agents)) < hidden) for _ in range(2))
    return Batch(
        past=Past(
            slots=_slots(past, identity),
            actions=_long(past["actions"]),
            rewards=torch.from_numpy(np.array(_fold(past["rewards"]), np.float32)),
            is_first=torch.from_numpy(np.array(past["is_first"], np.bool_)),
        ),
        slots=slots,
        actions=actions,
        rewards=torch.from_numpy(np.array(_fold(columns["rewards"]), np.float32)),
        terminated=torch.from_numpy(np.array(_fold(columns["terminated"]), np.bool_)),
        displacement=displacement,
        next_tokens=next_tokens,
        next_status=next_status,
        is_first=torch.from_numpy(np.array(columns["is_first"], np.bool_)),
        given_tokens=_hide(next_tokens, rate, mask, rng),
        given_status=torch.where(hide_status[..., None] | (next_status == UNSEEN), mask, next_status),
        given_displacement=torch.where(hide, UNKNOWN_DISPLACEMENT, displacement),
        given_actions=torch.where(unasked, actions, unknown_action),
        nothing_given=rate == 1.0,
        weights=_weights(columns, rows),
    )


def _forgotten(
    tokens: NDArray[Any], ages: NDArray[Any], share: float, rng: np.random.Generator
) -> dict[str, NDArray[np.generic]]:
    """Return tokens (B, L, A, H, W, K) and ages of which a share of rows forgets what nobody sees at this tick.

    A row forgets all four sides of its windows, or some: those who come from somewhere know what lies behind them.
    """
    height, width = tokens.shape[3:5]
    y, x = np.mgrid[:height, :width] - np.array([height // 2, width // 2]).reshape(2, 1, 1)
    side = np.where(abs(y) >= abs(x), 2 * (y > 0), 2 * (x > 0) + 1)
    forgets = (rng.random((*tokens.shape[:2], 4)) < 0.5) & (rng.random((*tokens.shape[:2], 1)) < share)
    hidden = (forgets[:, :, None, side] & (ages[..., -1] != NOW))[..., None]
    return {"tokens": np.where(hidden, UNSEEN, tokens), "ages": np.where(hidden, 0, ages)}


def _weights(columns: Mapping[str, NDArray[Any]], rows: int) -> Tensor:
    given = columns.get("weights")
    return torch.ones(rows) if given is None else torch.from_numpy(np.array(_fold(given), np.float32))


def _recalled(
    columns: Mapping[str, NDArray[Any]], past_ticks: int, count: int, *, has_pose: bool
) -> NDArray[np.integer]:
    """Return what is recalled before each tick that is asked for: (B·L, A, M, F)."""
    asked = np.arange(columns["actions"].shape[1]) >= past_ticks
    lived = [
        recalled_in_order(
            columns["tokens"][sequence, ..., 0],
            columns["poses"][sequence],
            columns["actions"][sequence],
            columns["rewards"][sequence],
            columns["is_first"][sequence],
            count=count,
            asked=asked,
            has_pose=has_pose,
        )
        for sequence in range(len(columns["actions"]))
    ]
    return _fold(np.stack(lived)[:, past_ticks:])


def _slots(
    columns: Mapping[str, NDArray[np.generic]],
    identity: NDArray[np.integer],
    recalled: NDArray[np.integer] | None = None,
) -> Slots:
    """Fold what was known in columns (B, L, A, …), under identities (B, A) that hold throughout."""
    return Slots.from_arrays(
        **{name: _fold(columns[name]) for name in ("tokens", "ages", "status", "poses", "turns", "events")},
        memory=_fold(np.broadcast_to(columns["memory"][:, :1], columns["memory"].shape)),
        identity=_fold(np.broadcast_to(identity[:, None], columns["actions"].shape)),
        dreamed=_fold(columns["dreamed"]) if "dreamed" in columns else None,
        recalled=recalled,
    )


def _hide(known: Tensor, rate: Tensor, mask: int, rng: np.random.Generator) -> Tensor:
    """Replace by `mask` a share `rate` (rows,) of known (rows, …), and whatever nobody observed."""
    drawn = torch.from_numpy(rng.random(known.shape, dtype=np.float32))
    hidden = drawn < rate.view(-1, *[1] * (known.dim() - 1))
    return torch.where(hidden | (known == 0), mask, known)


def _fold(column: NDArray[Any]) -> NDArray[Any]:
    # Not -1: a screen has no status, and an array of nothing does not say how many rows it has.
    return column.reshape(column.shape[0] * column.shape[1], *column.shape[2:])


def _long(column: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.asarray(_fold(column), np.int64))
