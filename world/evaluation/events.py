"""Rewards and endings one step ahead, as events: found or missed, believed and calibrated. Accuracy alone is no result.

Axes: T ticks, A agents.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from world.envs.grounded import BoolArray, Float32Array
from world.evaluation.foretell import REWARD_EVENT
from world.evaluation.metrics import Counts, FloatArray, Scores, brier, calibration_error, f1, merged, row_of
from world.evaluation.one_step import Answers


def event_scores(answers: Answers, *, seed: int = 0) -> Scores:
    """Return `reward_…` and `termination_…`: `f1`, `brier` and `calibration` (expected calibration error).

    Copying last expects no event. The F1 of events that never happened is not defined, and left out with the reason.
    """
    ticks, foretold, here = answers.ticks, answers.foretold, answers.here
    given, ended = here & (np.abs(ticks.rewards) >= REWARD_EVENT), here & ticks.terminated
    right = {name: _same_reward(answer.rewards, ticks.rewards) for name, answer in foretold.items()}
    rewards = {name: here * answer.reward_event for name, answer in foretold.items()}
    endings = {name: here * answer.ending for name, answer in foretold.items()}
    return merged(
        [
            _scores("reward", rewards, given, right, answers, seed),
            _scores("termination", endings, ended, dict.fromkeys(endings, ended), answers, seed),
        ]
    )


def event_counts(foretold: BoolArray, happened: BoolArray, right: BoolArray) -> Counts:
    """Return (T, 3) hits, false alarms and misses of events (T, A); one of another kind is a false alarm and a miss."""
    hit = foretold & happened & right
    return np.stack([part.sum(axis=1) for part in (hit, foretold & ~hit, happened & ~hit)], axis=1).astype(np.int64)


def _same_reward(expected: Float32Array, given: Float32Array) -> BoolArray:
    """Whether an expected reward is nearer to the true one than to nothing or to twice as much."""
    same: BoolArray = np.abs(expected - given) <= 0.5 * np.abs(given)
    return same


def _scores(
    name: str,
    believed: dict[str, Float32Array],
    happened: BoolArray,
    right: dict[str, BoolArray],
    answers: Answers,
    seed: int,
) -> Scores:
    nothing, here, worlds = np.zeros(happened.shape, np.float32), answers.here, answers.worlds
    pairs = {who: _told(belief, happened, here) for who, belief in (believed | {"copy_last": nothing}).items()}
    metrics = {
        f"{name}_{how}": row_of(pairs, partial(_of_columns, score), seed=seed, ceiling=0.0, episodes=worlds)
        for how, score in (("brier", brier), ("calibration", calibration_error))
    }
    if not happened.any():
        return Scores(metrics, {f"{name}_f1": f"no {name} was met in {here.sum()} agent-ticks"})
    counts = {who: event_counts(belief >= 0.5, happened, right[who]) for who, belief in believed.items()}
    counts["copy_last"] = event_counts(nothing > 0, happened, happened)
    found = row_of(counts, f1, seed=seed, ceiling=1.0, episodes=worlds)
    return Scores({f"{name}_f1": found, **metrics}, {})


def _told(believed: Float32Array, happened: BoolArray, here: BoolArray) -> FloatArray:
    """Return (T, A, 3) belief, event, and whether there was anybody of whom to believe it."""
    return np.stack([believed, happened, here], axis=-1).astype(np.float64)


def _of_columns(score: Callable[[FloatArray, BoolArray], float], rows: FloatArray) -> float:
    told = rows[rows[..., 2] > 0]
    return score(told[:, 0], told[:, 1] > 0)
