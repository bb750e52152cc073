"""Scores with intervals, beside the four baselines.

Copy-last: all is as it was last seen. No memory: the same model, told only what is in view. Oracle: the same model,
told what is truly in every cell of its windows. Ceiling: the truth itself, through the tokenizer.

Axes: n rows, each of an episode that may be resampled, … cells within a row.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from world.envs.grounded import BoolArray
from world.field import IntpArray, Uint16Array

Counts = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Number = TypeVar("Number", np.int64, np.float64)

BASELINES = ("copy_last", "no_memory", "oracle", "ceiling")
"""Who stands beside every metric of ours, where it is defined."""
REPLAYED = "a replay of truth with other luck: {:.3f}"
"""Said of a metric that not even truth would reach again."""
_Z95 = 1.959964


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricRow:
    """One metric of ours with its 95% interval, and the four baselines; None where one is not defined."""

    value: float
    low: float
    high: float
    copy_last: float | None = None
    no_memory: float | None = None
    oracle: float | None = None
    ceiling: float | None = None


def edit_counts(predicted: Uint16Array, truth: Uint16Array, last: Uint16Array, counted: BoolArray) -> Counts:
    """Return (n, 3) hits, false alarms and misses of edits, from tokens (n, …).

    An edit is a cell whose token differs from what was last seen there; it is hit if the new token is right too.
    A wrong token for an edited cell is both a false alarm and a miss. Copying never hits.
    """
    foretold = (predicted != last) & counted
    edited = (truth != last) & counted
    hit = foretold & edited & (predicted == truth)
    per_row = (hit, foretold & ~hit, edited & ~hit)
    return np.stack([part.reshape(len(part), -1).sum(axis=1) for part in per_row], axis=1).astype(np.int64)


def f1(counts: Counts) -> float:
    """Return F1 of summed (hits, false alarms, misses) (3,) or (n, 3); 1 if nothing was to be found nor foretold."""
    hits, alarms, misses = counts.reshape(-1, 3).sum(axis=0)
    return float(2 * hits / (2 * hits + alarms + misses)) if hits + alarms + misses else 1.0


def mean_of(rows: FloatArray) -> float:
    """Return sum of numerators over sum of denominators of rows (n, 2)."""
    return float(rows[:, 0].sum() / max(rows[:, 1].sum(), 1e-12))


def bootstrap(
    rows: NDArray[Number],
    statistic: Callable[[NDArray[Number]], float],
    *,
    seed: int,
    episodes: IntpArray | None = None,
    resamples: int = 200,
) -> tuple[float, float, float]:
    """Return the statistic of rows (n, …) and its 95% percentile interval over resampled episodes.

    `episodes` (n,) says which one each row is of: rows of one world share its map and its luck, and are drawn together.
    None: each row is an episode.
    """
    rng = np.random.default_rng(seed)
    of = np.arange(len(rows)) if episodes is None else episodes
    members = [np.flatnonzero(of == episode) for episode in np.unique(of)]
    drawn = (rng.integers(len(members), size=len(members)) for _ in range(resamples))
    draws = [statistic(rows[np.concatenate([members[i] for i in chosen])]) for chosen in drawn]
    low, high = np.percentile(draws, [2.5, 97.5])
    return statistic(rows), float(low), float(high)


def copy_last_bits(truth: Uint16Array, last: Uint16Array, counted: BoolArray, num_tokens: int) -> float:
    """Return bits of tokens (…) under "as last seen", at the best single rate of change to any other of `num_tokens`,
    of which one is UNSEEN.
    """
    total = int(counted.sum())
    changed = int(((truth != last) & counted).sum())
    if not changed:
        return 0.0
    rate = changed / total
    stay = -(total - changed) * np.log2(1 - rate) if changed < total else 0.0
    return float(stay - changed * np.log2(rate / (num_tokens - 2)))


def wilson(hits: float, total: float) -> tuple[float, float, float]:
    """Return the share of hits and its 95% score interval (Wilson 1927); (0, 0, 1) of nothing."""
    if not total:
        return 0.0, 0.0, 1.0
    share, z2 = hits / total, _Z95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    return share, min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share)


def effective_size(hits: BoolArray, episodes: IntpArray) -> float:
    """Return for how many independent ones hits (n,) of episodes (n,) count: between the number of episodes and n.

    As many as would have the variance that the share has over episodes (the effective sample size of Korn and Graubard
    1998, Survey Methodology 24, 193–201); where all hit or none, that cannot be told, and each episode counts once.
    """
    _, index = np.unique(episodes, return_inverse=True)
    size, found = np.bincount(index), np.bincount(index, hits)
    share, number = hits.mean(), len(size)
    if share in (0.0, 1.0) or number < 2:
        return float(number)
    variance = ((found - share * size) ** 2).sum() / len(hits) ** 2 * number / (number - 1)
    return float(np.clip(share * (1 - share) / max(variance, 1e-12), number, len(hits)))


def share_of(hits: BoolArray, episodes: IntpArray | None) -> tuple[float, float, float]:
    """Return the share of hits (n,) and its 95% score interval, of as many as they count for; (0, 0, 1) of none."""
    if not hits.size:
        return wilson(0, 0)
    size = hits.size if episodes is None else effective_size(hits, episodes)
    return wilson(float(hits.mean()) * size, size)


def brier(believed: FloatArray, happened: BoolArray) -> float:
    """Return the mean squared error of beliefs (n,) in events (n,) (Brier 1950)."""
    return float(((believed - happened) ** 2).mean()) if len(believed) else 0.0


def calibration_error(believed: FloatArray, happened: BoolArray, bins: int = 10) -> float:
    """Return the expected calibration error of beliefs (n,): |belief − frequency| over equal bins, by their size."""
    index = np.minimum((believed * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(index, believed, bins) - np.bincount(index, happened.astype(np.float64), bins)
    return float(np.abs(gaps).sum() / max(len(believed), 1))


def theil_sen(x: FloatArray, y: FloatArray) -> float:
    """Return the median slope over all pairs of points (Theil 1950, Sen 1968). Raises `ValueError` below two points."""
    i, j = np.triu_indices(len(x), 1)
    apart = x[i] != x[j]
    if not apart.any():
        raise ValueError(f"theil_sen: expected two points of different x, got x = {x.tolist()}")
    return float(np.median((y[j] - y[i])[apart] / (x[j] - x[i])[apart]))


def half_life(horizons: FloatArray, skills: FloatArray) -> float:
    """Return the horizon at which skill has fallen to half of what it first was; infinity if it never does.

    Horizons (n,) rise; between two of them skill is taken as linear in the logarithm of the horizon.
    """
    half, at = skills[0] / 2, np.log2(horizons)
    for i in range(1, len(skills)):
        if skills[i] <= half:
            fallen = (skills[i - 1] - half) / max(skills[i - 1] - skills[i], 1e-12)
            return float(2 ** (at[i - 1] + fallen * (at[i] - at[i - 1])))
    return math.inf


def row_of(
    rows: Mapping[str, NDArray[Number]],
    statistic: Callable[[NDArray[Number]], float],
    *,
    seed: int,
    ceiling: float | None,
    episodes: IntpArray | None = None,
) -> MetricRow:
    """Return the metric of rows `ours` (n, …) with its interval by `bootstrap`, beside whichever baselines there are.

    `ceiling` stands where nothing was measured under that name.
    """
    value, low, high = bootstrap(rows["ours"], statistic, seed=seed, episodes=episodes)
    beside = {name: statistic(rows[name]) if name in rows else None for name in BASELINES}
    if beside["ceiling"] is None:
        beside["ceiling"] = ceiling
    return MetricRow(value=value, low=low, high=high, **beside)


def share_row(hits: Mapping[str, BoolArray], *, ceiling: float | None, episodes: IntpArray | None = None) -> MetricRow:
    """Return the share of hits `ours` (n,) with its Wilson interval, beside the baselines' shares.

    `episodes` as of `bootstrap`: hits of one are not independent, and count for fewer.
    """
    value, low, high = share_of(hits["ours"], episodes)
    beside = {name: float(hits[name].mean()) if name in hits and hits[name].size else None for name in BASELINES}
    if beside["ceiling"] is None:
        beside["ceiling"] = ceiling
    return MetricRow(value=value, low=low, high=high, **beside)


def share_gap(one: BoolArray, other: BoolArray) -> tuple[float, float, float]:
    """Return by how much the share of hits of one (n,) exceeds that of the other (n,), and its 95% interval.

    Of pairs, and from the score intervals of both shares (Newcombe 1998, Statistics in Medicine 17, 2635–2650,
    method 10): where nothing varies, it is still as wide as so few pairs make it.
    """
    (share, low, high), (less, less_low, less_high) = share_of(one, None), share_of(other, None)
    total, num_one, num_other = one.size, int(one.sum()), int(other.sum())
    excess = float(total * (one & other).sum() - num_one * num_other)
    if excess > 0:
        excess = max(excess - total / 2, 0.0)
    margins = num_one * (total - num_one) * num_other * (total - num_other)
    correlation = excess / math.sqrt(margins) if margins else 0.0

    def apart(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2 * correlation * a * b + b * b, 0.0))

    gap = share - less
    return gap, gap - apart(share - low, less_high - less), gap + apart(high - share, less - less_low)


def gap_row(pairs: Mapping[str, tuple[BoolArray, BoolArray]]) -> MetricRow:
    """Return the difference of shares of `ours`, two kinds of hits (n,) of the same pairs, beside the baselines'."""
    value, low, high = share_gap(*pairs["ours"])
    beside = {name: share_gap(*pairs[name])[0] if name in pairs else None for name in BASELINES}
    return MetricRow(value=value, low=low, high=high, **beside)


