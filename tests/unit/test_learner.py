"""What the learner promises: it learns, its checkpoints go on exactly, and a bad batch does no harm."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from learner.checkpoint import Manifest, load_checkpoint, save_checkpoint
from learner.learner import Learner, LearnerConfig
from learner.limiter import LimiterState
from learner.schedule import Endless
from tests.model_cases import homestead_rows, small_config
from world.errors import CheckpointError, ConfigError
from world.evaluation.one_step import HeldOut
from world.model.habits import Habits

Columns = Mapping[str, NDArray[np.generic]]


def _learner(*, seed: int = 0, memory_size: int = 4, **config: float) -> Learner:
    spec, tokenizer, rows = homestead_rows()
    return Learner(
        LearnerConfig(**{"precision": "float32", "schedule": Endless(warmup_steps=5), **config}),  # type: ignore[arg-type]
        small_config(memory_size=memory_size),
        spec,
        tokenizer,
        HeldOut(rows[100:], None),
        seed=seed,
    )


def _columns(step: int = 0, *, sequences: int = 4, ticks: int = 2) -> dict[str, NDArray[np.generic]]:
    """A fixed small data set: the same sequences every few steps."""
    rows = homestead_rows()[2]
    starts = np.random.default_rng(step % 6).integers(0, 90, sequences)
    return {
        name: np.stack([column[start : start + ticks] for start in starts]) for name, column in rows.columns().items()
    }


def test_the_loss_falls() -> None:
    learner = _learner()
    totals = [learner.train_step(_columns(step)).losses for step in range(40)]
    first, last = ({name: np.mean([t[name] for t in part]) for name in part[0]} for part in (totals[:6], totals[-6:]))
    assert last["total"] < 0.5 * first["total"]
    for name in ("cells", "displacement", "status", "policy", "continuation"):
        assert last[name] < first[name], name
    assert learner.step == 40


def test_a_step_counts_what_was_seen_at_the_ticks_that_it_asks_about() -> None:
    learner, columns = _learner(past_ticks=3, own_errors=0.5), _columns(ticks=5)
    wanted = Habits(learner.model.habits.counts.shape[1])
    wanted.note({name: column[:, 3:] for name, column in columns.items()})
    for step in range(1, 4):
        learner.train_step(columns)
        assert torch.equal(learner.model.habits.counts, step * wanted.counts), "whatever errors were put there"
    learner.train_step({**columns, "rewards": np.full_like(columns["rewards"], np.nan)})
    assert torch.equal(learner.model.habits.counts, 3 * wanted.counts), "not of a step that was left out"
    never = wanted.counts == 0
    assert torch.equal(learner.judged().habits.counts == 0, never), "averages keep what never happened"


def test_a_step_reports_what_it_did() -> None:
    metrics = _learner().train_step(_columns())
    assert metrics.step == 1 and not metrics.nonfinite and metrics.grad_norm > 0
    parts = {"cells", "displacement", "status", "reward", "continuation", "action", "policy", "total"}
    assert set(metrics.losses) == parts and all(np.isfinite(list(metrics.losses.values())))


def test_equal_seeds_and_data_give_equal_weights() -> None:
    mine, its, other = (_learner(seed=seed) for seed in (3, 3, 4))
    for learner in (mine, its, other):
        for step in range(3):
            learner.train_step(_columns(step))
    _assert_bit_equal(mine, its)
    assert (mine.weights(epoch=0, version=1).buffer != other.weights(epoch=0, version=1).buffer).any()


@pytest.mark.parametrize("own_errors", [0.0, 0.3])
def test_a_checkpoint_goes_on_bit_by_bit(tmp_path: Path, own_errors: float) -> None:
    learner = _learner(own_errors=own_errors)
    for step in range(4):
        learner.train_step(_columns(step))
    path = save_checkpoint(tmp_path, learner.state_parts(), _manifest(learner))
    loaded = load_checkpoint(path)
    again = _learner(seed=77, own_errors=own_errors)
    again.load_parts(loaded.parts, step=loaded.manifest.step, random_state=loaded.manifest.random["masks"])  # type: ignore[arg-type]
    assert again.step == 4
    _assert_bit_equal(learner, again)
    for step in range(4, 8):
        mine, its = learner.train_step(_columns(step)), again.train_step(_columns(step))
        assert (mine.losses, mine.grad_norm) == (its.losses, its.grad_norm)
    _assert_bit_equal(learner, again)
    assert learner.evaluate().metrics == again.evaluate().metrics


def test_a_checkpoint_whose_tensors_come_in_another_order_goes_on_the_same() -> None:
    learner = _learner()
    learner.train_step(_columns())
    parts = {name: _cloned(part) for name, part in learner.state_parts().items()}
    average = parts["average"]
    assert isinstance(average, dict)
    parts["average"] = dict(reversed(average.items()))
    again = _learner(seed=5)
    again.load_parts(parts, step=1, random_state=learner.random_state())
    for each in (learner, again):
        each.train_step(_columns(1))
    _assert_bit_equal(learner, again)


def test_a_checkpoint_of_another_model_is_refused() -> None:
    learner, other = _learner(), _learner(memory_size=5)
    with pytest.raises(CheckpointError, match="step 9 does not fit"):
        other.load_parts(learner.state_parts(), step=9, random_state=learner.random_state())
    with pytest.raises(CheckpointError, match="does not fit"):
        learner.load_parts({"model": {}}, step=9, random_state=learner.random_state())


@pytest.mark.parametrize("own_errors", [0.0, 0.3])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_gradient_that_is_no_number_is_left_out(value: float, own_errors: float) -> None:
    learner = _learner(own_errors=own_errors)
    learner.train_step(_columns())
    before = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    moments = _cloned(_moments(learner))
    columns = _columns(1)
    for name in ("rewards", "memory"):
        columns[name] = np.full_like(columns[name], value)
    metrics = learner.train_step(columns)
    assert metrics.nonfinite and metrics.grad_norm == 0.0 and metrics.step == 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.model.state_dict().items())
    torch.testing.assert_close(_moments(learner), moments, rtol=0, atol=0)
    assert not learner.train_step(_columns(2)).nonfinite
    assert all(tensor.isfinite().all() for tensor in learner.weights(epoch=0, version=1).tensors().values())


def test_published_weights_are_the_average_and_do_not_change_afterwards() -> None:
    learner = _learner(averaging=0.9)
    for step in range(3):
        learner.train_step(_columns(step))
    published = learner.weights(epoch=2, version=7)
    assert published.order == (2, 7) and set(published.names) == set(learner.model.state_dict())
    kept = published.buffer.copy()
    newest = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    assert any((tensor != newest[name]).any() for name, tensor in published.tensors().items())
    learner.train_step(_columns(3))
    np.testing.assert_array_equal(published.buffer, kept)


def test_without_averaging_the_newest_weights_are_published() -> None:
    learner = _learner(averaging=0.0)
    for step in range(2):
        learner.train_step(_columns(step))
    for name, tensor in learner.weights(epoch=0, version=1).tensors().items():
        torch.testing.assert_close(tensor, learner.model.state_dict()[name], rtol=0, atol=0)


def test_the_gate_opens_at_its_score() -> None:
    for gate, opens in ((0.0, True), (1.0, False)):
        evaluation = _learner(gate_f1=gate).evaluate()
        assert evaluation.passed_gate is opens and evaluation.step == 0


def test_impossible_settings_are_refused() -> None:
    for bad in (
        {"batch_sequences": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"weight_decay": -1.0},
        {"max_grad_norm": math.nan},
        {"averaging": 1.0},
    ):
        with pytest.raises(ConfigError):
            LearnerConfig(**bad)  # type: ignore[arg-type]


def _manifest(learner: Learner) -> Manifest:
    return Manifest(
        step=learner.step,
        weights_epoch=0,
        weights_version=1,
        limiter=LimiterState(inserts=0, samples=0),
        replay={},
        random={"masks": learner.random_state()},
        model_config={},
        tokenizer_digest="",
    )


def _cloned(part: object) -> object:
    if isinstance(part, torch.Tensor):
        return part.clone()
    if isinstance(part, dict):
        return {name: _cloned(item) for name, item in part.items()}
    return [_cloned(item) for item in part] if isinstance(part, list) else part


def _moments(learner: Learner) -> object:
    optimizer = learner.state_parts()["optimizer"]
    assert isinstance(optimizer, dict)
    return optimizer


def _assert_bit_equal(mine: Learner, its: Learner) -> None:
    np.testing.assert_array_equal(mine.weights(epoch=0, version=1).buffer, its.weights(epoch=0, version=1).buffer)
    torch.testing.assert_close(mine.state_parts(), its.state_parts(), rtol=0, atol=0)
    assert mine.random_state() == its.random_state()
