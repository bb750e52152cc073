"""What revisits and object permanence promise: hand-made returns score what they must; homesteads are left and met."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tests.evaluation_cases import every_look, homestead_stage
from world.envs.grounded import Int32Array
from world.envs.homestead.grounded import HomesteadGrounded
from world.envs.homestead.tiles import ANIMAL_CODE
from world.errors import EnvironmentUnusable
from world.evaluation.codes import BARE, FIRST_LANDMARK, RIPE, SAPLING, STUMP, TREE, YOUNG_TREE, CodeTable
from world.evaluation.permanence import permanence_scores
from world.evaluation.plays.returns import LEAVE_AT, ReturnPlay, play_returns
from world.evaluation.plays.stage import Advances
from world.evaluation.revisit import Returns, revisit_scores
from world.field import MAP, UNSEEN, Field, Uint16Array
from world.live import LiveWorld
from world.model.tokenizer import DiscreteTokenizer
from world.tick import Ticked

TOKENIZER = every_look(HomesteadGrounded().spec.layout)
TABLE = CodeTable.of(TOKENIZER)
assert TABLE is not None
GRASS = 1


def _tokens(*rows: list[int]) -> Uint16Array:
    """One return for each row of codes, as views of a single row."""
    assert TABLE is not None
    return TABLE.token_of[np.array(rows)][:, None]


def _returns(before: Uint16Array, truth: Uint16Array, **answers: Uint16Array) -> Returns:
    everywhere = np.ones(before.shape, np.bool_)
    answers["ceiling"] = truth
    return Returns(
        before=before,
        truth=truth,
        hidden=everywhere.copy(),
        by_chance=~everywhere,
        answers=answers,
        looked={name: everywhere.copy() for name in answers},
        arrived={name: np.ones(len(before), np.bool_) for name in answers if name != "ceiling"},
        episode=np.arange(len(before)),
    )


def test_every_code_that_is_drawn_is_read_back() -> None:
    assert TABLE is not None
    drawn = TABLE.token_of[TABLE.token_of > 0]
    np.testing.assert_array_equal(TABLE.token_of[TABLE.code_of[drawn]], drawn)
    assert CodeTable.of(DiscreteTokenizer(TOKENIZER.layout)) is None


def test_cells_that_stayed_and_cells_that_changed_are_scored_apart() -> None:
    before = _tokens([GRASS, GRASS, RIPE, BARE], [GRASS, GRASS, RIPE, RIPE])
    truth = _tokens([GRASS, GRASS, RIPE, RIPE], [GRASS, GRASS, RIPE, RIPE])
    ours = _tokens([GRASS, RIPE, RIPE, RIPE], [GRASS, GRASS, RIPE, RIPE])
    found = _returns(before, truth, ours=ours, no_memory=before * 0 + 9, oracle=truth)
    scores = revisit_scores({8: found}, TABLE)
    rows = scores.metrics
    assert rows["revisit_static@8"].value == 6 / 7 and rows["revisit_changed@8"].value == 1.0
    assert rows["revisit_static@8"].copy_last == 1.0 and rows["revisit_changed@8"].copy_last == 0.0
    assert rows["revisit_static@8"].no_memory == 0.0 and rows["revisit_of_oracle@8"].value == pytest.approx(6 / 7)
    assert rows["revisit_growth_gap@8"].value == 0.0 and rows["revisit_growth_gap@8"].copy_last == -1.0
    assert rows["revisit_looked@8"].value == rows["revisit_arrived@8"].value == 1.0
    assert not scores.unexplained()


def test_what_was_not_hidden_not_known_left_to_chance_or_not_looked_at_is_not_counted() -> None:
    before = _tokens([GRASS, GRASS, GRASS, RIPE, GRASS])
    before[0, 0, 1] = 0
    truth, ours = _tokens([GRASS] * 5), _tokens([RIPE] * 4 + [GRASS])
    found = _returns(before, truth, ours=ours)
    found.hidden[0, 0, 0] = False
    found.looked["ours"][0, 0, 2] = False
    found.by_chance[0, 0, 3] = True
    rows = revisit_scores({8: found}, None).metrics
    assert rows["revisit_static@8"].value == 1.0 and "revisit_changed@8" not in rows
    assert rows["revisit_looked@8"].value == 0.5, "of two cells that count, the dream looks at one"


def test_permanence_asks_for_something_then_the_same_then_exactly_there() -> None:
    mark = FIRST_LANDMARK
    before = _tokens([mark, GRASS, GRASS, TREE], [mark, GRASS, GRASS, TREE], [mark, GRASS, GRASS, TREE])
    truth = before.copy()
    ours = _tokens([GRASS, mark, GRASS, TREE], [GRASS, RIPE, GRASS, STUMP], [GRASS, GRASS, GRASS, GRASS])
    rows = permanence_scores({64: _returns(before, truth, ours=ours)}, TABLE).metrics  # type: ignore[arg-type]
    # The landmark moved by one, became another thing beside, vanished; the tree stayed, is a stump, vanished.
    assert rows["existence_static@64"].value == pytest.approx(2 / 3)
    assert rows["identity_static@64"].value == pytest.approx(1 / 3) and rows["place_static@64"].value == 0.0
    assert rows["existence_growing@64"].value == pytest.approx(2 / 3)
    assert rows["identity_growing@64"].value == pytest.approx(2 / 3)
    assert rows["place_growing@64"].value == pytest.approx(1 / 3)
    assert rows["place_growing@64"].copy_last == 1.0


def test_what_has_grown_is_the_same_thing_at_another_stage() -> None:
    before, truth = _tokens([SAPLING, GRASS, BARE]), _tokens([YOUNG_TREE, GRASS, RIPE])
    rows = permanence_scores({8: _returns(before, truth, ours=truth)}, TABLE).metrics  # type: ignore[arg-type]
    assert rows["place_growing@8"].value == 1.0 and rows["place_growing@8"].copy_last == 0.0
    assert rows["identity_growing@8"].copy_last == 1.0


def test_animals_are_compared_by_how_often_they_are_still_there() -> None:
    before = _tokens([ANIMAL_CODE, GRASS], [ANIMAL_CODE, GRASS], [GRASS, GRASS])
    truth = _tokens([GRASS, ANIMAL_CODE], [GRASS, GRASS], [GRASS, ANIMAL_CODE])
    ours = _tokens([ANIMAL_CODE, GRASS], [ANIMAL_CODE, GRASS], [GRASS, GRASS])
    row = permanence_scores({8: _returns(before, truth, ours=ours)}, TABLE).metrics["moving_existence_gap@8"]  # type: ignore[arg-type]
    assert row.value == pytest.approx(0.5), "of two places where one was, truth has one left and the dream both"


def test_an_animal_that_nobody_in_the_dream_looks_for_is_not_there_still() -> None:
    before = truth = _tokens([ANIMAL_CODE, GRASS], [ANIMAL_CODE, GRASS])
    truth = _tokens([GRASS, ANIMAL_CODE], [GRASS, GRASS])
    found = _returns(before, truth, ours=before)
    found.looked["ours"][:, :, 0] = False
    row = permanence_scores({8: found}, TABLE).metrics["moving_existence_gap@8"]  # type: ignore[arg-type]
    assert row.value == pytest.approx(-0.5), "where the dream looks, truth has one and the dream has none"


def test_agents_leave_homes_that_nobody_sees_and_come_back_in_time() -> None:
    play = ReturnPlay()
    play_returns(homestead_stage(), play, seeds=[0, 1], absences=[24], progress=lambda *_: None)
    found = play.returns[24]
    assert found.truth.shape == (8, 9, 9) and found.known.sum(axis=(1, 2)).min() >= 0
    assert found.known.sum() > 100, "places were out of everybody's sight"
    assert found.arrived["ours"].all(), "the twins of truth are where truth is"
    scores = revisit_scores(play.returns, TABLE)
    for name in ("revisit_static@24", "revisit_looked@24", "revisit_of_oracle@24"):
        assert scores.metrics[name].value == 1.0
    if "revisit_changed@24" in scores.metrics:
        assert scores.metrics["revisit_changed@24"].value == 1.0
    assert not scores.unexplained()
    # The agents have harvested before they left: something bare was left behind.
    assert TABLE is not None and np.isin(TABLE.codes(found.before), (BARE, STUMP)).any()
    assert replace(found, hidden=found.hidden & False).known.sum() == 0


def test_what_truth_reaches_again_with_other_luck_is_said() -> None:
    before, truth = _tokens([GRASS, GRASS, BARE, BARE]), _tokens([GRASS, GRASS, RIPE, RIPE])
    found = _returns(before, truth, ours=truth, oracle=truth, replay=_tokens([RIPE, GRASS, RIPE, RIPE]))
    found.arrived["replay"][:] = False
    reasons = revisit_scores({8: found}, TABLE).reasons
    assert reasons["revisit_static@8"].endswith(": 0.500") and reasons["revisit_changed@8"].endswith(": 1.000")
    assert reasons["revisit_arrived@8"].endswith(": 0.000")


class _Watched:
    """Advances worlds, and notes where the agents of one are, and what it knows when they leave."""

    def __init__(self, ticker: Advances, world: str) -> None:
        self._ticker, self._world = ticker, world
        self.known: Field | None = None
        self.places: set[tuple[int, int]] = set()

    def tick(
        self, worlds: Sequence[LiveWorld], actions: Int32Array | None = None, events: Int32Array | None = None
    ) -> list[Ticked]:
        done = self._ticker.tick(worlds, actions, events)
        for world in worlds:
            if world.world == self._world and self.known is not None:
                self.places |= set(map(tuple, world.snapshot.poses.tolist()))
            elif world.world == self._world and world.snapshot.tick == LEAVE_AT:
                self.known = world.snapshot.field.copy()
        return done


def test_the_way_of_who_leaves_is_known() -> None:
    stage = homestead_stage()
    watched = _Watched(stage.ticker, "judged-0")
    play_returns(replace(stage, ticker=watched), ReturnPlay(), seeds=[0], absences=[40], progress=lambda *_: None)
    assert watched.known is not None and len(watched.places) > 40, "agents walk far"
    y, x = np.array(sorted(watched.places), np.int32).T
    assert (watched.known.layers[MAP].current(y, x) != UNSEEN).all()


def test_other_environments_are_refused() -> None:
    stage = homestead_stage("homestead-turned:16x16x2")
    with pytest.raises(EnvironmentUnusable, match="north up"):
        play_returns(stage, ReturnPlay(), seeds=[0], absences=[8], progress=lambda *_: None)
