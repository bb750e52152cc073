"""Recording: single ticks of held-out truth, what was known before each, how old that was, and what truly was there.

Axes: T ticks, A agents, H × W cells of a window.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from world.envs.grounded import Float32Array, Int32Array, Uint8Array
from world.envs.homestead.grounded import HomesteadGrounded
from world.envs.homestead.odds import Odds
from world.envs.homestead.rules import Simulation
from world.envs.homestead.tiles import VOID_CODE
from world.evaluation.by_age import Ages
from world.evaluation.crafter_limits import CrafterTruth
from world.evaluation.one_step import HeldOut
from world.evaluation.plays.stage import Progress, Stage
from world.field import NEVER, Uint16Array
from world.live import LiveWorld
from world.trajectory import Transitions


@runtime_checkable
class Charted(Protocol):
    """An environment that can show what is where, by kind, and how light it is; Crafter does."""

    @property
    def semantic(self) -> Uint8Array:
        """(x, y) kinds."""

    @property
    def daylight(self) -> float:
        """1 at noon, near 0 at night."""


@dataclass(slots=True)
class Recording:
    """What was recorded, as far as it went."""

    rows: list[Transitions] = field(default_factory=list)
    worlds: list[int] = field(default_factory=list)
    """Which of the worlds each row is of."""
    truths: list[Uint16Array] = field(default_factory=list)
    of_token: list[Int32Array] = field(default_factory=list)
    unseen_for: list[Int32Array] = field(default_factory=list)
    stands: list[Int32Array] = field(default_factory=list)
    """(A, 3) of homesteads: row and column where each agent truly is after the tick, and which heading its view has."""
    rules_bits: list[Float32Array] = field(default_factory=list)
    """(A, H, W) of homesteads that are maps: what each cell costs whoever knows the rules and the state."""
    lying: list[Int32Array] = field(default_factory=list)
    """(A, H, W) likewise: the codes of what lay in each cell before the tick, whoever stood there."""
    crafted: list[CrafterTruth] = field(default_factory=list)
    """What truly is in the windows of Crafter worlds, tick by tick."""

    @property
    def num_worlds(self) -> int:
        """Worlds of which there is a row."""
        return len(set(self.worlds))

    def held_out(self) -> tuple[HeldOut, Ages]:
        """Return the ticks as columns. There must be one at least."""
        truths = np.stack(self.truths) if len(self.truths) == len(self.rows) else None
        ages = Ages(np.stack(self.of_token), np.stack(self.unseen_for))
        return HeldOut(Transitions.stack(self.rows), truths, np.array(self.worlds)), ages


def record_ticks(
    stage: Stage, record: Recording, *, seeds: Sequence[int], history: int, ticks: int, stride: int, progress: Progress
) -> None:
    """Let worlds of these seeds live for `history` ticks, then record every `stride`-th of the next `ticks`.

    Whoever interrupts it finds in `record` what was reached.
    """
    worlds = stage.lived(seeds, history, progress)
    for tick in range(ticks):
        progress("recording single ticks", tick / ticks)
        if tick % stride:
            stage.ticker.tick(worlds)
            continue
        known = [_known(stage, world) for world in worlds]
        before = [_kinds(stage, world) for world in worlds]
        ruled = [_Ruled.of(stage, world) for world in worlds]
        ticked = zip(worlds, before, ruled, known, stage.ticker.tick(worlds), strict=True)
        for number, (world, kinds, rules, (truth, of_token, unseen_for), done) in enumerate(ticked):
            if done.row is None:
                continue
            record.rows.append(done.row)
            record.worlds.append(number)
            record.of_token.append(of_token)
            record.unseen_for.append(unseen_for)
            if truth is not None:
                record.truths.append(truth)
            if isinstance(world.env, HomesteadGrounded):
                record.stands.append(_stands(world.env))
            if rules is not None:
                record.rules_bits.append(rules.bits(done.effects.actions))
                record.lying.append(rules.lying())
            if kinds is not None:
                record.crafted.append(kinds.now())


def _known(stage: Stage, world: LiveWorld) -> tuple[Uint16Array | None, Int32Array, Int32Array]:
    """Return the truth of a world's windows, and the exact ages of what is known there."""
    snapshot = world.snapshot
    layer, y, x = snapshot.field.window_cells(snapshot.poses, stage.margin)
    _, set_at, seen_at = snapshot.field.layers[layer].read(y, x)
    ages = [np.where(at == NEVER, NEVER, snapshot.tick - at).astype(np.int32) for at in (set_at[..., 0], seen_at)]
    return stage.truth_at(world, y, x), ages[0], ages[1]


@dataclass(frozen=True, slots=True)
class _Ruled:
    """A homestead before a tick, and the cells y, x (A, H, W) of its windows."""

    env: HomesteadGrounded
    before: Simulation
    cells: tuple[Int32Array, Int32Array]

    @classmethod
    def of(cls, stage: Stage, world: LiveWorld) -> "_Ruled | None":
        """Return what is to be known of a world before its tick; None for any but homesteads that are maps."""
        if not isinstance(world.env, HomesteadGrounded) or not stage.margin or world.ended:
            return None
        _, y, x = world.snapshot.field.window_cells(world.snapshot.poses, stage.margin)
        return cls(world.env, world.env.simulation.clone(), (y, x))

    def lying(self) -> Int32Array:
        """Return the codes (A, H, W) of what lies in the cells before the tick, whoever stands there."""
        return self.before.read(self.before.lying(), *self.cells, outside=VOID_CODE)

    def bits(self, actions: Int32Array) -> Float32Array:
        """Return the bits (A, H, W) of what the tick of a joint action came to, by the rules."""
        return Odds.of(self.before, actions.tolist()).bits(self.env.simulation, *self.cells)


@dataclass(frozen=True, slots=True)
class _Kinds:
    """What was in cells y, x (A, H, W) of an environment's windows."""

    env: Charted
    cells: tuple[Int32Array, Int32Array]
    before: Uint8Array

    def now(self) -> CrafterTruth:
        """Return what was there, and is there now."""
        after = _at(self.env.semantic, *self.cells)
        return CrafterTruth(before=self.before[None], after=after[None], daylight=np.array([self.env.daylight]))


def _kinds(stage: Stage, world: LiveWorld) -> _Kinds | None:
    """Return what is truly in a world's windows; None for any but Crafter's."""
    env: object = world.env
    if not isinstance(env, Charted) or world.ended:
        return None
    _, y, x = world.snapshot.field.window_cells(world.snapshot.poses, stage.margin)
    return _Kinds(env, (y, x), _at(env.semantic, y, x))


def _at(chart: Uint8Array, y: Int32Array, x: Int32Array) -> Uint8Array:
    """Return what a chart (x, y) shows in cells (…); 0 beyond it."""
    width, height = chart.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    shown: Uint8Array = np.where(inside, chart[x.clip(0, width - 1), y.clip(0, height - 1)], np.uint8(0))
    return shown


def _stands(env: HomesteadGrounded) -> Int32Array:
    facing = env.simulation.state.facing if env.config.orientation == "heading" else [0] * env.config.num_agents
    return np.column_stack([env.simulation.poses(), facing]).astype(np.int32)
