"""Prompted events: what a world event changed, in truth and in the dream. A world that obeys changes the same cells to
the same tokens; one that does not listen changes none.

Axes: P pairs of forks, with an event and without; n cells of the views at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from world.envs.grounded import BoolArray
from world.evaluation.metrics import REPLAYED, Counts, FloatArray, MetricRow, Scores, f1, mean_of, row_of
from world.field import Uint16Array


@dataclass(frozen=True, slots=True)
class Prompted:
    """Two forks that differ in one event, some ticks after it."""

    counted: BoolArray
    """(P, n) map cells in view of truth's agents in either fork, each once, that were known when the event was told."""
    befallen: dict[str, Uint16Array]
    """(P, n) tokens where the event was told, by "truth", "ours", "no_memory", "ceiling", and, where they can be,
    "oracle", and "replay", truth again with other luck."""
    quiet: dict[str, Uint16Array]
    """(P, n) tokens where it was not."""
    kind: NDArray[np.int64]
    """(P,) of the event, from 1."""
    episode: NDArray[np.int64]
    """(P,) which world the pair is of."""


def prompt_scores(prompted: dict[int, Prompted], phrases: Sequence[str], *, seed: int = 0) -> Scores:
    """Return, for each number of ticks h after the event, `event_f1@h`, F1 of its effects, and the same by kind.

    At the first h also `event_amount@h`: how many cells it changed, in relation to truth.

    Of what is left to chance truth itself reaches no more when it is replayed with other luck; that is said beside.
    """
    metrics: dict[str, MetricRow] = {}
    reasons = {"*.oracle": "the truth of a cell cannot be asked here"}
    for h, found in sorted(prompted.items()):
        kinds: dict[str, BoolArray] = {"": np.ones(len(found.kind), np.bool_)}
        kinds |= {"_" + phrase.replace(" ", "_"): found.kind == kind for kind, phrase in enumerate(phrases, start=1)}
        for name, chosen in kinds.items():
            counts = {who: effect_counts(who, found)[chosen] for who in found.befallen if who != "truth"}
            replayed = counts.pop("replay", None)
            counts["copy_last"] = effect_counts("nobody", found)[chosen]
            if not counts["copy_last"].any():
                reasons[f"event_f1{name}@{h}"] = "no such event changed anything that was in sight and known"
                continue
            if replayed is not None:
                reasons[f"event_f1{name}@{h}"] = REPLAYED.format(f1(replayed))
            by_world = {who: _by_world(rows, found.episode[chosen]) for who, rows in counts.items()}
            metrics[f"event_f1{name}@{h}"] = row_of(by_world, f1, seed=seed, ceiling=None)
            if h == min(prompted):
                amounts = {who: _amounts(rows) for who, rows in by_world.items()}
                metrics[f"event_amount{name}@{h}"] = row_of(amounts, mean_of, seed=seed, ceiling=None)
    return Scores(metrics, reasons)


def effect_counts(who: str, found: Prompted) -> Counts:
    """Return (P, 3) hits, false alarms and misses of effects: cells that the event changed, to the right token.

    A wrong token for an affected cell is both a false alarm and a miss. Whoever is not among the found changes nothing.
    """
    true = (found.befallen["truth"] != found.quiet["truth"]) & found.counted
    own = np.zeros_like(true)
    right = own
    if who in found.befallen:
        own = (found.befallen[who] != found.quiet[who]) & found.counted
        right = own & true & (found.befallen[who] == found.befallen["truth"])
    return np.stack([part.sum(axis=1) for part in (right, own & ~right, true & ~right)], axis=1).astype(np.int64)


def _amounts(counts: Counts) -> FloatArray:
    """Return (n, 2) cells that were changed, and that truth changed, from hits, false alarms and misses (n, 3)."""
    return np.stack([counts[:, 0] + counts[:, 1], counts[:, 0] + counts[:, 2]], axis=1).astype(np.float64)


def _by_world(counts: Counts, episode: NDArray[np.int64]) -> Counts:
    return np.stack([counts[episode == world].sum(axis=0) for world in np.unique(episode)])
