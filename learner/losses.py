"""Losses: one masked cross-entropy over every slot that is asked for, and imitation for the policy.

Axes: R = B·L rows of a batch, A agents, N = R·A windows, P = H·W cells, S status cells, D memory.
"""

import math
from dataclasses import asdict, dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from learner.batches import Batch
from learner.error_bank import ErrorBank
from world.envs.grounded import NOWHERE
from world.errors import ConfigError
from world.field import UNSEEN
from world.model.query import Answer, Query
from world.model.slots import Slots
from world.model.world_model import WorldModel

_ASKED_MULTIPLE = 1024
_MOST_SIZES = 16
_DRAWN = 512
"""Cells at which errors are looked for in one step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Weights of the parts; each part is a mean over what it asks."""

    cells: float = 8.0
    """Of a mean over some hundred cells, of which few change: were it as loud as a displacement, they would be learned
    late."""
    unseen: float = 0.1
    """Of a cell that nobody had seen, against 1 of a known one: it cannot be known, and must not crowd out what can."""
    displacement: float = 1.0
    status: float = 1.0
    """Of an agent's whole status."""
    reward: float = 1.0
    """Rare, and an agent has one where it has a hundred cells."""
    continuation: float = 0.2
    action: float = 0.1
    policy: float = 0.1

    def __post_init__(self) -> None:
        for name, weight in asdict(self).items():
            if not 0.0 <= weight < math.inf:
                raise ConfigError(f"loss.{name} must be >= 0 and finite, got {weight}")


