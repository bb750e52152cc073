"""The other questions to the same weights: which action it was, what nobody has seen, what a half view tells.

Axes: T ticks, A agents, H × W cells, S status cells, V tokens, U actions.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from world.envs.grounded import BoolArray, gone
from world.evaluation.foretell import bits_of, slots_of
from world.evaluation.metrics import FloatArray, MetricRow, Scores, mean_of, row_of, share_row
from world.evaluation.one_step import HeldOut, merged_once, without_memory
from world.field import UNSEEN, IntpArray, Uint16Array
from world.model.query import Query
from world.model.world_model import WorldModel
from world.trajectory import Transitions

_ROWS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Told:
    """What was found at each tick."""

    inverse: BoolArray
    """(T, A) whether the action was named rightly."""
    fill: FloatArray
    """(T, 2) bits of cells that nobody had seen and somebody then saw, and their number."""
    gain: FloatArray
    """(T, 2) bits that half of a view saves on known cells of the other half, and ticks of agents."""


def question_scores(model: WorldModel, held_out: HeldOut, *, seed: int = 0) -> Scores:
    """Return `inverse_accuracy`, `fill_bits` (of a cell) and `filter_gain_bits` (of an agent-tick) on held-out ticks.

    Copy-last stands for who is not asked: it names the commonest action, fills by how common tokens are among cells
    that were seen for the first time in the other worlds, and learns nothing of one half of a view from the other.

    No memory knows what is in view before the tick, and nothing else. Filling means something in young worlds alone,
    where land comes into view for the first time: of old ones nothing is unseen but what is beyond their border.
    """
    ticks = held_out.ticks
    observed = merged_once(model, ticks) & (ticks.next_tokens != UNSEEN)
    known = ticks.tokens[..., 0] != UNSEEN
    ours, forgetful = (_asked(model, told, observed, known) for told in (ticks, without_memory(ticks)))
    here = ~gone(ticks.poses)
    common = np.bincount(ticks.actions[here]).argmax()
    named = {"ours": ours.inverse, "no_memory": forgetful.inverse, "copy_last": ticks.actions == common}
    worlds = np.arange(len(ticks)) if held_out.worlds is None else held_out.worlds
    rows: dict[str, MetricRow] = {
        "inverse_accuracy": share_row(
            {name: right[here] for name, right in named.items()},
            ceiling=None,
            episodes=np.repeat(worlds, here.sum(axis=1)),
        ),
        "filter_gain_bits": row_of(
            {"ours": ours.gain, "no_memory": forgetful.gain, "copy_last": np.zeros_like(ours.gain)},
            mean_of,
            seed=seed,
            ceiling=None,
            episodes=worlds,
        ),
    }
    reasons = {
        "*.oracle": "who knows every cell has nothing to be asked",
        "inverse_accuracy.ceiling": "several actions may lead to the same",
        "*_bits.ceiling": "the tokenizer alone gives no odds",
    }
    if ours.fill[:, 1].sum():
        found = {"ours": ours.fill, "no_memory": forgetful.fill}
        if len(np.unique(worlds)) > 1:
            found["copy_last"] = _bits_by_frequency(ticks.next_tokens, observed & ~known, worlds, model.mask)
        else:
            reasons["fill_bits.copy_last"] = "there is no other world to count tokens in"
        rows["fill_bits"] = row_of(found, mean_of, seed=seed, ceiling=None, episodes=worlds)
    else:
        reasons["fill_bits"] = "every cell that was seen had been seen before"
    return Scores(rows, reasons)


@torch.inference_mode()
def _asked(model: WorldModel, ticks: Transitions, observed: BoolArray, known: BoolArray) -> Told:
    """Ask of cells (T, A, H, W) that are observed; whoever is told less is asked of the same."""
    some = (slice(i, i + _ROWS_AT_ONCE) for i in range(0, len(ticks), _ROWS_AT_ONCE))
    parts = [_asked_of(model, ticks[rows], observed[rows], known[rows]) for rows in some]
    return Told(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _asked_of(
    model: WorldModel, ticks: Transitions, observed: BoolArray, known: BoolArray
) -> tuple[BoolArray, FloatArray, FloatArray]:
    device, here = model.device, torch.from_numpy(~gone(ticks.poses)).to(model.device)
    slots = slots_of(ticks).to(device)

    def tensor(column: np.typing.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(column.astype(np.int64)).to(device)

    actions, moved, truth = tensor(ticks.actions), tensor(ticks.displacement), tensor(ticks.next_tokens)
    seen, old = (torch.from_numpy(cells).to(device) for cells in (observed, known))
    shown = torch.where(truth > 0, truth, model.mask)
    everything = Query(slots, None, moved, shown, tensor(ticks.next_status))
    named = model.answer(everything).action_logits().argmax(-1)
    inverse = (named == actions).cpu().numpy()

    forward = model.answer(Query(slots, actions, moved))
    bits = bits_of(torch.log_softmax(forward.token_logits().float(), -1), truth)
    unseen = seen & ~old
    fill = _tally(torch.where(unseen, bits, 0.0).sum((1, 2, 3)), unseen.sum((1, 2, 3)))

    half = torch.arange(truth.shape[3], device=device) % 2 == 0
    told = forward.given(tokens=torch.where(half, shown, model.mask))
    asked = seen & ~half & old
    saved = torch.where(asked, bits - bits_of(torch.log_softmax(told.token_logits().float(), -1), truth), 0.0)
    return inverse, fill, _tally(saved.sum((1, 2, 3)), here.sum(1))


def _tally(found: Tensor, of: Tensor) -> FloatArray:
    return np.stack([found.double().cpu().numpy(), of.double().cpu().numpy()], axis=1)


def _bits_by_frequency(tokens: Uint16Array, unseen: BoolArray, worlds: IntpArray, num_tokens: int) -> FloatArray:
    """Return (T, 2) bits of the tokens (T, A, H, W) of cells nobody had seen, and their number.

    By how common each token is among such cells of all worlds but the one that the tick is of, as `worlds` (T,) says.
    One cell more counts for all `num_tokens` in equal parts: what no other world showed is not impossible.
    """
    _, of = np.unique(worlds, return_inverse=True)
    row, found = np.nonzero(unseen)[0], tokens[unseen]
    counts = np.zeros((of.max() + 1, num_tokens))
    np.add.at(counts, (of[row], found), 1)
    others = counts.sum(axis=0) - counts + 1 / num_tokens
    bits = np.log2(others.sum(axis=1)[of[row]] / others[of[row], found])
    return np.stack([np.bincount(row, bits, len(tokens)), unseen.sum((1, 2, 3)).astype(np.float64)], axis=1)
