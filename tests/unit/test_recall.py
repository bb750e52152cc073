"""What episodic memory brings back reaches the model as slots, and only that of one's own past."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from learner.batches import MaskingConfig, make_batch
from learner.losses import LossConfig, world_model_loss
from tests.model_cases import CountingEnv, counting_ticker, counting_world, random_slots, small_config, stirred_model
from world.errors import ConfigError
from world.field import age_buckets
from world.model.memory.episodic import ITEM_SIZE, experiences
from world.model.memory.recall import NUM_COLUMNS, recalled_in_order
from world.model.query import Query
from world.model.tokenizer import DiscreteTokenizer
from world.model.world_model import WorldModel, WorldModelConfig
from world.tick import TickConfig, Ticker
from world.trajectory import Transitions

VOCAB, COUNT = 65, 5


def _rows(*, ticks: int = 9, map_rows: int = 3, length: int = 1 << 30) -> Transitions:
    env = CountingEnv(map_rows=map_rows, length=length)
    world, ticker = counting_world(env), counting_ticker(env)
    rows = [ticker.tick([world])[0].row for _ in range(ticks + 1)]
    return Transitions.stack([row for row in rows if row is not None])


def _recalled(rows: Transitions, *, has_pose: bool = True, count: int = COUNT) -> np.ndarray:
    columns = (rows.tokens[..., 0], rows.poses, rows.actions, rows.rewards, rows.is_first)
    return recalled_in_order(*columns, count=count, asked=np.ones(len(rows), np.bool_), has_pose=has_pose)


def _config(count: int = COUNT) -> WorldModelConfig:
    config = small_config()
    return replace(config, dynamics=replace(config.dynamics, num_recalled=count))


def test_before_a_tick_one_recalls_what_was_met_before_it_and_nothing_of_it() -> None:
    rows = _rows()
    recalled = _recalled(rows)
    assert recalled.shape == (9, 2, COUNT, NUM_COLUMNS) and not recalled[0].any()
    items = experiences(rows.tokens[0, ..., 0], rows.actions[0], rows.rewards[0])
    for agent in range(2):
        kept = recalled[1, agent][recalled[1, agent, :, -1] == 1]
        assert len(kept) == 2, "what both agents met is the world's"
        own = kept[(kept[:, :ITEM_SIZE] == items[agent]).all(axis=1)]
        assert own[:, -3:-1].tolist() == [(rows.poses[0, agent] - rows.poses[1, agent]).tolist()]
        assert (kept[:, ITEM_SIZE] == age_buckets(np.zeros(1, np.int32), 1)[0]).all()


def test_an_episode_recalls_nothing_of_the_one_before_it() -> None:
    rows = _rows(ticks=9, length=4)
    begins = np.flatnonzero(rows.is_first)
    assert begins.tolist() == [0, 4]
    recalled = _recalled(rows)
    assert not recalled[begins].any() and recalled[3, ..., -1].any()
    assert np.array_equal(recalled[4:], _recalled(rows[4:]))


def test_on_screens_everybody_recalls_only_its_own() -> None:
    rows = _rows(map_rows=0)
    recalled = _recalled(rows, has_pose=False)
    assert (recalled[1, :, :, -1].sum(axis=1) == 1).all() and not recalled[..., -3:-1].any()
    items = experiences(rows.tokens[0, ..., 0], rows.actions[0], rows.rewards[0])
    assert np.array_equal(recalled[1, :, 0, :ITEM_SIZE], items)


@pytest.mark.parametrize("map_rows", [3, 0])
def test_what_is_recalled_is_felt_in_every_answer_and_an_empty_slot_says_nothing_of_its_content(map_rows: int) -> None:
    spec = CountingEnv(map_rows=map_rows).spec
    model, slots = stirred_model(spec, VOCAB, _config()), random_slots(spec, VOCAB)
    shape = (2, 2, COUNT, NUM_COLUMNS)
    recalled = torch.zeros(shape, dtype=torch.int64)
    met = recalled.clone()
    met[..., 0], met[..., -1] = 7, 1
    empty = met.clone()
    empty[..., -1] = 0

    def answered(what: torch.Tensor) -> list[torch.Tensor]:
        answer = model.answer(Query(replace(slots, recalled=what), actions=torch.zeros(2, 2, dtype=torch.int64)))
        return [answer.token_logits(), answer.reward_logits(), answer.continuation_logits()]

    with torch.no_grad():
        nothing, something, hidden = answered(recalled), answered(met), answered(empty)
    for none, some, still in zip(nothing, something, hidden, strict=True):
        assert not torch.equal(none, some)
        assert torch.equal(none, still)


def test_the_learner_lives_through_the_past_and_learns_from_what_it_recalls() -> None:
    rows = _rows(ticks=12)
    columns = {name: column.reshape(2, 6, *column.shape[1:]) for name, column in rows.columns().items()}
    batch = make_batch(
        columns,
        mask=VOCAB,
        unknown_action=5,
        config=MaskingConfig(),
        rng=np.random.default_rng(0),
        past_ticks=4,
        num_recalled=COUNT,
    )
    assert batch.slots.recalled.shape == (4, 2, COUNT, NUM_COLUMNS)
    expected = np.concatenate([_recalled(rows[start : start + 6])[4:] for start in (0, 6)])
    assert np.array_equal(batch.slots.recalled.numpy(), expected)
    model = stirred_model(CountingEnv().spec, VOCAB, _config())
    world_model_loss(model, batch, LossConfig())["total"].backward()
    assert model.dynamics.recall is not None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.dynamics.recall.parameters())


def test_a_model_without_slots_for_it_has_no_weights_for_it_either() -> None:
    model = WorldModel(small_config(), CountingEnv().spec, VOCAB)
    assert not [name for name in model.state_dict() if "recall" in name]
    with pytest.raises(ConfigError, match="num_recalled must be >= 0"):
        _config(-1)


def test_worlds_that_live_refuse_a_memory_that_is_not_committed() -> None:
    env = CountingEnv()
    with pytest.raises(ConfigError, match="is not committed"):
        Ticker(env.spec, DiscreteTokenizer(env.spec.layout), TickConfig(), _config())
