"""Returns: agents of a homestead harvest and paint, leave, and come back after k ticks, in truth and in its dreams.

Axes: B worlds, A agents, E = B·A returns, R × C cells of the map part of a view.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from world.envs.grounded import BoolArray, Int32Array
from world.envs.homestead.body import Body, Skill
from world.envs.homestead.draws import Draws
from world.envs.homestead.grounded import HomesteadGrounded
from world.envs.homestead.rules import Simulation
from world.envs.homestead.tiles import Action, Thing
from world.errors import EnvironmentUnusable
from world.evaluation.plays.cast import Cast
from world.evaluation.plays.errands import Plan, Script, be_at, face, planned_world, wait_until
from world.evaluation.plays.homestead_sites import SIGHT, apart, beside, cells_of, open_cells, walks
from world.evaluation.plays.stage import Progress, Stage, chance_cells, looked_at
from world.evaluation.revisit import Returns
from world.field import Field, Uint16Array
from world.live import LiveWorld

LEAVE_AT = 250
"""Ticks before the agents leave: what was harvested as soon as can be has grown again by then or soon after."""
_HARVEST = 45, 230
"""The first tick and the last at which somebody harvests: when all have been where they will be, and are back."""
_PAINTED = 2
_HOMES_APART = 10
_FARTHEST_STEPS = 16


@dataclass(slots=True)
class ReturnPlay:
    """What was played, as far as it went."""

    returns: dict[int, Returns] = field(default_factory=dict)
    """By absence, in ticks."""


def play_returns(
    stage: Stage, play: ReturnPlay, *, seeds: Sequence[int], absences: Sequence[int], progress: Progress
) -> None:
    """Play every absence in worlds of these seeds; each agent of each world is one return.

    Raises `EnvironmentUnusable` for anything but a homestead seen north up.
    """
    for k in absences:
        truths = [planned_world(stage, seed, partial(_plan, k=k)) for seed in seeds]
        for tick in range(LEAVE_AT + 1):
            stage.ticker.tick(truths)
            progress(f"before an absence of {k}", tick / (LEAVE_AT + 1))
        play.returns[k] = _absence(stage, truths, k, progress)


def _plan(simulation: Simulation, *, k: int) -> Plan:
    """Give each agent a home beside a bush, far from the others', and a place out of its sight."""
    draws = Draws(simulation.state.seed, 11)
    bushes = cells_of(simulation, Thing.BUSH_RIPE) + cells_of(simulation, Thing.TREE)
    draws.shuffle(bushes)
    homes: list[tuple[int, int, int]] = []
    for least in (_HOMES_APART, _HOMES_APART // 2, 2):
        for bush in bushes:
            if len(homes) == len(simulation.state.cells):
                break
            reached = [(home, _retreat(simulation, home, k)) for home in beside(simulation, bush)]
            if reached and all(apart(simulation, bush, other) >= least for other, _, _ in homes):
                home, retreat = max(reached, key=lambda pair: apart(simulation, *pair))
                homes.append((bush, home, retreat))
    if len(homes) < len(simulation.state.cells):
        raise EnvironmentUnusable("homestead: fewer bushes and trees than agents; make the map larger")
    spare = open_cells(simulation)
    draws.shuffle(spare)
    near = [
        next((c for c in spare if 2 <= apart(simulation, c, home) <= 3), spare[0])
        for _, home, _ in homes[: len(simulation.state.animals)]
    ]
    return Plan(
        scripts=[_script(bush, home, retreat, draws.between(*_HARVEST), k) for bush, home, retreat in homes],
        agents={agent: home for agent, (_, home, _) in enumerate(homes)},
        animals=dict(enumerate(near)) if len(set(near)) == len(near) else {},
        spare=spare,
    )


def _retreat(simulation: Simulation, home: int, k: int) -> int:
    """Return the cell farthest from `home` that can be walked to and back from within k ticks."""
    reached = walks(simulation, home, most=min(k // 2, _FARTHEST_STEPS))
    return max(reached, key=lambda cell: (apart(simulation, cell, home), -reached[cell]))


def _script(bush: int, home: int, retreat: int, harvest_at: int, k: int) -> Script:
    def script(body: Body) -> Skill:
        # So the way is known: what nobody has seen a dream invents, and a wall there would keep its agents from coming.
        yield from body.go(retreat)
        while not (yield from body.go(home)):
            yield body.stray()
        yield from face(body, bush)
        yield from wait_until(body, harvest_at)
        yield Action.USE
        for _ in range(_PAINTED):
            yield body.stray()
            yield from body.on_bare_ground(Action.PAINT)
        yield from body.go(home)
        yield from wait_until(body, LEAVE_AT)
        yield from body.go(retreat)
        yield from be_at(body, home, LEAVE_AT + k)
        return True

    return script


def _absence(stage: Stage, truths: list[LiveWorld], k: int, progress: Progress) -> Returns:
    cast = Cast(stage, truths, twins=True)
    started = [world.snapshot.field.copy() for world in truths]
    inside = [_inside(world) for world in truths]
    touched = [np.zeros_like(cells) for cells in inside]
    unseen = [np.zeros(cells.shape, np.int64) for cells in inside]
    told: list[LiveWorld] | None = None
    for tick in range(1, k + 1):
        told = cast.told() if tick == k else None
        ticked = cast.advance(told)
        for i, (world, done) in enumerate(zip(truths, ticked["truth"], strict=True)):
            touched[i][tuple(chance_cells(world, done, stage.margin).T + SIGHT)] = True
            if tick < k:
                seen = np.zeros_like(inside[i])
                seen[_in_view(world)] = True
                unseen[i] += inside[i] & ~seen
        progress(f"an absence of {k}", tick / k)
    return _compare(stage, truths, cast.followers(told), started, [count >= k / 2 for count in unseen], touched)


def _compare(
    stage: Stage,
    truths: list[LiveWorld],
    worlds: dict[str, list[LiveWorld]],
    started: list[Field],
    hidden: list[BoolArray],
    touched: list[BoolArray],
) -> Returns:
    rows = stage.tokenizer.layout.map_rows
    poses = [world.snapshot.poses for world in truths]

    def views(fields: Sequence[Field]) -> Uint16Array:
        return np.concatenate([field.views(at) for field, at in zip(fields, poses, strict=True)])

    truth = views([world.snapshot.field for world in truths])
    answers = {name: views([w.snapshot.field for w in dreams])[:, :rows] for name, dreams in worlds.items()}
    looked = {
        name: np.concatenate([looked_at(dream, *_view(world)) for dream, world in zip(dreams, truths, strict=True)])
        for name, dreams in worlds.items()
    }
    arrived = {
        name: np.concatenate([(d.snapshot.poses == at).all(axis=1) for d, at in zip(dreams, poses, strict=True)])
        for name, dreams in worlds.items()
    }
    return Returns(
        before=views(started)[:, :rows],
        truth=truth[:, :rows],
        hidden=np.concatenate([cells[_in_view(world)] for cells, world in zip(hidden, truths, strict=True)]),
        by_chance=np.concatenate([cells[_in_view(world)] for cells, world in zip(touched, truths, strict=True)]),
        answers=answers | {"ceiling": stage.through_pixels(truth)[:, :rows]},
        looked=looked | {"ceiling": np.ones(truth[:, :rows].shape, np.bool_)},
        arrived=arrived,
        episode=np.repeat(np.arange(len(truths)), len(poses[0])),
    )


def _inside(world: LiveWorld) -> BoolArray:
    """Return which cells are on the map, of all that can be seen from within it: a border of `SIGHT` is not."""
    assert isinstance(world.env, HomesteadGrounded)
    config = world.env.config
    return np.pad(np.ones((config.height, config.width), np.bool_), SIGHT)


def _view(world: LiveWorld) -> tuple[Int32Array, Int32Array]:
    """Return rows and columns (A, R, C) of what the agents of a world see."""
    _, y, x = world.snapshot.field.window_cells(world.snapshot.poses, 0)
    return y, x


def _in_view(world: LiveWorld) -> tuple[Int32Array, Int32Array]:
    """Return the same, as an index of `_inside`."""
    y, x = _view(world)
    return y + SIGHT, x + SIGHT
