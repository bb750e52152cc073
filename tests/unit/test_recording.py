"""Recording: every tick of every world once, also after an interruption, and nothing of another recording."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from learner.recording import SEGMENTS, RecordedWorlds, RecordingConfig, recorded
from learner.replay import ReplayShard
from tests.model_cases import homestead_rows
from world.errors import ConfigError
from world.tick import TickConfig

CONFIG = RecordingConfig(num_worlds=3, world_ticks=50, chunk_ticks=20, worlds_at_once=2, budget_bytes=1 << 24)
_ITEMS = 3 * 49 * 2
"""Worlds, rows of each (the first tick is a reset), agents."""


class Interrupted(Exception):
    """What stands for a killed process."""


def _record(directory: Path, config: RecordingConfig = CONFIG, *, stop_at: float = 2.0, **of: object) -> ReplayShard:
    spec, tokenizer, _ = homestead_rows()
    worlds = RecordedWorlds(
        env=spec.name, num_agents=None, seed=3, tokenizer=tokenizer.digest, memory_size=4, tick=TickConfig()
    )

    def progress(what: str, done: float) -> None:
        if done >= stop_at:
            raise Interrupted

    worlds = replace(worlds, **of)
    with recorded(directory, worlds, config, tokenizer=tokenizer, progress=progress) as shard:
        return shard


def test_every_tick_of_every_world_is_recorded_once(tmp_path: Path) -> None:
    stats = _record(tmp_path).stats()
    assert (stats.items, stats.worlds, stats.duplicates) == (_ITEMS, 3, 0)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_worlds_may_live_before_they_are_recorded(tmp_path: Path, num_processes: int) -> None:
    late = _rows(_record(tmp_path / "late", replace(CONFIG, most_lived_ticks=60, num_processes=num_processes)))
    ticks = {
        world: sorted(tick for each, tick, _ in late if each == world) for world in {world for world, _, _ in late}
    }
    assert sorted(ticks.values()) == [list(range(1, 50)), list(range(7, 57)), list(range(60, 110))]
    assert late <= _rows(_record(tmp_path / "all", replace(CONFIG, world_ticks=110))), "they are the same lives"


@pytest.mark.parametrize("num_processes", [1, 2])
def test_worlds_are_lived_in_by_the_policies_in_turn(tmp_path: Path, num_processes: int) -> None:
    config = replace(CONFIG, num_processes=num_processes)
    mixed, other, in_turn = (
        _rows(_record(tmp_path / "-".join(policies), replace(config, policies=policies)))
        for policies in (("mixed",), ("market",), ("mixed", "market"))
    )
    worlds = sorted({world for world, _, _ in mixed})
    assert not mixed & other, "they live differently"
    lived = [mixed, other, mixed]
    assert in_turn == {row for world, rows in zip(worlds, lived, strict=True) for row in rows if row[0] == world}


def test_a_recording_that_is_there_is_read_and_not_repeated(tmp_path: Path) -> None:
    _record(tmp_path)
    stats = _record(tmp_path, stop_at=0.0).stats()
    assert (stats.inserts, stats.restored) == (0, _ITEMS)


@pytest.mark.parametrize("stop_at", [0.3, 0.8])
def test_an_interrupted_recording_goes_on_and_ends_as_if_it_had_not_been(tmp_path: Path, stop_at: float) -> None:
    with pytest.raises(Interrupted):
        _record(tmp_path / "a", stop_at=stop_at)
    again, whole = _record(tmp_path / "a"), _record(tmp_path / "b")
    assert again.stats().items == _ITEMS
    assert _rows(again) == _rows(whole)


def test_worlds_live_the_same_lives_in_processes_of_their_own(tmp_path: Path) -> None:
    apart = _record(tmp_path / "apart", replace(CONFIG, num_processes=2))
    assert _rows(apart) == _rows(_record(tmp_path / "together"))


def test_another_recording_in_the_same_place_is_refused(tmp_path: Path) -> None:
    _record(tmp_path)
    (tmp_path / SEGMENTS).rename(tmp_path / "away")
    with pytest.raises(ConfigError, match="choose another"):
        _record(tmp_path, seed=4)
    with pytest.raises(ConfigError, match="choose another"):
        _record(tmp_path, replace(CONFIG, world_ticks=60))
    assert not (tmp_path / SEGMENTS).exists(), "nothing of what is there is opened for it"
    (tmp_path / "away").rename(tmp_path / SEGMENTS)
    _record(tmp_path, replace(CONFIG, worlds_at_once=1))


def test_what_memory_cannot_hold_is_refused_early(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="budget_bytes must be >="):
        _record(tmp_path, replace(CONFIG, budget_bytes=200_000))


def test_impossible_recordings_are_refused() -> None:
    for bad in (
        {"num_worlds": 0},
        {"most_lived_ticks": -1},
        {"policies": ()},
        {"chunk_ticks": 3_000},
        {"budget_bytes": 0},
    ):
        with pytest.raises(ConfigError):
            RecordingConfig(**bad)


def _rows(shard: ReplayShard) -> set[tuple[str, int, bytes]]:
    """Return what can be drawn: enough draws meet every row of so few."""
    drawn = shard.sample(4_000, 1)
    return {
        (world, int(tick), drawn.columns["next_tokens"][i].tobytes() + drawn.columns["actions"][i].tobytes())
        for i, (world, tick) in enumerate(zip(drawn.worlds, drawn.first_ticks, strict=True))
    }


def test_enough_draws_meet_every_row(tmp_path: Path) -> None:
    rows = _rows(_record(tmp_path))
    assert len({(world, tick) for world, tick, _ in rows}) == len(rows) == _ITEMS // 2
    assert np.unique([tick for _, tick, _ in rows]).tolist() == list(range(1, 50))
