"""Object permanence: what was there, and hidden for d ticks, is still there, is what it was, and is where it was.

Axes: E returns, one of one agent; R × C cells of the map part of its view; K codes of homestead.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from world.envs.grounded import BoolArray, Int32Array
from world.envs.homestead.tiles import ANIMAL_CODE, BLANK_CODE
from world.evaluation.codes import GROWS, CodeTable, is_thing
from world.evaluation.metrics import MetricRow, Scores, mean_of, row_of
from world.evaluation.revisit import NO_TRUTH, Returns, sums_by_world

_STAGES = {**GROWS, **{grown: grown for grown in GROWS.values()}}
"""Everything that grows → what it ends as: its identity."""


def permanence_scores(returns: Mapping[int, Returns], table: CodeTable, *, seed: int = 0) -> Scores:
    """Return, for each absence d and for `static` and `growing` things that truth still has on return,
    `existence_…@d` (something stands within a cell of the place), `identity_…@d` (the same does, at whatever stage)
    and `place_…@d` (exactly what is there, is there); and `moving_existence_gap@d`: where an animal was in view on
    leaving, how much more often than in truth there is one on return.

    Only what somebody looks at in the dream too is asked for. Copying last, who forgets nothing and lets nothing
    grow, is the one to be beaten by what grows.
    """
    metrics: dict[str, MetricRow] = {}
    reasons = {"*.oracle": NO_TRUTH}
    for d, found in sorted(returns.items()):
        before, truth = table.codes(found.before), table.codes(found.truth)
        identity = _identity(before)
        still = found.known & is_thing(before) & (identity == _identity(truth))
        grows = np.isin(before, list(_STAGES))
        for kind, cells in (("static", still & ~grows), ("growing", still & grows)):
            if not cells.any():
                reasons[f"*_{kind}@{d}"] = "nothing of the kind was met again"
                continue
            looked = {who: cells & seen for who, seen in found.looked.items()} | {"copy_last": cells}
            for name, hits in _hits(found, table, identity).items():
                rows = {who: sums_by_world(hit & looked[who], looked[who], found) for who, hit in hits.items()}
                metrics[f"{name}_{kind}@{d}"] = row_of(rows, mean_of, seed=seed, ceiling=1.0)
        gap = _moving(found, table, before, truth, seed)
        metrics |= {f"moving_existence_gap@{d}": gap} if gap else {}
        reasons |= {} if gap else {f"moving_existence_gap@{d}": "no animal was in view on leaving"}
    return Scores(metrics, reasons)


def _hits(found: Returns, table: CodeTable, identity: Int32Array) -> dict[str, dict[str, BoolArray]]:
    """Return, by measure and by who answers, the cells (E, R, C) at which it holds."""
    hits: dict[str, dict[str, BoolArray]] = {"existence": {}, "identity": {}, "place": {}}
    for name, answer in (found.answers | {"copy_last": found.before}).items():
        shown = table.codes(answer)
        looked = found.looked.get(name, np.ones(answer.shape, np.bool_))
        around = _around(np.where(looked, shown, -1))
        hits["existence"][name] = np.any(is_thing(around), axis=0)
        hits["identity"][name] = np.any(_identity(around) == identity, axis=0)
        hits["place"][name] = (answer == found.truth) & looked
    return hits


def _moving(found: Returns, table: CodeTable, before: Int32Array, truth: Int32Array, seed: int) -> MetricRow | None:
    """Return the gap in how often an animal is in view, over returns to where one was."""
    was = (before == ANIMAL_CODE).any(axis=(1, 2))
    if not was.any():
        return None
    rows = {}
    for name, answer in (found.answers | {"copy_last": found.before}).items():
        looked = found.looked.get(name, np.ones(answer.shape, np.bool_))
        shown, is_there = (((codes == ANIMAL_CODE) & looked).any(axis=(1, 2)) for codes in (table.codes(answer), truth))
        counted = was & looked.any(axis=(1, 2))
        gaps = (shown.astype(np.int64) - is_there) * counted
        rows[name] = sums_by_world(gaps[:, None, None], counted[:, None, None], found)
    return row_of(rows, mean_of, seed=seed, ceiling=0.0)


def _identity(codes: Int32Array) -> Int32Array:
    """Return codes (…) with everything that grows as what it ends as."""
    ends: NDArray[np.int32] = np.arange(-1, BLANK_CODE + 1, dtype=np.int32)
    for stage, end in _STAGES.items():
        ends[stage + 1] = end
    same: Int32Array = ends[codes + 1]
    return same


def _around(codes: Int32Array) -> Int32Array:
    """Return (9, E, R, C) each cell's own code and its neighbours'; -1 beyond the view."""
    rows, cols = codes.shape[1:]
    padded = np.pad(codes, ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    return np.stack([padded[:, dy : dy + rows, dx : dx + cols] for dy in range(3) for dx in range(3)])
