"""What pictures promise: the truth above, the dream below, from one tick and under the same actions."""

from pathlib import Path

import numpy as np

from cluster.pictures import save_map_and_dream
from cluster.presets import preset
from tests.host_cases import Neighbourhood
from tests.model_cases import CountingEnv, counting_ticker, counting_world
from world.evaluation.pictures import dream_frames, map_image
from world.live import fork_dream
from world.model.tokenizer import DiscreteTokenizer
from world.snapshot import Snapshot

VIEW_PX = 4 * 7
"""Rows of a counting view, three of map and one of status, of 7 pixels."""


def test_truth_and_dream_begin_alike_and_the_truth_goes_on_as_it_would_alone() -> None:
    env, other = CountingEnv(), CountingEnv()
    world, alone = counting_world(env), counting_world(other)
    ticker, tokenizer = counting_ticker(env, version=1), DiscreteTokenizer(env.spec.layout)
    for each in (world, alone):
        for _ in range(3):
            ticker.tick([each])
    before = fork_dream(world.snapshot, 0)
    frames = dream_frames(world, ticker, tokenizer, 6)
    assert len(frames) == 7 and world.snapshot.tick == 9
    for frame in frames:
        assert frame.shape == (2 * VIEW_PX + 4, 2 * 21 + 4, 3) and frame.dtype == np.uint8
        assert (frame[VIEW_PX : VIEW_PX + 4] == 255).all() and (frame[:VIEW_PX, 21:25] == 255).all()
    np.testing.assert_array_equal(frames[0][:VIEW_PX], frames[0][VIEW_PX + 4 :])
    assert (frames[-1][:VIEW_PX] != frames[-1][VIEW_PX + 4 :]).any()
    np.testing.assert_array_equal(frames[0][:VIEW_PX, :21], tokenizer.decode(before.field.views(before.poses))[0])
    for _ in range(6):
        ticker.tick([alone])
    assert alone.snapshot.digest() == world.snapshot.digest()
    truth = tokenizer.decode(tokenizer.encode(other.observe().views))
    np.testing.assert_array_equal(frames[-1][:VIEW_PX, :21], truth[0])


def test_pictures_end_where_the_episode_does() -> None:
    env = CountingEnv(length=4)
    world, ticker = counting_world(env), counting_ticker(env, version=1)
    ticker.tick([world])
    assert len(dream_frames(world, ticker, DiscreteTokenizer(env.spec.layout), 50)) == 5
    assert world.ended


def test_a_map_shows_every_cell_that_was_seen_and_no_more_than_its_frame() -> None:
    env = CountingEnv()
    world, ticker, tokenizer = counting_world(env), counting_ticker(env), DiscreteTokenizer(env.spec.layout)
    empty = Snapshot.empty("grounded", 1, env.spec.layout, 2, 4)
    assert not map_image(empty, tokenizer).any()
    env.poses = np.array([[3, 3], [3, 7]], np.int32)
    ticker.tick([world])
    (top, left), (bottom, right) = env.poses.min(axis=0) - 1, env.poses.max(axis=0) + 2
    picture = map_image(world.snapshot, tokenizer)
    assert picture.shape == (7 * (bottom - top), 7 * (right - left), 3)
    y, x = env.poses[0] - (top, left)
    seen = picture[7 * y : 7 * y + 7, 7 * x : 7 * x + 7]
    np.testing.assert_array_equal(seen, tokenizer.decode((env.cells[None, None, *env.poses[0]] + 1).astype(np.uint16)))


def test_the_map_of_a_screen_is_all_screens_one_below_the_other() -> None:
    env = CountingEnv(map_rows=0)
    world, ticker = counting_world(env), counting_ticker(env)
    ticker.tick([world])
    assert map_image(world.snapshot, DiscreteTokenizer(env.spec.layout)).shape == (2 * VIEW_PX, 21, 3)


def test_a_run_is_drawn_by_its_first_world_that_is_neither_deleted_nor_damaged(tmp_path: Path) -> None:
    there = Neighbourhood(num_worlds=3)
    host = there.host()
    host.adopt(there.worlds)
    host.run_until(dict.fromkeys(there.worlds, 3), 60.0)
    host.stop()
    deleted, damaged, whole = there.worlds
    there.store.history().delete(deleted)
    there.store._worlds[damaged].keyframes.clear()
    lost = (there.store, (deleted, damaged), there.tokenizer, None, preset("smoke"), tmp_path)
    assert not save_map_and_dream(*lost)
    assert not list(tmp_path.iterdir())
    assert save_map_and_dream(there.store, (deleted, damaged, whole), *lost[2:])
    assert (tmp_path / "map.png").exists()
