"""Self-consistency: how far a dream agrees with itself, judged without any truth.

To be trusted only as far as its rank correlation with scores against truth has been shown.

Axes: T ticks, A agents, H × W cells of a window, E worlds.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from world.evaluation.metrics import Counts, FloatArray, MetricRow, Scores, bootstrap
from world.field import UNSEEN
from world.trajectory import Transitions

PARTS = ("lawful", "stable", "agreeing", "compressing", "caused", "repeatable")
"""Transitions that break no law; cells that are as before once an act is undone; cells on which two who see them at
one tick agree; futures that are the same after an act undone as after none; transitions without a change that
nothing caused; dreams that go on in the same way when they are dreamed again."""
_LEAST = 1e-6
_BESIDE = "the parts are about one dream and its own forks"


@dataclass(slots=True)
class Consistency:
    """Hits and cases of every part, for each world: (E, 2) by part, by who dreams ("ours", "ceiling", …)."""

    counts: dict[str, dict[str, list[Counts]]] = field(default_factory=dict)

    def add(self, who: str, part: str, hits: int, cases: int) -> None:
        """Note the cases of one more world."""
        self.counts.setdefault(who, {}).setdefault(part, []).append(np.array([hits, cases], np.int64))


def consistency_scores(found: Consistency, *, seed: int = 0) -> Scores:
    """Return `consistency_part` for each of `PARTS`, and `self_consistency`, their geometric mean."""
    tables = {who: _table(parts) for who, parts in found.counts.items() if set(parts) == set(PARTS)}
    if "ours" not in tables:
        return Scores({}, {"self_consistency": "not all of its parts were played"})
    metrics: dict[str, MetricRow] = {}
    for index, part in enumerate(PARTS):
        metrics[f"consistency_{part}"] = _row(tables, _share_of(index), seed)
    metrics["self_consistency"] = _row(tables, geometric_mean, seed)
    reasons = {f"*consistency*.{name}": _BESIDE for name in ("copy_last", "no_memory", "oracle")}
    return Scores(metrics, reasons)


def geometric_mean(rows: Counts) -> float:
    """Return the geometric mean of the shares of hits in rows (E, parts, 2), worlds taken together."""
    return float(np.exp(np.log(np.maximum(_shares(rows), _LEAST)).mean()))


def agreement(ticks: Transitions) -> Counts:
    """Return (T, 2): on how many cells two agents agree, of how many that both of them see after a tick."""
    height, width = ticks.next_tokens.shape[2:]
    found: Counts = np.zeros((len(ticks), 2), np.int64)
    for one in range(ticks.num_agents):
        for other in range(one + 1, ticks.num_agents):
            apart = ticks.poses[:, one] - ticks.poses[:, other]
            for tick in np.flatnonzero((np.abs(apart) < (height, width)).all(axis=1)):
                dy, dx = apart[tick]
                mine = ticks.next_tokens[tick, one, max(-dy, 0) : height - max(dy, 0), max(-dx, 0) : width - max(dx, 0)]
                its = ticks.next_tokens[tick, other, max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
                both = (mine != UNSEEN) & (its != UNSEEN)
                found[tick] += (both & (mine == its)).sum(), both.sum()
    return found


def _table(parts: dict[str, list[Counts]]) -> Counts:
    """Return (E, parts, 2), as many worlds as every part has."""
    worlds = min(len(parts[part]) for part in PARTS)
    return np.stack([np.stack(parts[part][:worlds]) for part in PARTS], axis=1)


def _share_of(part: int) -> Callable[[Counts], float]:
    return lambda rows: float(_shares(rows)[part])


def _shares(rows: Counts) -> FloatArray:
    """Return shares of hits (parts,) of rows (E, parts, 2); a part without a case holds."""
    hits, cases = rows.sum(axis=0).T.astype(np.float64)
    shares: FloatArray = np.where(cases > 0, hits / np.maximum(cases, 1), 1.0)
    return shares


def _row(tables: dict[str, Counts], statistic: Callable[[Counts], float], seed: int) -> MetricRow:
    value, low, high = bootstrap(tables["ours"], statistic, seed=seed)
    ceiling = float(statistic(tables["ceiling"])) if "ceiling" in tables else 1.0
    return MetricRow(value=float(value), low=low, high=high, ceiling=ceiling)
