"""Invariant violations IVR: how often a dream breaks a law of its world, less how often truth, as read, seems to.

Axes: T ticks, A agents, N transitions, one of one agent's window.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from world.envs.grounded import BoolArray
from world.evaluation.consistency import agreement
from world.evaluation.metrics import BASELINES, FloatArray, MetricRow, Scores, bootstrap, mean_of, row_of, wilson
from world.trajectory import Transitions

_ORACLE = "oracle"


@dataclass(frozen=True, slots=True)
class Violations:
    """Which transitions break which law, for truth and for each of those who dream."""

    broken: dict[str, dict[str, BoolArray]]
    """(N,) by who ("truth", "ours", "copy_last", "no_memory", "oracle"), then by law."""
    at: dict[str, NDArray[np.int64]]
    """(N,) by who: ticks since the dream began."""
    episode: dict[str, NDArray[np.int64]]
    """(N,) by who: which world; transitions of one world are resampled together."""


def invariant_scores(found: Violations, *, horizons: tuple[int, ...] = (8, 64, 512), seed: int = 0) -> Scores:
    """Return `ivr`, the rate of transitions that break any law, `ivr_law` for each, and `ivr@a-b` by age of the dream.

    What truth itself breaks is the reader's fault, not the dream's, and is taken from all. Worlds are resampled; where
    that leaves less than so many independent transitions would, as where no law was broken, intervals are of those. As
    what breaks a law may break it again at the next tick, this is the least that they can be.
    """
    metrics: dict[str, MetricRow] = {}
    reasons = {
        "ivr*.copy_last": "no transition of a frozen world could be read",
        "ivr*.oracle": "no oracle was asked",
    }
    laws = list(found.broken["ours"])
    for name, chosen in {"ivr": laws, **{f"ivr_{law}": [law] for law in laws}}.items():
        metrics[name] = _rate(found, chosen, 1, 1 << 30, seed)
    first, longest = 1, int(found.at["ours"].max(initial=0))
    for last in (*[h for h in horizons if h < longest], longest):
        metrics[f"ivr@{first}-{last}"] = _rate(found, laws, first, last, seed)
        first = last + 1
    reasons["ivr@*.oracle"] = "an oracle is asked anew at each tick, so its dreams have no age"
    return Scores(metrics, reasons)


def agreement_scores(ticks: Mapping[str, Mapping[int, Transitions]], *, seed: int = 0) -> Scores:
    """Return `xa`: of the cells that two agents see at one tick, the share on which they read the same.

    On a shared map it is 1 by construction, and this proves that it was built so.
    """
    rows = {who: _agreed(of_ticks) for who, of_ticks in ticks.items() if who != "truth"}
    if not rows["ours"][:, 1].any():
        return Scores({}, {"xa": "no two agents saw one cell at one tick"})
    ceiling = mean_of(_agreed(ticks["truth"]))
    return Scores({"xa": row_of(rows, mean_of, seed=seed, ceiling=ceiling)}, {})


def _agreed(of_ticks: Mapping[int, Transitions]) -> FloatArray:
    """Return (E, 2) cells on which two agents agree, of how many, in each world."""
    agreed: FloatArray = np.stack([agreement(row) for row in of_ticks.values()]).sum(axis=0, dtype=np.float64)
    return agreed


def _rate(found: Violations, laws: list[str], first: int, last: int, seed: int) -> MetricRow:
    def rows(who: str) -> FloatArray:
        inside = (found.at[who] >= first) & (found.at[who] <= last)
        any_broken = np.any([found.broken[who][law] for law in laws], axis=0)[inside]
        worlds, index = np.unique(found.episode[who][inside], return_inverse=True)
        sums = [np.bincount(index, weights, len(worlds)) for weights in (any_broken, np.ones(len(any_broken)))]
        return np.stack(sums, axis=1)

    own, ours = _share(rows("truth")), rows("ours")
    value, low, high = bootstrap(ours, lambda r: _share(r) - own, seed=seed)
    _, least, most = wilson(*ours.sum(axis=0))
    low, high = min(low, least - own), max(high, most - own)
    beside: dict[str, float | None] = dict.fromkeys(BASELINES)
    for name in ("copy_last", "no_memory", _ORACLE):
        if name in found.broken and (name != _ORACLE or (first == 1 and last == 1 << 30)):
            beside[name] = _share(rows(name)) - own
    beside["ceiling"] = 0.0
    return MetricRow(value=value, low=low, high=high, **beside)


def _share(rows: FloatArray) -> float:
    return float(rows[:, 0].sum() / max(rows[:, 1].sum(), 1e-12))


def joined(parts: Mapping[str, list[tuple[dict[str, BoolArray], int]]]) -> Violations:
    """Return the violations of worlds E at ticks: by who, a list of what was broken (E, A) by law, and the tick."""
    broken: dict[str, dict[str, BoolArray]] = {}
    at: dict[str, NDArray[np.int64]] = {}
    episode: dict[str, NDArray[np.int64]] = {}
    for who, ticks in parts.items():
        shapes = [next(iter(laws.values())).shape for laws, _ in ticks]
        broken[who] = {law: np.concatenate([laws[law].ravel() for laws, _ in ticks]) for law in ticks[0][0]}
        at[who] = np.concatenate(
            [np.full(worlds * agents, tick) for (worlds, agents), (_, tick) in zip(shapes, ticks, strict=True)]
        )
        episode[who] = np.concatenate([np.repeat(np.arange(worlds), agents) for worlds, agents in shapes])
    return Violations(broken, at, episode)
