"""Plans of visits: which place A changes, how it leaves, where B comes from, and what a third agent does meanwhile."""

from dataclasses import dataclass

from world.envs.homestead.body import Body, Skill
from world.envs.homestead.draws import Draws
from world.envs.homestead.paths import find_path
from world.envs.homestead.rules import Simulation
from world.envs.homestead.tiles import Action, Item, Thing
from world.errors import EnvironmentUnusable
from world.evaluation.cross_agent import UNSEEN_BY_B
from world.evaluation.plays.errands import Plan, Script, be_at, wait_until
from world.evaluation.plays.homestead_sites import SIGHT, apart, beside, cells_of, open_cells, walks

EDIT_AT = 60
"""The world's tick at which A changes the place. Until then all walk about, so that the field has a past."""
VISITOR, THIRD = 1, 2
_OUT_OF_SIGHT = SIGHT + 2
"""Nobody there sees the place, nor has it in its window."""
_FARTHEST = 9
_LOOKING = SIGHT - 1
"""From as near as this B looks at the place."""
_MOST_STEPS = 7
_PLACES_TRIED = 400
_THIRD_COMES_AFTER = 12
_WAY_TICKS = 26
_EDITS = {
    "stone": Action.PLACE,
    "paint": Action.PAINT,
    "door": Action.USE,
    "bush": Action.USE,
    "sapling": Action.PLANT,
    "taken": Action.PLACE,
    "repainted": Action.PAINT,
}
_HELD = {"stone": {Item.STONE: 1}, "taken": {Item.STONE: 1}, "sapling": {Item.FRUIT: 1}}
_MOVES = (Action.NORTH, Action.EAST, Action.SOUTH, Action.WEST)


@dataclass(frozen=True, slots=True)
class _Site:
    """One place, and the ways to it."""

    place: int
    run_up: int
    """From where A steps straight towards the place."""
    editor: int
    """Where A then stands and looks at it."""
    retreat: int
    """Where A comes from, and goes back to."""
    visitor: int
    viewpoint: int
    third: int | None
    """Where the third agent begins and goes back to; None where it has nothing to do here."""
    approach: int | None
    """From where the third steps straight towards the place."""


