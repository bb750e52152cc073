"""Counterfactuals: what a different action would have changed, in truth and in the dream. And state equivalence:
histories that lead to one state must lead to the same futures, those that do not must not be confused.

Axes: P pairs of forks, n cells of the views at the end.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from world.envs.grounded import BoolArray
from world.evaluation.metrics import REPLAYED, Counts, MetricRow, Scores, f1, row_of, share_row
from world.evaluation.revisit import NO_TRUTH
from world.field import IntpArray


@dataclass(frozen=True, slots=True)
class Effects:
    """Which cells differ between two forks that differ in one action of one agent, some ticks later."""

    counted: BoolArray
    """(P, n) cells in view of truth's agents in either fork, each once."""
    masks: dict[str, BoolArray]
    """(P, n) by "truth", "ours", "no_memory", "oracle", "ceiling", and "replay", truth again with other luck: where the
    forks differ."""
    episode: NDArray[np.int64]
    """(P,) which world the pair is of."""


@dataclass(frozen=True, slots=True)
class Equivalence:
    """Whether two histories of one world had the same future."""

    same_state: BoolArray
    """(P,) in truth the histories led to one state."""
    same_future: dict[str, BoolArray]
    """(P,) by "truth", "ours", "no_memory": what followed on both looked the same."""
    episode: IntpArray
    """(P,) which world the histories are of."""


def counterfactual_scores(effects: dict[int, Effects], *, seed: int = 0) -> Scores:
    """Return, for each number of ticks h after the action, `cf_f1@h`: F1 between the masks of effects.

    0 says that the action channel is dead: whatever is done, the same follows, as when copying.
    """
    metrics: dict[str, MetricRow] = {}
    reasons = {"*.oracle": NO_TRUTH}
    for h, found in sorted(effects.items()):
        if not (found.masks["truth"] & found.counted).any():
            reasons[f"cf_f1@{h}"] = "no action that was tried made a difference"
            continue
        masks = {name: mask for name, mask in found.masks.items() if name not in ("truth", "replay")}
        if "replay" in found.masks:
            replayed = f1(mask_counts(found.masks["replay"], found))
            reasons[f"cf_f1@{h}"] = REPLAYED.format(replayed)
        masks["copy_last"] = np.zeros_like(found.counted)
        counts = {name: _by_world(mask_counts(mask, found), found.episode) for name, mask in masks.items()}
        metrics[f"cf_f1@{h}"] = row_of(counts, f1, seed=seed, ceiling=None)
    return Scores(metrics, reasons)


def mask_counts(mask: BoolArray, found: Effects) -> Counts:
    """Return (P, 3) hits, false alarms and misses of a mask of effects (P, n)."""
    truth = found.masks["truth"]
    parts = (mask & truth, mask & ~truth, truth & ~mask)
    return np.stack([(part & found.counted).sum(axis=1) for part in parts], axis=1).astype(np.int64)


def equivalence_scores(found: Equivalence) -> Scores:
    """Return `compression_precision` (P[same future | same state]) and `distinction_recall` (P[another future | another
    state whose future in truth is another]).
    """
    reasons = {
        "compression_precision.oracle": "it is told the state, so histories do not matter to it",
        "distinction_recall.oracle": "it is told the state, so histories do not matter to it",
    }
    metrics: dict[str, MetricRow] = {}
    futures = {name: same for name, same in found.same_future.items() if name != "truth"}
    # Copying remembers the start alone, and so expects the same after every history.
    futures["copy_last"] = np.ones_like(found.same_state)
    apart = ~found.same_state & ~found.same_future["truth"]
    if found.same_state.any():
        hits = {name: same[found.same_state] for name, same in futures.items()}
        metrics["compression_precision"] = share_row(hits, ceiling=1.0, episodes=found.episode[found.same_state])
    else:
        reasons["compression_precision"] = "no two histories led to one state"
    if apart.any():
        told = {name: ~same[apart] for name, same in futures.items()}
        metrics["distinction_recall"] = share_row(told, ceiling=1.0, episodes=found.episode[apart])
    else:
        reasons["distinction_recall"] = "no two histories led to different futures"
    return Scores(metrics, reasons)


def _by_world(counts: Counts, episode: NDArray[np.int64]) -> Counts:
    worlds = np.unique(episode)
    return np.stack([counts[episode == world].sum(axis=0) for world in worlds])
