"""What prompted events promise: a dream that does not listen scores nothing, one that obeys scores one."""

import numpy as np
import pytest

from tests.evaluation_cases import ScriptedDreamer, counting_stage, homestead_stage
from world.envs.homestead.events import EVENTS
from world.errors import EnvironmentUnusable
from world.evaluation.plays.prompts import PromptPlay, play_prompts
from world.evaluation.plays.stage import Stage
from world.evaluation.prompted import Prompted, effect_counts, prompt_scores


def _tokens(*rows: str) -> np.ndarray:
    return np.array([[ord(letter) for letter in row] for row in rows], np.uint16)


def _found() -> Prompted:
    counted = np.ones((3, 5), np.bool_)
    counted[0, 4] = False
    same = _tokens("abcde", "abcde", "abcde")
    return Prompted(
        counted=counted,
        befallen={
            "truth": _tokens("XXcdX", "abYde", "abcde"),
            # One right, one of another token, one too many; then one missed; then nothing, as in truth.
            "ours": _tokens("XZcZX", "abcde", "abcde"),
            "no_memory": _tokens("aaaaa", "aaYaa", "aaaaa"),
            "oracle": _tokens("XXcdX", "abYde", "abcde"),
            "ceiling": _tokens("XXcdX", "abcde", "abcde"),
            "replay": _tokens("XXcdX", "aXcde", "abcde"),
        },
        quiet={
            "truth": same,
            "ours": same,
            # It does not know what was there, but it is the event that is judged.
            "no_memory": _tokens("aaaaa", "aaaaa", "aaaaa"),
            "oracle": same,
            "ceiling": same,
            "replay": same,
        },
        kind=np.array([2, 1, 2]),
        episode=np.array([0, 0, 1]),
    )


def test_effects_are_cells_that_the_event_changed_to_the_right_token() -> None:
    found = _found()
    assert effect_counts("ours", found).tolist() == [[1, 2, 1], [0, 0, 1], [0, 0, 0]]
    assert effect_counts("oracle", found).tolist() == [[2, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert effect_counts("no_memory", found).tolist() == [[0, 0, 2], [1, 0, 0], [0, 0, 0]]
    assert effect_counts("nobody", found).tolist() == [[0, 0, 2], [0, 0, 1], [0, 0, 0]]


def test_scores_are_by_kind_and_say_how_much_was_changed() -> None:
    scores = prompt_scores({1: _found()}, ("a rain", "a wall", "a flood"))
    rows = scores.metrics
    assert rows["event_f1@1"].value == pytest.approx(2 / (2 + 2 + 2))
    assert rows["event_f1_a_wall@1"].value == pytest.approx(2 / (2 + 2 + 1))
    assert rows["event_f1_a_rain@1"].value == 0.0 and rows["event_f1_a_rain@1"].no_memory == 1.0
    assert rows["event_f1@1"].copy_last == 0.0 and rows["event_f1@1"].oracle == 1.0
    assert rows["event_f1@1"].ceiling == pytest.approx(4 / (4 + 1))
    assert scores.notes()["event_f1@1"].endswith("other luck: 0.667")
    assert scores.notes()["event_f1_a_rain@1"].endswith("other luck: 0.000")
    assert rows["event_amount@1"].value == 1.0 and rows["event_amount_a_rain@1"].value == 0.0
    assert rows["event_amount_a_wall@1"].value == 1.5 and rows["event_amount@1"].copy_last == 0.0
    assert "event_f1_a_flood@1" not in rows and "in sight" in scores.reasons["event_f1_a_flood@1"]
    assert not scores.unexplained()


def test_amounts_are_told_at_the_first_horizon_alone() -> None:
    rows = prompt_scores({8: _found(), 1: _found()}, ()).metrics
    assert {name for name in rows if "amount" in name} == {"event_amount@1"} and "event_f1@8" in rows


def _played(stage: Stage, *, pairs: int = 8) -> PromptPlay:
    play = PromptPlay()
    play_prompts(stage, play, seeds=[0, 1, 2], num_pairs=pairs, horizons=(1, 4), history=60, progress=lambda *_: None)
    return play


def test_a_dream_that_obeys_shows_what_truth_shows_and_one_that_does_not_listen_nothing() -> None:
    play = _played(homestead_stage("homestead:20x20x2"))
    prompted = play.all_prompted()
    assert np.bincount(prompted[1].kind).tolist() == [0, 6, 6, 6, 6]
    scores = prompt_scores(prompted, play.phrases)
    rows = scores.metrics
    for h in (1, 4):
        for name in ("", *("_" + phrase.replace(" ", "_") for phrase in EVENTS[:2])):
            row = rows[f"event_f1{name}@{h}"]
            assert row.value == row.oracle == row.ceiling == 1.0 and row.copy_last == 0.0
    assert rows["event_amount@1"].value == 1.0
    # A wall is no matter of luck; where saplings come down is.
    wall, rain = (scores.notes()[f"event_f1_{name}@1"] for name in ("a_wall_rises", "rain_of_saplings"))
    assert float(wall.rpartition(" ")[2]) > 0.9 > float(rain.rpartition(" ")[2])
    dead = prompt_scores(_played(homestead_stage("homestead:20x20x2", obeys=False)).all_prompted(), EVENTS).metrics
    assert dead["event_f1@1"].value == 0.0 and dead["event_amount@1"].value == 0.0


def test_where_no_events_can_befall_there_is_nothing_to_judge() -> None:
    with pytest.raises(EnvironmentUnusable, match="no events"):
        _played(counting_stage(ScriptedDreamer(remembers_ticks=9)))
