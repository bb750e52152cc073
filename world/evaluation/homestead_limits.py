"""What limits a model of homestead: the bits of whoever knows its rules, where what is in view is all that counts.

Axes: T ticks, A agents, H × W cells of a window.
"""

import numpy as np

from world.envs.grounded import BoolArray, Float32Array
from world.evaluation.metrics import Scores, mean_of, row_of
from world.evaluation.one_step import Answers, summed
from world.field import NOW


def rule_scores(answers: Answers, rules_bits: Float32Array, *, seed: int = 0) -> Scores:
    """Return `nll_of_rules`: bits of each agent itself and of the cells in view, over those that the rules cost there.

    `rules_bits` (T, A, H, W) are of cells as `world.envs.homestead.odds` has them; what becomes of agents is certain.
    Of cells, those count that were in view with all four beside them: what comes from farther away was not known.
    """
    ticks = answers.ticks
    counted = answers.observed & _within_view(ticks.ages[..., -1] == NOW)
    rules = summed(rules_bits, counted)
    if not rules.any():
        return Scores({}, {"nll_of_rules": "chance decided nothing that was in view"})
    rows = {
        who: np.stack([told.bits - summed(told.cell_bits, answers.observed & ~counted), rules], axis=1)
        for who, told in answers.foretold.items()
    }
    row = row_of(rows, mean_of, seed=seed, ceiling=1.0)
    return Scores(
        {"nll_of_rules": row}, {"nll_of_rules.copy_last": "copying believes in one rate of change everywhere"}
    )


def _within_view(seen: BoolArray) -> BoolArray:
    """Return which cells (T, A, H, W) are seen with all four beside them."""
    beside = np.pad(seen, ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows, cols = beside[:, :, :, 1:-1], beside[:, :, 1:-1]
    within: BoolArray = seen & rows[:, :, :-2] & rows[:, :, 2:] & cols[..., :-2] & cols[..., 2:]
    return within
