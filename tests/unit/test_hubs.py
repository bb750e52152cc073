"""What hubs promise: screens hear of each other through them alone, whoever and however many they are."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.model_cases import random_slots, small_config, stirred_model
from world.envs.grounded import EnvSpec, ViewLayout
from world.errors import ConfigError
from world.model.dynamics import DynamicsConfig
from world.model.query import Query
from world.model.slots import Slots
from world.model.world_model import WorldModel, WorldModelConfig
from world.trajectory import STAY

VOCAB = 24


def _spec(agents: int) -> EnvSpec:
    layout = ViewLayout(rows=4, cols=5, map_rows=0, tile_px=7)
    return EnvSpec(name="screens", agents=tuple(f"agent_{i}" for i in range(agents)), num_actions=5, layout=layout)


def _config(num_hubs: int) -> WorldModelConfig:
    config = small_config()
    return replace(config, dynamics=replace(config.dynamics, num_hubs=num_hubs))


def _model(num_hubs: int) -> WorldModel:
    return stirred_model(_spec(3), VOCAB, _config(num_hubs))


@torch.no_grad()
def _foretold(model: WorldModel, slots: Slots, actions: Tensor) -> Tensor:
    """The beliefs (B, A, H, W, V - 1) of all screens."""
    moved = torch.full(actions.shape, STAY)
    return model.answer(Query(slots, actions, moved)).token_logits()[..., 1:]


@pytest.mark.parametrize("what", ["screen", "action"])
@pytest.mark.parametrize("num_hubs", [0, 1, 8])
def test_what_another_sees_and_does_is_heard_through_hubs_and_not_without(what: str, num_hubs: int) -> None:
    model, slots = _model(num_hubs), random_slots(_spec(3), VOCAB)
    actions = torch.zeros(2, 3, dtype=torch.int64)
    before = _foretold(model, slots, actions)
    if what == "screen":
        tokens = slots.tokens.clone()
        tokens[:, 1, ..., 0] = (tokens[:, 1, ..., 0] + 1) % VOCAB
        after = _foretold(model, replace(slots, tokens=tokens), actions)
    else:
        after = _foretold(model, slots, torch.tensor([[0, 3, 0]] * 2))
    assert not torch.equal(before[:, 1], after[:, 1])
    assert torch.equal(before[:, 0], after[:, 0]) == (num_hubs == 0)


def test_the_order_of_agents_is_of_no_matter() -> None:
    model, slots = _model(8), random_slots(_spec(3), VOCAB)
    slots = replace(slots, turns=torch.zeros_like(slots.turns))
    actions = torch.tensor([[0, 1, 2]] * 2)
    turned = torch.tensor([2, 0, 1])
    columns = ("tokens", "ages", "status", "poses", "turns", "memory", "identity")
    moved = replace(slots, **{name: getattr(slots, name)[:, turned] for name in columns})
    foretold = _foretold(model, slots, actions)
    torch.testing.assert_close(_foretold(model, moved, actions[:, turned]), foretold[:, turned])


def _products(agents: int) -> int:
    """Multiplications of one update of one world of so many agents."""
    model, slots = _model(8).requires_grad_(False), random_slots(_spec(agents), VOCAB, batch=1)
    with FlopCounterMode(display=False) as counter:
        _foretold(model, slots, torch.zeros(1, agents, dtype=torch.int64))
    return int(counter.get_total_flops())


def test_weights_serve_any_number_of_agents_at_a_cost_that_is_linear_in_them() -> None:
    costs = {agents: _products(agents) for agents in (1, 2, 4, 8, 16)}
    each = costs[2] - costs[1]
    assert each > 0
    assert costs == {agents: costs[1] + (agents - 1) * each for agents in costs}


def test_a_shared_map_needs_no_hubs_and_a_number_of_them_is_no_less_than_none() -> None:
    layout = ViewLayout(rows=4, cols=5, map_rows=3, tile_px=7)
    assert stirred_model(replace(_spec(2), layout=layout), VOCAB).dynamics.hubs is None
    assert _model(0).dynamics.hubs is None and _model(2).dynamics.hubs is not None
    with pytest.raises(ConfigError, match=r"dynamics.num_hubs must be >= 0, got -1"):
        DynamicsConfig(num_hubs=-1)
