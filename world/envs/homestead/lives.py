"""Ways to live in a homestead: each an endless generator of actions for one agent."""

import math
from collections.abc import Callable

import numpy as np

from world.envs.homestead.body import Body, Life, Skill
from world.envs.homestead.live_map import MARGIN
from world.envs.homestead.tiles import DOOR_WOOD, NUM_ACTIONS, Action, Item, Terrain, Thing

MIN_GAP, MAX_GAP = 10, 1000
"""Ticks after which a patrol comes back, drawn evenly on a logarithmic scale."""
_FRUIT = (Thing.BUSH_RIPE, Thing.COMMONS_RIPE)
_WOOD = (Thing.TREE, Thing.YOUNG_TREE)
_STONE = (Thing.STONE,)
_GOODS = (_STONE, _WOOD, _FRUIT)
_TOGGLES = (Thing.DOOR_CLOSED, Thing.DOOR_OPEN, Thing.SWITCH_OFF, Thing.SWITCH_ON)
_SWITCHES = (Thing.SWITCH_OFF, Thing.SWITCH_ON)
_GATES = (Thing.GATE_CLOSED, Thing.GATE_OPEN)
_MEDDLED_WITH = (*_GOODS, _TOGGLES)
_AWAY_TICKS = (2, 10)
"""That a gatekeeper lets pass between switch and gate."""
_TRADE_TICKS = 4
"""Gifts are made at ticks that are multiples of this, so that two who face each other come to exchange."""
_STOCK = 3
"""Pieces of a kind that a trader brings to market."""


def stroller(body: Body) -> Life:
    """Random actions, each of which goes on for a while."""
    action = 0
    while True:
        if body.chance(0.4):
            action = body.draws.below(NUM_ACTIONS)
        yield action


def explorer(body: Body) -> Life:
    """Go where one has not been for longest."""
    while True:
        for action in body.go(body.unseen()):
            body.look()
            yield action
        body.look()
        yield body.stray()


def patrol(body: Body) -> Life:
    """Change something at a place, leave it out of sight, and be back after a chosen number of ticks."""
    while True:
        home = body.somewhere()
        yield from body.go(home)
        for _ in range(body.draws.between(2, 5)):
            yield from _change_something(body)
            home = body.here
            gap = round(math.exp(math.log(MIN_GAP) + body.draws.unit() * math.log(MAX_GAP / MIN_GAP)))
            yield from _be_away(body, home, body.tick + gap)
            yield from body.go(home)
            yield Action.NOOP


def gatekeeper(body: Body) -> Life:
    """Stand before a switch, throw it or not, go elsewhere for a while, try the gate beside it, shut it again.

    Whether it was thrown decides about nothing but that: where one goes, and for how long, is drawn apart.
    """
    while True:
        gate = body.find(_GATES)
        switch = body.beside(gate, _SWITCHES) if gate is not None else None
        if gate is None or switch is None or not (yield from body.go(switch, beside=True, avoid=frozenset({gate}))):
            yield body.stray()
            continue
        yield Action.USE if body.chance(0.5) else Action.NOOP
        away_until = body.tick + body.draws.between(*_AWAY_TICKS)
        yield from body.go(body.somewhere(around=body.here, radius=4), until=away_until, avoid=frozenset({gate}))
        yield from body.wait(max(away_until - body.tick, 0))
        if (yield from body.go(gate, beside=True)):
            yield Action.USE
            if body.world.thing_at[gate] == Thing.GATE_OPEN:
                yield Action.USE


def builder(body: Body) -> Life:
    """Lay stones, craft and hang doors, paint the ground, plant saplings, throw switches."""
    tasks: tuple[Callable[[Body], Skill], ...] = (_lay_stone, _lay_stone, _hang_door, _paint_way, _plant, _toggle)
    while True:
        yield body.stray()
        yield from body.choose(tasks)(body)


def courier(body: Body) -> Life:
    """Carry stone, wood and fruit from where they are to a depot, or to somebody."""
    depot = body.somewhere()
    while True:
        load = body.choose(_GOODS)
        for _ in range(body.draws.between(1, 4)):
            yield from body.use(load)
        if body.chance(0.5):
            yield from _hand_over(body)
        else:
            yield from body.go(depot)
            yield from _spend(body, Item.STONE, Action.PLACE)
        if body.chance(0.2):
            depot = body.somewhere()


def peddler(body: Body) -> Life:
    """Take a few things of any kind, and hand them to somebody."""
    while True:
        yield body.stray()
        for _ in range(body.draws.between(1, 4)):
            yield from body.use(body.choose(_GOODS))
        yield from _hand_over(body)


