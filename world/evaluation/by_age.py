"""One step ahead by age: what absence costs in bits, and whether chances are believed as often as they come true.

Axes: T ticks, A agents, H × W cells, K tokens a cell remembers.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from world.envs.grounded import BoolArray, Int32Array
from world.envs.homestead.tiles import ANIMAL_CODE
from world.evaluation.codes import BARE, COMMONS_BARE, GROWS, SAPLING, STUMP, CodeTable
from world.evaluation.metrics import FloatArray, MetricRow, Scores, copy_last_bits, mean_of, row_of, share_of
from world.evaluation.one_step import Answers
from world.field import NEVER, UNSEEN, Uint16Array
from world.trajectory import Transitions

AGE_BINS = ((0, 0), (1, 3), (4, 8), (9, 20), (21, 45), (46, 90), (91, 200), (201, 1 << 30))
"""First and last age of each bin, in ticks."""
_NO_CEILING = "the tokenizer alone gives no odds"


@dataclass(frozen=True, slots=True)
class Ages:
    """Ticks (T, A, H, W) since each cell's token was set, and since it was last seen; `NEVER` for neither."""

    of_token: Int32Array
    unseen_for: Int32Array


@dataclass(frozen=True, slots=True)
class Chances:
    """Cells that may change by themselves, and what they would then show."""

    asked: Uint16Array
    """(T, A, H, W) the token whose belief is wanted; 0 where there is none."""
    kinds: dict[str, BoolArray]
    """Cells (T, A, H, W) by kind and, for what ripens, by the age bin of what has not."""


def bin_name(bounds: tuple[int, int]) -> str:
    """Return how a bin is printed."""
    first, last = bounds
    if first == last:
        return str(first)
    return f"{first}-{last}" if last < AGE_BINS[-1][1] else f"{first}+"


def nll_by_age(answers: Answers, ages: Ages, num_tokens: int, *, seed: int = 0) -> Scores:
    """Return `nll_bits@bin`: bits for each observed cell by how long nobody had seen it, and of those never seen."""
    ticks, metrics = answers.ticks, {}
    bins = {bin_name(b): (ages.unseen_for >= b[0]) & (ages.unseen_for <= b[1]) for b in AGE_BINS}
    bins["never"] = ages.unseen_for == NEVER
    for name, inside in bins.items():
        counted = answers.observed & inside
        if not counted.any():
            continue
        rows = {who: _sums(answer.cell_bits * counted, counted) for who, answer in answers.foretold.items()}
        copying = copy_last_bits(ticks.next_tokens, ticks.tokens[..., 0], counted, num_tokens)
        rows["copy_last"] = np.array([[copying, counted.sum()]], np.float64)
        metrics[f"nll_bits@{name}"] = row_of(rows, mean_of, seed=seed, ceiling=None, episodes=answers.worlds)
    return Scores(metrics, {"nll_bits@*.ceiling": _NO_CEILING})


def homestead_chances(ticks: Transitions, table: CodeTable, ages: Ages) -> Chances:
    """Return what may change by itself in a homestead: what grows, and animals, of which is asked whether they stay."""
    codes = table.codes(ticks.tokens[..., 0])
    outcomes = {**GROWS, ANIMAL_CODE: ANIMAL_CODE}
    asked = np.zeros(codes.shape, np.uint16)
    for code, outcome in outcomes.items():
        asked[codes == code] = table.token_of[outcome]
    kinds = {
        "sapling_grows": codes == SAPLING,
        "commons_ripens": codes == COMMONS_BARE,
        "animal_stays": codes == ANIMAL_CODE,
    }
    waiting = np.isin(codes, (STUMP, BARE))
    for bounds in AGE_BINS:
        kinds[f"regrowth@{bin_name(bounds)}"] = waiting & (ages.of_token >= bounds[0]) & (ages.of_token <= bounds[1])
    return Chances(asked, kinds)


def chance_gaps(answers: Answers, chances: Chances) -> Scores:
    """Return `gap_kind`: mean belief in an outcome less how often it came true; calibrated where the interval holds 0.

    The interval is that of the frequency (Wilson), in which what is met again and again in one world counts for less.
    Copying last believes that all stays as it is.
    """
    ticks, metrics = answers.ticks, {}
    happened = ticks.next_tokens == chances.asked
    staying = ticks.tokens[..., 0] == chances.asked
    for kind, cells in chances.kinds.items():
        counted = answers.observed & cells & (chances.asked != UNSEEN)
        if not counted.any():
            continue
        frequency, least, most = share_of(happened[counted], answers.world_of[np.nonzero(counted)[0]])
        believed = {who: float(answer.asked[counted].mean()) for who, answer in answers.foretold.items()}
        believed["copy_last"] = float(staying[counted].mean())
        ours = believed.pop("ours")
        metrics[f"gap_{kind}"] = MetricRow(
            value=ours - frequency,
            low=ours - most,
            high=ours - least,
            **{who: belief - frequency for who, belief in believed.items()},
            ceiling=0.0,
        )
    return Scores(metrics, {})


def _sums(values: NDArray[np.floating], counted: BoolArray) -> FloatArray:
    """Return (T, 2) sums of values (T, …) and numbers of cells counted (T, …)."""
    return np.stack([part.reshape(len(part), -1).sum(axis=1) for part in (values, counted)], axis=1).astype(np.float64)
