"""What the losses promise: only what is asked for counts, and nothing that is asked for is told."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.batches import Batch, MaskingConfig, make_batch
from learner.error_bank import ErrorBank
from learner.losses import LossConfig, world_model_loss
from tests.model_cases import (
    CountingEnv,
    counting_ticker,
    counting_world,
    homestead_rows,
    silence,
    small_config,
    stirred_model,
)
from world.envs.grounded import nowhere
from world.errors import ConfigError
from world.field import NOW, UNSEEN
from world.model.dynamics import NUM_IDENTITIES
from world.model.slots import UNKNOWN_DISPLACEMENT
from world.model.world_model import WorldModel
from world.trajectory import Transitions

VOCAB = 65
UNKNOWN_ACTION = 5
Columns = dict[str, NDArray[np.generic]]


def _counting(*, map_rows: int = 3, sequences: int = 3, ticks: int = 4) -> tuple[WorldModel, Columns]:
    env = CountingEnv(map_rows=map_rows)
    world, ticker = counting_world(env), counting_ticker(env)
    rows = [ticked.row for _ in range(sequences * ticks + 1) for ticked in ticker.tick([world])]
    stacked = Transitions.stack([row for row in rows if row is not None])
    columns = {name: column.reshape(sequences, ticks, *column.shape[1:]) for name, column in stacked.columns().items()}
    return stirred_model(env.spec, VOCAB), columns


def _batch(columns: Columns, *, mask: int = VOCAB, seed: int = 0, **config: float) -> Batch:
    rng = np.random.default_rng(seed)
    return make_batch(columns, mask=mask, unknown_action=UNKNOWN_ACTION, config=MaskingConfig(**config), rng=rng)


def _losses(model: WorldModel, batch: Batch, **config: float) -> dict[str, Tensor]:
    with torch.no_grad():
        return world_model_loss(model, batch, LossConfig(**config))


def _silence(model: WorldModel) -> None:
    """Make every answer uniform."""
    dynamics = model.dynamics
    silence(dynamics.cell_head, dynamics.status_head)
    with torch.no_grad():
        for layer in (
            dynamics.appearance,
            dynamics.displacement_head[-1],
            dynamics.action_head[-1],
            model.reward.logits,
            model.continuation.logit,
            model.policy.logits,
        ):
            for parameter in layer.parameters():
                parameter.zero_()


def test_a_batch_folds_sequences_in_order_and_asks_for_what_it_says() -> None:
    _, columns = _counting()
    batch = _batch(columns, fully_masked=0.5, hide_displacement=0.3)
    assert batch.slots.tokens.shape == (12, 2, 5, 5, 4) and batch.num_items == 24
    assert batch.rewards[:, 0].tolist() == [float(tick) for tick in range(1, 13)]
    for given, known in ((batch.given_tokens, batch.next_tokens), (batch.given_status, batch.next_status)):
        assert ((given == known) | (given == VOCAB)).all()
        assert (given[known == 0] == VOCAB).all(), "what nobody saw is never given"
    assert (batch.given_tokens[batch.nothing_given] == VOCAB).all()
    assert (batch.given_status == VOCAB).any() and (batch.given_status != VOCAB).any()
    assert (batch.given_tokens[~batch.nothing_given] != VOCAB).any()
    hidden = batch.given_displacement == UNKNOWN_DISPLACEMENT
    assert hidden.any() and torch.equal(batch.given_displacement[~hidden], batch.displacement[~hidden])


def test_who_is_who_is_drawn_anew_for_each_sequence_and_holds_throughout() -> None:
    identity = _batch(_counting()[1]).slots.identity.view(3, 4, 2)
    assert (identity == identity[:, :1]).all() and (identity[..., 0] != identity[..., 1]).all()
    assert identity.min() >= 0 and identity.max() < NUM_IDENTITIES
    assert len({tuple(pair) for pair in identity[:, 0].tolist()}) > 1


def test_more_agents_than_can_be_told_apart_are_refused() -> None:
    WorldModel(small_config(), CountingEnv(num_agents=NUM_IDENTITIES).spec, VOCAB)
    with pytest.raises(ConfigError, match="at most NUM_IDENTITIES = 64 agents of a world apart, got 65"):
        WorldModel(small_config(), CountingEnv(num_agents=NUM_IDENTITIES + 1).spec, VOCAB)


@pytest.mark.parametrize("map_rows", [0, 3])
def test_uniform_answers_cost_what_they_must(map_rows: int) -> None:
    model, columns = _counting(map_rows=map_rows)
    _silence(model)
    batch = _batch(columns, ask_actions=0.5)
    losses = _losses(model, batch)
    asked = (batch.given_tokens == VOCAB) & (batch.next_tokens > 0)
    known = asked & (batch.slots.tokens[..., 0] > 0)
    per_token = math.log(VOCAB - 1)
    weight = (known.sum() + 0.1 * (asked & ~known).sum()) / known.sum()
    wanted = {
        "cells": per_token * float(weight),
        "displacement": math.log(10),
        "status": per_token * batch.next_status.shape[2],
        "reward": math.log(15),
        "continuation": math.log(2),
        "action": math.log(5),
        "policy": math.log(5),
    }
    assert {name: float(losses[name]) for name in wanted} == pytest.approx(wanted, rel=1e-5)
    config = LossConfig()
    total = sum(getattr(config, name) * value for name, value in wanted.items())
    assert float(losses["total"]) == pytest.approx(total, rel=1e-5)
    assert set(losses) == {*wanted, "total"}


def test_the_answer_to_a_hand_made_question_is_known() -> None:
    """A bias of log 3 on the true token makes it three times as likely as each of the others."""
    model, columns = _counting(sequences=1, ticks=1)
    _silence(model)
    batch = _batch(columns, fully_masked=1.0)
    target = torch.full_like(batch.next_tokens, 7)
    with torch.no_grad():
        model.dynamics.cell_head.bias[7] = math.log(3)
    every_known = replace(batch.slots, tokens=torch.ones_like(batch.slots.tokens))
    losses = _losses(model, replace(batch, next_tokens=target, slots=every_known))
    assert float(losses["cells"]) == pytest.approx(math.log((3 + VOCAB - 2) / 3), rel=1e-5)


def test_cells_that_are_given_or_were_not_observed_are_not_asked() -> None:
    model, columns = _counting()
    batch = _batch(columns, fully_masked=0.0)
    given = batch.given_tokens != VOCAB
    assert given.any() and (~given).any()
    before = _losses(model, batch)["cells"]
    lied = torch.where(given, batch.next_tokens % (VOCAB - 1) + 1, batch.next_tokens)
    assert _losses(model, replace(batch, next_tokens=lied))["cells"] == before
    lied = torch.where(~given & (batch.next_tokens > 0), batch.next_tokens % (VOCAB - 1) + 1, batch.next_tokens)
    assert _losses(model, replace(batch, next_tokens=lied))["cells"] != before
    unobserved = replace(batch, next_tokens=torch.where(given, batch.next_tokens, 0))
    assert _losses(model, unobserved)["cells"] == 0


def test_nothing_is_learned_of_agents_who_have_left() -> None:
    # One tick, so that nobody remembers what the one who left was given.
    model, columns = _counting(ticks=1)
    batch = _batch(columns, fully_masked=1.0)
    poses = batch.slots.poses.clone()
    poses[:, 1] = torch.from_numpy(nowhere(2)[1]).long()
    left = replace(batch, slots=replace(batch.slots, poses=poses))
    other = replace(
        left,
        displacement=_with_other(left.displacement, (left.displacement + 1) % 10),
        rewards=_with_other(left.rewards, left.rewards + 1),
        terminated=_with_other(left.terminated, ~left.terminated),
    )
    before, after = _losses(model, left), _losses(model, other)
    assert all(before[name] == after[name] for name in ("displacement", "reward", "continuation"))
    unseen = replace(left, next_status=_with_other(left.next_status, torch.zeros_like(left.next_status)))
    assert all(bool(loss.isfinite()) for loss in _losses(model, unseen).values())


def _with_other(column: Tensor, other: Tensor) -> Tensor:
    """Agent 1's part of a column (R, A, …) from another."""
    return torch.cat([column[:, :1], other[:, 1:2], column[:, 2:]], dim=1)


