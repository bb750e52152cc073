"""The laws of homestead, read from tokens alone: which transitions break one, in truth or in a dream.

What the field does not show is not judged: a cell that nobody saw just before, or what lies under somebody.

Axes: T ticks (of any worlds), A agents, H × W cells of a window, K tokens a cell remembers, S status cells, E event
slots.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from world.envs.grounded import EVENT_REACH, BoolArray, Int32Array
from world.envs.homestead.config import MAX_AGENTS
from world.envs.homestead.events import CLEARED, CLEARING, EVENTS, RAIN, RIPENING, WALL, WHERE
from world.envs.homestead.render import BADGE
from world.envs.homestead.tiles import (
    AGENT_CODE,
    ANIMAL_CODE,
    DOOR_WOOD,
    FACING_CODE,
    GROUND_CODE,
    ITEM_CODE,
    MAX_HELD,
    NUM_CODES,
    NUM_ITEMS,
    NUM_PAINTS,
    STEPS,
    THING_CODE,
    VOID_CODE,
    WALKABLE,
    Action,
    Item,
    Terrain,
    Thing,
    ground_code,
)
from world.evaluation.codes import GROWS, NO_CODE, CodeTable, is_agent, is_body, is_landmark
from world.field import NOW
from world.trajectory import Transitions, displacement_of

LAWS = ("agents", "movement", "placement", "animals", "landmarks", "terrain", "inventory", "transaction", "uncaused")
"""Each agent is where its pose says and nowhere else, and keeps its colour; moves only as it acted; never into what
blocks; animals step to a cell next to theirs, and are neither lost nor made; landmarks and walls are for ever; hands
change by what one action allows, and by what then lies ahead; nothing changes by itself but what grows, or what a world
event makes of cells near its place."""
_WALL = ground_code(Terrain.WALL)
_FOR_EVER = (VOID_CODE, _WALL, THING_CODE + Thing.BENCH)
_DOORS = (THING_CODE + Thing.DOOR_CLOSED, THING_CODE + Thing.DOOR_OPEN)
_GATES = (THING_CODE + Thing.GATE_CLOSED, THING_CODE + Thing.GATE_OPEN)
_SWITCHES = (THING_CODE + Thing.SWITCH_OFF, THING_CODE + Thing.SWITCH_ON)
_PRESSURE = (THING_CODE + Thing.PRESSURE_CLOSED, THING_CODE + Thing.PRESSURE_OPEN)
_BARE_GROUND = tuple(range(GROUND_CODE, GROUND_CODE + 2 * (NUM_PAINTS + 1)))
"""Grass and floor, with and without paint."""


def _thing(thing: Thing) -> tuple[int, ...]:
    return (THING_CODE + thing,)


_STONE, _SAPLING = _thing(Thing.STONE), _thing(Thing.SAPLING)
_COMMONS = (THING_CODE + Thing.COMMONS_BARE, THING_CODE + Thing.COMMONS_RIPE)
_Pairs = tuple[tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[Item, int], ...]], ...]
_DEALS: dict[Action, _Pairs] = {
    Action.USE: (
        (_STONE, _BARE_GROUND, ((Item.STONE, 1),)),
        (_thing(Thing.TREE), _thing(Thing.STUMP), ((Item.WOOD, 1),)),
        (_thing(Thing.YOUNG_TREE), _BARE_GROUND, ((Item.WOOD, 1),)),
        (_thing(Thing.BUSH_RIPE), _thing(Thing.BUSH_BARE), ((Item.FRUIT, 1),)),
        (_SAPLING, _BARE_GROUND, ((Item.FRUIT, 1),)),
        (_COMMONS[1:], _COMMONS[:1], ((Item.FRUIT, 1),)),
    ),
    Action.PLACE: (
        (_BARE_GROUND, _STONE, ((Item.STONE, -1),)),
        (_BARE_GROUND, _DOORS[:1], ((Item.DOOR, -1),)),
        (_DOORS, _BARE_GROUND, ((Item.DOOR, 1),)),
    ),
    Action.PLANT: ((_BARE_GROUND, _SAPLING, ((Item.FRUIT, -1),)), (_COMMONS[:1], _COMMONS[1:], ((Item.FRUIT, -1),))),
}
"""What an action makes of the cell ahead, and of what is held."""
_FREE_OF_CHARGE = {
    Action.USE: ((_DOORS[0], _DOORS[1]), (_DOORS[1], _DOORS[0]), _SWITCHES, _SWITCHES[::-1]),
    Action.PAINT: tuple(
        (first + a, first + b)
        for first in (GROUND_CODE, GROUND_CODE + NUM_PAINTS + 1)
        for a in range(NUM_PAINTS + 1)
        for b in range(NUM_PAINTS + 1)
    ),
}
_MAY_BE_OPENED = (*_STONE, *_SAPLING, *_thing(Thing.YOUNG_TREE), _DOORS[0], _GATES[0])
"""What blocks the way before a tick, and may be gone by an earlier agent's action within it."""


