"""What limits a model of Crafter: which cells its bits go to, and which changes it foretells.

What is read of a cell may change while the cell does not: by night Crafter draws noise, and a learned tokenizer takes
one look for another. Nobody can foretell that, and it is told apart here by truth.

Axes: T ticks, A agents, H × W cells of a window.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from world.envs.grounded import BoolArray, Uint8Array
from world.evaluation.metrics import FloatArray, MetricRow, Scores, mean_of, row_of, share_row
from world.evaluation.one_step import Answers
from world.field import UNSEEN
from world.trajectory import STAY

PLAYER = 13
"""What is numbered above is a creature, a plant or an arrow; below are materials."""
DARK = 0.5
"""Daylight below which Crafter draws noise."""
ACTS = {"rest": (0, 6), "move": (1, 2, 3, 4), "do": (5,), "place": (7, 8, 9, 10), "make": (11, 12, 13, 14, 15, 16)}
"""Crafter's actions by kind, as numbered there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CrafterTruth:
    """What truly was and is in the cells of each window, and how light it is."""

    before: Uint8Array
    """(T, A, H, W) materials and creatures before the tick, in the cells that the window had then."""
    after: Uint8Array
    """(T, A, H, W) in the same cells after it."""
    daylight: FloatArray
    """(T,) after it."""

    @classmethod
    def stack(cls, ticks: Sequence["CrafterTruth"]) -> Self:
        """Return the truth of ticks one after the other."""
        return cls(**{name: np.concatenate([getattr(tick, name) for tick in ticks]) for name in cls.__annotations__})


def parts_of(answers: Answers, truth: CrafterTruth) -> dict[str, BoolArray]:
    """Return the observed cells (T, A, H, W) by what happened there, each in one part.

    `unseen` nobody had looked at before; `player` is where the agent is or was, `creature` where anything else that
    lives is or was; `changed` is ground that became another; of what stayed as it was, `flicker_dark` and
    `flicker_light` were read as something else than before, and `still` were not.
    """
    ticks = answers.ticks
    last = ticks.tokens[..., 0]
    known, flickers = last != UNSEEN, ticks.next_tokens != last
    is_dark = (truth.daylight < DARK)[:, None, None, None]
    lives = (truth.before > PLAYER) | (truth.after > PLAYER)
    tests = {
        "unseen": ~known,
        "player": (truth.before == PLAYER) | (truth.after == PLAYER),
        "creature": lives,
        "changed": truth.before != truth.after,
        "flicker_dark": flickers & is_dark,
        "flicker_light": flickers,
    }
    parts, left = {}, answers.observed.copy()
    for name, test in tests.items():
        parts[name] = left & test
        left &= ~test
    return parts | {"still": left}


def limit_scores(answers: Answers, truth: CrafterTruth, *, seed: int = 0) -> Scores:
    """Return where bits go, how many cells there are of each part, and which of their edits are foretold.

    `bits_of_part` and `bits_of_self` (displacement and status) add up to `nll_bits`; `cells_of_part` are cells an
    agent-tick. `edits_part` is its share of the edits that `changed_f1_known` counts, `foretold_part` the share of them
    that are foretold. `bits@act` and `displacement@act` are those of ticks with one kind of action.
    """
    parts, metrics = parts_of(answers, truth), dict[str, MetricRow]()
    agents = np.full(len(answers.ticks), float(answers.ticks.num_agents))

    def per_agent(sums: Mapping[str, FloatArray]) -> MetricRow:
        rows = {who: np.stack([bits, agents], axis=1) for who, bits in sums.items()}
        return row_of(rows, mean_of, seed=seed, ceiling=None, episodes=answers.worlds)

    cells = {who: told.cell_bits.astype(np.float64) for who, told in answers.foretold.items()}
    for name, inside in parts.items():
        metrics[f"bits_of_{name}"] = per_agent({who: _sums(bits * inside) for who, bits in cells.items()})
        metrics[f"cells_of_{name}"] = per_agent({"ours": _sums(inside.astype(np.float64))})
    told = answers.foretold
    metrics["bits_of_self"] = per_agent({who: told[who].bits - _sums(bits) for who, bits in cells.items()})
    metrics |= _edits(answers, parts)
    metrics |= _by_act(answers, seed)
    reasons = {
        "bits*.copy_last": "copying believes in one rate of change everywhere",
        "bits*.ceiling": "the tokenizer alone gives no odds",
        "cells_of_*.*": "cells are counted, and nobody is asked",
        "edits_*.*": "edits are counted, and nobody is asked",
        "foretold_*.ceiling": "an edit is what was read, noise and all",
    }
    return Scores(metrics, reasons)


def _edits(answers: Answers, parts: Mapping[str, BoolArray]) -> dict[str, MetricRow]:
    ticks, metrics = answers.ticks, dict[str, MetricRow]()
    last, truth = ticks.tokens[..., 0], ticks.next_tokens
    edited = answers.counted & (truth != last)
    worlds = answers.world_of
    for name, inside in parts.items():
        edits = edited & inside
        if not edits.any():
            continue
        metrics[f"edits_{name}"] = share_row(
            {"ours": inside[edited]}, ceiling=None, episodes=worlds[np.nonzero(edited)[0]]
        )
        hits = {who: (told.tokens == truth)[edits] for who, told in answers.foretold.items()}
        copied = {"copy_last": np.zeros(int(edits.sum()), np.bool_)}
        metrics[f"foretold_{name}"] = share_row(hits | copied, ceiling=None, episodes=worlds[np.nonzero(edits)[0]])
    return metrics


def _by_act(answers: Answers, seed: int) -> dict[str, MetricRow]:
    ticks, metrics = answers.ticks, dict[str, MetricRow]()
    for name, of in ACTS.items():
        acts = np.isin(ticks.actions, of)
        rows = acts.all(axis=1)
        if not rows.any():
            continue
        worlds = answers.world_of[rows]
        agents = np.full(int(rows.sum()), float(ticks.num_agents))
        bits = {who: np.stack([told.bits[rows], agents], axis=1) for who, told in answers.foretold.items()}
        metrics[f"bits@{name}"] = row_of(bits, mean_of, seed=seed, ceiling=None, episodes=worlds)
        right = {who: (told.displacement == ticks.displacement)[rows].ravel() for who, told in answers.foretold.items()}
        stayed = {"copy_last": (ticks.displacement[rows] == STAY).ravel()}
        metrics[f"displacement@{name}"] = share_row(
            right | stayed, ceiling=1.0, episodes=np.repeat(worlds, ticks.num_agents)
        )
    return metrics


def _sums(values: NDArray[np.float64]) -> FloatArray:
    """Return (T,) sums of values (T, …)."""
    sums: FloatArray = values.reshape(len(values), -1).sum(axis=1)
    return sums
