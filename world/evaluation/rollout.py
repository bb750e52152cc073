"""Rollouts: how long a dream stays true under the actions of truth.

Axes: E episodes, T ticks, A agents, R × C cells of a view, of which the first rows are map and the rest status.

Changes are edits relative to what was known when the dream began, so that who goes on seeing that scores 0.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from world.envs.grounded import BoolArray, Float32Array
from world.evaluation.events import event_counts
from world.evaluation.metrics import (
    REPLAYED,
    Counts,
    FloatArray,
    MetricRow,
    Scores,
    edit_counts,
    f1,
    half_life,
    mean_of,
    row_of,
    share_row,
    theil_sen,
)
from world.field import Uint16Array

_LEAST_SKILL = 0.05
"""Where even a replay of truth finds less than this, skill would be a ratio of noise."""


@dataclass(frozen=True, slots=True)
class Moment:
    """All episodes at one horizon, in the views of truth's agents."""

    last: Uint16Array
    """(E, A, R, C) what was known of these cells when the dreams began."""
    truth: Uint16Array
    counted: BoolArray
    """(E, A, R, C) cells known then, each once, and not changed by pure chance since."""
    answers: dict[str, Uint16Array]
    """(E, A, R, C) by "ours", "no_memory", "oracle", "ceiling", and "replay": truth again with other luck."""
    arrived: dict[str, BoolArray]
    """(G, A) whether the agent is where truth's is, of the G episodes that go on."""


@dataclass(slots=True)
class Rollouts:
    """Episodes of truth and their dreams, as far as they were played."""

    map_rows: int
    moments: dict[int, Moment] = field(default_factory=dict)
    """By horizon, in ticks."""
    rewards: dict[str, list[Float32Array]] = field(default_factory=dict)
    """Of each tick (E, A), by "truth", "ours" and "no_memory", and "replay" where there is one."""
    changed: dict[str, list[NDArray[np.int64]]] = field(default_factory=dict)
    """Known cells that each tick changed (E,), likewise."""


def rollout_scores(record: Rollouts, *, seed: int = 0) -> Scores:
    """Return, for each horizon k, `changed_f1@k`, `status_f1@k`, `poses@k` and `skill@k`; over all of them
    `skill_drift` (slope for each doubling of k), `skill_half_life`, `change_rate` and `reward_f1`.

    Skill is (ours − copy) / (best − copy), where the best is truth replayed with other luck, or else the ceiling.
    """
    metrics: dict[str, MetricRow] = {}
    reasons = {
        "change_rate.oracle": "an oracle is asked at the horizons alone",
        "reward_f1.oracle": "an oracle is asked at the horizons alone",
        "skill_half_life.copy_last": "it has no skill to lose",
        "*.oracle": "the truth of cells out of sight cannot be asked in this environment",
    }
    reached = {k: moment for k, moment in sorted(record.moments.items()) if moment.counted.any()}
    reasons |= {f"*@{k}": "no episode lasted that long" for k in record.moments.keys() - reached.keys()}
    record = replace(record, moments=reached)
    for k, moment in reached.items():
        metrics[f"changed_f1@{k}"] = row_of(_edits(record, moment, _map), f1, seed=seed, ceiling=None)
        if record.map_rows and record.map_rows < moment.truth.shape[2]:
            metrics[f"status_f1@{k}"] = row_of(_edits(record, moment, _status), f1, seed=seed, ceiling=None)
        if record.map_rows:
            hits = {name: arrived.ravel() for name, arrived in moment.arrived.items()}
            worlds = np.repeat(np.arange(len(moment.arrived["ours"])), moment.truth.shape[1])
            metrics[f"poses@{k}"] = share_row(hits, ceiling=1.0, episodes=worlds)
            if "replay" in hits:
                reasons[f"poses@{k}"] = REPLAYED.format(hits["replay"].mean())
        if "replay" in moment.answers:
            replayed = f1(edit_counts(*_map(record, moment, moment.answers["replay"])))
            reasons[f"changed_f1@{k}"] = REPLAYED.format(replayed)
    skills, why = _skills(record, seed)
    metrics |= skills
    reasons |= why
    if record.changed:
        rates = _rates(record.changed)
        if "replay" in rates:
            reasons["change_rate"] = REPLAYED.format(mean_of(rates.pop("replay")))
        metrics["change_rate"] = row_of(rates, mean_of, seed=seed, ceiling=1.0)
    rewards, why = _reward_scores(record, seed)
    return Scores(metrics | rewards, reasons | why)


def worst_episodes(record: Rollouts, count: int) -> list[int]:
    """Return the episodes of lowest changed-token F1 at the longest horizon, the worst first."""
    if not record.moments:
        return []
    counts = _edits(record, record.moments[max(record.moments)], _map)["ours"]
    return sorted(range(len(counts)), key=lambda episode: f1(counts[episode]))[:count]


