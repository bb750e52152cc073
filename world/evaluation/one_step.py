"""One step ahead on held-out worlds: what the model foretells of the next tick, given what the field knows.

Axes: T ticks, A agents, N = T·A windows, H × W cells, K tokens a cell remembers, S status cells, V tokens.
"""

from dataclasses import dataclass, replace

import numpy as np

from world.envs.grounded import BoolArray, Float32Array, gone
from world.evaluation.foretell import Foretold, foretell
from world.evaluation.metrics import (
    Counts,
    FloatArray,
    MetricRow,
    copy_last_bits,
    edit_counts,
    f1,
    mean_of,
    row_of,
    share_row,
)
from world.field import NOW, UNSEEN, IntpArray, Uint16Array
from world.model.tokenizer import Tokenizer
from world.model.world_model import WorldModel
from world.trajectory import NUM_DISPLACEMENTS, STAY, Transitions, displacement_of
from world.window import in_view_after, owners, unmerged


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Ticks of worlds that are never trained on."""

    ticks: Transitions
    oracle: Uint16Array | None
    """(T, A, H, W) the true tokens of all window cells before each tick, where the environment can tell."""
    worlds: IntpArray | None = None
    """(T,) which world each tick is of, for intervals: those of one are resampled together. None: each is of its own.
    """


@dataclass(frozen=True, slots=True)
class Answers:
    """What the model foretold of held-out ticks, told as much as it knows, less, and more."""

    ticks: Transitions
    observed: BoolArray
    """(T, A, H, W) cells that somebody saw after the tick, each once."""
    counted: BoolArray
    """(T, A, H, W) those of them that were known before, less changes by pure chance."""
    foretold: dict[str, Foretold]
    """By "ours", "no_memory" and "oracle", the latter two where they were asked and can be."""
    worlds: IntpArray | None = None
    """(T,) as in `HeldOut`."""

    @property
    def world_of(self) -> IntpArray:
        """(T,) the same; where nobody says, each tick is of its own."""
        return np.arange(len(self.ticks)) if self.worlds is None else self.worlds

    @property
    def here(self) -> BoolArray:
        """Which agents (T, A) have not left: of the others nothing is foretold."""
        return ~gone(self.ticks.poses)


def ask(model: WorldModel, held_out: HeldOut, *, baselines: bool = True, asked: Uint16Array | None = None) -> Answers:
    """Return what the model foretells; `asked` (T, A, H, W) are further tokens whose belief is wanted, 0: none."""
    ticks = held_out.ticks
    observed = merged_once(model, ticks) & (ticks.next_tokens != UNSEEN)
    counted = observed & (ticks.tokens[..., 0] != UNSEEN) & ~ticks.by_chance
    told = {"ours": ticks}
    if baselines:
        told["no_memory"] = without_memory(ticks)
        if held_out.oracle is not None:
            told["oracle"] = _with_truth(ticks, held_out.oracle)
    foretold = {name: foretell(model, ticks, observed, asked) for name, ticks in told.items()}
    return Answers(ticks, observed, counted, foretold, held_out.worlds)


def evaluate(
    model: WorldModel, tokenizer: Tokenizer, held_out: HeldOut, *, baselines: bool = True, seed: int = 0
) -> dict[str, MetricRow]:
    """Return `changed_f1_known`, `changed_f1_all`, `displacement`, `nll_bits` and, where there is a status,
    `changed_f1_status`.

    Cells are counted once, and only where something had been seen before. `changed_f1_known`, which gates weights,
    leaves out every cell that pure chance changed, whatever the model foretold of it; `changed_f1_all` counts those
    too: what chance changes, nobody can foretell, so not even who knows the rules scores 1.
    `nll_bits` is of all that was observed, `nll_bits_known` without the cells that nobody had ever seen: what is there
    no memory can tell, but only who is told the truth.
    Without `baselines` only copy-last stands beside ours: the others ask the model again.
    """
    return edit_scores(ask(model, held_out, baselines=baselines), tokenizer, ceiling=baselines, seed=seed)


def edit_scores(answers: Answers, tokenizer: Tokenizer, *, ceiling: bool = True, seed: int = 0) -> dict[str, MetricRow]:
    """Return the scores of `evaluate`; without `ceiling` nothing is drawn and read again."""
    ticks, foretold, worlds = answers.ticks, answers.foretold, answers.worlds
    last, truth, here = ticks.tokens[..., 0], ticks.next_tokens, answers.here
    num_here = here.sum(axis=1)

    def status_edits(tokens: Uint16Array) -> Counts:
        counted = np.broadcast_to(here[..., None], ticks.status.shape)
        return edit_counts(tokens, ticks.next_status, ticks.status, counted)

    tokens = {name: answer.tokens for name, answer in foretold.items()} | {"copy_last": last}
    if ceiling:
        tokens["ceiling"] = _through_pixels(tokenizer, ticks)
    rows = {}
    known = answers.observed & (last != UNSEEN)
    for name, among in {"changed_f1_known": answers.counted, "changed_f1_all": known}.items():
        edits = {who: edit_counts(of, truth, last, among) for who, of in tokens.items()}
        rows[name] = row_of(edits, f1, seed=seed, ceiling=None, episodes=worlds)
    moved = {name: answer.displacement for name, answer in foretold.items()}
    moved["copy_last"] = np.full_like(moved["ours"], STAY)
    right = {name: (chosen == ticks.displacement)[here] for name, chosen in moved.items()}
    rows["displacement"] = share_row(right, ceiling=1.0, episodes=np.repeat(answers.world_of, num_here))
    for name, among in {"nll_bits": answers.observed, "nll_bits_known": known}.items():
        left_out = answers.observed & ~among
        bits = {
            who: np.stack([answer.bits - summed(answer.cell_bits, left_out), num_here], axis=1)
            for who, answer in foretold.items()
        }
        copying = _copying_bits(ticks, among, here, tokenizer.num_tokens) / max(num_here.sum(), 1)
        row = row_of(bits, mean_of, seed=seed, ceiling=None, episodes=worlds)
        rows[name] = replace(row, copy_last=copying)
    if ticks.status.size:
        held = {name: status_edits(answer.status) for name, answer in foretold.items()}
        held["copy_last"] = status_edits(ticks.status)
        rows["changed_f1_status"] = row_of(held, f1, seed=seed, ceiling=1.0, episodes=worlds)
    return rows


def _copying_bits(ticks: Transitions, observed: BoolArray, here: BoolArray, num_tokens: int) -> float:
    """Return the bits of all that `nll_bits` asks, under "as it was, where it was"."""
    stayed = np.full(ticks.displacement.shape, STAY, np.uint16)
    moved, held = ticks.displacement.astype(np.uint16), np.broadcast_to(here[..., None], ticks.status.shape)
    return (
        copy_last_bits(ticks.next_tokens, ticks.tokens[..., 0], observed, num_tokens)
        + copy_last_bits(ticks.next_status, ticks.status, held, num_tokens)
        + copy_last_bits(moved, stayed, here, NUM_DISPLACEMENTS + 1)
    )


def merged_once(model: WorldModel, ticks: Transitions) -> BoolArray:
    """Return (T, A, H, W) the window in which each cell is answered."""
    shape = ticks.next_tokens.shape
    here, _ = owners(ticks.poses, *shape[2:]) if model.dynamics.has_pose else unmerged(*shape)
    return here


def without_memory(ticks: Transitions) -> Transitions:
    """Return the ticks as one would know them who sees only the present: no older tokens, no ages, no recurrence."""
    visible = ticks.ages[..., -1] == NOW
    tokens = np.zeros_like(ticks.tokens)
    tokens[..., 0] = np.where(visible, ticks.tokens[..., 0], np.uint16(UNSEEN))
    ages = np.zeros_like(ticks.ages)
    ages[..., 0] = ages[..., -1] = np.where(visible, NOW, np.uint8(0))
    return replace(ticks, tokens=tokens, ages=ages, memory=np.zeros_like(ticks.memory))


def _with_truth(ticks: Transitions, oracle: Uint16Array) -> Transitions:
    """Return the ticks as one would know them who always sees everything."""
    tokens, ages = ticks.tokens.copy(), ticks.ages.copy()
    stale = tokens[..., 0] != oracle
    tokens[stale, 1:], ages[stale, 1:-1] = tokens[stale, :-1], ages[stale, :-2]
    tokens[..., 0], ages[..., -1] = oracle, NOW
    ages[..., 0] = np.where(stale, NOW, ages[..., 0])
    return replace(ticks, tokens=tokens, ages=ages)


def _through_pixels(tokenizer: Tokenizer, ticks: Transitions) -> Uint16Array:
    """Return true tokens (T, A, H, W) of what is in view after a tick as they come back from being drawn and read."""
    truth = ticks.next_tokens
    if not tokenizer.noise:
        return truth
    layout = tokenizer.layout
    rows, cols = layout.map_rows or layout.rows, layout.cols
    moved = displacement_of(ticks.displacement) if layout.map_rows else np.zeros((*truth.shape[:2], 2), np.int32)
    windows, margin = truth.reshape(-1, *truth.shape[2:]), (truth.shape[2] - rows) // 2
    place = in_view_after(moved.reshape(-1, 2), rows, cols, margin)
    grids = windows[place]
    if layout.status_cells:
        grids = np.concatenate([grids, ticks.next_status.reshape(len(grids), -1, cols)], axis=1)
    back = ticks.tokens[..., 0].reshape(windows.shape).copy()
    back[place] = tokenizer.encode(tokenizer.decode(grids))[:, :rows]
    return back.reshape(truth.shape)


def summed(cell_bits: Float32Array, among: BoolArray) -> FloatArray:
    """Return the bits (T,) of the cells (T, A, H, W) chosen."""
    return np.where(among, cell_bits, 0.0).reshape(len(cell_bits), -1).sum(axis=1, dtype=np.float64)  # type: ignore[no-any-return]
