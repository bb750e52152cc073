"""Errands: homesteads whose agents begin where a plan puts them, and then do what it tells them.

Nobody is ever moved but before the first tick; from there on all follows the rules of the game.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from world.envs.grounded import GroundedEnv, Int32Array, Observed
from world.envs.homestead.body import Body, Skill
from world.envs.homestead.config import HomesteadConfig
from world.envs.homestead.draws import Draws
from world.envs.homestead.grounded import HomesteadGrounded
from world.envs.homestead.paths import find_path
from world.envs.homestead.rules import Simulation
from world.envs.homestead.tiles import Action, Item
from world.errors import EnvironmentUnusable
from world.evaluation.plays.stage import Stage
from world.live import LiveWorld

Script = Callable[[Body], Skill]
_MOVES = (Action.NORTH, Action.EAST, Action.SOUTH, Action.WEST)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Where everybody begins, with what, and what each agent then does."""

    scripts: Sequence[Script]
    """For each agent; whoever has come to its end does nothing more."""
    agents: dict[int, int]
    """Agent → cell."""
    animals: dict[int, int] = field(default_factory=dict)
    """Animal → cell."""
    spare: Sequence[int] = ()
    """Cells for the agents and animals that the plan does not name, in order."""
    held: dict[int, dict[int, int]] = field(default_factory=dict)
    """Agent → item → how many it begins with; the ledger is told."""


class ArrangedHomestead(HomesteadGrounded):
    """A homestead that begins as planned; after its reset it is like any other."""

    def __init__(self, config: HomesteadConfig, *, name: str, planner: Callable[[Simulation], Plan]) -> None:
        super().__init__(config, name=name)
        self._planner = planner
        self.plan: Plan | None = None

    def reset(self, seed: int) -> Observed:
        """Begin the world that `seed` determines, as planned. Raises `EnvironmentUnusable` where that cannot be."""
        super().reset(seed)
        self.plan = self._planner(self.simulation)
        _arrange(self.simulation, self.plan)
        self.simulation = Simulation(self.config, self.simulation.state)
        if broken := self.invariants():
            raise EnvironmentUnusable(f"{self.spec.name}: as planned, {broken[0]}")
        return self.observe()


class Errands:
    """Lets the agents of an `ArrangedHomestead` follow its plan."""

    def __init__(self) -> None:
        self._running: list[Skill] | None = None

    def act(self, env: GroundedEnv, tick: int) -> Int32Array:
        """Return the joint action (A,)."""
        assert isinstance(env, ArrangedHomestead) and env.plan is not None, "errands are run in planned worlds"
        if self._running is None:
            simulation = env.simulation
            bodies = [Body(simulation, a, Draws(simulation.state.seed, a)) for a in range(len(env.plan.scripts))]
            self._running = [script(body) for script, body in zip(env.plan.scripts, bodies, strict=True)]
        return np.array([int(next(script, Action.NOOP)) for script in self._running], np.int32)


def planned_world(stage: Stage, seed: int, planner: Callable[[Simulation], Plan]) -> LiveWorld:
    """Return a held-out homestead, before its first tick, that will begin as planned.

    Raises `EnvironmentUnusable` for any other environment, and for views that are no piece of a map.
    """
    world = stage.begun(seed)
    env = world.env
    if not isinstance(env, HomesteadGrounded) or env.config.orientation != "north":
        raise EnvironmentUnusable(f"{stage.env_name}: agents can be sent on errands only in a homestead seen north up")
    world.env, world.policy = ArrangedHomestead(env.config, name=env.spec.name, planner=planner), Errands()
    return world


def face(body: Body, cell: int) -> Skill:
    """Look at what lies beside one, which must not be walkable, or one would walk there."""
    if not body.faces(cell):
        yield _MOVES[body.world.steps.index(cell - body.here)]
    return True


def wait_until(body: Body, tick: int) -> Skill:
    """Do nothing before a tick of the world."""
    while body.tick < tick:
        yield Action.NOOP
    return True


def be_at(body: Body, cell: int, tick: int, *, avoid: frozenset[int] = frozenset()) -> Skill:
    """Wait, and set out just in time to be at a cell at a tick."""
    while (path := find_path(body.world, body.here, cell, avoid)) is not None and body.tick + len(path) < tick:
        yield Action.NOOP
    return (yield from body.go(cell, avoid=avoid))


def _arrange(simulation: Simulation, plan: Plan) -> None:
    state = simulation.state
    taken = {*plan.agents.values(), *plan.animals.values()}
    spare = iter([cell for cell in plan.spare if cell not in taken])
    for places, planned in ((state.cells, plan.agents), (state.animals, plan.animals)):
        for index in range(len(places)):
            cell = planned[index] if index in planned else next(spare, None)
            if cell is None:
                raise EnvironmentUnusable("homestead: the plan leaves no cell for everybody")
            places[index] = cell
    for agent, items in plan.held.items():
        for item, count in items.items():
            state.inventory[agent][item] += count
    _account(simulation, plan)


def _account(simulation: Simulation, plan: Plan) -> None:
    """Tell the ledger what agents begin with, so that conservation still holds."""
    ledger = simulation.state.ledger
    given = np.zeros(len(Item), np.int64)
    for items in plan.held.values():
        for item, count in items.items():
            given[item] += count
    ledger.stones += int(given[Item.STONE])
    ledger.first_doors += int(given[Item.DOOR])
    ledger.wood_cut += int(given[Item.WOOD])
    ledger.fruit_picked += int(given[Item.FRUIT])
