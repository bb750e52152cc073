"""What limits a model of homestead: the bits of whoever knows its rules, where what the field holds is all that counts.

Axes: T ticks, A agents, H × W cells of a window, K tokens a cell remembers.
"""

import numpy as np

from world.envs.grounded import BoolArray, Float32Array, Int32Array
from world.evaluation.codes import CodeTable, is_body
from world.evaluation.metrics import Scores, mean_of, row_of
from world.evaluation.one_step import Answers, summed
from world.field import NOW, UNSEEN, Uint16Array


def rule_scores(
    answers: Answers, rules_bits: Float32Array, lying: Int32Array, table: CodeTable, *, seed: int = 0
) -> Scores:
    """Return `nll_of_rules`: bits of each agent itself and of the cells in view, over those that the rules cost there.

    `rules_bits` (T, A, H, W) are of cells as `world.envs.homestead.odds` has them; what becomes of agents is certain.
    Of cells, those count that were in view with all four beside them, since what comes from farther away was not known;
    and of which the field holds what lies there, with code `lying` (T, A, H, W). Under somebody it may not: it forgets
    what lies under whoever turns K times on the spot, was never told where he has stood since before he was first seen,
    and cannot be told of paint that was cleaned in the very tick in which he stepped on it.
    """
    ticks = answers.ticks
    counted = answers.observed & _within_view(ticks.ages[..., -1] == NOW) & _holds(ticks.tokens, lying, table)
    rules = summed(rules_bits, counted)
    if not rules.any():
        return Scores({}, {"nll_of_rules": "chance decided nothing that was in view"})
    rows = {
        who: np.stack([told.bits - summed(told.cell_bits, answers.observed & ~counted), rules], axis=1)
        for who, told in answers.foretold.items()
    }
    row = row_of(rows, mean_of, seed=seed, ceiling=1.0, episodes=answers.worlds)
    return Scores(
        {"nll_of_rules": row}, {"nll_of_rules.copy_last": "copying believes in one rate of change everywhere"}
    )


def _holds(tokens: Uint16Array, lying: Int32Array, table: CodeTable) -> BoolArray:
    """Return of which cells with tokens (T, A, H, W, K) the newest that shows no body shows what lies there."""
    codes = table.codes(tokens)
    content = (tokens != UNSEEN) & ~is_body(codes)
    newest = np.take_along_axis(codes, content.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    holds: BoolArray = content.any(axis=-1) & (newest == lying)
    return holds


def _within_view(seen: BoolArray) -> BoolArray:
    """Return which cells (T, A, H, W) are seen with all four beside them."""
    beside = np.pad(seen, ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows, cols = beside[:, :, :, 1:-1], beside[:, :, 1:-1]
    within: BoolArray = seen & rows[:, :, :-2] & rows[:, :, 2:] & cols[..., :-2] & cols[..., 2:]
    return within
