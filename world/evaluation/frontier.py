"""The frontier: what a dream makes of land that nobody has seen, when agents of a young world set out.

No memory can tell what is there. It is to be land of the kind that truth has, in which one comes as far.

Axes: E worlds, V tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from world.evaluation.metrics import Counts, FloatArray, MetricRow, Scores, mean_of, row_of

_NO_LAND = "it finds no land"
_NOT_ASKED = "whoever is told what is there does not make it"


@dataclass(slots=True)
class Finds:
    """What was found by some ticks, as far as it was played."""

    found: dict[int, dict[str, Counts]] = field(default_factory=dict)
    """By tick, then by "truth", "ours", "no_memory" and "elsewhere", other worlds in truth: (E, V) how many cells were
    first seen since the beginning, by the token that each showed then."""


def frontier_scores(finds: Finds, *, seed: int = 0) -> Scores:
    """Return, for each tick k, `land_gap@k`, the total variation distance of the tokens of land that was found in
    dreams and in truth, and `land_found@k`, how many cells were found, of truth's.

    Two sets of worlds in truth have a distance, too; it is said beside.
    """
    metrics: dict[str, MetricRow] = {}
    reasons = {"land_gap@*.copy_last": _NO_LAND, "*.oracle": _NOT_ASKED}
    for k, found in sorted(finds.found.items()):
        beside = _beside_truth(found)
        elsewhere = beside.pop("elsewhere")
        metrics[f"land_gap@{k}"] = row_of(beside, _distance, seed=seed, ceiling=0.0)
        reasons[f"land_gap@{k}"] = f"other worlds in truth: {_distance(elsewhere):.3f}"
        sizes = {name: rows.sum(axis=2).astype(np.float64) for name, rows in beside.items()}
        sizes["copy_last"] = np.stack([np.zeros(len(found["truth"])), found["truth"].sum(axis=1)], axis=1)
        metrics[f"land_found@{k}"] = row_of(sizes, mean_of, seed=seed, ceiling=1.0)
    return Scores(metrics, reasons)


def _beside_truth(found: Mapping[str, Counts]) -> dict[str, Counts]:
    """Return (E, 2, V): what each found, and what truth did."""
    return {name: np.stack([counts, found["truth"]], axis=1) for name, counts in found.items() if name != "truth"}


def _distance(rows: Counts) -> float:
    """Return the total variation distance of two kinds of counts (E, 2, V), summed over worlds; 1 to nothing."""
    summed = rows.sum(axis=0)
    if not summed.sum(axis=1).all():
        return 1.0
    shares: FloatArray = summed / summed.sum(axis=1, keepdims=True)
    return float(np.abs(shares[0] - shares[1]).sum() / 2)