def test_status_is_asked_before_it_is_given_and_given_to_cells() -> None:
    model, columns = _counting()
    batch = _batch(columns, fully_masked=1.0, hide_displacement=0.0, ask_actions=0.0)
    assert torch.equal(batch.given_status, batch.next_status), "nothing was hidden"
    mine, lied = _losses(model, batch), _losses(model, replace(batch, given_status=batch.next_status % 60 + 1))
    assert mine["status"] == lied["status"] and mine["displacement"] == lied["displacement"]
    assert mine["cells"] != lied["cells"] and mine["reward"] != lied["reward"]


def test_the_policy_learns_only_from_rows_in_which_nothing_is_given() -> None:
    model, columns = _counting(sequences=12, ticks=1)
    batch = _batch(columns)
    blind = batch.nothing_given
    assert blind.any() and (~blind).any()
    before = _losses(model, batch)["policy"]
    other = (batch.actions + 1) % 5
    where = blind[:, None].expand_as(other)
    assert _losses(model, replace(batch, actions=torch.where(where, batch.actions, other)))["policy"] == before
    assert _losses(model, replace(batch, actions=torch.where(where, other, batch.actions)))["policy"] != before
    everything_given = _batch(columns, fully_masked=0.0)
    assert _losses(model, everything_given)["policy"] == 0