def _hands(*changes: tuple[tuple[Item, int], ...]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(dict(change).get(item, 0) for item in Item) for change in ((), *changes))


_HANDS = {
    Action.USE: _hands(
        *(deal for _, _, deal in _DEALS[Action.USE]),
        ((Item.FRUIT, -1),),
        ((Item.WOOD, -DOOR_WOOD), (Item.DOOR, 1)),
    ),
    Action.PLACE: _hands(*(deal for _, _, deal in _DEALS[Action.PLACE])),
    Action.PLANT: _hands(((Item.FRUIT, -1),)),
}
"""By how much of each item one's own action may change what one holds."""


def _may_change() -> NDArray[np.bool_]:
    """Return (actions + 1, codes, codes): which content can become which by each action, the last by nature."""
    table = np.zeros((len(Action) + 1, NUM_CODES, NUM_CODES), np.bool_)
    for action, deals in _DEALS.items():
        for before, after, _ in deals:
            table[action][np.ix_(before, after)] = True
    for action, pairs in _FREE_OF_CHARGE.items():
        for one, other in pairs:
            table[action, one, other] = True
    for bare, ripe in GROWS.items():
        table[-1, bare, ripe] = True
    for one, other in (_PRESSURE, _PRESSURE[::-1]):
        table[-1, one, other] = True
    return table


def _may_befall() -> NDArray[np.bool_]:
    """Return (kinds + 1, codes, codes): which content can become which by each kind of world event."""
    table = np.zeros((len(EVENTS) + 1, NUM_CODES, NUM_CODES), np.bool_)
    grass = tuple(range(GROUND_CODE, GROUND_CODE + NUM_PAINTS + 1))
    table[RAIN][np.ix_(grass, _SAPLING)] = True
    table[WALL][np.ix_(_BARE_GROUND, _STONE)] = True
    for bare, ripe in GROWS.items():
        table[RIPENING, bare, ripe] = True
    table[CLEARING][np.ix_(tuple(THING_CODE + thing for thing in CLEARED), _BARE_GROUND)] = True
    return table


def _may_reach() -> NDArray[np.bool_]:
    """Return (kinds + 1, 5, 5): which cells about its place each kind of world event may change."""
    table = np.zeros((len(EVENTS) + 1, 2 * EVENT_REACH + 1, 2 * EVENT_REACH + 1), np.bool_)
    for kind, cells in enumerate(WHERE, start=1):
        table[kind, [dy + EVENT_REACH for dy, _ in cells], [dx + EVENT_REACH for _, dx in cells]] = True
    return table


_BEFALLS, _REACHES = _may_befall(), _may_reach()
_CHANGES = _may_change()
_CHANGES_AT_ALL: BoolArray = np.logical_or.reduce(_CHANGES, axis=0)
_ACTING = (Action.USE, Action.PLACE, Action.PLANT, Action.PAINT)


@dataclass(slots=True)
class _Scene:
    """Transitions in terms of homestead."""

    actions: Int32Array
    """(T, A)"""
    heading: tuple[Int32Array, Int32Array]
    """(T, A) before and after, read from the status."""
    looks: tuple[Int32Array, Int32Array]
    """(T, A) each one's colour before and after, read from the status; -1 where it shows nobody."""
    held: tuple[Int32Array, Int32Array]
    """(T, A, items) before and after; -1 where the status shows no number of the item."""
    poses: tuple[Int32Array, Int32Array]
    """(T, A, 2) before and after."""
    y: Int32Array
    """(T, A, H, W) rows of the windows' cells."""
    x: Int32Array
    shown: Int32Array
    """(T, A, H, W) codes after; `NO_CODE` where nobody looks."""
    known: Int32Array
    """(T, A, H, W) codes before, of any age."""
    events: Int32Array
    """(T, E, 3) kind, y, x of what befell the tick; kind 0 is an empty slot."""
    seen: BoolArray
    """(T, A, H, W) whether somebody looked just before."""
    content: Int32Array
    """(T, A, H, W) what was there before, bodies aside, where it was in sight; `NO_CODE` where that is not known."""


