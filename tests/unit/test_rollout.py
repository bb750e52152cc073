"""What rollouts promise: hand-made episodes score what they must, and who knows more scores more."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.evaluation_cases import ScriptedDreamer, counting_stage
from world.evaluation.plays.rollouts import RolloutPlay, play_rollouts
from world.evaluation.rollout import Moment, Rollouts, rollout_scores, worst_episodes

E, A, R, C = 3, 1, 3, 4
"""Two rows of map, one of status."""


def _moment(right: int, *, replayed: int | None = None) -> Moment:
    """All eight map cells changed; ours has `right` of them right in every episode, the replay `replayed`."""
    last = np.ones((E, A, R, C), np.uint16)
    truth = last + 1

    def knowing(cells: int) -> np.ndarray:
        answer = last.copy()
        answer.reshape(E, -1)[:, :cells] = 2
        return answer

    answers = {"ours": knowing(right), "no_memory": knowing(1), "oracle": knowing(8), "ceiling": truth}
    if replayed is not None:
        answers["replay"] = knowing(replayed)
    arrived = {name: np.array([[name == "ours"], [True], [False]]) for name in (*answers, "copy_last")}
    return Moment(last, truth, np.ones(last.shape, np.bool_), answers, arrived)


def _f1(right: int) -> float:
    return 2 * right / (2 * right + 8 - right)


def test_edits_since_the_fork_are_scored_by_part_and_horizon() -> None:
    record = Rollouts(map_rows=2, moments={1: _moment(8), 8: _moment(4)})
    scores = rollout_scores(record)
    rows = scores.metrics
    assert rows["changed_f1@1"].value == 1.0 and rows["changed_f1@8"].value == pytest.approx(_f1(4))
    assert rows["changed_f1@8"].copy_last == 0.0 and rows["changed_f1@8"].no_memory == pytest.approx(_f1(1))
    assert rows["changed_f1@8"].oracle == rows["changed_f1@8"].ceiling == 1.0
    assert rows["status_f1@8"].value == 0.0 and rows["status_f1@8"].ceiling == 1.0, "nobody foretold the status"
    assert rows["poses@1"].value == pytest.approx(2 / 3) and rows["poses@1"].oracle == pytest.approx(1 / 3)
    assert not scores.unexplained()


def test_who_began_anew_is_nowhere_that_a_dream_could_be() -> None:
    moment, nobody = _moment(8), np.zeros((0, 1), np.bool_)
    gone = replace(moment, counted=np.zeros_like(moment.counted), arrived=dict.fromkeys(moment.arrived, nobody))
    scores = rollout_scores(Rollouts(map_rows=2, moments={1: moment, 8: gone}))
    # Nothing was to be foretold of nobody, which is no perfect score.
    assert not [name for name in scores.metrics if name.endswith("@8")] and "no episode" in scores.notes()["*@8"]
    assert scores.metrics["changed_f1@1"].value == 1.0 and not scores.unexplained()


def test_skill_is_measured_against_what_a_replay_of_truth_would_reach() -> None:
    record = Rollouts(
        map_rows=2, moments={1: _moment(8, replayed=8), 8: _moment(4, replayed=6), 64: _moment(2, replayed=6)}
    )
    rows = rollout_scores(record).metrics
    assert rows["skill@1"].value == 1.0 and rows["skill@1"].copy_last == 0.0 and rows["skill@1"].ceiling == 1.0
    assert rows["skill@8"].value == pytest.approx(_f1(4) / _f1(6))
    skills = np.array([1.0, _f1(4) / _f1(6), _f1(2) / _f1(6)])
    slopes = [(skills[j] - skills[i]) / (3 * (j - i)) for i in range(3) for j in range(i + 1, 3)]
    assert rows["skill_drift"].value == pytest.approx(np.median(slopes))
    fallen = (skills[1] - 0.5) / (skills[1] - skills[2])
    assert rows["skill_half_life"].value == pytest.approx(2 ** (3 + 3 * fallen))
    assert rows["skill_half_life"].oracle == 64.0 and rows["skill_half_life"].copy_last is None


def test_a_skill_that_lasts_has_a_half_life_of_the_whole_horizon() -> None:
    record = Rollouts(map_rows=2, moments={k: _moment(8) for k in (1, 8, 512)})
    scores = rollout_scores(record)
    assert scores.metrics["skill_half_life"].value == 512.0 and "at least" in scores.reasons["skill_half_life"]
    assert scores.metrics["skill_drift"].value == 0.0


def test_where_nobody_could_have_skill_none_is_claimed() -> None:
    hopeless = _moment(0, replayed=0)
    scores = rollout_scores(Rollouts(map_rows=2, moments={1: _moment(8, replayed=8), 8: hopeless}))
    assert "skill@8" not in scores.metrics and "left out" in scores.reasons["skill@8"]
    assert "skill_drift" not in scores.metrics and scores.reasons["skill_drift"] == "needs two horizons"


def test_a_frozen_world_fails_the_check_of_its_dynamics() -> None:
    still, alive = np.zeros(E, np.int64), np.full(E, 5)
    record = Rollouts(map_rows=2, moments={1: _moment(0)}, changed={"truth": [alive, alive], "ours": [still, still]})
    rows = rollout_scores(record).metrics
    assert rows["change_rate"].value == 0.0 and rows["change_rate"].ceiling == 1.0
    assert rows["changed_f1@1"].value == 0.0 and rows["skill@1"].value == 0.0
    record.changed["ours"] = [alive, 2 * alive]
    record.changed["replay"] = [alive, still]
    scores = rollout_scores(record)
    assert scores.metrics["change_rate"].value == pytest.approx(1.5)
    assert scores.reasons["change_rate"].endswith("luck: 0.500"), "who strays by chance changes less, too"


def test_dreamed_rewards_are_events_at_their_tick_and_of_their_size() -> None:
    truth = [np.array([[1.0], [0.0], [0.0]]), np.array([[0.0], [2.0], [0.0]])]
    ours = [np.array([[0.9], [0.0], [0.7]]), np.array([[0.0], [0.3], [0.1]])]
    record = Rollouts(map_rows=2, rewards={"truth": truth, "ours": ours})
    # One found, one false alarm, one missed; 0.1 and 0.3 are below half of the smallest true reward.
    assert rollout_scores(record).metrics["reward_f1"].value == pytest.approx(2 / (2 + 1 + 1))
    nothing = Rollouts(map_rows=2, rewards={"truth": [truth[0] * 0], "ours": ours[:1]})
    assert "no reward" in rollout_scores(nothing).reasons["reward_f1"]


def test_the_worst_episode_is_the_one_that_knew_least() -> None:
    moment = _moment(8)
    moment.answers["ours"][1] = moment.last[1]
    moment.answers["ours"][2].reshape(-1)[:4] = 1
    assert worst_episodes(Rollouts(map_rows=2, moments={8: moment}), 2) == [1, 2]
    assert worst_episodes(Rollouts(map_rows=2), 2) == []


def _played(dreamer: ScriptedDreamer, horizons: tuple[int, ...] = (1, 4, 12)) -> RolloutPlay:
    play = RolloutPlay(Rollouts(map_rows=3))
    told: list[float] = []
    play_rollouts(
        counting_stage(dreamer),
        play,
        seeds=range(6),
        horizons=horizons,
        history=40,
        keep_rows=True,
        progress=lambda what, done: told.append(done),
    )
    assert told and max(told) == 1.0
    return play


def test_baselines_are_ordered_by_what_they_know() -> None:
    """The scripted model knows the rules and what it saw lately: forgetting costs it, being told helps it."""
    rows = rollout_scores(_played(ScriptedDreamer(remembers_ticks=3)).record).metrics
    for k in (4, 12):
        row = rows[f"changed_f1@{k}"]
        assert 0.0 == row.copy_last <= row.no_memory <= row.value <= row.oracle <= row.ceiling == 1.0
    row = rows["changed_f1@12"]
    assert row.no_memory < row.value < row.oracle
    assert rows["poses@12"].value == 1.0 and rows["reward_f1"].value == 1.0


def test_who_knows_the_rules_and_forgets_nothing_scores_one_for_ever() -> None:
    play = _played(ScriptedDreamer(remembers_ticks=4096), (1, 8, 24))
    rows = rollout_scores(play.record).metrics
    for k in (1, 8, 24):
        # What chance changed out of everybody's sight cannot be told apart here, and is all that is missed.
        assert rows[f"changed_f1@{k}"].value == rows[f"skill@{k}"].value > 0.95
        assert rows[f"changed_f1@{k}"].oracle == rows[f"status_f1@{k}"].value == 1.0
    assert rows["skill_half_life"].value == 24.0 and rows["change_rate"].value == pytest.approx(1.0, abs=0.1)
    assert sorted(play.rows) == ["no_memory", "oracle", "ours", "truth"] and sorted(play.rows["oracle"]) == [1, 8, 24]


def test_who_does_not_act_loses_its_way() -> None:
    rows = rollout_scores(_played(ScriptedDreamer(remembers_ticks=4096, obeys=False)).record).metrics
    assert rows["poses@12"].value < 0.5 and rows["changed_f1@12"].value < 0.5


def test_what_was_reached_before_an_interruption_is_scored() -> None:
    play = RolloutPlay(Rollouts(map_rows=3))

    def interrupt(what: str, done: float) -> None:
        if "beside" in what and done >= 5 / 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play_rollouts(
            counting_stage(ScriptedDreamer(remembers_ticks=4096)),
            play,
            seeds=[0],
            horizons=(1, 4, 8),
            history=5,
            progress=interrupt,
        )
    rows = rollout_scores(play.record).metrics
    assert "changed_f1@4" in rows and "changed_f1@8" not in rows
    assert all(math.isfinite(row.value) for row in rows.values())