@dataclass(frozen=True, slots=True)
class Scores:
    """What a protocol found, and why some baselines, or whole metrics, are not there."""

    metrics: dict[str, MetricRow]
    reasons: dict[str, str]
    """By "metric.baseline" or "metric", each with wildcards as in `fnmatch`: why it is not defined."""

    def unexplained(self) -> list[str]:
        """Return each "metric.baseline" that is not defined and for which no reason is given."""
        return [name for name in self._empty() if not any(fnmatchcase(name, pattern) for pattern in self.reasons)]

    def notes(self) -> dict[str, str]:
        """Return the reasons that apply: the narrowest for each baseline that is not defined, and all about metrics."""
        about = {p: r for p, r in self.reasons.items() if p.rpartition(".")[2] not in (*BASELINES, "*")}
        for name in self._empty():
            fitting = [pattern for pattern in self.reasons if fnmatchcase(name, pattern)]
            if fitting:
                narrowest = max(fitting, key=len)
                about[narrowest] = self.reasons[narrowest]
        return about

    def _empty(self) -> list[str]:
        return [f"{name}.{b}" for name, row in self.metrics.items() for b in BASELINES if getattr(row, b) is None]


def merged(parts: Iterable[Scores]) -> Scores:
    """Return all metrics and reasons of several scores."""
    metrics: dict[str, MetricRow] = {}
    reasons: dict[str, str] = {}
    for part in parts:
        metrics |= part.metrics
        reasons |= part.reasons
    return Scores(metrics, reasons)
