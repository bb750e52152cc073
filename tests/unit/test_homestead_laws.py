"""What the laws of homestead promise: truth breaks none of them, and each way of breaking one is found."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from tests.evaluation_cases import every_look
from tests.model_cases import small_config
from world.envs.catalog import make_policy
from world.envs.homestead.events import CLEARING, RAIN, WALL
from world.envs.homestead.tiles import (
    AGENT_CODE,
    ANIMAL_CODE,
    FACING_CODE,
    GROUND_CODE,
    ITEM_CODE,
    MAX_HELD,
    THING_CODE,
    Action,
    Item,
    Thing,
)
from world.evaluation.codes import FIRST_LANDMARK, CodeTable, is_landmark
from world.evaluation.homestead_laws import LAWS, broken_laws
from world.evaluation.invariants import invariant_scores, joined
from world.live import begin
from world.snapshot import WorldId
from world.tick import TickConfig, Ticker
from world.trajectory import STAY, Transitions, displacement_class
from world.warmup import spec_of

ENV = "homestead:20x20x3"
TOKENIZER = every_look(spec_of(ENV).layout)
TABLE = CodeTable.of(TOKENIZER)
assert TABLE is not None


@cache
def _lived(policy: str, ticks: int = 300, *, event_rate: float = 0.0) -> Transitions:
    world = begin(WorldId("w"), env_name=ENV, seed=7, memory_size=4)
    assert world.env is not None
    world.policy = make_policy(policy, world.env.spec, 7)
    ticker = Ticker(world.env.spec, TOKENIZER, TickConfig(event_rate=event_rate), small_config())
    rows = [ticker.tick([world])[0].row for _ in range(ticks + 1)]
    return Transitions.stack([row for row in rows if row is not None])


def _broken(ticks: Transitions) -> dict[str, int]:
    return {law: int(found.sum()) for law, found in broken_laws(ticks, TABLE).items() if found.any()}  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["mixed", "random", "builder", "forager", "vault", "trader", "meddler"])
def test_truth_breaks_no_law(policy: str) -> None:
    assert _broken(_lived(policy)) == {}
    assert set(broken_laws(_lived(policy)[:1], TABLE)) == set(LAWS)  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["mixed", "random", "builder", "forager"])
def test_truth_breaks_no_law_whatever_befalls_it(policy: str) -> None:
    ticks = _lived(policy, event_rate=0.5)
    assert (ticks.events[..., 0] > 0).sum() > 120
    assert _broken(ticks) == {}
    untold = _broken(replace(ticks, events=np.zeros_like(ticks.events)))
    assert untold["uncaused"] > 30 and set(untold) <= {"uncaused", "transaction"}


def _still(action: int = Action.NOOP) -> Transitions:
    """A tick in which nobody did anything but agent 0, whose `action` had no effect."""
    lived = _lived("random")
    quiet = lived[(lived.displacement == STAY).all(axis=1).nonzero()[0][0] :][:1]
    actions = np.zeros_like(quiet.actions)
    actions[0, 0] = action
    seen = quiet.next_tokens > 0
    frozen = replace(
        quiet,
        actions=actions,
        displacement=np.full_like(quiet.displacement, STAY),
        next_tokens=np.where(seen, quiet.tokens[..., 0], np.uint16(0)),
        next_status=quiet.status.copy(),
        tokens=quiet.tokens.copy(),
    )
    assert _broken(frozen) == {}
    return frozen


def _token(code: int) -> int:
    assert TABLE is not None
    return int(TABLE.token_of[code])


def _bare(ticks: Transitions, *, near: tuple[int, int] | None = None) -> tuple[int, int]:
    """A cell of agent 0's window that shows bare ground, and is seen by nobody else."""
    assert TABLE is not None
    codes = TABLE.codes(ticks.next_tokens[0, 0])
    for y, x in np.argwhere((codes >= GROUND_CODE) & (codes <= GROUND_CODE + 9)):
        place = ticks.poses[0, 0] + (y - 5, x - 5)
        others = np.abs(ticks.poses[0, 1:] - place).max(axis=1)
        if (others > 6).all() and (abs(y - 5) + abs(x - 5) > 1):
            return int(y), int(x)
    raise AssertionError("no such cell")


def test_an_agent_that_vanishes_or_is_there_twice_is_found() -> None:
    gone = _still()
    gone.next_tokens[0, 0, 5, 5] = _token(GROUND_CODE)
    assert _broken(gone)["agents"] >= 1
    twice = _still()
    twice.next_tokens[0, 0][_bare(twice)] = _token(AGENT_CODE + 4)
    assert _broken(twice)["agents"] == 1


