"""Learning-rate schedules: what a run without an end does, and what a budget brings to zero."""

import math

import msgspec
import pytest
from torch.nn.utils import parameters_to_vector

from learner.learner import Learner, LearnerConfig
from learner.schedule import Endless, ToZero
from tests.model_cases import homestead_rows, small_config
from world.errors import ConfigError
from world.evaluation.one_step import HeldOut


def test_an_endless_run_rises_holds_and_falls_with_the_root_of_steps() -> None:
    schedule = Endless(warmup_steps=10, hold_steps=100)
    assert [schedule.share(step, 0.0) for step in (1, 5, 10, 50, 100)] == [0.1, 0.5, 1.0, 1.0, 1.0]
    assert schedule.share(400, 0.0) == 0.5
    assert schedule.share(400, 0.0) == schedule.share(400, 0.99)


def test_a_budget_rises_holds_and_falls_in_a_straight_line_to_zero() -> None:
    schedule = ToZero(warmup_steps=10, hold=0.2)
    assert schedule.share(1, 0.0) == 0.1
    assert schedule.share(500, 0.1) == schedule.share(500, 0.2) == 1.0
    assert schedule.share(500, 0.6) == pytest.approx(0.5)
    assert schedule.share(500, 0.9) == pytest.approx(0.125)
    assert schedule.share(500, 1.0) == 0.0


def test_a_budget_that_is_exceeded_stays_at_zero() -> None:
    assert ToZero().share(10**6, 1.2) == 0.0


def test_a_learner_follows_its_schedule() -> None:
    spec, tokenizer, rows = homestead_rows()
    config = LearnerConfig(precision="float32", averaging=0.0, schedule=ToZero(warmup_steps=1))
    learner = Learner(config, small_config(), spec, tokenizer, HeldOut(rows[100:], None), seed=0)
    columns = {name: column[None, :2] for name, column in rows.columns().items()}
    weights = [parameters_to_vector(learner.model.parameters()).detach()]
    for done in (0.0, 1.0):
        learner.train_step(columns, done=done)
        weights.append(parameters_to_vector(learner.model.parameters()).detach())
    assert (weights[0] != weights[1]).any()
    assert (weights[1] == weights[2]).all()


def test_impossible_schedules_are_refused() -> None:
    for kind, bad in ((Endless, {"warmup_steps": 0}), (Endless, {"hold_steps": 0}), (ToZero, {"hold": 1.0})):
        with pytest.raises(ConfigError):
            kind(**bad)  # type: ignore[arg-type]


def test_a_stored_schedule_comes_back_as_what_it_was() -> None:
    for schedule in (Endless(hold_steps=7), ToZero(hold=0.5)):
        back = msgspec.json.decode(msgspec.json.encode(schedule), type=Endless | ToZero)
        assert back == schedule and math.isfinite(back.share(3, 0.3))
