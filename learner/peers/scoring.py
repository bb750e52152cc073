"""Scores of what all architectures can be asked: each agent's next view, and its status.

Told apart by how long the agent itself had not had a cell in view: what is in view now and next, what comes back
within the frames that a model of frames is told of, what comes back after longer, and what only others had seen.
Cells that nobody had seen are left out; nobody can know them.

Axes: W held-out worlds, n ticks of one, A agents, R × C cells of a view, S status cells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from learner.peers.frames import absences, full_contexts, shifted
from world.envs.grounded import BoolArray, Int32Array
from world.evaluation.metrics import FloatArray, bootstrap, copy_last_bits, edit_counts, f1, mean_of
from world.field import NEVER, UNSEEN, IntpArray, Uint16Array
from world.trajectory import ELSEWHERE, Transitions


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What an architecture foretells of the next views of n ticks."""

    tokens: Uint16Array
    """(n, A, R, C) most likely, where it believes the agents to be then."""
    status: Uint16Array
    """(n, A, S) most likely."""
    cell_bits: FloatArray
    """(n, A, R, C) of the cells that were seen."""
    own_bits: FloatArray
    """(n,) of all status cells and, where displacements are foretold apart and `cell_bits` given them, of those."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of one held-out world, and the truth."""

    rows: IntpArray
    """(n,) ticks that are asked about."""
    tokens: Uint16Array
    """(n, A, R, C) the next view."""
    last: Uint16Array
    """(n, A, R, C) what was last seen there, by anybody."""
    by_chance: BoolArray
    """(n, A, R, C)"""
    absent: Int32Array
    """(n, A, R, C) as in `absences`."""
    status: Uint16Array
    """(n, A, S) the next."""
    last_status: Uint16Array
    """(n, A, S)"""

    @property
    def known(self) -> BoolArray:
        """(n, A, R, C) cells that anybody had seen."""
        known: BoolArray = self.last != UNSEEN
        return known


@dataclass(frozen=True, slots=True)
class Score:
    """A figure and its 95% interval over held-out worlds."""

    value: float
    low: float | None = None
    high: float | None = None


def kinds(num_frames: int) -> dict[str, tuple[int, int]]:
    """Return the first and last absence of each kind of cell, beside a model that is told `num_frames` frames."""
    return {
        "in_view": (0, 0),
        "back_soon": (1, num_frames - 1),
        "back_late": (num_frames, 1 << 30),
        "others_saw": (NEVER, NEVER),
    }


def ask(ticks: Transitions, view: tuple[int, int], *, num_frames: int, first: int, stride: int) -> Asked:
    """Return what is asked of one world's consecutive ticks: every `stride`-th from `first` on.

    A tick at which somebody moves farther than its window reaches is not asked about: nobody could answer.
    """
    absent = absences(ticks, view)
    near = (ticks.displacement != ELSEWHERE).all(axis=1)
    rows = full_contexts(ticks.is_first, num_frames)
    rows = rows[(rows >= first) & near[rows]][::stride]
    moved = ticks.displacement[rows]
    return Asked(
        rows=rows,
        tokens=shifted(ticks.next_tokens[rows], moved, view),
        last=shifted(ticks.tokens[rows][..., 0], moved, view),
        by_chance=shifted(ticks.by_chance[rows], moved, view),
        absent=absent[rows],
        status=ticks.next_status[rows],
        last_status=ticks.status[rows],
    )


def scores(asked: Sequence[Asked], foreseen: Sequence[Foreseen], num_frames: int, *, seed: int) -> dict[str, Score]:
    """Return the scores of one architecture, by name, over W worlds."""
    worlds = list(zip(asked, foreseen, strict=True))
    rows: dict[str, list[NDArray[np.float64]]] = {}
    for of_world, told in worlds:
        for name, sums in _sums(of_world, told, num_frames).items():
            rows.setdefault(name, []).append(sums)
    return {name: _score(name, np.stack(sums), seed) for name, sums in rows.items()}