def test_an_agent_moves_only_as_it_acted() -> None:
    drifted = _still()
    drifted.displacement[0, 0] = displacement_class(np.zeros(2, np.int32), np.array([0, 1], np.int32))
    assert "movement" in _broken(drifted)
    turned = _still()
    assert TABLE is not None
    turned.actions[0, 0] = Action.NORTH if TABLE.codes(turned.status)[0, 0, 4] != FACING_CODE else Action.SOUTH
    assert _broken(turned) == {"movement": 1}, "a move that is blocked still turns"


@pytest.mark.parametrize(
    ("before", "after", "lawful"),
    [
        ([(3, 3)], [(3, 3)], True),
        ([(3, 3)], [(2, 3)], True),
        ([(3, 3)], [], False),
        ([(3, 3)], [(3, 5)], False),
        ([(3, 3)], [(3, 3), (3, 4)], False),
        ([], [(3, 3)], False),
        ([(3, 3), (3, 4)], [(3, 3), (3, 4)], True),
        ([(1, 3)], [], True),
        ([], [(1, 3)], True),
    ],
)
def test_animals_are_neither_lost_nor_made_where_all_that_they_could_do_is_in_sight(
    before: list[tuple[int, int]], after: list[tuple[int, int]], lawful: bool
) -> None:
    ticks = _still()
    for cells, place in ((ticks.tokens[0, 0, ..., 0], before), (ticks.next_tokens[0, 0], after)):
        for y, x in {(3, 3), (3, 4), (2, 3), (3, 5), (1, 3)}:
            cells[y, x] = _token(ANIMAL_CODE if (y, x) in place else GROUND_CODE)
    assert ("animals" not in _broken(ticks)) is lawful


def test_nobody_walks_into_what_blocks() -> None:
    walled = _still()
    walled.actions[0, 0] = Action.NORTH
    walled.tokens[0, 0, 4, 5] = _token(THING_CODE + Thing.TREE)
    walled.displacement[0, 0] = displacement_class(np.zeros(2, np.int32), np.array([-1, 0], np.int32))
    assert "placement" in _broken(walled)


@pytest.mark.parametrize("code", [FIRST_LANDMARK + 3, GROUND_CODE + 10])
def test_landmarks_and_walls_neither_appear_nor_vanish(code: int) -> None:
    law = "landmarks" if code >= FIRST_LANDMARK else "terrain"
    appeared = _still()
    at = _bare(appeared)
    appeared.next_tokens[0, 0][at] = _token(code)
    assert _broken(appeared)[law] == 1
    vanished = _still()
    vanished.tokens[0, 0][at] = _token(code)
    assert _broken(vanished)[law] == 1
    unknown = _still()
    unknown.tokens[0, 0][at] = 0
    unknown.next_tokens[0, 0][at] = _token(code)
    assert law not in _broken(unknown), "what was never seen may be anything"


@pytest.mark.parametrize(
    ("item", "change", "action", "allowed"),
    [
        (Item.STONE, 1, Action.USE, True),
        (Item.STONE, 1, Action.NOOP, False),
        (Item.STONE, 2, Action.USE, False),
        (Item.FRUIT, 1, Action.PLANT, False),
        (Item.DOOR, 1, Action.PLACE, True),
        (Item.WOOD, 1, Action.PAINT, False),
    ],
)
def test_hands_change_by_what_one_action_allows(item: Item, change: int, action: Action, allowed: bool) -> None:
    ticks = _still(action)
    assert TABLE is not None
    held = int(TABLE.codes(ticks.status)[0, 0, item]) - ITEM_CODE - item * (MAX_HELD + 1)
    ticks.next_status[0, 0, item] = _token(ITEM_CODE + item * (MAX_HELD + 1) + held + change)
    assert ("inventory" not in _broken(ticks)) == allowed


def test_a_hand_that_shows_no_number_is_found() -> None:
    ticks = _still()
    ticks.next_status[0, 0, 1] = _token(GROUND_CODE)
    assert _broken(ticks) == {"inventory": 1}


def _ahead(ticks: Transitions) -> tuple[int, int]:
    assert TABLE is not None
    heading = int(TABLE.codes(ticks.status)[0, 0, 4]) - FACING_CODE
    dy, dx = ((-1, 0), (0, 1), (1, 0), (0, -1))[heading]
    return 5 + dy, 5 + dx


def test_a_stone_that_was_not_paid_for_is_found_and_a_fair_deal_is_not() -> None:
    ticks = _still(Action.PLACE)
    at = _ahead(ticks)
    ticks.tokens[0, 0][(*at, 0)] = _token(GROUND_CODE)
    ticks.next_tokens[0, 0][at] = _token(THING_CODE + Thing.STONE)
    ticks.status[0, 0, Item.STONE] = _token(ITEM_CODE + MAX_HELD + 1 + 2)
    ticks.next_status[0, 0, Item.STONE] = _token(ITEM_CODE + MAX_HELD + 1 + 1)
    fair = {law for law, found in broken_laws(ticks, TABLE).items() if found[0, 0]}  # type: ignore[arg-type]
    assert fair == set()
    ticks.next_status[0, 0, Item.STONE] = ticks.status[0, 0, Item.STONE]
    assert broken_laws(ticks, TABLE)["transaction"][0, 0]  # type: ignore[arg-type]


