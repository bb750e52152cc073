"""What the token field promises: exact replay, one truth where views overlap, and reads that never fail."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from world.envs.grounded import ViewLayout
from world.errors import CorruptRecord
from world.field import (
    DEPTH,
    MAP,
    NEVER,
    NUM_AGE_BUCKETS,
    SCREEN,
    UNSEEN,
    Changes,
    Field,
    Layer,
    Place,
    age_buckets,
)

LAYOUT = ViewLayout(rows=4, cols=3, map_rows=3, tile_px=0, num_values=9)
few = settings(deadline=None, max_examples=25)

_sizes = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2))


@st.composite
def _histories(draw: st.DrawFn) -> tuple[ViewLayout, list[tuple[NDArray[np.int32], NDArray[np.uint16]]]]:
    """Draw a layout and some ticks of poses and views, as one true world shows them."""
    map_rows, cols, status = draw(_sizes)
    has_map = draw(st.booleans())
    layout = ViewLayout(rows=map_rows + status, cols=cols, map_rows=map_rows if has_map else 0, tile_px=7)
    agents = draw(st.integers(1, 3))
    corner = draw(st.integers(-(2**20), 2**20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    truth = rng.integers(1, 5, (64, 64), np.uint16)
    history = []
    for _ in range(draw(st.integers(1, 6))):
        truth[rng.random(truth.shape) < 0.2] = rng.integers(1, 5)
        local = rng.integers(10, 54, (agents, 2)).astype(np.int32)
        views = rng.integers(1, 5, (agents, layout.rows, cols)).astype(np.uint16)
        if has_map:
            for agent, (y, x) in enumerate(local.tolist()):
                top, left = y - map_rows // 2, x - cols // 2
                views[agent, :map_rows] = truth[top : top + map_rows, left : left + cols]
        history.append((local + corner if has_map else np.zeros_like(local), views))
    return layout, history


@few
@given(_histories())
def test_settling_logged_changes_repeats_what_was_observed(
    drawn: tuple[ViewLayout, list[tuple[NDArray[np.int32], NDArray[np.uint16]]]],
) -> None:
    layout, history = drawn
    seen, replayed = (Field(layout, len(history[0][0])) for _ in range(2))
    for tick, (poses, views) in enumerate(history, start=1):
        changes = seen.observe(poses, views, tick)
        replayed.settle(changes, poses, tick)
        assert replayed.digest() == seen.digest()
        np.testing.assert_array_equal(seen.views(poses), views)
        assert len(set(zip(changes.layer.tolist(), changes.y.tolist(), changes.x.tolist(), strict=True))) == len(
            changes.y
        )
        again = seen.observe(poses, views, tick)
        assert not len(again.token), "what was just seen is no change"
        assert seen.digest() == replayed.digest()


@few
@given(_histories())
def test_arrays_rebuild_an_equal_field(
    drawn: tuple[ViewLayout, list[tuple[NDArray[np.int32], NDArray[np.uint16]]]],
) -> None:
    layout, history = drawn
    field = Field(layout, len(history[0][0]))
    for tick, (poses, views) in enumerate(history):
        field.observe(poses, views, tick)
    twin = Field(layout, field.num_agents)
    twin.layers = (Layer.from_arrays(field.layers[MAP].arrays()), Layer.from_arrays(field.layers[SCREEN].arrays()))
    assert twin.digest() == field.digest()
    mine, its = (f.windows(history[-1][0], len(history), 2) for f in (field, twin))
    np.testing.assert_array_equal(mine.tokens, its.tokens)
    np.testing.assert_array_equal(mine.ages, its.ages)


@few
@given(st.lists(st.tuples(st.integers(-40, 40), st.integers(-40, 40), st.integers(1, 9)), min_size=1, max_size=30))
def test_a_layer_remembers_the_last_tokens_of_each_cell_as_a_dictionary_would(
    pushes: list[tuple[int, int, int]],
) -> None:
    layer, model = Layer(), dict[tuple[int, int], list[tuple[int, int]]]()
    for tick, (y, x, token) in enumerate(pushes):
        layer.push(_place([(y, x)]), np.array([token], np.uint16), tick)
        model.setdefault((y, x), []).insert(0, (token, tick))
    for (y, x), remembered in model.items():
        tokens, set_at, _ = layer.read(*_place([(y, x)]))
        kept = remembered[:DEPTH] + [(UNSEEN, NEVER)] * (DEPTH - len(remembered))
        assert list(zip(tokens[0].tolist(), set_at[0].tolist(), strict=True)) == kept
    everywhere = np.indices((100, 100), dtype=np.int32) - 50
    assert np.count_nonzero(layer.current(*everywhere)) == len(model)


def test_a_cell_in_several_views_changes_once() -> None:
    field = Field(LAYOUT, 2)
    views = np.full((2, 4, 3), 7, np.uint16)
    changes = field.observe(np.array([[0, 0], [0, 1]], np.int32), views, 1)
    assert (changes.layer == MAP).sum() == 3 * 4
    assert (changes.layer == SCREEN).sum() == 2 * 3
    tokens, set_at, _ = field.layers[MAP].read(*_place([(0, 0)]))
    assert tokens[0].tolist() == [7, 0, 0, 0]
    assert set_at[0].tolist() == [1, NEVER, NEVER, NEVER]


def test_cells_without_a_chunk_read_as_unseen_even_far_away() -> None:
    field = Field(LAYOUT, 1)
    far = _place([(2**30, -(2**30)), (-1, -1), (0, 0)])
    tokens, set_at, seen_at = field.layers[MAP].read(*far)
    assert (tokens == UNSEEN).all() and (set_at == NEVER).all() and (seen_at == NEVER).all()
    field.layers[MAP].mark_seen(*far, 5)
    assert (field.layers[MAP].read(*far)[2] == NEVER).all()
    assert field.layers[MAP].num_chunks == 0


def test_negative_coordinates_are_cells_of_their_own() -> None:
    layer = Layer()
    places = [(-1, -1), (-16, -17), (15, -1), (-1, 15), (0, 0)]
    layer.push(_place(places), np.arange(1, 6, dtype=np.uint16), 3)
    assert layer.current(*_place(places)).tolist() == [1, 2, 3, 4, 5]
    assert layer.num_chunks == 5
    assert layer.arrays()["coordinates"].tolist() == [[-1, -2], [-1, -1], [-1, 0], [0, -1], [0, 0]]


def test_the_digest_does_not_depend_on_the_order_in_which_chunks_came() -> None:
    places, layers = [(0, 0), (40, 3), (-40, 9)], [Layer(), Layer()]
    for layer, order in zip(layers, (places, places[::-1]), strict=True):
        for place in order:
            layer.push(_place([place]), np.array([4], np.uint16), 1)
    for left, right in zip(layers[0].arrays().values(), layers[1].arrays().values(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_copy_shares_nothing() -> None:
    field = Field(LAYOUT, 1)
    poses = np.zeros((1, 2), np.int32)
    field.observe(poses, np.full((1, 4, 3), 2, np.uint16), 1)
    twin, before = field.copy(), field.digest()
    assert twin.digest() == before
    twin.observe(poses, np.full((1, 4, 3), 3, np.uint16), 2)
    assert field.digest() == before != twin.digest()
    for mine, its in zip(field.layers, twin.layers, strict=True):
        for left, right in zip(vars(mine).values(), vars(its).values(), strict=True):
            assert left is not right
            assert not isinstance(left, np.ndarray) or not np.shares_memory(left, right)


def test_windows_know_ages_of_tokens_and_of_the_last_look() -> None:
    field, poses = Field(LAYOUT, 1), np.zeros((1, 2), np.int32)
    for tick, token in ((1, 2), (2, 2), (5, 3)):
        field.observe(poses, np.full((1, 4, 3), token, np.uint16), tick)
    window = field.windows(poses, 9, 1)
    assert window.tokens.shape == (1, 5, 5, DEPTH) and window.ages.shape == (1, 5, 5, DEPTH + 1)
    centre = age_buckets(np.array([5, 1, NEVER, NEVER, 5], np.int32), 9)
    assert window.tokens[0, 2, 2].tolist() == [3, 2, 0, 0]
    np.testing.assert_array_equal(window.ages[0, 2, 2], centre)
    assert not window.tokens[0, 0].any() and not window.ages[0, 0].any()
    assert window.status.tolist() == [[3, 3, 3]]


def test_a_screen_is_seen_at_every_tick_though_nothing_on_it_changes() -> None:
    layout = ViewLayout(rows=2, cols=3, map_rows=0, tile_px=7)
    field, nowhere = Field(layout, 2), np.zeros((2, 2), np.int32)
    views = np.arange(1, 13, dtype=np.uint16).reshape(2, 2, 3)
    for tick in (1, 2, 3):
        field.observe(nowhere, views, tick)
    window = field.windows(nowhere, 3, 1)
    assert window.tokens.shape == (2, 2, 3, DEPTH) and window.status.shape == (2, 0)
    np.testing.assert_array_equal(window.tokens[..., 0], views)
    assert (window.ages[..., 0] == age_buckets(np.array([1], np.int32), 3)).all()
    assert (window.ages[..., -1] == age_buckets(np.array([3], np.int32), 3)).all()
    np.testing.assert_array_equal(field.observed_at(3, nowhere, 1), views)


def test_a_cell_out_of_view_keeps_the_tick_it_was_last_seen_at() -> None:
    field = Field(LAYOUT, 1)
    views = np.full((1, 4, 3), 2, np.uint16)
    field.observe(np.array([[0, 0]], np.int32), views, 1)
    field.observe(np.array([[0, 10]], np.int32), views, 2)
    tokens = field.observed_at(2, np.array([[0, 8]], np.int32), 1)
    assert tokens[0, 1].tolist() == [0, 0, 0, 2, 2]
    assert field.layers[MAP].read(*_place([(0, 0)]))[2].tolist() == [1]


@pytest.mark.parametrize("rows", [2, 3, 4, 5])
def test_the_agent_stands_in_the_cell_that_the_model_takes_for_its_own(rows: int) -> None:
    layout = ViewLayout(rows=rows, cols=rows, map_rows=rows, tile_px=7)
    field, pose = Field(layout, 1), np.array([[-3, 20]], np.int32)
    _, y, x = field.window_cells(pose, 1)
    assert y.shape == (1, rows + 2, rows + 2)
    assert (y[0, (rows + 2) // 2, 0], x[0, 0, (rows + 2) // 2]) == (-3, 20)


def test_age_buckets_rise_with_age_and_zero_means_never() -> None:
    ages = np.arange(0, 6000, dtype=np.int32)
    buckets = age_buckets(6000 - ages, 6000)
    assert buckets[:208].tolist() == list(range(1, 209)), "young ages are told exactly"
    assert (np.diff(buckets.astype(int)) >= 0).all() and buckets.max() == NUM_AGE_BUCKETS - 1
    assert set(np.unique(buckets)) == set(range(1, NUM_AGE_BUCKETS)), "no bucket is left without an age"
    assert age_buckets(np.array([NEVER], np.int32), 0).tolist() == [0]


def test_malformed_layers_are_refused() -> None:
    field = Field(LAYOUT, 1)
    field.observe(np.zeros((1, 2), np.int32), np.full((1, 4, 3), 2, np.uint16), 1)
    arrays = field.layers[MAP].arrays()
    with pytest.raises(CorruptRecord, match="missing"):
        Layer.from_arrays({name: array for name, array in arrays.items() if name != "tokens"})
    with pytest.raises(CorruptRecord, match="set_at"):
        Layer.from_arrays({**arrays, "set_at": arrays["set_at"][:, :-1]})
    with pytest.raises(CorruptRecord, match="uint16"):
        Layer.from_arrays({**arrays, "tokens": arrays["tokens"].astype(np.int32)})


def test_changes_of_one_layer_leave_the_other_alone() -> None:
    field = Field(LAYOUT, 1)
    one = np.array([0], np.int32)
    field.settle(
        Changes(np.array([SCREEN], np.uint8), one, one, np.array([5], np.uint16)), np.zeros((1, 2), np.int32), 1
    )
    assert field.layers[MAP].num_chunks == 0
    assert field.status().tolist() == [[5, 0, 0]]


def _place(cells: list[tuple[int, int]]) -> Place:
    y, x = np.array(cells, np.int32).T
    return Place(y, x)