def follower(body: Body) -> Life:
    """Stay near somebody, give now and then, exchange when both do."""
    while True:
        others = _others(body)
        if not others:
            yield body.stray()
            continue
        leader = body.choose(others)
        leave = body.tick + body.draws.between(60, 200)
        while body.tick < leave:
            if (yield from body.meet(leader, until=leave)) and body.tick % _TRADE_TICKS == 0 and body.chance(0.7):
                yield Action.GIVE
            else:
                yield Action.NOOP


def forager(body: Body) -> Life:
    """Harvest fruit, eat it, and now and then put one into the ground."""
    while True:
        for _ in range(body.draws.between(1, 3)):
            yield from body.use(_FRUIT if body.chance(0.7) else (Thing.BUSH_RIPE,))
        while body.holds(Item.FRUIT):
            if body.chance(0.3):
                yield from (_revive if body.chance(0.5) else _plant)(body)
            elif not (yield from body.on_bare_ground(Action.USE)):
                break
        yield body.stray()


def vault(body: Body) -> Life:
    """Hold a plate of the vault for others, or go in while others hold them."""
    while True:
        yield body.stray()
        if not body.world.pressure:
            yield from body.wait(5)
            continue
        door, plates = body.choose(body.world.pressure)
        outer = [cell for cell, weight in plates if weight == 1]
        free = [cell for cell in outer if not body.world.occupant[cell]]
        if free and (yield from body.go(free[body.agent % len(free)])):
            yield from body.wait(body.draws.between(10, 40))
            if body.distance(body.here, door) > 1 or body.chance(0.5):
                continue
        if body.world.thing_at[door] == Thing.PRESSURE_OPEN and (yield from body.go(door)):
            yield from body.use((Thing.BUSH_RIPE,))
            yield from body.go(body.somewhere(around=door, radius=6))


def trader(body: Body) -> Life:
    """Gather what the partner does not, meet him, and exchange."""
    return _in_pairs(body, _trade)


def barterer(body: Body) -> Life:
    """Take one thing, exchange it with the partner, and use up what one has."""
    return _in_pairs(body, _barter)


def meddler(body: Body) -> Life:
    """Go to a thing, to an animal or to somebody, and do anything there: reach for what others reach for, and be in the
    way.
    """
    while True:
        yield body.stray()
        others, animals = _others(body), body.world.state.animals
        if animals and body.chance(0.4):
            yield from body.go(body.choose(animals), beside=True, until=body.tick + 40)
        elif others and body.chance(0.6):
            yield from body.meet(body.choose(others), until=body.tick + 40)
        else:
            yield from body.use(body.choose(_MEDDLED_WITH))
        for _ in range(body.draws.between(5, 20)):
            yield fidget(body) if body.chance(0.4) else body.draws.below(NUM_ACTIONS)


def _in_pairs(body: Body, deal: Callable[[Body, int], Skill]) -> Life:
    """Deal with the partner again and again; whoever has none gathers fruit."""
    partner = body.agent ^ 1
    while True:
        yield body.stray()
        if partner < len(body.world.state.cells):
            yield from deal(body, partner)
        else:
            yield from body.use(_FRUIT)


def _trade(body: Body, partner: int) -> Skill:
    goods, item = ((_WOOD, Item.WOOD), (_STONE, Item.STONE))[body.agent % 2]
    for _ in range(6):
        if body.holds(item) >= _STOCK:
            break
        yield from body.use(goods)
    for _ in range(2):
        yield from _offer(body, partner, within=80)
    # What was bought is put to use, so that one lacks it again.
    while item is Item.WOOD and body.holds(Item.STONE):
        if not (yield from body.on_bare_ground(Action.PLACE)):
            break
    if item is Item.STONE and body.holds(Item.WOOD) >= DOOR_WOOD:
        yield from body.use((Thing.BENCH,))
    return True


def _barter(body: Body, partner: int) -> Skill:
    # Wood is not used up by itself: whoever holds some would offer nothing else.
    kinds = _GOODS if not any(map(body.holds, Item)) else (_STONE, _FRUIT)
    yield from body.use(body.choose(kinds))
    for _ in range(body.draws.between(1, 3)):
        if not (yield from _offer(body, partner, within=40)):
            break
    yield from _spend(body, Item.STONE, Action.PLACE)
    yield from _spend(body, Item.FRUIT, Action.USE)
    if body.holds(Item.WOOD) >= DOOR_WOOD:
        yield from _hang_door(body)
    return True


def _others(body: Body) -> list[int]:
    return [other for other in range(len(body.world.state.cells)) if other != body.agent]


def _offer(body: Body, other: int, *, within: int) -> Skill:
    """Meet somebody within some ticks, and give when whoever trades does."""
    if not (yield from body.meet(other, until=body.tick + within)):
        return False
    while body.tick % _TRADE_TICKS:
        yield Action.NOOP
    yield Action.GIVE
    return True