def test_nothing_that_a_fully_masked_row_is_asked_for_is_told_to_it() -> None:
    """Change what followed, and the answers (not their scores) must stay the same."""
    model, columns = _counting(sequences=2, ticks=3)
    batch = _batch(columns, fully_masked=1.0, hide_displacement=1.0, ask_actions=0.0)

    answers: list[Tensor] = []
    handles = [
        module.register_forward_hook(lambda *call: answers.append(call[2]))
        for module in (
            model.dynamics.cell_head.norm,
            model.dynamics.status_head,
            model.dynamics.displacement_head,
            model.reward,
            model.continuation,
            model.policy,
        )
    ]
    _losses(model, batch)
    mine, last = answers.copy(), torch.arange(6) % 3 == 2
    answers.clear()
    columns = {name: column.copy() for name, column in columns.items()}
    columns["next_tokens"] = np.where(columns["next_tokens"] > 0, columns["next_tokens"] % 60 + 1, 0)  # type: ignore[operator]
    columns["next_status"] = columns["next_status"] % 60 + 1  # type: ignore[operator]
    columns["displacement"] = (columns["displacement"] + 1) % 9  # type: ignore[operator]
    columns["rewards"][:, -1] += 5  # type: ignore[operator]
    columns["terminated"][:, -1] = True
    columns["truncated"][:, -1] = True
    _losses(model, _batch(columns, fully_masked=1.0, hide_displacement=1.0, ask_actions=0.0))
    for handle in handles:
        handle.remove()
    assert len(mine) == len(answers) == 6 and last.any()
    for left, right in zip(mine, answers, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)


def test_who_acts_is_not_told_the_action_and_who_is_moved_not_where_to() -> None:
    model, columns = _counting(sequences=6, ticks=1)
    batch = _batch(columns, fully_masked=1.0, hide_displacement=0.0, ask_actions=0.0)
    heard: dict[str, list[Tensor]] = {"policy": [], "displacement": [], "cells": []}
    model.policy.register_forward_hook(lambda *call: heard["policy"].append(call[2]))
    model.dynamics.displacement_head.register_forward_hook(lambda *call: heard["displacement"].append(call[2]))
    model.dynamics.cell_head.norm.register_forward_hook(lambda *call: heard["cells"].append(call[2]))
    _losses(model, batch)
    _losses(model, replace(batch, given_actions=(batch.actions + 1) % 5))
    _losses(model, replace(batch, given_displacement=(batch.given_displacement + 1) % 9))
    torch.testing.assert_close(heard["policy"][0], heard["policy"][1], rtol=0, atol=0)
    assert (heard["displacement"][0] != heard["displacement"][1]).any(-1).all()
    torch.testing.assert_close(heard["displacement"][0], heard["displacement"][2], rtol=0, atol=0)
    assert (heard["cells"][0] != heard["cells"][2]).any()


def test_the_reward_of_a_tick_is_remembered_in_the_next_and_not_before() -> None:
    model, columns = _counting(sequences=1, ticks=4)
    batch = _batch(columns, fully_masked=1.0)
    policies = []
    handle = model.policy.register_forward_hook(lambda *call: policies.append(call[2].view(4, 2, -1)))
    _losses(model, batch)
    rewards = batch.rewards.clone()
    rewards[1] += 3
    _losses(model, replace(batch, rewards=rewards))
    handle.remove()
    changed = (policies[0] != policies[1]).any(-1).any(-1)
    assert changed.tolist() == [False, False, True, True]