def copying(asked: Sequence[Asked], num_frames: int, vocab_size: int, *, seed: int) -> dict[str, Score]:
    """Return the scores of whoever says that all is as it was last seen, by anybody, and knows who goes where.

    Its bits are those of the best single rate of change.
    """
    copied = [Foreseen(a.last, a.last_status, np.zeros(a.last.shape), np.zeros(len(a.rows))) for a in asked]
    found = scores(asked, copied, num_frames, seed=seed)
    truth, last, known, absent = (
        np.concatenate([getattr(a, name) for a in asked]) for name in ("tokens", "last", "known", "absent")
    )
    bits = {}
    for kind, (least, most) in kinds(num_frames).items():
        cells = known & (absent >= least) & (absent <= most)
        bits[kind] = copy_last_bits(truth, last, cells, vocab_size)
        found[f"bits@{kind}"] = Score(bits[kind] / max(int(cells.sum()), 1))
    status, before = (np.concatenate([getattr(a, name) for a in asked]) for name in ("status", "last_status"))
    own = copy_last_bits(status, before, np.ones(status.shape, np.bool_), vocab_size)
    found["nll_bits"] = Score((bits["in_view"] + own) / truth[..., 0, 0].size)
    return found


def as_plain(found: Mapping[str, Score]) -> dict[str, dict[str, float | None]]:
    """Return scores as plain values."""
    return {name: asdict(score) for name, score in found.items()}


def _sums(asked: Asked, told: Foreseen, num_frames: int) -> dict[str, FloatArray]:
    """Return the sums of one world from which each score is made."""
    sums: dict[str, FloatArray] = {}
    in_view = 0.0
    for kind, (least, most) in kinds(num_frames).items():
        cells = asked.known & (asked.absent >= least) & (asked.absent <= most)
        counted = cells & ~asked.by_chance
        sums[f"f1@{kind}"] = _edits(told.tokens, asked.tokens, asked.last, counted)
        right = (told.tokens == asked.tokens) & counted
        sums[f"right@{kind}"] = np.array([right.sum(), counted.sum()], np.float64)
        sums[f"bits@{kind}"] = np.array([told.cell_bits[cells].sum(), cells.sum()], np.float64)
        in_view += sums[f"bits@{kind}"][0] if kind == "in_view" else 0.0
        if kind == "in_view":
            placed = _placed(told.tokens, asked.tokens, counted)
            sums["placed_f1@in_view"] = _edits(placed, asked.tokens, asked.last, counted & (placed != UNSEEN))
    everywhere = np.ones(asked.status.shape, np.bool_)
    sums["f1@status"] = _edits(told.status, asked.status, asked.last_status, everywhere)
    agent_ticks = asked.tokens[..., 0, 0].size
    sums["nll_bits"] = np.array([in_view + told.own_bits.sum(), agent_ticks], np.float64)
    return sums


def _placed(tokens: Uint16Array, truth: Uint16Array, counted: BoolArray) -> Uint16Array:
    """Return foretold views (n, A, R, C), each moved by up to a cell to where it agrees best; UNSEEN at the free edge.

    So that who believed an agent to be elsewhere is not charged for every cell, but for what it said of the world.
    """
    padded = np.pad(tokens, [(0, 0), (0, 0), (1, 1), (1, 1)])
    rows, cols = tokens.shape[2:]
    # As it stands comes first: it wins where others agree no better.
    shifts = sorted(np.ndindex(3, 3), key=lambda at: at != (1, 1))
    moved = np.stack([padded[:, :, y : y + rows, x : x + cols] for y, x in shifts])
    agreeing = ((moved == truth) & counted).sum(axis=(3, 4))
    best: Uint16Array = np.take_along_axis(moved, agreeing.argmax(axis=0)[None, ..., None, None], axis=0)[0]
    return best


def _edits(tokens: Uint16Array, truth: Uint16Array, last: Uint16Array, counted: BoolArray) -> FloatArray:
    """Return the world's hits, false alarms and misses (3,)."""
    counts: FloatArray = edit_counts(tokens, truth, last, counted).sum(axis=0).astype(np.float64)
    return counts


def _score(name: str, rows: FloatArray, seed: int) -> Score:
    """Return the score of sums (W, …) and its interval over worlds that are drawn again."""
    return Score(*bootstrap(rows, _f1 if "f1@" in name else mean_of, seed=seed, resamples=1000))


def _f1(rows: FloatArray) -> float:
    return f1(rows.astype(np.int64))
