"""Cross-agent revisits XR(τ): A changes a place and leaves; B, never there before, arrives τ ticks later.

Axes: E episodes, one of one world each.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from world.envs.grounded import BoolArray
from world.evaluation.metrics import FloatArray, MetricRow, Scores, gap_row, row_of, share_row
from world.evaluation.revisit import NO_TRUTH
from world.field import UNSEEN, Uint16Array

STATIC = ("stone", "paint", "door")
"""Changes that last: a stone laid, ground painted, a door opened."""
GROWING = ("bush", "sapling")
"""Changes that go on by themselves while nobody is there: a bush harvested, a sapling planted."""
UNSEEN_BY_B = ("taken", "repainted")
"""Changes that a third agent changes again, after A has left and before B comes."""


@dataclass(frozen=True, slots=True)
class Visits:
    """All visits after one delay. Where B does not look at the place, what it sees there is `UNSEEN`."""

    kind: NDArray[np.str_]
    """(E,) of `STATIC`, `GROWING` or `UNSEEN_BY_B`."""
    before: Uint16Array
    """(E,) what was known of the place when the dreams began, before A changed it."""
    truth: Uint16Array
    """(E,) what B sees there in truth."""
    edited: dict[str, Uint16Array]
    """(E,) what B sees there, by "ours", "no_memory", "oracle", "ceiling", and "restored" where it was played."""
    idle: dict[str, Uint16Array]
    """(E,) the same where A did nothing; only static kinds are played so."""
    grown: Uint16Array
    """(E,) what the place shows once grown; UNSEEN for kinds that do not grow."""
    grown_often: FloatArray
    """(E,) how often truth, replayed with other luck, has it grown by then."""
    made: dict[str, BoolArray] = field(default_factory=dict)
    """(E,) by "ours" and "no_memory": the place shows what A did right after it was done."""
    identical: BoolArray = field(default_factory=lambda: np.zeros(0, np.bool_))
    """(n,) whether each killed and restored world ended in the very state of its warm twin."""

    def of(self, kinds: tuple[str, ...]) -> BoolArray:
        """(E,) which visits are of these kinds."""
        return np.isin(self.kind, kinds)


def cross_agent_scores(visits: Mapping[int, Visits], *, seed: int = 0) -> Scores:
    """Return, for each delay τ and static changes, `xr@τ` (P[B's view of the place = truth]), `xr_effect@τ` (P[B sees
    the change | A made it] − P[… | A did nothing]) and `xr_of_oracle@τ` (`xr@τ` with its interval, over the oracle's
    as it is); what becomes of it by the way, `xr_made@τ` (the dream shows the change when A makes it) and `xr_kept@τ`
    (P[B's view = truth | so it did]); the first two killed and restored, `xr_restored@τ` and `xr_effect_restored@τ`,
    with `xr_restored_gap@τ` (restored − warm) and `xr_restored_identical@τ`; `xr_unseen@τ` for what a third changed
    again, and `xr_growth_gap@τ` (how much more often than in truth it is grown).
    """
    metrics: dict[str, MetricRow] = {}
    reasons = {
        "*.oracle": NO_TRUTH,
        "xr_of_oracle@*.*": "it is a ratio to a baseline",
        "xr_made@*.oracle": "an oracle dreams the last tick alone",
        "xr_kept@*.oracle": "an oracle dreams the last tick alone",
        "xr_kept@*.copy_last": "it makes no change",
        "xr_kept@*.no_memory": "it made no change",
        "xr_restored_gap@*.*": "a comparison with the warm dreams, not with a baseline",
    }
    reasons["xr_restored_identical@*.*"] = reasons["xr_restored_gap@*.*"]
    for tau, found in sorted(visits.items()):
        static = _static(found, tau)
        if f"xr@{tau}" in static and static[f"xr@{tau}"].oracle == 0.0:
            reasons[f"xr_of_oracle@{tau}"] = "the oracle is right about none"
        metrics |= static
        unseen, growing = found.of(UNSEEN_BY_B), found.of(GROWING)
        if unseen.any():
            metrics[f"xr_unseen@{tau}"] = share_row(_right(found, unseen), ceiling=None)
        else:
            reasons[f"xr_unseen@{tau}"] = "a third agent has no time to come and go unseen"
        gaps = _growth(found, growing)
        if "ours" in gaps:
            metrics[f"xr_growth_gap@{tau}"] = row_of(gaps, _mean, seed=seed, ceiling=0.0)
        elif growing.any():
            reasons[f"xr_growth_gap@{tau}"] = "nobody who came in the dreams looked at what should have grown"
    return Scores(metrics, reasons)


def _static(found: Visits, tau: int) -> dict[str, MetricRow]:
    static = found.of(STATIC)
    if not static.any():
        return {}
    right, effect = _right(found, static), _effects(found, static)
    metrics = {
        f"xr@{tau}": share_row(right, ceiling=None),
        f"xr_effect@{tau}": gap_row(effect),
    }
    if found.made:
        made = {name: hits[static] for name, hits in found.made.items()}
        made["copy_last"] = np.zeros(int(static.sum()), np.bool_)
        metrics[f"xr_made@{tau}"] = share_row(made, ceiling=1.0)
        kept = {name: right[name][hits] for name, hits in made.items() if hits.any()}
        if "ours" in kept:
            metrics[f"xr_kept@{tau}"] = share_row(kept, ceiling=1.0)
    if oracle := metrics[f"xr@{tau}"].oracle:
        metrics[f"xr_of_oracle@{tau}"] = _over(metrics[f"xr@{tau}"], oracle)
    if "restored" in right:
        metrics[f"xr_restored@{tau}"] = share_row(right | {"ours": right["restored"]}, ceiling=None)
        metrics[f"xr_effect_restored@{tau}"] = gap_row(effect | {"ours": effect["restored"]})
        metrics[f"xr_restored_gap@{tau}"] = gap_row({"ours": (right["restored"], right["ours"])})
        metrics[f"xr_restored_identical@{tau}"] = share_row({"ours": found.identical}, ceiling=None)
    return metrics


def _right(found: Visits, visits: BoolArray) -> dict[str, BoolArray]:
    seen = found.edited | {"copy_last": found.before}
    return {name: (tokens == found.truth)[visits] for name, tokens in seen.items()}


def _effects(found: Visits, visits: BoolArray) -> dict[str, tuple[BoolArray, BoolArray]]:
    """Return for each visit whether B sees the change where A made it, and whether it does where A did not."""
    idle = found.idle | {"copy_last": found.before}
    return {
        name: ((tokens == found.truth)[visits], (idle[name] == found.truth)[visits])
        for name, tokens in (found.edited | {"copy_last": found.before}).items()
        if name in idle
    }


def _growth(found: Visits, visits: BoolArray) -> dict[str, FloatArray]:
    """Return grown or not, less how often truth has it grown, over visits in which B looks at the place."""
    rows = {}
    for name, tokens in (found.edited | {"copy_last": found.before}).items():
        looked = visits & ((tokens != UNSEEN) | (name == "copy_last"))
        rows[name] = (tokens == found.grown)[looked].astype(np.float64) - found.grown_often[looked]
    return {name: gaps for name, gaps in rows.items() if len(gaps)}


def _over(row: MetricRow, oracle: float) -> MetricRow:
    value, low, high = (number / oracle for number in (row.value, row.low, row.high))
    return MetricRow(value=value, low=low, high=high)


def _mean(rows: FloatArray) -> float:
    return float(rows.mean())