class VisitPlanner:
    """Plans one visit; afterwards `cell` and `place` say what it is about."""

    def __init__(self, kind: str, tau: int) -> None:
        self.kind, self._tau = kind, tau
        self.cell, self.place = -1, (-1, -1)

    def __call__(self, simulation: Simulation) -> Plan:
        """Return the plan for a world. Raises `EnvironmentUnusable` where no place of it will do."""
        if len(simulation.state.cells) < (3 if self.kind in UNSEEN_BY_B else 2):
            raise EnvironmentUnusable(f"homestead: a visit of kind {self.kind!r} needs more agents")
        draws = Draws(simulation.state.seed, 12)
        site = self._site(simulation, draws)
        self.cell, self.place = site.place, simulation.place_of(site.place)
        agents = {0: site.retreat, VISITOR: site.visitor}
        scripts: list[Script] = [self._edit(site), self._visit(site)]
        if site.third is not None:
            agents[THIRD] = site.third
            scripts.append(self._meddle(site))
        scripts += [_busy] * (len(simulation.state.cells) - len(scripts))
        spare = [
            cell
            for cell in open_cells(simulation)
            if all(apart(simulation, cell, other) > 2 * SIGHT + 2 for other in (site.place, site.visitor))
        ]
        draws.shuffle(spare)
        return Plan(
            scripts=scripts,
            agents=agents,
            spare=spare or open_cells(simulation),
            held={0: {int(item): count for item, count in _HELD.get(self.kind, {}).items()}},
        )

    def _site(self, simulation: Simulation, draws: Draws) -> _Site:
        match self.kind:
            case "door":
                places = cells_of(simulation, Thing.DOOR_CLOSED)
            case "bush":
                places = cells_of(simulation, Thing.BUSH_RIPE)
            case _:
                places = open_cells(simulation, grass=self.kind == "sapling")
        draws.shuffle(places)
        for place in places[:_PLACES_TRIED]:
            for editor in beside(simulation, place):
                run_up = 2 * editor - place
                if run_up not in beside(simulation, editor):
                    continue
                if (site := self._ways(simulation, place, editor, run_up)) is not None:
                    return site
        raise EnvironmentUnusable(f"homestead: no place for a visit of kind {self.kind!r}; make the map larger")

    def _ways(self, simulation: Simulation, place: int, editor: int, run_up: int) -> _Site | None:
        reached = walks(simulation, editor, avoid=(place,), most=16)
        hidden = {c: n for c, n in reached.items() if _OUT_OF_SIGHT <= apart(simulation, c, place) <= _FARTHEST}
        for visitor in sorted(hidden, key=hidden.__getitem__):
            viewpoint = self._viewpoint(simulation, visitor, editor, place)
            if viewpoint is None:
                continue
            away = {c: n for c, n in hidden.items() if apart(simulation, c, visitor) > SIGHT}
            if not away:
                continue
            retreat = min(away, key=away.__getitem__)
            third, approach = self._third(simulation, place, [c for c in away if c != retreat])
            if self.kind in UNSEEN_BY_B and third is None:
                continue
            return _Site(place, run_up, editor, retreat, visitor, viewpoint, third, approach)
        return None

    def _viewpoint(self, simulation: Simulation, visitor: int, editor: int, place: int) -> int | None:
        """Return the first cell on the way towards A's from which the place is well in sight; None if it is too far."""
        path = find_path(simulation, visitor, editor, frozenset({place}))
        steps = list(reversed(path or []))[:_MOST_STEPS]
        if any(not simulation.walkable(cell) for cell in steps):
            return None
        return next((c for c in steps if c != editor and apart(simulation, c, place) <= _LOOKING), None)

    def _third(self, simulation: Simulation, place: int, hidden: list[int]) -> tuple[int | None, int | None]:
        if self.kind not in UNSEEN_BY_B or not hidden:
            return None, None
        size = len(simulation.state.thing)
        for step in simulation.steps:
            near, approach = place + step, place + 2 * step
            if simulation.walkable(near) and 0 <= approach < size and simulation.walkable(approach):
                return hidden[0], approach
        return None, None

    def _edit(self, site: _Site) -> Script:
        def script(body: Body) -> Skill:
            yield from _pace(body, EDIT_AT - _WAY_TICKS, site.place)
            yield from be_at(body, site.run_up, EDIT_AT - 2, avoid=frozenset({site.place}))
            yield _MOVES[body.world.steps.index(site.place - site.editor)]
            yield from wait_until(body, EDIT_AT)
            yield _EDITS[self.kind]
            return (yield from body.go(site.retreat, avoid=frozenset({site.place})))

        return script

    def _visit(self, site: _Site) -> Script:
        def script(body: Body) -> Skill:
            yield from _pace(body, EDIT_AT - _WAY_TICKS, site.place)
            yield from body.go(site.visitor)
            return (yield from be_at(body, site.viewpoint, EDIT_AT + self._tau))

        return script

    def _meddle(self, site: _Site) -> Script:
        """Take the stone that A laid, or paint over what A painted; then go back out of sight."""
        assert site.approach is not None and site.third is not None
        approach, third = site.approach, site.third

        def script(body: Body) -> Skill:
            yield from _pace(body, EDIT_AT + _THIRD_COMES_AFTER, site.place)
            yield from body.go(approach, avoid=frozenset({site.place}))
            yield _MOVES[body.world.steps.index((site.place - approach) // 2)]
            yield Action.USE if self.kind == "taken" else Action.PAINT
            return (yield from body.go(third, avoid=frozenset({site.place})))

        return script


def _pace(body: Body, until: int, place: int) -> Skill:
    """Walk about until a tick, never to where the place is in sight."""
    while body.tick < until:
        goal = body.somewhere(around=body.here, radius=3)
        if apart(body.world, goal, place) >= _OUT_OF_SIGHT:
            for action in body.go(goal, until=until):
                ahead = body.here + body.world.steps[action - 1] if Action.NORTH <= action <= Action.WEST else body.here
                if apart(body.world, ahead, place) < _OUT_OF_SIGHT:
                    break
                yield action
        yield Action.NOOP
    return True


def _busy(body: Body) -> Skill:
    """Paint and clean the ground ahead for ever: other changes elsewhere."""
    while True:
        yield Action.PAINT