def broken_laws(ticks: Transitions, table: CodeTable) -> dict[str, BoolArray]:
    """Return for each of `LAWS` which transitions (T, A) of a homestead break it, in the window of which agent."""
    scene = _scene(ticks, table)
    ahead = scene.poses[0] + STEPS[scene.heading[0].clip(0, 3)]
    acting = np.isin(scene.actions, _ACTING) & (scene.heading[0] >= 0)
    return {
        "agents": _agents(scene),
        "movement": _movement(scene),
        "placement": _placement(scene, ahead, acting),
        "animals": _animals(scene),
        "landmarks": _lasting(scene, is_landmark(scene.known), is_landmark(scene.shown)),
        "terrain": _lasting(scene, np.isin(scene.known, _FOR_EVER), np.isin(scene.shown, _FOR_EVER)),
        "inventory": _inventory(scene),
        "transaction": _transaction(scene, ahead, acting),
        "uncaused": _uncaused(scene, ahead, acting),
    }


def _scene(ticks: Transitions, table: CodeTable) -> _Scene:
    height, width = ticks.tokens.shape[2:4]
    past = table.codes(ticks.tokens)
    in_sight = ticks.ages[..., -1] == NOW
    lasting = np.where(is_body(past), NO_CODE, past)
    newest = np.take_along_axis(lasting, (lasting != NO_CODE).argmax(axis=-1)[..., None], axis=-1)[..., 0]
    status = [table.codes(tokens) for tokens in (ticks.status, ticks.next_status)]
    facing = [codes[..., NUM_ITEMS] - FACING_CODE for codes in status]
    badges = [codes[..., BADGE] - AGENT_CODE for codes in status]
    counts = [codes[..., :NUM_ITEMS] - ITEM_CODE - np.arange(NUM_ITEMS) * (MAX_HELD + 1) for codes in status]
    grid = np.moveaxis(np.indices((height, width)), 0, -1) - (height // 2, width // 2)
    places = ticks.poses[:, :, None, None] + grid.astype(np.int32)
    return _Scene(
        actions=ticks.actions,
        heading=(_within(facing[0], 3), _within(facing[1], 3)),
        looks=(_within(badges[0], 4 * MAX_AGENTS - 1) // 4, _within(badges[1], 4 * MAX_AGENTS - 1) // 4),
        held=(_within(counts[0], MAX_HELD), _within(counts[1], MAX_HELD)),
        poses=(ticks.poses, ticks.poses + displacement_of(ticks.displacement)),
        y=places[..., 0],
        x=places[..., 1],
        shown=table.codes(ticks.next_tokens),
        known=past[..., 0],
        events=ticks.events,
        seen=in_sight,
        content=np.where(in_sight, newest, NO_CODE).astype(np.int32),
    )


def _within(values: Int32Array, most: int) -> Int32Array:
    return np.where((values >= 0) & (values <= most), values, -1).astype(np.int32)


def _at(scene: _Scene, places: Int32Array, agent: int) -> BoolArray:
    """Return which cells (T, A, H, W) of all windows are where this agent's place of (T, A, 2) is."""
    y, x = (places[:, agent, axis, None, None, None] for axis in (0, 1))
    at: BoolArray = (scene.y == y) & (scene.x == x)
    return at


def _befallen(scene: _Scene, slot: int) -> BoolArray:
    """Return which cells (T, A, H, W) of all windows the event of a slot may have changed."""
    kind, y, x = (scene.events[:, slot, part, None, None, None] for part in range(3))
    dy, dx = scene.y - y, scene.x - x
    near = (np.abs(dy) <= EVENT_REACH) & (np.abs(dx) <= EVENT_REACH)
    reached: BoolArray = near & _REACHES[kind, np.where(near, dy, 0) + EVENT_REACH, np.where(near, dx, 0) + EVENT_REACH]
    return reached


def _agents(scene: _Scene) -> BoolArray:
    looks, later = scene.looks
    broken: BoolArray = (looks < 0) | (later != looks)
    strangers = is_agent(scene.shown)
    for agent in range(scene.actions.shape[1]):
        here = _at(scene, scene.poses[1], agent)
        of_agent = is_agent(scene.shown) & ((scene.shown - AGENT_CODE) // 4 == looks[:, agent, None, None, None])
        strangers &= ~of_agent
        broken |= (of_agent & ~here).any(axis=(2, 3))
        own = np.where(here[:, agent], scene.shown[:, agent], NO_CODE).max(axis=(1, 2))
        broken[:, agent] |= own != AGENT_CODE + 4 * looks[:, agent] + scene.heading[1][:, agent]
    return broken | strangers.any(axis=(2, 3))


def _movement(scene: _Scene) -> BoolArray:
    moved = scene.poses[1] - scene.poses[0]
    heading = scene.actions - Action.NORTH
    is_move = (heading >= 0) & (heading < 4)
    allowed = (moved == 0).all(axis=2) | (is_move & (moved == STEPS[heading.clip(0, 3)]).all(axis=2))
    wanted = np.where(is_move, heading, scene.heading[0])
    broken: BoolArray = ~allowed | ((scene.heading[1] != wanted) & (wanted >= 0))
    return broken


def _placement(scene: _Scene, ahead: Int32Array, acting: BoolArray) -> BoolArray:
    broken = np.zeros(scene.actions.shape, np.bool_)
    walkable = np.isin(np.arange(-1, NUM_CODES), [NO_CODE, *(THING_CODE + t for t in WALKABLE if t), *_BARE_GROUND])
    walkable[1 + ground_code(Terrain.PLATE)] = walkable[1 + ground_code(Terrain.INNER_PLATE)] = True
    anybody_uses = (scene.actions == Action.USE).any(axis=1)
    for agent in range(scene.actions.shape[1]):
        here = _at(scene, scene.poses[1], agent)[:, agent]
        content = np.where(here, scene.content[:, agent], NO_CODE).max(axis=(1, 2))
        moved = (scene.poses[0][:, agent] != scene.poses[1][:, agent]).any(axis=1)
        others = acting & (ahead == scene.poses[1][:, agent, None]).all(axis=2)
        opened = others.any(axis=1) & np.isin(content, _MAY_BE_OPENED) | (anybody_uses & (content == _GATES[0]))
        broken[:, agent] = moved & ~walkable[content + 1] & ~opened
    return broken


def _animals(scene: _Scene) -> BoolArray:
    """Judged is what was in sight, with all that could have come there or gone, before and after."""
    was, is_now = scene.seen & (scene.known == ANIMAL_CODE), scene.shown == ANIMAL_CODE
    before, after = scene.seen & (scene.known != NO_CODE), scene.shown != NO_CODE
    near, far = _steps_away(1), _steps_away(2)
    had, has = _count(was, near), _count(is_now, near)
    lost = was & (_count(after, near) == len(near)) & (has == 0)
    made = is_now & (_count(before, near) == len(near)) & (had == 0)
    # Nobody else could have come to the five cells that one animal could have gone to.
    doubled = was & (_count(was, far) == 1) & (_count(before, far) == len(far)) & (has > 1)
    broken: BoolArray = (lost | made | doubled).any(axis=(2, 3))
    return broken


def _steps_away(steps: int) -> list[tuple[int, int]]:
    """Return the offsets of cells that are so many steps away, or fewer."""
    reach = range(-steps, steps + 1)
    return [(dy, dx) for dy in reach for dx in reach if abs(dy) + abs(dx) <= steps]


def _count(cells: BoolArray, offsets: list[tuple[int, int]]) -> NDArray[np.int64]:
    """Return (…, H, W) at how many of these offsets from each cell `cells` (…, H, W) holds, within the window."""
    height, width = cells.shape[-2:]
    padded = np.pad(cells, [(0, 0)] * (cells.ndim - 2) + [(2, 2), (2, 2)])
    found = np.zeros(cells.shape, np.int64)
    for dy, dx in offsets:
        found += padded[..., 2 + dy : 2 + dy + height, 2 + dx : 2 + dx + width]
    return found


def _lasting(scene: _Scene, was: BoolArray, is_now: BoolArray) -> BoolArray:
    both = (scene.known != NO_CODE) & (scene.shown != NO_CODE)
    broken: BoolArray = (both & (was | is_now) & (scene.known != scene.shown)).any(axis=(2, 3))
    return broken


def _inventory(scene: _Scene) -> BoolArray:
    before, after = scene.held
    change = after - before
    allowed = (change == 0).all(axis=2)
    for action, changes in _HANDS.items():
        fits = (change[:, :, None] == np.array(changes)).all(axis=3).any(axis=2)
        allowed |= (scene.actions == action) & fits
    givers = _gifts(scene)
    allowed |= (givers > 0) & (np.abs(change).sum(axis=2) <= 2 * givers + 2)
    broken: BoolArray = (after < 0).any(axis=2) | ((before >= 0).all(axis=2) & ~allowed)
    return broken


def _gifts(scene: _Scene) -> NDArray[np.intp]:
    """Return (T, A) how many gifts may have been made by or to each agent."""
    gives = scene.actions == Action.GIVE
    apart = np.abs(scene.poses[0][:, :, None] - scene.poses[0][:, None]).sum(axis=3)
    # Whoever walks away or comes first in a tick is next to a giver before it or after it.
    later = np.abs(scene.poses[1][:, :, None] - scene.poses[0][:, None]).sum(axis=3)
    count: NDArray[np.intp] = (((apart <= 1) | (later <= 1)) & gives[:, None]).sum(axis=2)
    return count


def _transaction(scene: _Scene, ahead: Int32Array, acting: BoolArray) -> BoolArray:
    change = scene.held[1] - scene.held[0]
    alone = _gifts(scene) == 0
    befallen = np.logical_or.reduce([_befallen(scene, slot) for slot in range(scene.events.shape[1])])
    broken = np.zeros(scene.actions.shape, np.bool_)
    for agent in range(scene.actions.shape[1]):
        place = _at(scene, ahead, agent)[:, agent]
        before = np.where(place, scene.content[:, agent], NO_CODE).max(axis=(1, 2))
        after = np.where(place, scene.shown[:, agent], NO_CODE).max(axis=(1, 2))
        others = acting & (ahead == ahead[:, agent, None]).all(axis=2)
        clear = alone[:, agent] & acting[:, agent] & (others.sum(axis=1) == 1)
        clear &= ~(place & befallen[:, agent]).any(axis=(1, 2))
        clear &= (before != NO_CODE) & (after != NO_CODE) & ~is_body(after) & (scene.held[0][:, agent] >= 0).all(axis=1)
        for action, deals in _DEALS.items():
            for was, becomes, deal in deals:
                met = clear & (scene.actions[:, agent] == action) & np.isin(before, was) & np.isin(after, becomes)
                price = np.array([dict(deal).get(item, 0) for item in Item])
                broken[:, agent] |= met & (change[:, agent] != price).any(axis=1)
    return broken


def _uncaused(scene: _Scene, ahead: Int32Array, acting: BoolArray) -> BoolArray:
    both = (scene.content != NO_CODE) & (scene.shown != NO_CODE) & ~is_body(scene.shown)
    changed = both & (scene.content != scene.shown)
    before, after = np.where(both, scene.content, 0), np.where(both, scene.shown, 0)
    allowed = _CHANGES[-1, before, after]
    anybody_uses = (scene.actions == Action.USE).any(axis=1)[:, None, None, None]
    # What lies under somebody may have been changed in the very tick in which that one came.
    allowed |= is_body(scene.known) & _CHANGES_AT_ALL[before, after]
    allowed |= anybody_uses & np.isin(before, _GATES) & np.isin(after, _GATES)
    count = np.zeros(changed.shape, np.int8)
    for agent in range(scene.actions.shape[1]):
        at = _at(scene, ahead, agent) & acting[:, agent, None, None, None]
        allowed |= at & _CHANGES[scene.actions[:, agent, None, None, None], before, after]
        count += at
    for slot in range(scene.events.shape[1]):
        at = _befallen(scene, slot)
        allowed |= at & _BEFALLS[scene.events[:, slot, 0, None, None, None], before, after]
        count += at
    # Two who act on one cell in one tick may make anything of it, one after the other; so may an event and whoever.
    broken: BoolArray = (changed & ~allowed & (count < 2)).any(axis=(2, 3))
    return broken