def test_what_changes_by_itself_is_found_unless_it_grows() -> None:
    painted = _still()
    at = _bare(painted)
    painted.tokens[0, 0][(*at, 0)] = _token(GROUND_CODE)
    painted.next_tokens[0, 0][at] = _token(GROUND_CODE + 1)
    painted.ages[0, 0][(*at, -1)] = painted.ages[0, 0, 5, 5, -1]
    assert broken_laws(painted, TABLE)["uncaused"][0, 0]  # type: ignore[arg-type]
    grown = painted
    grown.tokens[0, 0][(*at, 0)] = _token(THING_CODE + Thing.BUSH_BARE)
    grown.next_tokens[0, 0][at] = _token(THING_CODE + Thing.BUSH_RIPE)
    assert not broken_laws(grown, TABLE)["uncaused"][0, 0]  # type: ignore[arg-type]
    assert is_landmark(np.array([FIRST_LANDMARK])).all()


@pytest.mark.parametrize(
    ("kind", "offset", "was", "becomes", "lawful"),
    [
        (RAIN, (2, 0), GROUND_CODE, THING_CODE + Thing.SAPLING, True),
        (RAIN, (1, 0), GROUND_CODE, THING_CODE + Thing.SAPLING, False),
        (RAIN, (2, 0), GROUND_CODE + 5, THING_CODE + Thing.SAPLING, False),
        (RAIN, (2, 0), GROUND_CODE, THING_CODE + Thing.YOUNG_TREE, False),
        (WALL, (0, -2), GROUND_CODE + 5, THING_CODE + Thing.STONE, True),
        (WALL, (1, 0), GROUND_CODE, THING_CODE + Thing.STONE, False),
        (WALL, (0, 3), GROUND_CODE, THING_CODE + Thing.STONE, False),
        (WALL, (0, 0), THING_CODE + Thing.TREE, THING_CODE + Thing.STONE, False),
        (CLEARING, (1, -2), THING_CODE + Thing.STONE, GROUND_CODE, True),
        (CLEARING, (1, -2), THING_CODE + Thing.TREE, GROUND_CODE, False),
        (CLEARING, (-3, 0), THING_CODE + Thing.STONE, GROUND_CODE, False),
        (0, (0, 0), GROUND_CODE, THING_CODE + Thing.STONE, False),
    ],
)
def test_events_change_what_their_kind_may_and_where(
    kind: int, offset: tuple[int, int], was: int, becomes: int, lawful: bool
) -> None:
    ticks = _still()
    at = _bare(ticks)
    ticks.tokens[0, 0][(*at, 0)] = _token(was)
    ticks.next_tokens[0, 0][at] = _token(becomes)
    ticks.ages[0, 0][(*at, -1)] = ticks.ages[0, 0, 5, 5, -1]
    place = ticks.poses[0, 0] + at - (5, 5) - offset
    befallen = replace(ticks, events=np.array([[[0, 0, 0], [kind, *place]]], np.int32))
    assert bool(broken_laws(befallen, TABLE)["uncaused"][0, 0]) != lawful  # type: ignore[arg-type]


def test_rates_are_those_of_dreams_less_what_truth_seems_to_break() -> None:
    def laws(*broken: bool) -> dict[str, np.ndarray]:
        return {"agents": np.array([broken]), "terrain": np.zeros((1, len(broken)), np.bool_)}

    parts = {
        "truth": [(laws(True, False, False, False), 1)],
        "ours": [(laws(True, True, False, False), 1), (laws(True, True, True, True), 9)],
        "no_memory": [(laws(True, True, True, True), 1)],
    }
    scores = invariant_scores(joined(parts), horizons=(8,))
    rows = scores.metrics
    assert rows["ivr"].value == 6 / 8 - 1 / 4 and rows["ivr"].no_memory == 0.75 and rows["ivr"].ceiling == 0.0
    assert rows["ivr_terrain"].value == 0.0 and rows["ivr_agents"].value == 0.5
    assert rows["ivr@1-8"].value == 0.25 and rows["ivr@9-9"].value == 1.0 - 0.0
    assert not scores.unexplained()


def test_where_no_law_was_broken_it_is_as_sure_as_there_were_transitions() -> None:
    whole = {law: np.zeros((4, 8), np.bool_) for law in LAWS}
    for ticks, most in ((2, 0.057), (64, 0.0019)):
        parts = {who: [(whole, tick) for tick in range(1, ticks + 1)] for who in ("truth", "ours")}
        row = invariant_scores(joined(parts)).metrics["ivr"]
        assert (row.value, row.low) == (0.0, 0.0) and row.high == pytest.approx(most, rel=0.03)
