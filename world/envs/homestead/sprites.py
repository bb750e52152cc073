"""The drawings: 7×7 letters each, a colour for each letter.

Landmarks are mirrored random patterns, made in whole numbers, so they are the same on every machine.
"""

import colorsys

import numpy as np

from world.envs.grounded import Uint8Array
from world.envs.homestead.config import MAX_AGENTS
from world.envs.homestead.draws import Draws
from world.envs.homestead.tiles import (
    AGENT_CODE,
    ANIMAL_CODE,
    BLANK_CODE,
    FACING_CODE,
    GROUND_CODES,
    ITEM_CODE,
    LANDMARK,
    MAX_HELD,
    NUM_CODES,
    NUM_ITEMS,
    NUM_LANDMARKS,
    NUM_PAINTS,
    PAINT_SHIFT,
    THING_CODE,
    Terrain,
    Thing,
)

SIDE = 7
"""Pixels on a side of a cell."""

_COLOURS = {
    ".": (86, 125, 70), ",": (104, 146, 84), "f": (176, 158, 128), "F": (192, 175, 146),
    "w": (92, 84, 88), "W": (124, 116, 118), "k": (24, 22, 28), "d": (58, 50, 52),
    "t": (92, 62, 38), "T": (128, 88, 52), "g": (34, 92, 44), "G": (52, 132, 62),
    "r": (206, 48, 56), "y": (238, 202, 72), "o": (228, 132, 44), "b": (62, 104, 196),
    "p": (150, 82, 178), "s": (150, 152, 160), "S": (196, 198, 206), "c": (70, 190, 196),
    "h": (250, 248, 240), "m": (196, 148, 96), "n": (12, 12, 16),
}  # fmt: skip
_PAINTS = ((214, 92, 84), (84, 132, 214), (222, 186, 76), (158, 98, 190))

_GRASS = ".......|..,....|.......|....,..|.,.....|.......|.....,."
_FLOOR = "fffffff|fFFfFFf|fFFfFFf|fffffff|fFFfFFf|fFFfFFf|fffffff"
_WALL = "WWWwWWW|WWWwWWW|wwwwwww|WwWWWwW|WwWWWwW|wwwwwww|WWWwWWW"
_PLATE = "fffffff|fsssssf|fsSSSsf|fsSsSsf|fsSSSsf|fsssssf|fffffff"
_INNER_PLATE = "fffffff|fsssssf|fscccsf|fscscsf|fscccsf|fsssssf|fffffff"
_THINGS = {
    Thing.STONE: ".......|..sss..|.sSSss.|.sSssss|.ssssss|..ssss.|.......",
    Thing.TREE: "..GGG..|.GgGGG.|GGGGgGG|.GGgGG.|..GtG..|...t...|..ttt..",
    Thing.STUMP: ".......|.......|.......|..TTT..|..tTt..|..ttt..|.......",
    Thing.BUSH_RIPE: ".......|..GGG..|.GrGGr.|.GGGGG.|.rGGrG.|..GGG..|.......",
    Thing.BUSH_BARE: ".......|..ggg..|.ggggg.|.ggggg.|.ggggg.|..ggg..|.......",
    Thing.SAPLING: ".......|.......|...G...|..GGG..|...t...|...t...|.......",
    Thing.YOUNG_TREE: "...y...|..yGy..|.yGGGy.|..yGy..|...t...|...t...|..ttt..",
    Thing.COMMONS_RIPE: ",,,,,,,|,o,o,o,|,ooooo,|,,ooo,,|,,,g,,,|,,,g,,,|,,,,,,,",
    Thing.COMMONS_BARE: ",,,,,,,|,,,,,,,|,t,t,t,|,,ttt,,|,,,t,,,|,,,t,,,|,,,,,,,",
    Thing.DOOR_CLOSED: "ttttttt|tTTtTTt|tTTtTTt|tTTtTyt|tTTtTTt|tTTtTTt|ttttttt",
    Thing.DOOR_OPEN: "tffffft|tffffft|tffffft|tfffffy|tffffft|tffffft|tffffft",
    Thing.GATE_CLOSED: "bbbbbbb|kbkbkbk|kbkbkbk|bbbbbbb|kbkbkbk|kbkbkbk|bbbbbbb",
    Thing.GATE_OPEN: "bbbbbbb|bfffffb|bfffffb|bfffffb|bfffffb|bfffffb|bfffffb",
    Thing.SWITCH_OFF: "WWWWWWW|WwwwwwW|WwrrwwW|WwwkwwW|WwwwkwW|WwwwwwW|WWWWWWW",
    Thing.SWITCH_ON: "WWWWWWW|WwwwwwW|WwwGGwW|WwwkwwW|WwkwwwW|WwwwwwW|WWWWWWW",
    Thing.PRESSURE_CLOSED: "ppppppp|pkkpkkp|pkkpkkp|ppppppp|pkkpkkp|pkkpkkp|ppppppp",
    Thing.PRESSURE_OPEN: "ppppppp|pfffffp|pfffffp|pfffffp|pfffffp|pfffffp|pfffffp",
    Thing.BENCH: "fffffff|fmmmmmf|fmhmkmf|fmmmmmf|ftffftf|ftffftf|fffffff",
}
_ANIMAL = ".......|.hhhk..|hhhhhkk|hhhhhk.|.hhhh..|.k..k..|.......".replace(".", "y")
_NORTH = "ddhhhdd|dAAAAAd|AAAAAAA|AAAAAAA|AAAAAAA|dAAAAAd|ddAAAdd"
_ICONS = (
    "kkkk|ktTk|tTtk|kkkk",
    "kkkk|kSsk|sssk|kkkk",
    "kkgk|krrk|krrk|kkkk",
    "TTTk|TtTk|TtTk|TTTk",
)


