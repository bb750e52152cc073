"""What the heads promise: two-hot targets mean what they stand for, and only termination ends a story."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.batches import MaskingConfig, make_batch
from learner.losses import LossConfig, world_model_loss
from tests.model_cases import CountingEnv, counting_ticker, counting_world, stirred_model
from world.model.heads import ContinuationHead, RewardHead, TwoHotHead, symexp, symlog
from world.model.policy import Reader
from world.trajectory import Transitions


def test_a_reader_attends_to_cells_at_unit_scale() -> None:
    torch.manual_seed(0)
    reader, cells, agents = Reader(16), 5 * torch.randn(4, 9, 16), torch.randn(4, 16)
    torch.nn.init.uniform_(reader.norm.weight, 0.5, 2.0)
    normed = reader.norm(cells)
    read = torch.nn.functional.scaled_dot_product_attention(reader.query(agents)[:, None], normed, normed)[:, 0]
    expected = reader.mlp(reader.mix(torch.cat([agents, read], dim=-1)))
    torch.testing.assert_close(reader(cells, agents), expected, rtol=1e-4, atol=1e-4)


few = settings(deadline=None, max_examples=40)


@few
@given(st.floats(-20000, 20000, width=32), st.sampled_from([3, 15, 255]))
def test_the_mean_of_a_two_hot_target_is_nearly_its_value(value: float, num_bins: int) -> None:
    head = TwoHotHead(4, num_bins)
    weights = head.two_hot(torch.tensor([value]))
    assert weights.shape == (1, num_bins)
    assert (weights >= 0).all() and weights.sum().item() == pytest.approx(1.0, abs=1e-5)
    occupied = weights[0].nonzero()[:, 0]
    assert len(occupied) <= 2 and (len(occupied) < 2 or occupied[1] == occupied[0] + 1)
    position = float((weights[0] * head.bins).sum())
    assert position == pytest.approx(float(symlog(torch.tensor(value))), abs=2e-5)
    if num_bins == 255 and abs(value) <= 100:
        # Between two bins the mean of values lies a little above the value at the mean, by convexity.
        mean = float(head.mean(weights.clamp(min=1e-30).log())[0])
        assert mean == pytest.approx(value, rel=2e-3, abs=1e-3)


def test_values_beyond_the_bins_land_on_the_outermost() -> None:
    head = TwoHotHead(4, 15)
    assert head.two_hot(torch.tensor([1e30]))[0, -1] == 1 and head.two_hot(torch.tensor([-1e30]))[0, 0] == 1


@pytest.mark.parametrize("num_bins", [3, 15, 255])
def test_symmetric_logits_mean_exactly_zero(num_bins: int) -> None:
    head = TwoHotHead(4, num_bins)
    assert head.bins[num_bins // 2] == 0
    torch.testing.assert_close(head.bins, -head.bins.flip(0), rtol=0, atol=0)
    half = torch.randn(9, num_bins // 2, generator=torch.Generator().manual_seed(1)) * 3
    logits = torch.cat([half, torch.ones(9, 1), half.flip(-1)], dim=-1)
    assert (head.mean(logits) == 0).all()
    assert (head.mean(head(torch.randn(5, 4))) == 0).all(), "an untrained head expects nothing"
    assert head.two_hot(torch.zeros(1))[0, num_bins // 2] == 1


def test_symlog_and_symexp_invert_each_other() -> None:
    values = torch.tensor([-1e4, -1.0, -1e-3, 0.0, 0.5, 30.0, 2e4])
    torch.testing.assert_close(symexp(symlog(values)), values)


def test_training_a_two_hot_head_leads_to_the_mean_of_its_targets() -> None:
    head = RewardHead(2, 63)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    x, targets = torch.ones(4, 2), torch.tensor([0.0, 0.0, 0.0, 1.0])
    for _ in range(150):
        optimizer.zero_grad()
        head.loss(head(x), targets).mean().backward()
        optimizer.step()
    assert head.mean(head(x[:1])).item() == pytest.approx(0.25, abs=0.03)


def test_continuation_is_asked_for_and_termination_denies_it() -> None:
    head = ContinuationHead(4)
    losses = head.loss(torch.tensor([9.0, 9.0]), torch.tensor([False, True]))
    assert losses[0] < 0.01 and losses[1] > 5


@pytest.mark.parametrize("truncates", [False, True])
def test_truncation_is_no_termination(truncates: bool) -> None:
    """The continuation that is learned from an episode that was cut is that it goes on."""
    rows, env = _episode(truncates=truncates, length=4)
    assert rows.truncated[:, 0].tolist() == [False] * 3 + [truncates]
    assert rows.terminated[:, 0].tolist() == [False] * 3 + [not truncates]
    model = stirred_model(env.spec, 65)
    columns = {name: column[None] for name, column in rows.columns().items()}
    batch = make_batch(columns, mask=model.mask, unknown_action=5, config=MaskingConfig(), rng=np.random.default_rng(0))
    assert batch.terminated.any().item() is not truncates
    never_ends = {**columns, "truncated": np.zeros_like(columns["truncated"])}
    same = make_batch(
        never_ends, mask=model.mask, unknown_action=5, config=MaskingConfig(), rng=np.random.default_rng(0)
    )
    mine, its = (world_model_loss(model, each, LossConfig())["continuation"] for each in (batch, same))
    assert mine == its


def test_a_reward_is_paired_with_the_action_and_the_state_that_led_to_it() -> None:
    rows, _ = _episode(truncates=False, length=6)
    for t in range(len(rows)):
        assert (rows.status[t, :, 0] == t + 1).all(), "token = tick + 1: the state before the t-th action"
        assert (rows.next_status[t, :, 0] == t + 2).all()
        assert rows.rewards[t].tolist() == [t + 1.0, t + 1.25]
        policy_tick = t + 1
        assert rows.actions[t].tolist() == [(policy_tick * 7 + agent * 3 + policy_tick // 5) % 5 for agent in range(2)]
    assert rows.is_first.tolist() == [True] + [False] * 5


def _episode(*, truncates: bool, length: int) -> tuple[Transitions, CountingEnv]:
    env = CountingEnv(length=length, truncates=truncates)
    world, ticker = counting_world(env), counting_ticker(env)
    ticks = [ticker.tick([world])[0] for _ in range(length + 1)]
    assert ticks[0].row is None and world.ended
    return Transitions.stack([tick.row for tick in ticks[1:] if tick.row is not None]), env
