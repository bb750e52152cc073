"""What a cell can hold, what an agent can do, and the code of the patch that shows it.

A cell is terrain and paint (one byte, `ground`) and a thing upon it. Whoever stands there hides both.
"""

from enum import IntEnum

import numpy as np

from world.envs.grounded import Int32Array
from world.envs.homestead.config import MAX_AGENTS


class Action(IntEnum):
    """What an agent can do in one tick."""

    NOOP = 0
    NORTH = 1
    EAST = 2
    SOUTH = 3
    WEST = 4
    USE = 5
    PLACE = 6
    PLANT = 7
    PAINT = 8
    GIVE = 9


class Terrain(IntEnum):
    """The ground of a cell, in the low four bits of its byte."""

    GRASS = 0
    FLOOR = 1
    WALL = 2
    PLATE = 3
    INNER_PLATE = 4


class Thing(IntEnum):
    """What lies or stands on the ground; landmarks follow from `LANDMARK` on."""

    NONE = 0
    STONE = 1
    TREE = 2
    STUMP = 3
    BUSH_RIPE = 4
    BUSH_BARE = 5
    SAPLING = 6
    YOUNG_TREE = 7
    COMMONS_RIPE = 8
    COMMONS_BARE = 9
    DOOR_CLOSED = 10
    DOOR_OPEN = 11
    GATE_CLOSED = 12
    GATE_OPEN = 13
    SWITCH_OFF = 14
    SWITCH_ON = 15
    PRESSURE_CLOSED = 16
    PRESSURE_OPEN = 17
    BENCH = 18


class Item(IntEnum):
    """What an agent can carry, up to `MAX_HELD` of each."""

    WOOD = 0
    STONE = 1
    FRUIT = 2
    DOOR = 3


STEPS = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)], np.int32)
"""(4, 2) rows and columns that each heading leads on: north, east, south, west."""
NUM_ACTIONS = len(Action)
NUM_ITEMS = len(Item)
MAX_HELD = 9
DOOR_WOOD = 2
"""Wood that a door is made of."""
NUM_PAINTS = 4
PAINT_SHIFT = 4
LANDMARK = 32
"""The first landmark among things."""
NUM_LANDMARKS = 256
NUM_THINGS = LANDMARK + NUM_LANDMARKS

WALKABLE = frozenset({Thing.NONE, Thing.DOOR_OPEN, Thing.GATE_OPEN, Thing.PRESSURE_OPEN})
SOLID_GROUND = frozenset({Terrain.WALL})

VOID_CODE = 0
GROUND_CODE = 1
"""Codes of bare ground: grass and floor with each paint, then wall, plate and inner plate."""
THING_CODE = GROUND_CODE + 2 * (NUM_PAINTS + 1) + 3
AGENT_CODE = THING_CODE + NUM_THINGS
ANIMAL_CODE = AGENT_CODE + 4 * MAX_AGENTS
ITEM_CODE = ANIMAL_CODE + 1
FACING_CODE = ITEM_CODE + NUM_ITEMS * (MAX_HELD + 1)
BLANK_CODE = FACING_CODE + 4
NUM_CODES = BLANK_CODE + 1


def ground_code(ground: int) -> int:
    """Return the code of the patch of bare ground."""
    terrain, paint = ground & 15, ground >> PAINT_SHIFT
    if terrain < Terrain.WALL:
        return GROUND_CODE + terrain * (NUM_PAINTS + 1) + paint
    return GROUND_CODE + 2 * (NUM_PAINTS + 1) + terrain - Terrain.WALL


def _ground_codes() -> Int32Array:
    codes = np.zeros(256, np.int32)
    for terrain in Terrain:
        for paint in range(NUM_PAINTS + 1 if terrain < Terrain.WALL else 1):
            ground = terrain | paint << PAINT_SHIFT
            codes[ground] = ground_code(ground)
    return codes


GROUND_CODES = _ground_codes()
"""(256,) code of each byte of ground."""