def test_bfloat16_changes_little() -> None:
    spec, tokenizer, rows = homestead_rows()
    model = stirred_model(spec, tokenizer.vocab_size)
    batch = _batch({name: column[None, :8] for name, column in rows.columns().items()}, mask=model.mask)
    exact = _losses(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = _losses(model, batch)
    for name, part in exact.items():
        assert float(rounded[name]) == pytest.approx(float(part), rel=0.05, abs=0.02)


def test_columns_that_cannot_be_written_to_make_a_batch() -> None:
    _, columns = _counting(map_rows=0)
    for column in columns.values():
        column.flags.writeable = False
    assert _batch(columns).rewards.shape == (12, 2)


def test_some_rows_forget_what_is_out_of_view_on_some_sides_and_nothing_else() -> None:
    _, columns = _counting(sequences=60)
    columns["tokens"] = np.ones_like(columns["tokens"])
    columns["ages"] = np.full_like(columns["ages"], NOW + 9)
    columns["ages"][..., 1:-1, 1:-1, -1] = NOW
    slots = _batch(columns, forget=0.5).slots
    lost = (slots.tokens == UNSEEN).all(-1)
    assert torch.equal(lost, (slots.tokens == UNSEEN).any(-1)) and torch.equal(lost, (slots.ages == 0).all(-1))
    assert not lost[..., 1:-1, 1:-1].any(), "what is in view is known"
    sides = torch.stack([lost[..., 0, 2], lost[..., -1, 2], lost[..., 2, 0], lost[..., 2, -1]], -1).sum(-1)
    assert torch.equal(sides.min(1).values, sides.max(1).values), "all windows of a row forget alike"
    assert set(sides.flatten().tolist()) == {0, 1, 2, 3, 4} and 0.3 < (sides > 0).float().mean() < 0.65
    assert not (_batch(columns, forget=0.0).slots.tokens == UNSEEN).any()


def test_screens_forget_nothing() -> None:
    _, columns = _counting(map_rows=0)
    kept = _batch(columns, forget=1.0).slots.tokens
    assert torch.equal(kept, _batch(columns, forget=0.0).slots.tokens)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="fully_masked"):
        MaskingConfig(fully_masked=1.5)
    for weight in (-0.1, math.nan, math.inf):
        with pytest.raises(ConfigError, match=r"loss\.reward must be >= 0 and finite"):
            LossConfig(reward=weight)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_drawn_of_logits_that_are_no_numbers_is_not_taken_for_an_error(value: float) -> None:
    model, columns = _counting()
    batch, errors = _batch(columns), ErrorBank(VOCAB)
    world_model_loss(model, batch, LossConfig(), errors)
    noted = errors.num_noted
    with torch.no_grad():
        model.dynamics.cell_head.bias[7] = value
    world_model_loss(model, batch, LossConfig(), errors)
    assert errors.num_noted == noted > 0


def test_asked_actions_are_hidden_alone_where_what_followed_is_mostly_given() -> None:
    _, columns = _counting(sequences=40, ticks=2)
    batch = _batch(columns, ask_actions=0.5)
    asked = batch.given_actions == UNKNOWN_ACTION
    assert torch.equal(batch.given_actions[~asked], batch.actions[~asked])
    rows = asked.any(-1)
    assert 0.2 < rows.float().mean() < 0.6 and (rows & ~asked.all(-1)).any()
    assert not (rows & batch.nothing_given).any(), "an action cannot be read from nothing"
    seen = batch.next_tokens[rows] > 0
    assert (batch.given_tokens[rows] == VOCAB)[seen].float().mean() < 0.3
    assert not (_batch(columns, ask_actions=0.0).given_actions == UNKNOWN_ACTION).any()


def test_the_action_loss_asks_only_for_what_was_hidden() -> None:
    model, columns = _counting(sequences=6, ticks=1)
    batch = _batch(columns, ask_actions=0.0)
    assert float(_losses(model, batch)["action"]) == 0.0
    hidden = batch.given_actions.clone()
    hidden[2, 1] = UNKNOWN_ACTION
    batch = replace(batch, given_actions=hidden)
    losses = _losses(model, batch)["action"]
    other = batch.actions.clone()
    other[3, 0] = (other[3, 0] + 1) % 5
    assert torch.equal(_losses(model, replace(batch, actions=other))["action"], losses)
    other[2, 1] = (other[2, 1] + 1) % 5
    assert not torch.equal(_losses(model, replace(batch, actions=other))["action"], losses)