def cells_asked(model: WorldModel, batch: Batch) -> Tensor:
    """Return flat indices (M,) of the cells that are asked for and were observed, then -1 up to one of few sizes.

    For each new size oneDNN would build, and keep, a kernel of its own, and a compiler a program.
    """
    hidden = batch.given_tokens.flatten() == model.mask
    asked = (hidden & (batch.next_tokens.flatten() > 0)).nonzero()[:, 0]
    multiple = max(_ASKED_MULTIPLE, len(hidden) // _MOST_SIZES)
    return F.pad(asked, (0, -len(asked) % multiple), value=-1)


def world_model_loss(
    model: WorldModel,
    batch: Batch,
    config: LossConfig,
    errors: ErrorBank | None = None,
    asked: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the scalar parts of the loss by name, and their weighted sum as `total`.

    With a bank of `errors`, some of the wrong tokens that the model would draw are noted there. `asked` is what
    `cells_asked` gives; told beforehand, all that is left to do has shapes that a compiler knows.
    """
    asked = cells_asked(model, batch) if asked is None else asked
    slots = replace(batch.slots, memory=_scanned_memory(model, batch))
    answer = model.answer(
        Query(slots, batch.given_actions, batch.given_displacement, batch.given_tokens, batch.given_status)
    )
    here = _here(batch)
    parts = {
        "cells": _cells_loss(answer, batch, asked, config, errors),
        "displacement": _mean(_surprise(answer.displacement_logits(), batch.displacement), here),
        "status": _status_loss(answer, batch),
        "reward": _mean(model.reward.loss(answer.reward_logits(), batch.rewards), here),
        "continuation": _mean(model.continuation.loss(answer.continuation_logits(), batch.terminated), here),
        "action": _action_loss(model, answer, batch),
        "policy": _imitation_loss(answer.log_policy(), batch),
    }
    total = torch.stack([getattr(config, name) * part for name, part in parts.items()]).sum()
    return {**parts, "total": total}


def _scanned_memory(model: WorldModel, batch: Batch) -> Tensor:
    """Return memory (R, A, D) before every tick, run forward from what the host had at the first tick of the past."""
    past = batch.past
    own = _evidence_by_agent(model, batch.slots, batch.actions, batch.rewards, batch.is_first)
    before = _evidence_by_agent(model, past.slots, past.actions, past.rewards, past.is_first)
    began = past.slots if past.is_first.numel() else batch.slots
    started = began.memory.view(len(batch.is_first), -1, *began.memory.shape[1:])[:, 0]
    is_first = torch.cat([past.is_first, batch.is_first], dim=1)[:, None].expand(-1, own.shape[1], -1)
    scanned = model.memory.scan(started, torch.cat([before, own], dim=2), is_first)
    return scanned[:, :, past.is_first.shape[1] :].transpose(1, 2).flatten(0, 1)


def _evidence_by_agent(model: WorldModel, slots: Slots, actions: Tensor, rewards: Tensor, is_first: Tensor) -> Tensor:
    """Return the evidence (B, A, L, E) of rows (B·L, A, …)."""
    evidence = model.evidence(slots, actions, rewards)
    return evidence.view(*is_first.shape, *evidence.shape[1:]).transpose(1, 2)


def _cells_loss(answer: Answer, batch: Batch, asked: Tensor, config: LossConfig, errors: ErrorBank | None) -> Tensor:
    is_asked, cells = asked >= 0, asked.clamp(min=0)
    target = torch.where(is_asked, batch.next_tokens.flatten()[cells], 1)
    logits = answer.token_logits(cells)
    losses = F.cross_entropy(logits, target, reduction="none")
    known = (batch.slots.tokens[..., 0].flatten()[cells] > 0) & is_asked
    if errors is not None:
        _note_errors(logits.detach(), target, known, errors)
    weighted = losses * torch.where(known, 1.0, config.unseen) * is_asked
    return weighted.sum() / known.sum().clamp(min=1)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _note_errors(logits: Tensor, target: Tensor, known: Tensor, errors: ErrorBank) -> None:
    """Draw at some cells (M,) that were known, from logits (M, V), and note what is not the target (M,)."""
    # A step whose numbers are none is left out as a whole, later.
    candidates = (known & logits.amax(-1).isfinite()).nonzero()[:, 0]
    if not len(candidates):
        return
    generator = torch.Generator().manual_seed(errors.num_noted)
    chosen = candidates[torch.randint(len(candidates), (_DRAWN,), generator=generator).to(candidates.device)]
    drawn = torch.multinomial(torch.softmax(logits[chosen].float(), -1).cpu(), 1, generator=generator)[:, 0]
    errors.note(drawn.numpy(), target[chosen].cpu().numpy())


def _status_loss(answer: Answer, batch: Batch) -> Tensor:
    """Negative log-likelihood of each agent's whole status: one that changes is rare, and is not to be outvoted."""
    if not batch.next_status.numel():
        return batch.rewards.new_zeros(())
    observed = batch.next_status != UNSEEN
    losses = _surprise(answer.status_logits(), batch.next_status.clamp(min=1)) * observed
    return _mean(losses.sum(-1), observed.any(-1))


def _action_loss(model: WorldModel, answer: Answer, batch: Batch) -> Tensor:
    """Inverse dynamics: negative log-likelihood of the actions that were asked for."""
    asked = (batch.given_actions == model.dynamics.unknown_action) & _here(batch)
    return _mean(_surprise(answer.action_logits(), batch.actions), asked * batch.weights[:, None])


def _imitation_loss(log_policy: Tensor, batch: Batch) -> Tensor:
    """Negative log-likelihood of the actions taken, where the next state was not given away."""
    losses = F.nll_loss(log_policy.flatten(0, 1), batch.actions.flatten(), reduction="none").view_as(batch.actions)
    return _mean(losses, (batch.nothing_given[:, None] & _here(batch)) * batch.weights[:, None])


def _here(batch: Batch) -> Tensor:
    """Return which agents (R, A) have not left."""
    return batch.slots.poses[..., 0] != NOWHERE


def _surprise(logits: Tensor, target: Tensor) -> Tensor:
    """Return the negative log-likelihood (…) of targets (…) under logits (…, V)."""
    return F.cross_entropy(logits.float().flatten(0, -2), target.flatten(), reduction="none").view_as(target)


def _mean(losses: Tensor, among: Tensor) -> Tensor:
    """Return the mean of those losses (…) that are among what is asked (…), or weigh as much: of nobody who has left,
    for one.
    """
    return (losses * among).sum() / among.sum().clamp(min=1)
