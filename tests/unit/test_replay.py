"""What a replay shard promises of what it holds and of what it draws."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.bench import homestead_chunk
from learner.index import ChunkIndex
from learner.replay import ReplayConfig, ReplayShard, shard_of
from learner.ring import INDEX_BYTES
from learner.segments import SegmentConfig
from world.errors import ConfigError, ReplayError
from world.snapshot import WorldId
from world.trajectory import Chunk

TICKS, AGENTS = 8, 2


def _chunk(world: str, first_tick: int, *, epoch: int = 1, num_ticks: int = TICKS, side: int = 3) -> Chunk:
    """Return a chunk whose rows say which they are: actions hold the epoch, poses the tick."""
    chunk = homestead_chunk(
        WorldId(world), first_tick, epoch=epoch, num_ticks=num_ticks, agents=AGENTS, side=side, seed=abs(epoch)
    )
    chunk.transitions.actions[:] = epoch
    chunk.transitions.poses[:] = np.arange(first_tick, first_tick + num_ticks)[:, None, None]
    return chunk


SLOT_BYTES = _chunk("w", 0).transitions.nbytes + INDEX_BYTES


def _shard(num_slots: int = 64, directory: Path | None = None, **changes: object) -> ReplayShard:
    config = ReplayConfig(
        budget_bytes=num_slots * SLOT_BYTES,
        chunk_ticks=TICKS,
        segments=SegmentConfig(segment_bytes=4096, quota_bytes=1 << 20),
        **changes,  # type: ignore[arg-type]
    )
    return ReplayShard(config, directory, seed=7)


def _held(shard: ReplayShard) -> dict[tuple[str, int], int]:
    """Return every row that can be drawn, as (world, tick) → epoch."""
    rows: dict[tuple[str, int], int] = {}
    while shard.can_sample(1) and len(rows) < shard.stats().items // AGENTS:
        drawn = shard.sample(64, 1)
        epochs = drawn.columns["actions"][:, 0, 0]
        for world, tick, epoch in zip(drawn.worlds, drawn.first_ticks, epochs, strict=True):
            assert rows.setdefault((world, int(tick)), int(epoch)) == epoch
    return rows


def test_drawn_rows_are_the_inserted_ones() -> None:
    shard, chunks = _shard(), {world: _chunk(world, 40) for world in ("a", "b")}
    for chunk in chunks.values():
        report = shard.insert(chunk)
        assert report == (TICKS * AGENTS, 0, 0, 0)
    drawn = shard.sample(32, 5)
    assert drawn.num_items == 32 * 5 * AGENTS
    for row, (world, first) in enumerate(zip(drawn.worlds, drawn.first_ticks, strict=True)):
        source = chunks[world].transitions[first - 40 : first - 40 + 5].columns()
        for name, column in drawn.columns.items():
            assert column.dtype == source[name].dtype
            if (name, first) != ("is_first", 40):
                np.testing.assert_array_equal(column[row], source[name])


def test_a_resent_chunk_is_dropped() -> None:
    shard = _shard()
    shard.insert(_chunk("w", 0))
    assert shard.insert(_chunk("w", 0)) == (0, TICKS * AGENTS, 0, 0)
    assert shard.insert(_chunk("w", 4)) == (4 * AGENTS, 4 * AGENTS, 0, 0)
    assert shard.stats().items == 12 * AGENTS
    assert shard.stats().duplicates == 12 * AGENTS


def test_after_a_takeover_the_newer_owner_has_the_word() -> None:
    shard = _shard()
    shard.insert(_chunk("w", 0))
    shard.insert(_chunk("w", 8))
    assert shard.insert(_chunk("w", 5, epoch=2)) == (TICKS * AGENTS, 0, 11 * AGENTS, 0)
    assert _held(shard) == {("w", tick): 1 if tick < 5 else 2 for tick in range(13)}


def test_a_late_chunk_of_a_displaced_owner_is_not_taken() -> None:
    shard = _shard()
    shard.insert(_chunk("w", 8, epoch=2))
    assert shard.insert(_chunk("w", 4, epoch=1)) == (4 * AGENTS, 0, 4 * AGENTS, 0)
    assert shard.insert(_chunk("w", 16, epoch=1)) == (0, 0, TICKS * AGENTS, 0)
    assert _held(shard) == {("w", tick): 1 if tick < 8 else 2 for tick in range(4, 16)}
    assert shard.stats().dropped == 12 * AGENTS


_INSERTS = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.integers(1, 3), st.integers(0, 40), st.integers(1, TICKS)), max_size=25
)


@settings(deadline=None, max_examples=40)
@given(_INSERTS)
def test_every_row_is_held_once_by_the_newest_owner_that_reached_it(inserts: list[tuple[str, int, int, int]]) -> None:
    shard = _shard(256)
    seen: dict[tuple[str, int], dict[int, int]] = {}
    for world, epoch, first, num_ticks in inserts:
        shard.insert(_chunk(world, first, epoch=epoch, num_ticks=num_ticks))
        for tick in range(first, first + num_ticks):
            seen.setdefault((world, epoch), {})[tick] = epoch
    # The definition: an epoch's rows count up to the first tick that any newer epoch has ever sent.
    wanted: dict[tuple[str, int], int] = {}
    for (world, epoch), ticks in seen.items():
        end = min((min(t) for (w, e), t in seen.items() if w == world and e > epoch), default=1 << 30)
        wanted.update({(world, tick): epoch for tick in ticks if tick < end})
    assert _held(shard) == wanted
    assert shard.stats().items == len(wanted) * AGENTS


@settings(deadline=None, max_examples=40)
@given(_INSERTS)
def test_is_first_is_forced_at_every_gap_and_nowhere_else(inserts: list[tuple[str, int, int, int]]) -> None:
    shard = _shard(256)
    for world, epoch, first, num_ticks in inserts:
        shard.insert(_chunk(world, first, epoch=epoch, num_ticks=num_ticks))
    held = _held(shard)
    for _ in range(20 if held else 0):
        drawn = shard.sample(16, 1)
        for world, tick, is_first in zip(drawn.worlds, drawn.first_ticks, drawn.columns["is_first"][:, 0], strict=True):
            earlier = any(w == world and t < tick for w, t in held)
            gap = earlier and (world, tick - 1) not in held
            assert is_first == (tick == 0 or gap)


def test_a_gap_that_is_filled_later_is_no_gap() -> None:
    shard = _shard()
    shard.insert(_chunk("w", 8))
    shard.insert(_chunk("w", 24))
    shard.insert(_chunk("w", 16))
    drawn = shard.sample(64, TICKS)
    assert not drawn.columns["is_first"].any()


def test_memory_never_exceeds_the_budget_and_the_oldest_goes_first() -> None:
    shard = _shard(num_slots=4)
    for first in range(0, 80, TICKS):
        shard.insert(_chunk("w", first))
        assert shard.stats().num_bytes <= shard.stats().budget_bytes
    stats = shard.stats()
    assert stats.num_bytes == 4 * SLOT_BYTES == stats.budget_bytes
    assert stats.evictions == 6 * TICKS * AGENTS
    assert min(tick for _, tick in _held(shard)) == 48


@settings(deadline=None, max_examples=30)
@given(_INSERTS, st.integers(2, 6))
def test_a_restarted_shard_holds_exactly_what_it_held(
    tmp_path_factory: pytest.TempPathFactory, inserts: list[tuple[str, int, int, int]], num_slots: int
) -> None:
    directory = tmp_path_factory.mktemp("shard")
    shard = _shard(num_slots, directory)
    for world, epoch, first, num_ticks in inserts:
        shard.insert(_chunk(world, first, epoch=epoch, num_ticks=num_ticks))
    held, stats = _held(shard), shard.stats()
    shard.close()
    again = _shard(num_slots, directory)
    assert _held(again) == held
    assert (again.stats().items, again.stats().chunks, again.stats().worlds) == (
        stats.items,
        stats.chunks,
        stats.worlds,
    )
    again.close()


def test_evicted_worlds_are_forgotten() -> None:
    shard = _shard(num_slots=4)
    for world in range(50):
        shard.insert(_chunk(f"w{world}", 0))
    assert shard.stats().worlds == 4


def test_sequences_stay_within_one_chunk() -> None:
    shard = _shard()
    shard.insert(_chunk("w", 0))
    shard.insert(_chunk("w", 8, num_ticks=5))
    drawn = shard.sample(128, 6)
    assert set(drawn.first_ticks) == {0, 1, 2}
    with pytest.raises(ReplayError, match="no chunk has 9 ticks"):
        shard.sample(1, 9)


def test_every_start_is_drawn_as_often_as_its_probability_says() -> None:
    shard = _shard(recent=0.3, prioritised=0.3, recent_items=2 * TICKS * AGENTS)
    for first in range(0, 48, TICKS):
        shard.insert(_chunk("w", first), priority=1.0 + first)
    shard.insert(_chunk("v", 0, num_ticks=3))
    drawn = shard.sample(40_000, 3)
    keys = list(zip(drawn.worlds, drawn.first_ticks.tolist(), strict=True))
    told = dict(zip(keys, drawn.probabilities.tolist(), strict=True))
    assert len(told) == 6 * 6 + 1
    assert sum(told.values()) == pytest.approx(1)
    for key, probability in told.items():
        error = (probability / len(keys)) ** 0.5
        assert keys.count(key) / len(keys) == pytest.approx(probability, abs=6 * error)
    assert told[WorldId("w"), 40] > 2 * told[WorldId("w"), 0]


def test_priorities_are_set_only_while_the_chunk_is_the_one_that_was_sampled() -> None:
    shard = _shard(num_slots=2, recent=0.0, prioritised=1.0, priority_exponent=1.0)
    shard.insert(_chunk("a", 0))
    shard.insert(_chunk("b", 0))
    drawn = shard.sample(64, TICKS)
    shard.insert(_chunk("c", 0))
    stale = np.array([world == "a" for world in drawn.worlds])
    assert 0 < stale.sum() < 64
    assert shard.update_priorities(drawn.slots, drawn.generations, np.full(64, 1e-9)) == (~stale).sum()
    assert set(shard.sample(64, TICKS).worlds) == {"c"}
    for bad in (0.0, np.nan, np.inf):
        with pytest.raises(ReplayError, match="priorities"):
            shard.update_priorities(drawn.slots, drawn.generations, np.full(64, bad))


def test_draws_go_on_after_so_many_as_if_nothing_had_happened() -> None:
    shard = _shard()
    shard.insert(_chunk("w", 0))
    shard.sample(4, 2)
    again = _shard()
    again.go_on_after(shard.state().num_draws)
    again.insert(_chunk("w", 0))
    np.testing.assert_array_equal(shard.sample(64, 2).first_ticks, again.sample(64, 2).first_ticks)


def test_malformed_chunks_are_refused_and_change_nothing() -> None:
    shard = _shard()
    shard.insert(_chunk("w", 0))
    for chunk, message in (
        (_chunk("w", 8, num_ticks=TICKS + 1), "must have 1 … 8 ticks, got 9"),
        (_chunk("w", 8, side=5), "rows of tokens are"),
        (_chunk("w", 8, epoch=-1), "must be >= 0"),
    ):
        with pytest.raises(ReplayError, match=message):
            shard.insert(chunk)
    wrong = _chunk("w", 8)
    object.__setattr__(wrong.transitions, "rewards", wrong.transitions.rewards.astype(np.float64))
    with pytest.raises(ReplayError, match="rewards should be float32"):
        shard.insert(wrong)
    with pytest.raises(ReplayError, match="priority"):
        shard.insert(_chunk("w", 8), priority=0.0)
    assert shard.stats().items == TICKS * AGENTS


@pytest.mark.parametrize(
    "changes",
    [
        {"budget_bytes": 0},
        {"chunk_ticks": 0},
        {"recent": -0.1},
        {"recent": 0.6, "prioritised": 0.6},
        {"recent_items": 0},
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="replay"):
        ReplayConfig(**changes)  # type: ignore[arg-type]


def test_a_budget_below_two_chunks_is_refused() -> None:
    with pytest.raises(ConfigError, match="two chunks"):
        _shard(num_slots=1).insert(_chunk("w", 0))


def test_epochs_that_decide_nothing_are_not_kept() -> None:
    index = ChunkIndex(8)
    for epoch in range(1, 50):
        index.put(_chunk("w", 20, epoch=epoch), None, 0.0)
    assert len(index._by_world[WorldId("w")].starts) == 1


def test_when_a_shard_goes_only_its_worlds_move() -> None:
    shards = ["r0", "r1", "r2", "r3"]
    worlds = [WorldId(f"w{n}") for n in range(2000)]
    before = {world: shard_of(world, shards) for world in worlds}
    after = {world: shard_of(world, ["r3", "r1", "r0"]) for world in worlds}
    assert all(after[world] == before[world] for world in worlds if before[world] != "r2")
    assert all(400 < list(before.values()).count(shard) < 600 for shard in shards)
    with pytest.raises(ConfigError, match="shard"):
        shard_of(WorldId("w"), [])
