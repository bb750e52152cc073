"""Cross-agent revisits XR(τ): A changes a place and leaves; B, never there before, arrives τ ticks later.

Axes: E episodes, one of one world each.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from world.envs.grounded import BoolArray
from world.evaluation.metrics import BASELINES, FloatArray, MetricRow, Scores, bootstrap, row_of, share_row
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
    the change | A made it] − P[… | A did nothing]) and `xr_of_oracle@τ`; what becomes of it by the way, `xr_made@τ`
    (the dream shows the change when A makes it) and `xr_kept@τ` (P[B's view = truth | so it did]); the first two
    killed and restored, `xr_restored@τ` and `xr_effect_restored@τ`, with `xr_restored_gap@τ` (restored − warm) and
    `xr_restored_identical@τ`; `xr_unseen@τ` for what a third changed again, and `xr_growth_gap@τ` (how much more often
    than in truth it is grown).
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
        metrics |= _static(found, tau, seed)
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


def _static(found: Visits, tau: int, seed: int) -> dict[str, MetricRow]:
    static = found.of(STATIC)
    if not static.any():
        return {}
    right, effect = _right(found, static), _effects(found, static)
    metrics = {
        f"xr@{tau}": share_row(right, ceiling=None),
        f"xr_effect@{tau}": row_of(effect, _mean, seed=seed, ceiling=None),
    }
    if found.made:
        made = {name: hits[static] for name, hits in found.made.items()}
        made["copy_last"] = np.zeros(int(static.sum()), np.bool_)
        metrics[f"xr_made@{tau}"] = share_row(made, ceiling=1.0)
        kept = {name: right[name][hits] for name, hits in made.items() if hits.any()}
        if "ours" in kept:
            metrics[f"xr_kept@{tau}"] = share_row(kept, ceiling=1.0)
    if "oracle" in right:
        both = np.stack([right["ours"], right["oracle"]], axis=1).astype(np.float64)
        metrics[f"xr_of_oracle@{tau}"] = _ours(both, _ratio, seed)
    if "restored" in right:
        metrics[f"xr_restored@{tau}"] = share_row(right | {"ours": right["restored"]}, ceiling=None)
        again = effect | {"ours": effect["restored"]}
        metrics[f"xr_effect_restored@{tau}"] = row_of(again, _mean, seed=seed, ceiling=None)
        gaps = right["restored"].astype(np.float64) - right["ours"]
        metrics[f"xr_restored_gap@{tau}"] = _ours(gaps, _mean, seed)
        metrics[f"xr_restored_identical@{tau}"] = share_row({"ours": found.identical}, ceiling=None)
    return metrics


def _right(found: Visits, visits: BoolArray) -> dict[str, BoolArray]:
    seen = found.edited | {"copy_last": found.before}
    return {name: (tokens == found.truth)[visits] for name, tokens in seen.items()}


def _effects(found: Visits, visits: BoolArray) -> dict[str, FloatArray]:
    """Return for each visit whether B sees the change where A made it, less whether it does where A did not."""
    idle = found.idle | {"copy_last": found.before}
    return {
        name: (tokens == found.truth)[visits].astype(np.float64) - (idle[name] == found.truth)[visits]
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


def _ours(rows: FloatArray, statistic: Callable[[FloatArray], float], seed: int) -> MetricRow:
    value, low, high = bootstrap(rows, statistic, seed=seed)
    return MetricRow(value=value, low=low, high=high, **dict.fromkeys(BASELINES))


def _mean(rows: FloatArray) -> float:
    return float(rows.mean())


def _ratio(rows: FloatArray) -> float:
    ours, theirs = rows.mean(axis=0)
    return float(ours / max(theirs, 1e-12))
