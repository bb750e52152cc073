"""What counterfactuals promise: a dead action channel scores nothing, a world that obeys scores one."""

from dataclasses import replace

import numpy as np
import pytest

from tests.evaluation_cases import CountingStage, ScriptedDreamer, counting_stage, homestead_stage
from tests.model_cases import BEYOND, CountingEnv, counting_world
from world.evaluation.counterfactual import (
    Effects,
    Equivalence,
    counterfactual_scores,
    equivalence_scores,
    mask_counts,
)
from world.evaluation.plays.forks import ForkPlay, play_counterfactuals, play_equivalence
from world.evaluation.plays.stage import Stage
from world.field import Uint16Array
from world.live import LiveWorld
from world.model.tokenizer import DiscreteTokenizer


def _mask(*rows: str) -> np.ndarray:
    return np.array([[letter == "x" for letter in row] for row in rows])


def test_masks_of_effects_are_compared_cell_by_cell() -> None:
    counted = np.ones((2, 5), np.bool_)
    counted[0, 4] = False
    masks = {
        "truth": _mask("xx..x", "....."),
        "ours": _mask("x.x.x", "x...."),
        "no_memory": _mask(".....", "....."),
        "oracle": _mask("xx...", "....."),
        "ceiling": _mask("xx..x", "....."),
        "replay": _mask("xx...", "x...."),
    }
    found = Effects(counted, masks, np.array([0, 1]))
    assert mask_counts(masks["ours"], found).tolist() == [[1, 1, 1], [0, 1, 0]]
    scores = counterfactual_scores({1: found})
    row = scores.metrics["cf_f1@1"]
    assert row.value == pytest.approx(2 / (2 + 2 + 1)) and row.copy_last == row.no_memory == 0.0
    assert row.oracle == row.ceiling == 1.0 and not scores.unexplained()
    assert "other luck: 0.800" in scores.reasons["cf_f1@1"]
    found.masks["truth"][:] = False
    assert "no action" in counterfactual_scores({1: found}).reasons["cf_f1@1"]


def test_equal_states_and_different_futures_are_asked_apart() -> None:
    same = np.array([True, True, False, False, False])
    futures = {
        "truth": np.array([True, True, False, False, True]),
        "ours": np.array([True, False, False, True, True]),
        "no_memory": np.array([False, False, False, False, False]),
    }
    scores = equivalence_scores(Equivalence(same, futures, np.arange(5)))
    rows = scores.metrics
    assert rows["compression_precision"].value == 0.5 and rows["compression_precision"].no_memory == 0.0
    # The last pair differs in a way that no future showed: it asks nothing of anybody.
    assert rows["distinction_recall"].value == 0.5 and rows["distinction_recall"].copy_last == 0.0
    assert not scores.unexplained()
    none = equivalence_scores(Equivalence(same & False, futures | {"truth": same | True}, np.arange(5)))
    assert none.metrics == {} and set(none.reasons) >= {"compression_precision", "distinction_recall"}


def _forked(stage: Stage, horizons: tuple[int, ...] = (1, 4)) -> ForkPlay:
    play = ForkPlay()
    play_counterfactuals(
        stage, play, seeds=[0, 1], num_pairs=4, horizons=horizons, history=20, progress=lambda *_: None
    )
    return play


@pytest.mark.parametrize("h", [1, 4])
def test_a_dream_that_obeys_shows_the_effects_of_truth_and_a_dead_one_none(h: int) -> None:
    rows = counterfactual_scores(_forked(homestead_stage("homestead:16x16x2")).all_effects()).metrics
    assert rows[f"cf_f1@{h}"].value == rows[f"cf_f1@{h}"].oracle == 1.0 and rows[f"cf_f1@{h}"].copy_last == 0.0
    dead = counterfactual_scores(_forked(homestead_stage("homestead:16x16x2", obeys=False)).all_effects()).metrics
    assert dead[f"cf_f1@{h}"].value == 0.0


def test_a_world_of_another_kind_is_forked_alike() -> None:
    play = _forked(counting_stage(ScriptedDreamer(remembers_ticks=4096)))
    rows = counterfactual_scores(play.all_effects()).metrics
    assert rows["cf_f1@1"].value == rows["cf_f1@1"].oracle == 1.0 and rows["cf_f1@1"].copy_last == 0.0
    dead = counterfactual_scores(_forked(counting_stage(ScriptedDreamer(remembers_ticks=9, obeys=False))).all_effects())
    assert dead.metrics["cf_f1@1"].value == 0.0


class _Blind(DiscreteTokenizer):
    """Draws every token as it is, and reads nothing but where the map ends."""

    noise = 0.1

    def decode(self, tokens: Uint16Array) -> Uint16Array:  # type: ignore[override]
        """The tokens themselves."""
        return tokens

    def encode(self, views: np.ndarray) -> Uint16Array:
        """Two tokens in all; what is read the first time is read as it is."""
        read = super().encode(views) if views.dtype == np.int32 else np.where(views == BEYOND + 1, BEYOND + 1, 1)
        return read.astype(np.uint16)


def test_the_ceiling_is_what_the_tokenizer_leaves_of_the_truth() -> None:
    stage = counting_stage(ScriptedDreamer(remembers_ticks=4096))
    seeing = counterfactual_scores(_forked(stage).all_effects()).metrics["cf_f1@1"]
    assert seeing.ceiling == 1.0
    blind = replace(stage, tokenizer=_Blind(stage.tokenizer.layout))
    row = counterfactual_scores(_forked(blind).all_effects()).metrics["cf_f1@1"]
    assert row.value == seeing.value == 1.0 and row.ceiling == 0.0


def test_what_follows_on_the_end_of_an_episode_is_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    def begun(_: Stage, seed: int) -> LiveWorld:
        return counting_world(CountingEnv(length=22), seed=seed, world=f"judged-{seed}")

    monkeypatch.setattr(CountingStage, "begun", begun)
    effects = _forked(counting_stage(ScriptedDreamer(remembers_ticks=4096))).all_effects()
    assert effects[1].counted.any() and not effects[4].counted.any()
    scores = counterfactual_scores(effects)
    assert scores.metrics["cf_f1@1"].value == 1.0 and "cf_f1@4" in scores.reasons


def test_histories_that_lead_to_one_state_have_one_future_where_the_rules_hold() -> None:
    play = ForkPlay()
    play_equivalence(
        homestead_stage("homestead:16x16x2"), play, seeds=[0, 1], num_pairs=6, history=10, progress=lambda *_: None
    )
    found = play.equivalence()
    assert found is not None and found.same_state.any() and not found.same_state.all()
    assert found.same_future["truth"][found.same_state].all(), "equal states and equal luck: equal futures"
    rows = equivalence_scores(found).metrics
    assert rows["compression_precision"].value == 1.0
    if "distinction_recall" in rows:
        assert rows["distinction_recall"].value == 1.0
    assert ForkPlay().equivalence() is None
