"""Revisits RC(k): an agent leaves a place, comes back after k ticks, and reads what is there now.

Axes: E returns, one of one agent; R × C cells of the map part of its view.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from world.envs.grounded import BoolArray
from world.evaluation.codes import BARE, GROWS, STUMP, CodeTable
from world.evaluation.metrics import REPLAYED, FloatArray, MetricRow, Scores, mean_of, row_of, share_row
from world.field import UNSEEN, Uint16Array

NO_TRUTH = "the truth of cells out of sight cannot be asked in this environment"


@dataclass(frozen=True, slots=True)
class Returns:
    """All returns after one absence."""

    before: Uint16Array
    """(E, R, C) what was known of these cells when the agent left."""
    truth: Uint16Array
    """(E, R, C) what is there when it is back."""
    hidden: BoolArray
    """(E, R, C) nobody saw the cell for at least half of the absence."""
    by_chance: BoolArray
    """(E, R, C) pure chance changed the cell meanwhile."""
    answers: dict[str, Uint16Array]
    """(E, R, C) by "ours", "no_memory", "oracle" and "ceiling", and "replay" for truth again with other luck: what they
    hold to be there."""
    looked: dict[str, BoolArray]
    """(E, R, C) by the same names: whether somebody in that world looks at the cell now."""
    arrived: dict[str, BoolArray]
    """(E,) whether the agent is back where truth's is."""
    episode: NDArray[np.int64]
    """(E,) which world the return is of: returns of one world are resampled together."""

    @property
    def known(self) -> BoolArray:
        """(E, R, C) cells that were known, then hidden."""
        known: BoolArray = self.hidden & (self.before != UNSEEN)
        return known


def revisit_scores(returns: Mapping[int, Returns], table: CodeTable | None, *, seed: int = 0) -> Scores:
    """Return, for each absence k, accuracy on return of cells that stayed (`revisit_static@k`) and that changed
    (`revisit_changed@k`), against truth now; ours over the oracle's (`revisit_of_oracle@k`); the share of such cells
    that the dream looks at (`revisit_looked@k`); who is back (`revisit_arrived@k`); and of what was bare on leaving,
    how much more often it is grown than in truth (`revisit_growth_gap@k`).

    Changes by pure chance count for neither. Only cells that somebody looks at in the dream too are read.
    """
    metrics: dict[str, MetricRow] = {}
    reasons = {"*.oracle": NO_TRUTH, "revisit_of_oracle@*.*": "it is a ratio to a baseline"}
    for k, found in sorted(returns.items()):
        stayed = found.truth == found.before
        counted = found.known & ~found.by_chance
        for name, cells in (("static", counted & stayed), ("changed", counted & ~stayed)):
            if cells.any():
                rows = _accuracies(found, cells)
                if "replay" in rows:
                    reasons[f"revisit_{name}@{k}"] = REPLAYED.format(mean_of(rows["replay"]))
                metrics[f"revisit_{name}@{k}"] = row_of(rows, mean_of, seed=seed, ceiling=None)
            else:
                reasons[f"revisit_{name}@{k}"] = "no such cell was met again"
        if "oracle" in found.answers and (counted & stayed).any():
            metrics[f"revisit_of_oracle@{k}"] = _of_oracle(found, counted & stayed, seed)
        looks = {name: sums_by_world(looked & counted, counted, found) for name, looked in found.looked.items()}
        looks["copy_last"] = sums_by_world(counted, counted, found)
        if counted.any():
            metrics[f"revisit_looked@{k}"] = row_of(looks, mean_of, seed=seed, ceiling=1.0)
        metrics[f"revisit_arrived@{k}"] = share_row(found.arrived, ceiling=1.0, episodes=found.episode)
        if "replay" in found.arrived:
            reasons[f"revisit_arrived@{k}"] = REPLAYED.format(found.arrived["replay"].mean())
        reasons[f"revisit_arrived@{k}.copy_last"] = "it has no agents"
        if table is not None:
            gap = _growth_gap(found, table, seed)
            reasons |= {} if gap else {f"revisit_growth_gap@{k}": "nothing bare was met again"}
            metrics |= {f"revisit_growth_gap@{k}": gap} if gap else {}
    return Scores(metrics, reasons)


def _accuracies(found: Returns, cells: BoolArray) -> dict[str, FloatArray]:
    rows = {
        name: sums_by_world((answer == found.truth) & cells & found.looked[name], cells & found.looked[name], found)
        for name, answer in found.answers.items()
    }
    return rows | {"copy_last": sums_by_world((found.before == found.truth) & cells, cells, found)}


def _of_oracle(found: Returns, cells: BoolArray, seed: int) -> MetricRow:
    rows = _accuracies(found, cells)
    both = {"ours": np.concatenate([rows["ours"], rows["oracle"]], axis=1)}
    return row_of(both, lambda r: mean_of(r[:, :2]) / max(mean_of(r[:, 2:]), 1e-12), seed=seed, ceiling=None)


def _growth_gap(found: Returns, table: CodeTable, seed: int) -> MetricRow | None:
    codes = table.codes(found.before)
    bare = found.known & np.isin(codes, (BARE, STUMP))
    grown = np.zeros_like(found.before)
    for code in (BARE, STUMP):
        grown[codes == code] = table.token_of[GROWS[code]]
    if not bare.any():
        return None
    ripe = found.truth == grown
    rows = {}
    for name, answer in found.answers.items():
        cells = bare & found.looked[name]
        rows[name] = sums_by_world(((answer == grown).astype(np.int64) - ripe) * cells, cells, found)
    rows["copy_last"] = sums_by_world(-(ripe & bare).astype(np.int64), bare, found)
    return row_of(rows, mean_of, seed=seed, ceiling=0.0)


def sums_by_world(values: NDArray[np.generic], counted: BoolArray, found: Returns) -> FloatArray:
    """Return (worlds, 2) sums of values and of cells counted (E, R, C), over the returns of each world."""
    worlds, index = np.unique(found.episode, return_inverse=True)
    sums = [np.bincount(index, part.reshape(len(part), -1).sum(axis=1), len(worlds)) for part in (values, counted)]
    return np.stack(sums, axis=1)
