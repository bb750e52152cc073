"""Acts and their undoing, dreamed: what a dream must agree with itself about, without asking any truth.

Axes: T ticks, A agents.
"""

from collections.abc import Sequence

import numpy as np

from world.envs.grounded import Int32Array
from world.envs.homestead.tiles import ANIMAL_CODE, FACING_CODE, NUM_ITEMS, STEPS, Action, Terrain, ground_code
from world.evaluation.codes import CodeTable, is_body
from world.evaluation.consistency import Consistency, agreement
from world.evaluation.homestead_laws import broken_laws
from world.evaluation.plays.stage import Progress, Stage
from world.field import MAP, Uint16Array
from world.live import LiveWorld
from world.trajectory import Transitions

_UNDONE = (
    (Action.PAINT, Action.PAINT),
    (Action.NORTH, Action.SOUTH),
    (Action.EAST, Action.WEST),
)
"""Acts and what undoes them, but for where one looks."""
_UNPAINTED = (ground_code(Terrain.GRASS), ground_code(Terrain.FLOOR))
_FUTURE_TICKS = 6


def play_consistency(
    stage: Stage,
    found: Consistency,
    table: CodeTable,
    *,
    seeds: Sequence[int],
    history: int,
    ticks: int,
    progress: Progress,
) -> None:
    """Dream homesteads of these seeds for `ticks` under random actions, fork them, and note what holds, by world."""
    truths = stage.lived(seeds, history, progress)
    for index, (seed, world) in enumerate(zip(seeds, truths, strict=True)):
        draw = np.random.default_rng([seed, 33])
        agents = len(world.snapshot.poses)
        actions = draw.integers(len(Action), size=(ticks, agents), dtype=np.int32)
        once, again = (stage.dream(world, seed=index + 1) for _ in range(2))
        rows = [_advance(stage, [once, again], joint) for joint in actions]
        found.add("ours", "repeatable", int(once.snapshot.digest() == again.snapshot.digest()), 1)
        lived = Transitions.stack(rows)
        note_rows(found, "ours", lived, table)
        _note_undoing(stage, found, once, table, draw)
        progress("undoing what was done", (index + 1) / len(truths))


def note_rows(found: Consistency, who: str, lived: Transitions, table: CodeTable) -> None:
    """Note what a world's transitions say by themselves."""
    broken = broken_laws(lived, table)
    lawless = np.logical_or.reduce(list(broken.values()))
    found.add(who, "lawful", int((~lawless).sum()), lawless.size)
    found.add(who, "caused", int((~broken["uncaused"]).sum()), lawless.size)
    found.add(who, "agreeing", *(int(total) for total in agreement(lived).sum(axis=0)))


def _note_undoing(
    stage: Stage, found: Consistency, world: LiveWorld, table: CodeTable, draw: np.random.Generator
) -> None:
    agents = len(world.snapshot.poses)
    future = draw.integers(1, int(Action.WEST) + 1, size=(_FUTURE_TICKS, agents), dtype=np.int32)
    idle = _fork(stage, world)
    for _ in range(2):
        _advance(stage, [idle], np.zeros(agents, np.int32))
    painters = _painters(world, table)
    doers = [(a, pair) for a in range(agents) for pair in _UNDONE if pair[0] != Action.PAINT or a in painters]
    forks = [_fork(stage, world) for _ in doers]
    for step in range(2):
        joint = np.zeros((len(forks), agents), np.int32)
        for row, (agent, pair) in enumerate(doers):
            joint[row, agent] = pair[step]
        stage.ticker.tick(forks, joint)
    unchanged = np.array([_unchanged(idle, fork, table) for fork in forks])
    found.add("ours", "stable", *(int(total) for total in unchanged.sum(axis=0)))
    painted = [fork for fork, (_, pair) in zip(forks, doers, strict=True) if pair[0] == Action.PAINT]
    for together in future:
        _advance(stage, [idle, *painted], together)
    same = [np.array_equal(_shown(f), _shown(idle)) and np.array_equal(*_poses(f, idle)) for f in painted]
    found.add("ours", "compressing", sum(same), len(same))


def _painters(world: LiveWorld, table: CodeTable) -> set[int]:
    """Return the agents before whom lies bare ground that has no paint, with no animal near: what they paint there they
    can clean again. Of another colour, it would be painted over, and then cleaned of that.
    """
    field, found = world.snapshot.field, set()
    headings = table.codes(field.status()[:, NUM_ITEMS]) - FACING_CODE
    for agent in np.flatnonzero((headings >= 0) & (headings < len(STEPS))).tolist():
        ahead = world.snapshot.poses[agent] + STEPS[headings[agent]]
        y, x = (ahead[:, None, None] + np.mgrid[-2:3, -2:3]).astype(np.int32)
        codes = table.codes(field.layers[MAP].current(y, x))
        if codes[2, 2] in _UNPAINTED and not (codes == ANIMAL_CODE).any():
            found.add(agent)
    return found


def _unchanged(idle: LiveWorld, fork: LiveWorld, table: CodeTable) -> tuple[int, int]:
    """Return how many cells in view are as if nothing had been done, of how many that show no body in either world."""
    before = idle.snapshot.field.views(idle.snapshot.poses)
    after = fork.snapshot.field.views(idle.snapshot.poses)
    rows = idle.snapshot.field.layout.map_rows
    content = ~is_body(table.codes(before)) & ~is_body(table.codes(after))
    content = content[:, :rows]
    return int((content & (before == after)[:, :rows]).sum()), int(content.sum())


def _shown(world: LiveWorld) -> Uint16Array:
    return world.snapshot.field.views(world.snapshot.poses)


def _poses(one: LiveWorld, other: LiveWorld) -> tuple[Int32Array, Int32Array]:
    return one.snapshot.poses, other.snapshot.poses


def _fork(stage: Stage, world: LiveWorld) -> LiveWorld:
    return stage.dream(world, seed=world.snapshot.seed, name="fork")


def _advance(stage: Stage, worlds: Sequence[LiveWorld], joint: Int32Array) -> Transitions:
    """Let all worlds act alike, and return the transition of the first."""
    row = stage.ticker.tick(worlds, np.repeat(joint[None], len(worlds), axis=0))[0].row
    assert row is not None, "a dream has no resets"
    return row