def draw_patches() -> Uint8Array:
    """Return (K, 7, 7, 3) the patch of every code."""
    patches = np.zeros((NUM_CODES, SIDE, SIDE, 3), np.uint8)
    _draw_ground(patches)
    for thing, drawing in _THINGS.items():
        patches[THING_CODE + thing] = _picture(drawing)
    for texture in range(NUM_LANDMARKS):
        patches[THING_CODE + LANDMARK + texture] = _landmark(texture)
    for agent in range(MAX_AGENTS):
        for heading in range(4):
            patches[AGENT_CODE + 4 * agent + heading] = np.rot90(_picture(_NORTH, A=agent_colour(agent)), -heading)
    patches[ANIMAL_CODE] = _picture(_ANIMAL)
    for item in range(NUM_ITEMS):
        for count in range(MAX_HELD + 1):
            patches[ITEM_CODE + item * (MAX_HELD + 1) + count] = _counted(item, count)
    arrow = _picture("kkkhkkk|kkhhhkk|khhhhhk|kkkhkkk|kkkhkkk|kkkhkkk|kkkkkkk")
    for heading in range(4):
        patches[FACING_CODE + heading] = np.rot90(arrow, -heading)
    patches[BLANK_CODE] = _picture("|".join(["ddddddd"] * SIDE))
    return patches


def agent_colour(agent: int) -> tuple[int, int, int]:
    """Return the colour by which an agent is known in every view."""
    red, green, blue = colorsys.hsv_to_rgb((agent * 5 % MAX_AGENTS) / MAX_AGENTS, (0.95, 0.55)[agent % 2], 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def _draw_ground(patches: Uint8Array) -> None:
    plain = {Terrain.WALL: _WALL, Terrain.PLATE: _PLATE, Terrain.INNER_PLATE: _INNER_PLATE}
    for terrain, drawing in plain.items():
        patches[GROUND_CODES[terrain]] = _picture(drawing)
    for terrain, drawing in ((Terrain.GRASS, _GRASS), (Terrain.FLOOR, _FLOOR)):
        patches[GROUND_CODES[terrain]] = _picture(drawing)
        for paint in range(NUM_PAINTS):
            patch = _picture(drawing)
            patch[1:6, 1:6] = _PAINTS[paint]
            patches[GROUND_CODES[terrain | (paint + 1) << PAINT_SHIFT]] = patch


def _picture(drawing: str, **extra: tuple[int, int, int]) -> Uint8Array:
    colours = _COLOURS | extra
    return np.array([[colours[letter] for letter in row] for row in drawing.split("|")], np.uint8)


def _counted(item: int, count: int) -> Uint8Array:
    """An icon, and as many bright dots as one holds."""
    patch = np.zeros((SIDE, SIDE, 3), np.uint8)
    patch[:] = _COLOURS["k"]
    patch[:4, :4] = _picture(_ICONS[item])
    places = [(5, 1), (5, 3), (5, 5), (3, 5), (1, 5), (6, 0), (6, 2), (6, 4), (6, 6)]
    for y, x in places[:count]:
        patch[y, x] = _COLOURS["h"]
    return patch


def _landmark(texture: int) -> Uint8Array:
    """A mirrored pattern of two colours on a third, within a dark edge at the corners."""
    draws = Draws(texture, 7)
    hue = draws.below(24)
    colours = np.array([_hue(hue, 0.9), _hue(hue + draws.between(6, 18), 0.6), _hue(draws.below(24), 0.25)], np.uint8)
    pattern = np.zeros((SIDE, SIDE), np.intp)
    for y in range(SIDE):
        for x in range(SIDE // 2 + 1):
            pattern[y, x] = pattern[y, SIDE - 1 - x] = draws.below(3)
    patch = colours[pattern]
    patch[(0, 0, -1, -1), (0, -1, 0, -1)] = _COLOURS["n"]
    return patch


def _hue(step: int, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(step % 24 / 24, 0.75, value)
    return round(red * 255), round(green * 255), round(blue * 255)
