"""What merged windows promise: every cell is answered for once, where it is most central."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from world.envs.grounded import ViewLayout, nowhere
from world.field import MAP, Field
from world.window import owners, stood_on, unmerged, views_after

few = settings(deadline=None, max_examples=40)


@few
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**32))
def test_each_cell_is_answered_once_in_the_window_where_it_is_most_central(
    height: int, width: int, agents: int, seed: int
) -> None:
    poses = np.random.default_rng(seed).integers(-4, 5, (2, agents, 2)).astype(np.int32)
    here, index = owners(poses, height, width)
    assert here.shape == index.shape == (2, agents, height, width)
    for world in range(2):
        cells = {}
        for agent, (y, x) in enumerate(poses[world].tolist()):
            for row in range(height):
                for col in range(width):
                    place = (y + row - height // 2, x + col - width // 2)
                    off_centre = max(abs(row - height // 2), abs(col - width // 2))
                    cells.setdefault(place, []).append((off_centre, agent, row, col))
        assert int(here[world].sum()) == len(cells)
        for copies in cells.values():
            _, agent, row, col = min(copies)
            assert here[world, agent, row, col]
            for _, other, at_row, at_col in copies:
                assert index[world, other, at_row, at_col] == (agent * height + row) * width + col


def test_screens_are_each_agents_own() -> None:
    here, index = unmerged(2, 3, 4, 5)
    assert here.all() and here.shape == (2, 3, 4, 5)
    np.testing.assert_array_equal(index[1].ravel(), np.arange(3 * 4 * 5))


@pytest.mark.parametrize("rows", [2, 3, 4, 5])
@pytest.mark.parametrize("margin", [1, 2])
def test_what_is_seen_after_a_move_is_what_the_field_shows_from_there(rows: int, margin: int) -> None:
    cols = rows + 1
    layout = ViewLayout(rows=rows, cols=cols, map_rows=rows, tile_px=7)
    field, pose = Field(layout, 1), np.array([[3, -8]], np.int32)
    rng = np.random.default_rng(rows)
    for y in range(-6, 12):
        for x in range(-16, 2):
            field.observe(np.array([[y, x]], np.int32), rng.integers(1, 99, (1, rows, cols), np.uint16), 1)
    _, y, x = field.window_cells(pose, margin)
    window = field.layers[MAP].current(y, x)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            moved = np.array([[dy, dx]], np.int32)
            np.testing.assert_array_equal(views_after(window, moved, margin), field.views(pose + moved))


@pytest.mark.parametrize(("height", "width"), [(3, 3), (5, 7), (4, 6)])
def test_where_somebody_stands_is_told_in_all_windows(height: int, width: int) -> None:
    poses = np.random.default_rng(height).integers(-3, 4, (2, 3, 4, 2)).astype(np.int32)
    poses[0, 0] = nowhere(4)
    stood = stood_on(poses, height, width)
    for *where, y, x in np.ndindex(stood.shape):
        place = poses[tuple(where)] + (y - height // 2, x - width // 2)
        assert stood[(*where, y, x)] == (poses[tuple(where[:-1])] == place).all(-1).any()
