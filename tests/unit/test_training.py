"""Training from recorded data: within its budget, to a learning rate of zero, and on again after an interruption."""

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from learner import training
from learner.checkpoint import load_newest, save_checkpoint
from learner.learner import LearnerConfig
from learner.recorded import RecordedSource, befallen, chosen, rarity
from learner.recording import SEGMENTS, RecordingConfig
from learner.replay import ReplayShard
from learner.restored import restore
from learner.schedule import ToZero
from learner.train import TrainingPlan, _processor, train
from learner.training import Budget, TrainingConfig, TrainingStatus
from tests.model_cases import small_config
from world.envs.grounded import NOWHERE
from world.errors import CheckpointError, ConfigError
from world.warmup import WarmupConfig


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recorded by the first training of this module."""
    return tmp_path_factory.mktemp("data")


def _plan(out: Path, data: Path, *, steps: int = 12) -> TrainingPlan:
    return TrainingPlan(
        env="homestead:16x16x2",
        budget=Budget(steps=steps),
        out=out,
        data=data,
        model=small_config(),
        learner=LearnerConfig(batch_sequences=2, past_ticks=3, precision="float32", schedule=ToZero(warmup_steps=2)),
        warmup=WarmupConfig(explored_seeds=1, explored_ticks=8, surveyed_seeds=4, held_out_seeds=2, held_out_ticks=16),
        recording=RecordingConfig(num_worlds=2, world_ticks=50, chunk_ticks=25, worlds_at_once=2, budget_bytes=1 << 24),
        # Only at its end, however long it takes.
        training=TrainingConfig(evaluate_every_s=1e9, checkpoint_every_s=1e9, torch_threads=1),
    )


def _after(calls: int) -> Callable[[], bool]:
    """Return what asks to stop at its call number `calls`."""
    asked = iter(range(calls))
    return lambda: next(asked, None) is None


def test_a_training_uses_up_its_budget_judges_and_saves(tmp_path: Path, data: Path) -> None:
    told: list[TrainingStatus] = []
    status = train(_plan(tmp_path, data), command="worlds train", tell=told.append)
    assert (status.step, status.done, status.nonfinite) == (12, 1.0, 0)
    assert status.evaluation is not None and status.evaluation.step == 12
    assert told[-1] == status
    restored = restore(tmp_path)
    assert restored.step == 12 and restored.model_config == small_config()
    made = load_newest(tmp_path / "checkpoints").manifest.made
    assert made["command"] == "worlds train" and made["seed"] == 0
    assert made["data"]["agent_ticks"] == 2 * 49 * 2  # type: ignore[index]
    assert made["held_out"]["step"] == 12  # type: ignore[index]
    (line,) = (tmp_path / "training.jsonl").read_text().splitlines()
    assert json.loads(line)["metrics"]["changed_f1_known"]["value"] == pytest.approx(
        status.evaluation.metrics["changed_f1_known"].value
    )


def test_a_training_may_begin_with_the_weights_of_another(tmp_path: Path, data: Path) -> None:
    train(_plan(tmp_path / "first", data), command="")
    before = restore(tmp_path / "first").weights
    plan = replace(_plan(tmp_path / "again", data, steps=3), start=str(tmp_path / "first"))
    assert train(plan, command="", stop=_after(1)).step < 3
    shutil.rmtree(tmp_path / "first")
    assert train(plan, command="").step == 3, "it goes on from its own checkpoint"
    after, made = restore(tmp_path / "again").weights, load_newest(tmp_path / "again" / "checkpoints").manifest.made
    assert made["start"] == plan.start
    assert (after.pop("habits.counts") > before.pop("habits.counts")).any(), "it goes on to count"
    assert max(float((after[name] - before[name]).abs().max()) for name in before) < 0.1
    assert any((after[name] != before[name]).any() for name in before)


def test_weights_that_know_another_tokenizer_are_refused(tmp_path: Path, data: Path) -> None:
    train(_plan(tmp_path / "first", data), command="")
    plan = _plan(tmp_path / "other", tmp_path / "data", steps=1)
    train(replace(plan, warmup=replace(plan.warmup, explored_ticks=2, surveyed_seeds=1)), command="")
    assert restore(tmp_path / "first").tokenizer.digest != restore(tmp_path / "other").tokenizer.digest
    plan = replace(plan, out=tmp_path / "again", start=str(tmp_path / "first"))
    with pytest.raises(CheckpointError, match="another tokenizer"):
        train(plan, command="")


def test_an_interrupted_training_goes_on_and_ends_as_if_it_had_not_been(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is asked whether to stop before each step, not while it waits for a batch.
    monkeypatch.setattr(training, "_PATIENCE_S", 600.0)
    whole = train(_plan(tmp_path / "a", data), command="")
    half = train(_plan(tmp_path / "b", data), command="", stop=_after(5))
    assert half.step == 5 and half.done < 1.0
    rest = train(_plan(tmp_path / "b", data), command="")
    assert rest.step == 12 and rest.elapsed_s > half.elapsed_s
    assert whole.evaluation is not None and rest.evaluation is not None
    mine, its = (load_newest(tmp_path / name / "checkpoints").parts for name in "ab")
    torch.testing.assert_close(mine, its, rtol=0, atol=0)


def test_a_budget_that_is_used_up_is_not_exceeded(tmp_path: Path, data: Path) -> None:
    first = train(_plan(tmp_path, data), command="")
    again = train(_plan(tmp_path, data), command="")
    assert (again.step, again.done) == (first.step, 1.0)
    assert train(_plan(tmp_path, data, steps=15), command="").step == 15


def test_a_budget_of_time_ends_with_its_time(tmp_path: Path, data: Path) -> None:
    # How much time the first step needs is for the machine to say.
    for seconds in (2.0, 20.0, 200.0):
        status = train(replace(_plan(tmp_path / f"{seconds:g}", data), budget=Budget(seconds=seconds)), command="")
        assert status.done == 1.0 and status.elapsed_s >= seconds
        if status.step:
            break
    assert status.step > 0


def test_what_is_slow_to_judge_is_judged_seldom(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, judged = [0.0], []

    def clock() -> float:
        now[0] += 0.1
        return now[0]

    class Slow(training.Training):
        def _evaluate(self, *, baselines: bool) -> None:
            now[0] += 100.0
            judged.append(now[0])
            super()._evaluate(baselines=baselines)

    monkeypatch.setattr("learner.train.Training", partial(Slow, clock=clock))
    plan = _plan(tmp_path, data, steps=30)
    plan = replace(plan, training=replace(plan.training, evaluate_every_s=1.0, checkpoint_every_s=1e9))
    told: list[TrainingStatus] = []
    train(plan, command="", tell=told.append)
    assert told[-1].windows_per_s > 1.0, "the last one is of steps, not of judging"
    assert len(judged) == 2, "once after a second, and at the end; 2,000 s were not over"


def test_checkpoints_of_another_model_or_of_a_run_are_refused(tmp_path: Path, data: Path) -> None:
    plan = _plan(tmp_path, data)
    train(plan, command="")
    with pytest.raises(CheckpointError, match="does not fit"):
        train(replace(plan, model=small_config(outcome_blocks=("local",))), command="")
    newest = load_newest(tmp_path / "checkpoints")
    save_checkpoint(tmp_path / "checkpoints", newest.parts, replace(newest.manifest, step=99, made={}))
    with pytest.raises(CheckpointError, match="was not made by a training"):
        train(plan, command="")


def test_memory_is_run_over_pasts_of_every_length(data: Path, tmp_path: Path) -> None:
    train(_plan(tmp_path, data, steps=1), command="")
    with closing(ReplayShard(_plan(tmp_path, data).recording.replay(), data / SEGMENTS)) as shard:
        source = RecordedSource(shard, past_ticks=4, num_draws=0)
        drawn = np.concatenate([source.draw(8, 6)["is_first"] for _ in range(100)])
        again = RecordedSource(shard, past_ticks=4, num_draws=40).draw(8, 6)
        assert (drawn[320:328] == again["is_first"]).all()
    # Of 800 sequences half are cut, at one of five places; a few begin where their world does.
    assert 0.45 < drawn[:, :5].any(axis=1).mean() < 0.6
    assert all(50 < drawn[:, place].sum() < 120 for place in range(5))
    assert drawn[:, 5].sum() < 30


def test_sequences_are_drawn_as_if_all_candidates_had_been_read_whole(data: Path, tmp_path: Path) -> None:
    train(_plan(tmp_path, data, steps=1), command="")
    with closing(ReplayShard(_plan(tmp_path, data).recording.replay(), data / SEGMENTS)) as shard:
        drawn = RecordedSource(shard, past_ticks=4, num_draws=7).draw(8, 6)
        shard.go_on_after(7)
        whole = shard.sample(64, 6).columns
    kept, weights = chosen(befallen(whole, 4) * rarity(whole, 4), 8, np.random.default_rng(7))
    for name in set(whole) - {"is_first"}:
        np.testing.assert_array_equal(drawn[name], whole[name][kept], err_msg=name)
    np.testing.assert_array_equal(drawn["weights"], np.repeat(weights[:, None], 6, axis=1))


def test_sequences_that_something_befalls_are_rather_kept() -> None:
    events = np.zeros((3, 3, 2, 3), np.int32)
    events[1, 1, 1] = (2, 5, 5)  # In the past alone,
    events[2, 2, 1] = (2, 5, 5)  # and now.
    assert befallen({"events": events}, 2).tolist() == [1.0, 1.0, 10.0]


def test_eventful_sequences_and_rare_actions_are_drawn_more_often_and_none_is_left_out(
    data: Path, tmp_path: Path
) -> None:
    train(_plan(tmp_path, data, steps=1), command="")
    with closing(ReplayShard(_plan(tmp_path, data).recording.replay(), data / SEGMENTS)) as shard:
        plain = [shard.sample(64, 1).columns for _ in range(20)]
        source = RecordedSource(shard, past_ticks=0, num_draws=0)
        drawn = [source.draw(64, 1) for _ in range(20)]
    eventful, in_all = (np.concatenate([befallen(columns, 0) > 1 for columns in of]) for of in (drawn, plain))
    assert 0.02 < in_all.mean() < 0.2 and 2 * in_all.mean() < eventful.mean() < 1.0
    actions, all_actions = (np.concatenate([columns["actions"][:, 0] for columns in of]) for of in (drawn, plain))
    rare = np.argsort(np.bincount(all_actions.ravel(), minlength=10))[:5]
    weights = np.concatenate([columns["weights"][:, 0] for columns in drawn])
    share, in_truth = np.isin(actions, rare).mean(), np.isin(all_actions, rare).mean()
    assert share > 1.2 * in_truth
    weighed = (np.isin(actions, rare).mean(axis=1) * weights).sum() / weights.sum()
    assert abs(weighed - in_truth) < 0.5 * (share - in_truth)


def test_rare_acts_weigh_as_much_as_common_ones_and_past_ones_or_of_who_has_left_nothing() -> None:
    actions = np.zeros((5, 3, 2), np.int32)
    actions[:, :2] = 7
    actions[3, 2], actions[4, 2] = (5, 5), (3, 3)
    poses = np.zeros((5, 3, 2, 2), np.int32)
    poses[:, :, 1] = (9, 9)
    poses[4] = NOWHERE
    shares = rarity({"actions": actions, "poses": poses}, 2)
    np.testing.assert_allclose(shares, [2 * 1 / 6] * 3 + [2 * 1 / 2, 1 / 10])


def test_the_same_action_near_somebody_and_alone_are_two_acts() -> None:
    actions = np.zeros((6, 1, 3), np.int32)
    poses = np.zeros((6, 1, 3, 2), np.int32)
    poses[:, :, 2] = NOWHERE  # Who has left is near nobody.
    poses[:4, :, 1] = (0, 9)
    poses[4:, :, 1] = (2, 3)
    shares = rarity({"actions": actions, "poses": poses}, 0)
    np.testing.assert_allclose(shares, [2 * 1 / 8] * 4 + [2 * 2 / 4] * 2)


def test_what_two_do_who_can_reach_each_other_is_one_act() -> None:
    actions = np.zeros((5, 1, 3), np.int32)
    actions[3], actions[4] = (0, 8, 2), (8, 8, 2)
    poses = np.zeros((5, 1, 3, 2), np.int32)
    poses[:, :, 1], poses[:, :, 2] = (1, 1), (5, 5)
    shares = rarity({"actions": actions, "poses": poses}, 0)
    alone = np.array([1 / 3, 1 / 3, 1 / 3, 1 / 2, 1 / 2])
    np.testing.assert_allclose(shares - alone, [0.6 * 2 / 6] * 3 + [0.6 * 2, 0.6 * 2 / 2])


def test_what_is_drawn_more_often_weighs_less_where_it_is_asked_for() -> None:
    random = np.random.default_rng(0)
    is_rare = np.arange(40) % 8 == 0
    stakes = np.where(is_rare, 5.0, 1.0)
    draws = [chosen(stakes, 10, random) for _ in range(2000)]
    drawn = np.mean([is_rare[kept].mean() for kept, _ in draws])
    weighed = np.mean([(is_rare[kept] * weights).sum() / weights.sum() for kept, weights in draws])
    assert all(len(set(kept.tolist())) == 10 for kept, _ in draws)
    assert drawn > 0.3 and weighed == pytest.approx(1 / 8, abs=0.015)
    kept, weights = chosen(stakes, 40, random)
    assert sorted(kept) == list(range(40)) and (weights == 1.0).all()


@pytest.mark.parametrize("device", ["mps", "xpu:0"])
def test_a_device_that_is_neither_cuda_nor_a_cpu_is_kept_with_the_weights_by_its_name(device: str) -> None:
    assert _processor(device) == device


def test_impossible_budgets_are_refused() -> None:
    for bad in ({}, {"steps": 0}, {"seconds": -1.0}, {"steps": 1, "seconds": 1.0}):
        with pytest.raises(ConfigError):
            Budget(**bad)
    with pytest.raises(ConfigError, match="a sequence lies in one chunk"):
        TrainingPlan(env="homestead", budget=Budget(steps=1), out=Path(), learner=LearnerConfig(sequence_ticks=501))
