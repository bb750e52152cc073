"""One suite for every memory: what is written is found again, within a budget of bits, and saved byte for byte."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from world.envs.grounded import ViewLayout
from world.errors import ConfigError, CorruptRecord
from world.field import DEPTH, MAP, SCREEN, Field
from world.model.memory.episodic import ITEM_SIZE, EpisodicMemory, experiences, spots
from world.model.memory.field import FieldMemory
from world.model.memory.interface import Item, Memory, Spot
from world.model.memory.recurrent import RecurrentMemory
from world.model.memory.registers import WORLD, RegisterMemory

_AGENTS, _SIZE, _EVIDENCE = 6, 5, 7


@dataclass(frozen=True)
class Kind:
    """How to make a memory of a kind, what to put in, and where."""

    empty: Callable[[], Memory]
    item: Callable[[int], Item]
    place: Callable[[int], Spot]
    is_exact: bool
    """What is written comes back as it was."""


def _registers() -> RegisterMemory:
    torch.manual_seed(0)
    return RegisterMemory(RecurrentMemory(_SIZE, _EVIDENCE), np.zeros((_AGENTS, _SIZE), np.float16))


def _field() -> FieldMemory:
    return FieldMemory(Field(ViewLayout(rows=4, cols=3, map_rows=3, tile_px=0, num_values=9), num_agents=2))


KINDS = {
    "field": Kind(
        _field,
        lambda n: np.array(1 + n, np.uint16),
        lambda n: Spot(MAP, 20 * n - 40, -20 * n),
        is_exact=True,
    ),
    "registers": Kind(
        _registers,
        lambda n: np.random.default_rng(n).standard_normal(_EVIDENCE).astype(np.float32),
        lambda n: Spot(SCREEN, n % _AGENTS, 0),
        is_exact=False,
    ),
    "episodic": Kind(
        lambda: EpisodicMemory(40),
        lambda n: (np.arange(ITEM_SIZE) + 3 * n).astype(np.uint16),
        lambda n: Spot(MAP, 7 * n, 100 - n),
        is_exact=True,
    ),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


def _filled(kind: Kind, count: int = 6) -> Memory:
    memory = kind.empty()
    for n in range(count):
        memory.write(kind.item(n), kind.place(n), n + 1)
    return memory


def _found(memory: Memory, place: Spot, k: int = 1) -> list[tuple[bytes, Spot, int]]:
    return [(trace.item.tobytes(), trace.place, trace.tick) for trace in memory.retrieve(place, k)]


def test_what_was_written_at_a_place_is_found_there(kind: Kind) -> None:
    memory = _filled(kind)
    memory.update(9)
    for n in range(6):
        (trace,) = memory.retrieve(kind.place(n), 1)
        assert trace.place == kind.place(n)
        if kind.is_exact:
            assert np.array_equal(trace.item, kind.item(n)) and trace.tick == n + 1
        else:
            assert trace.item.any() and trace.tick == 9


def test_another_item_at_one_place_is_told_there_and_nowhere_else(kind: Kind) -> None:
    mine, its = _filled(kind, 4), kind.empty()
    for n in range(4):
        its.write(kind.item(17 if n == 2 else n), kind.place(n), n + 1)
    for n in range(4):
        assert (_found(mine, kind.place(n)) == _found(its, kind.place(n))) == (n != 2)


def test_an_empty_memory_finds_nothing_and_no_more_is_returned_than_asked_for(kind: Kind) -> None:
    assert kind.empty().retrieve(kind.place(0), 3) == []
    memory = _filled(kind)
    for n in range(3):
        memory.write(kind.item(10 + n), kind.place(0), 10 + n)
    for k in range(4):
        assert len(memory.retrieve(kind.place(0), k)) <= k
    assert len(memory.retrieve(kind.place(0), 2)) == (2 if kind.is_exact else 1)


def test_bits_are_those_that_the_state_takes_and_grow_with_what_is_kept(kind: Kind) -> None:
    sizes = [_filled(kind, count).bits() for count in range(6)]
    assert sizes == [8 * len(_filled(kind, count).state()) for count in range(6)]
    assert sizes == sorted(set(sizes))


def test_forgetting_respects_the_budget_and_keeps_what_fits(kind: Kind) -> None:
    least, most = kind.empty().bits(), _filled(kind).bits()
    for budget in (most, (least + most) // 2, least + (most - least) // 5, least):
        memory = _filled(kind)
        memory.forget(budget)
        assert memory.bits() <= budget
        kept = sum(bool(memory.retrieve(kind.place(n), 1)) for n in range(6))
        assert (kept > 0) == (budget > least)
    assert memory.state() == kind.empty().state()
    untouched = _filled(kind)
    untouched.forget(most)
    assert untouched.state() == _filled(kind).state()


def test_a_budget_below_that_of_nothing_leaves_nothing(kind: Kind) -> None:
    memory = _filled(kind)
    memory.forget(0)
    assert memory.bits() == kind.empty().bits()


def test_a_saved_memory_comes_back_byte_for_byte_and_goes_on_alike(kind: Kind) -> None:
    memory, again = _filled(kind), _filled(kind, 2)
    again.load(memory.state())
    assert again.state() == memory.state()
    for each in (memory, again):
        each.update(50)
        each.write(kind.item(30), kind.place(3), 51)
    assert again.state() == memory.state()
    for n in range(6):
        assert _found(again, kind.place(n), 3) == _found(memory, kind.place(n), 3)


def test_bytes_that_are_no_such_memory_are_refused_and_change_nothing(kind: Kind) -> None:
    memory = _filled(kind)
    before = memory.state()
    others = [_filled(other).state() for other in KINDS.values() if other is not kind]
    for state in (b"", b"\x93\x01", before[:-1], before + b"\x00", *others):
        with pytest.raises(CorruptRecord):
            memory.load(state)
        assert memory.state() == before


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(sorted(KINDS)),
    steps=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans()), max_size=25),
)
def test_whatever_is_done_to_it_the_size_is_true_and_the_state_comes_back(
    name: str, steps: list[tuple[int, int, bool]]
) -> None:
    kind = KINDS[name]
    memory, least = kind.empty(), kind.empty().bits()
    for tick, (item, place, forgets) in enumerate(steps, start=1):
        memory.write(kind.item(item), kind.place(place), tick)
        if forgets:
            budget = (memory.bits() + least) // 2
            memory.forget(budget)
            assert memory.bits() <= budget
    again = kind.empty()
    again.load(memory.state())
    assert again.state() == memory.state() and memory.bits() == 8 * len(memory.state())


def test_the_field_as_a_memory_is_the_field_itself() -> None:
    memory, observed = _field(), _field().field
    poses, views = np.array([[5, 5], [9, 5]], np.int32), np.arange(24, dtype=np.uint16).reshape(2, 4, 3) + 1
    observed.observe(poses, views, 4)
    for agent, (y, x) in enumerate(poses.tolist()):
        for row in range(3):
            for col in range(3):
                memory.write(views[agent, row, col], Spot(MAP, y + row - 1, x + col - 1), 4)
        for col in range(3):
            memory.write(views[agent, 3, col], Spot(SCREEN, agent, col), 4)
    assert memory.field.digest() == observed.digest()
    for token in (50, 51, 52, 53, 54):
        memory.write(np.array(token, np.uint16), Spot(MAP, 5, 5), token)
    last = memory.retrieve(Spot(MAP, 5, 5), 9)
    assert [(int(trace.item), trace.tick) for trace in last] == [(n, n) for n in (54, 53, 52, 51)][:DEPTH]


def test_the_field_gives_up_first_what_nobody_has_looked_at_for_longest() -> None:
    kind, memory = KINDS["field"], _filled(KINDS["field"])
    memory.write(kind.item(0), kind.place(0), 20)
    memory.forget(memory.bits() - 1)
    assert [bool(memory.retrieve(kind.place(n), 1)) for n in range(6)] == [True, False, True, True, True, True]


def test_a_register_is_what_the_recurrence_makes_of_it_and_the_worlds_is_the_mean() -> None:
    memory, kind = _registers(), KINDS["registers"]
    h = torch.zeros(_SIZE)
    for n in range(3):
        memory.write(kind.item(n), Spot(SCREEN, 2, 0), n)
        h = memory._recurrence(h, torch.from_numpy(kind.item(n))).half().float().detach()
    assert np.array_equal(memory.rows[2].astype(np.float32), h.numpy())
    (alone,) = memory.retrieve(WORLD, 1)
    assert np.array_equal(alone.item, h.numpy()), "agents of whom nothing is known say nothing"
    memory.write(kind.item(7), Spot(SCREEN, 4, 0), 3)
    (both,) = memory.retrieve(WORLD, 1)
    np.testing.assert_array_equal(both.item, memory.rows[[2, 4]].astype(np.float32).mean(axis=0))


def test_an_episode_finds_what_is_near_and_late_and_holds_each_thing_once() -> None:
    memory = EpisodicMemory()
    a, b = (np.full(ITEM_SIZE, n, np.uint16) for n in (1, 2))
    memory.write(a, Spot(MAP, 0, 0), 1)
    memory.write(a, Spot(MAP, 0, 3), 2)
    memory.write(b, Spot(MAP, 0, 0), 3)
    memory.write(a, Spot(MAP, 0, 0), 9)
    memory.write(a, Spot(SCREEN, 0, 0), 9)
    assert len(memory) == 4
    memory.update(10)
    found = [(int(t.item[0]), t.place[1:], t.tick) for t in memory.retrieve(Spot(MAP, 0, 0), 9)]
    assert found == [(1, (0, 0), 9), (2, (0, 0), 3), (1, (0, 3), 2)]
    assert [t.tick for t in memory.retrieve(Spot(SCREEN, 0, 0), 9)] == [9]
    assert memory.retrieve(Spot(SCREEN, 1, 0), 9) == [], "one's screen is one's own"


def test_an_episode_keeps_rewards_longer_and_never_more_than_it_can_hold() -> None:
    memory = EpisodicMemory(3)
    for tick in range(5):
        item = np.zeros(ITEM_SIZE, np.uint16)
        item[0], item[-1] = tick, tick == 1
        memory.write(item, Spot(MAP, tick, 0), tick)
    kept = [tick for tick in range(5) for t in memory.retrieve(Spot(MAP, tick, 0), 9) if t.tick == tick]
    assert sorted(set(kept)) == [1, 3, 4]
    with pytest.raises(ConfigError, match=">= 1"):
        EpisodicMemory(0)


def test_an_experience_is_what_is_near_what_was_done_and_what_it_gave() -> None:
    newest = np.arange(1, 51, dtype=np.uint16).reshape(2, 5, 5)
    items = experiences(newest, np.array([3, 4], np.int32), np.array([1.0, -1.0], np.float32))
    assert items[0].tolist() == [7, 8, 9, 12, 13, 14, 17, 18, 19, 3, 1]
    assert items[1, -2:].tolist() == [4, 2]
    small = experiences(newest[:, :2, :2], np.array([0, 0], np.int32), np.zeros(2, np.float32))
    assert small[0].tolist() == [1, 2, 6, 7, 0, 0, 0, 0, 0, 0, 0]
    poses = np.array([[4, 5], [6, 7]], np.int32)
    assert spots(poses, has_pose=True) == [Spot(MAP, 4, 5), Spot(MAP, 6, 7)]
    assert spots(poses, has_pose=False) == [Spot(SCREEN, 0, 0), Spot(SCREEN, 1, 0)]
