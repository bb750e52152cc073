"""How a homestead looks: one patch of 7×7 pixels for each thing that a cell can show.

A patch depends on the content of its cell alone, so a frame can be read back cell by cell without error.

Axes: A agents, K codes, n patches.
"""

from functools import cache

import numpy as np

from world.envs.grounded import Int32Array, Uint8Array, ViewLayout
from world.envs.homestead import sprites
from world.envs.homestead.config import HomesteadConfig
from world.envs.homestead.live_map import MARGIN, VIEW
from world.envs.homestead.rules import Simulation
from world.envs.homestead.tiles import (
    AGENT_CODE,
    ANIMAL_CODE,
    BLANK_CODE,
    FACING_CODE,
    ITEM_CODE,
    MAX_HELD,
    NUM_CODES,
    NUM_ITEMS,
    THING_CODE,
    VOID_CODE,
    Thing,
)

TILE_PX = sprites.SIDE
ROWS = VIEW + 1
"""Rows of cells of an observation: the view, and one row with what the agent holds, where it looks and who it is."""
BADGE = NUM_ITEMS + 1
"""Column in that row which shows the agent itself, heading north: its colour is the same for as long as it lives."""
_ROW_BYTES = TILE_PX * 3
_ITEM_CODES = ITEM_CODE + np.arange(NUM_ITEMS, dtype=np.int32) * (MAX_HELD + 1)
_PIXEL_ROWS = np.arange(TILE_PX, dtype=np.int32)[:, None]
_OFFSETS: Int32Array = np.indices((VIEW, VIEW), dtype=np.int32).reshape(2, -1).T - np.int32(MARGIN)
_DAY_TICKS = 256


@cache
def patch_table() -> Uint8Array:
    """Return (K, 7, 7, 3) the patch of every code; read only."""
    table = sprites.draw_patches()
    assert table.shape == (NUM_CODES, TILE_PX, TILE_PX, 3)
    table.setflags(write=False)
    return table


@cache
def _row_table() -> Uint8Array:
    """The patches as rows of pixels, so that one gather writes a whole image."""
    return patch_table().reshape(-1, _ROW_BYTES)


def layout_of(config: HomesteadConfig) -> ViewLayout:
    """Return how a view is made of cells. One that is turned with the heading is no piece of a map: a screen."""
    map_rows = VIEW if config.orientation == "north" else 0
    return ViewLayout(rows=ROWS, cols=VIEW, map_rows=map_rows, tile_px=TILE_PX)


def view_codes(simulation: Simulation) -> Int32Array:
    """Return (A, 10, 9) the codes of what every agent perceives, without sensor trouble."""
    state = simulation.state
    codes = np.full((len(state.cells), ROWS, VIEW), BLANK_CODE, np.int32)
    windows = np.lib.stride_tricks.sliding_window_view(simulation.codes, (VIEW, VIEW))
    y, x = np.divmod(np.array(state.cells, np.intp), simulation.config.width)
    codes[:, :VIEW] = windows[y, x]
    if simulation.config.orientation == "heading":
        _turn(codes[:, :VIEW], state.facing)
    codes[:, VIEW, :NUM_ITEMS] = np.array(state.inventory, np.int32) + _ITEM_CODES
    codes[:, VIEW, BADGE] = AGENT_CODE + 4 * np.array(simulation.looks[: len(state.cells)], np.int32)
    if simulation.config.orientation == "north":
        codes[:, VIEW, NUM_ITEMS] = np.array(state.facing, np.int32) + FACING_CODE
    return codes


def images(codes: Int32Array) -> Uint8Array:
    """Return (…, R·7, C·7, 3) the image of codes (…, R, C)."""
    *lead, rows, cols = codes.shape
    index = codes[..., None, :] * TILE_PX + _PIXEL_ROWS
    return _row_table().take(index, axis=0).reshape(*lead, rows * TILE_PX, cols * TILE_PX, 3)


def views(simulation: Simulation) -> Uint8Array:
    """Return (A, 70, 63, 3) what all agents perceive."""
    codes = view_codes(simulation)
    config = simulation.config
    if not config.hard:
        return images(codes)
    return _troubled(codes, config, simulation.state.seed, simulation.state.tick)


def view_at(simulation: Simulation, y: int, x: int) -> Uint8Array:
    """Return (63, 63, 3) what one would see from a place, north up and without sensor trouble.

    Raises `ValueError` for a place outside the map.
    """
    config = simulation.config
    if not (0 <= y < config.height and 0 <= x < config.width):
        raise ValueError(f"homestead {config.height}x{config.width}: there is no place ({y}, {x})")
    return images(simulation.codes[y : y + VIEW, x : x + VIEW])


def map_image(simulation: Simulation) -> Uint8Array:
    """Return (H·7, W·7, 3) the whole map."""
    return images(simulation.codes[MARGIN:-MARGIN, MARGIN:-MARGIN])


def visible_cells(poses: Int32Array) -> Int32Array:
    """Return (A, 81, 2) the places (y, x) in each view in reading order; some may lie outside the map."""
    cells: Int32Array = poses[:, None, :] + _OFFSETS
    return cells


def reachable_codes(simulation: Simulation) -> Int32Array:
    """Return the codes (n,) that can ever be shown in this world, whatever anybody does in it."""
    lasting = np.unique(simulation.codes[MARGIN:-MARGIN, MARGIN:-MARGIN])
    codes = [
        np.array([VOID_CODE, ANIMAL_CODE, BLANK_CODE]),
        lasting[(lasting < AGENT_CODE)],
        np.arange(1, THING_CODE),
        np.array([THING_CODE + thing for thing in Thing if thing]),
        np.arange(AGENT_CODE, ANIMAL_CODE),
        np.arange(ITEM_CODE, BLANK_CODE),
    ]
    return np.unique(np.concatenate(codes)).astype(np.int32)


def _turn(codes: Int32Array, facing: list[int]) -> None:
    """Turn each view (A, 9, 9) in place so that the agent looks up, and agents' headings with it."""
    for agent, heading in enumerate(facing):
        turned = np.rot90(codes[agent], heading)
        relative = turned - AGENT_CODE
        is_agent = (relative >= 0) & (turned < ANIMAL_CODE)
        codes[agent] = np.where(is_agent, turned - relative % 4 + (relative - heading) % 4, turned)


def _troubled(codes: Int32Array, config: HomesteadConfig, seed: int, tick: int) -> Uint8Array:
    """Return images (A, 70, 63, 3) with hidden cells, the brightness of the hour and noise of the sensor."""
    noise = np.random.Philox(key=np.array([seed, tick], np.uint64))
    if config.occlusion:
        hidden = noise.random_raw(codes[:, :VIEW].size).reshape(codes[:, :VIEW].shape) < int(config.occlusion * 2**64)
        codes = codes.copy()
        codes[:, :VIEW][hidden] = VOID_CODE
    pixels = images(codes).astype(np.int32)
    if config.dimming:
        darkness = abs(tick % _DAY_TICKS - _DAY_TICKS // 2) * 2 * config.dimming / _DAY_TICKS
        pixels = (pixels * round(256 * (1 - darkness))) >> 8
    if config.sensor_noise:
        raw = noise.random_raw((pixels.size + 7) // 8).view(np.uint8)[: pixels.size].reshape(pixels.shape)
        pixels += raw.astype(np.int32) * (2 * config.sensor_noise + 1) // 256 - config.sensor_noise
    return pixels.clip(0, 255).astype(np.uint8)