def _spend(body: Body, item: Item, action: Action) -> Skill:
    """Do this to free ground, here and there, until nothing of an item is left."""
    while body.holds(item):
        if not (yield from body.on_bare_ground(action)):
            return False
        yield body.stray()
    return True


def _be_away(body: Body, home: int, back_at: int) -> Skill:
    """Walk out of sight of `home` and turn around in time to be back at `back_at`."""
    reach = max((back_at - body.tick) // 3, MARGIN + 1)
    while back_at - body.tick > body.distance(body.here, home) + 1:
        goal = body.somewhere(around=home, radius=min(reach, 24))
        for action in body.go(goal):
            if back_at - body.tick <= body.distance(body.here, home) + 1:
                break
            yield action
        else:
            yield body.stray()
    return True


def fidget(body: Body) -> int:
    """Return an action that does something to what is ahead, if anything can be done."""
    if not body.ahead_is_bare():
        return Action.USE if body.chance(0.8) else body.draws.below(NUM_ACTIONS)
    options = [Action.PAINT]
    if body.holds(Item.STONE) or body.holds(Item.DOOR):
        options += [Action.PLACE, Action.PLACE]
    if body.holds(Item.FRUIT):
        options += [Action.USE, Action.PLANT]
    return body.choose(options)


def _change_something(body: Body) -> Skill:
    """Do one of the things that last: harvest, toggle, paint, lay a stone, plant."""
    choice = body.draws.below(5)
    if choice < 2:
        near = body.find(_TOGGLES if choice else (*_FRUIT, *_WOOD))
        if near is not None and body.distance(body.here, near) < 8:
            done = yield from body.go(near, beside=True)
            yield Action.USE
            return done
    if choice == 2 and body.holds(Item.STONE):
        return (yield from body.on_bare_ground(Action.PLACE))
    if choice == 3 and body.holds(Item.FRUIT):
        return (yield from body.on_bare_ground(Action.PLANT))
    return (yield from body.on_bare_ground(Action.PAINT))


def _lay_stone(body: Body) -> Skill:
    if not body.holds(Item.STONE):
        yield from body.use((Thing.STONE,))
    yield from body.go(body.somewhere(around=body.here, radius=8))
    return (yield from body.on_bare_ground(Action.PLACE))


def _paint_way(body: Body) -> Skill:
    for action in body.go(body.somewhere(around=body.here, radius=8)):
        if body.ahead_is_bare() and body.chance(0.6):
            yield Action.PAINT
        yield action
    return True


def _plant(body: Body) -> Skill:
    if not body.holds(Item.FRUIT):
        yield from body.use(_FRUIT)
    yield from body.go(body.somewhere(around=body.here, radius=6))
    return (yield from body.on_bare_ground(Action.PLANT))


def _hand_over(body: Body) -> Skill:
    others = _others(body)
    if not others:
        return False
    other = body.choose(others)
    for _ in range(body.draws.between(1, 3)):
        if not (yield from _offer(body, other, within=60)):
            return False
    return True


def _revive(body: Body) -> Skill:
    target = body.find((Thing.COMMONS_BARE,))
    if target is None or not (yield from body.go(target, beside=True)):
        return False
    yield Action.PLANT
    return True


def _toggle(body: Body) -> Skill:
    return (yield from body.use(_TOGGLES))


def _hang_door(body: Body) -> Skill:
    """Fell what is needed, craft a door, and hang it in a frame, approached in a straight line."""
    for _ in range(8):
        if body.holds(Item.DOOR) or body.holds(Item.WOOD) >= DOOR_WOOD:
            break
        yield from body.use(_WOOD)
    if not body.holds(Item.DOOR) and not (yield from body.use((Thing.BENCH,))):
        return False
    approach = _frame(body)
    if approach is None or not body.holds(Item.DOOR):
        return False
    start, step = approach
    if not (yield from body.go(start)):
        return False
    yield Action.NORTH + body.world.steps.index(step)
    yield Action.PLACE
    return True


def _frame(body: Body) -> tuple[int, int] | None:
    """Return where to start, and the step to take, to look at an opening between two walls."""
    world = body.world
    bare = np.flatnonzero((world.state.thing == Thing.NONE) & (world.state.ground & 15 == Terrain.FLOOR))
    options: list[tuple[int, int]] = []
    for cell in bare.tolist():
        for along, across in ((1, world.config.width), (world.config.width, 1)):
            if all(world.ground_at[cell + way] & 15 == Terrain.WALL for way in (along, -along)):
                for step in (across, -across):
                    if world.walkable(cell - step) and world.walkable(cell - 2 * step):
                        options.append((cell - 2 * step, step))
    return body.choose(options) if options else None