_Compared = tuple[Uint16Array, Uint16Array, Uint16Array, BoolArray]
"""What `edit_counts` takes."""
_Part = Callable[[Rollouts, Moment, Uint16Array], _Compared]


def _map(record: Rollouts, moment: Moment, answer: Uint16Array) -> _Compared:
    rows = slice(0, record.map_rows or None)
    return answer[:, :, rows], moment.truth[:, :, rows], moment.last[:, :, rows], moment.counted[:, :, rows]


def _status(record: Rollouts, moment: Moment, answer: Uint16Array) -> _Compared:
    rows = slice(record.map_rows, None)
    return answer[:, :, rows], moment.truth[:, :, rows], moment.last[:, :, rows], moment.counted[:, :, rows]


def _edits(record: Rollouts, moment: Moment, part: _Part) -> dict[str, Counts]:
    answers = moment.answers | {"copy_last": moment.last}
    return {name: edit_counts(*part(record, moment, answer)) for name, answer in answers.items()}


def _skills(record: Rollouts, seed: int) -> tuple[dict[str, MetricRow], dict[str, str]]:
    counts = {k: _edits(record, moment, _map) for k, moment in record.moments.items()}
    reasons: dict[str, str] = {}
    best = "replay" if all("replay" in of_k for of_k in counts.values()) else "ceiling"
    for k in list(counts):
        if f1(counts[k][best]) - f1(counts[k]["copy_last"]) < _LEAST_SKILL:
            reasons[f"skill@{k}"] = f"left out: the best possible F1 is {f1(counts[k][best]):.3f}"
            del counts[k]
    if not counts:
        return {}, reasons
    who = [name for name in ("ours", "copy_last", "no_memory", "oracle") if all(name in c for c in counts.values())]
    # (E, horizons, 3 parties, 3): whose skill it is, the best, and copy-last.
    rows = {
        name: np.stack([np.stack([of_k[name], of_k[best], of_k["copy_last"]], 1) for of_k in counts.values()], 1)
        for name in who
    }
    metrics = {f"skill@{k}": row_of(rows, _skill_at(i), seed=seed, ceiling=1.0) for i, k in enumerate(counts)}
    if len(counts) < 2:
        return metrics, reasons | {"skill_drift": "needs two horizons"}
    horizons = np.array(list(counts), np.float64)
    metrics["skill_drift"] = row_of(rows, lambda r: theil_sen(np.log2(horizons), _skill(r)), seed=seed, ceiling=0.0)
    lasting = {name: row for name, row in rows.items() if name != "copy_last"}
    metrics["skill_half_life"] = row_of(
        lasting, lambda r: min(half_life(horizons, _skill(r)), horizons[-1]), seed=seed, ceiling=float(horizons[-1])
    )
    reasons["skill_half_life"] = f"in ticks; {horizons[-1]:.0f} means at least that"
    return metrics, reasons


def _skill_at(index: int) -> Callable[[Counts], float]:
    return lambda rows: float(_skill(rows)[index])


def _skill(rows: Counts) -> FloatArray:
    """Return skills (horizons,) of counts (E, horizons, 3 parties, 3)."""
    scores = np.array([[f1(rows[:, i, party]) for party in range(3)] for i in range(rows.shape[1])])
    skill: FloatArray = (scores[:, 0] - scores[:, 2]) / np.maximum(scores[:, 1] - scores[:, 2], _LEAST_SKILL)
    return skill


def _rates(changed: Mapping[str, list[NDArray[np.int64]]]) -> dict[str, FloatArray]:
    """Return (E, 2) changes of each dream and of its truth."""
    totals = {name: np.sum(of_ticks, axis=0) for name, of_ticks in changed.items()}
    totals["copy_last"] = np.zeros_like(totals["truth"])
    return {
        name: np.stack([total, totals["truth"]], axis=1).astype(np.float64)
        for name, total in totals.items()
        if name != "truth"
    }


def _reward_scores(record: Rollouts, seed: int) -> tuple[dict[str, MetricRow], dict[str, str]]:
    if not record.rewards:
        return {}, {}
    by_name = {name: np.stack(of_ticks, axis=1) for name, of_ticks in record.rewards.items()}
    truth = by_name.pop("truth")
    given = truth != 0
    if not given.any():
        return {}, {"reward_f1": f"no reward was met in {truth.size} agent-ticks"}
    # Dreamed rewards are expectations: half of the smallest true one is nearer to it than to nothing.
    threshold = 0.5 * np.abs(truth[given]).min()
    by_name["copy_last"] = np.zeros_like(truth)
    counts = {}
    for name, expected in by_name.items():
        right = np.abs(expected - truth) <= 0.5 * np.abs(truth)
        flat = (part.reshape(len(truth), -1) for part in (np.abs(expected) >= threshold, given, right))
        counts[name] = event_counts(*flat)
    reasons = {"reward_f1": REPLAYED.format(f1(counts.pop("replay")))} if "replay" in counts else {}
    return {"reward_f1": row_of(counts, f1, seed=seed, ceiling=1.0)}, reasons
