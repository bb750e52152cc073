"""A frozen copy answers as its model does, with less work, and never touches it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.model_cases import CountingEnv, random_slots, small_config, stirred_model
from world.dream import DreamConfig, Dreamer, Dreamt
from world.errors import ConfigError
from world.field import NOW
from world.model.blocks import GlobalBlock
from world.model.frozen import frozen, refresh
from world.model.precision import dtype_of
from world.model.query import Query
from world.model.slots import Slots
from world.model.world_model import WorldModel
from world.sampling import sample
from world.sight import seen_afterwards
from world.trajectory import displacement_of
from world.window import views_after

VOCAB = 40
BLOCKS = [("local", "global"), ("agents", "local")]
# Torch's compiler imports parts of torch that are deprecated.
compiles = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def _answers(model: WorldModel, slots: Slots, *, bfloat16: bool = False) -> dict[str, Tensor]:
    moved = torch.arange(slots.turns.numel()).view_as(slots.turns) % 9
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        answer = model.answer(Query(slots, actions=torch.ones_like(slots.turns), displacement=moved))
        return {
            "policy": answer.log_policy().float(),
            "displacement": answer.displacement_logits().float(),
            "tokens": _possible(answer.token_logits()),
            "some tokens": _possible(answer.token_logits(torch.tensor([3, 0, 5]))),
            "status": _possible(answer.status_logits()),
            "reward": answer.reward_logits().float(),
            "continuation": answer.continuation_logits().float(),
        }


def _possible(logits: Tensor) -> Tensor:
    """Return logits without those that no token has."""
    possible = (logits > float("-inf")).flatten(0, -2)
    assert not len(possible) or (possible.any(0) == possible.all(0)).all()
    return logits[..., possible.any(0)].float()


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("map_rows", [0, 3, 4])
def test_in_float32_a_frozen_copy_answers_the_same(map_rows: int, blocks: tuple[str, ...], packed: bool) -> None:
    env = CountingEnv(num_agents=3, map_rows=map_rows)
    model, slots = (
        stirred_model(env.spec, VOCAB, small_config(outcome_blocks=blocks)),
        random_slots(env.spec, VOCAB, batch=3),
    )
    expected, got = (_answers(each, slots) for each in (model, frozen(model, torch.float32, VOCAB, packed=packed)))
    for name, logits in expected.items():
        torch.testing.assert_close(got[name], logits, rtol=1e-4, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


def test_attention_is_the_same_however_large_its_scores_are() -> None:
    env = CountingEnv(num_agents=3)
    model = stirred_model(env.spec, VOCAB, small_config(outcome_blocks=("agents", "global")))
    slots = random_slots(env.spec, VOCAB, batch=3)
    with torch.no_grad():
        for block in model.dynamics.outcomes.modules():
            if isinstance(block, GlobalBlock):
                block.query.weight.mul_(100.0)
    expected, got = (_answers(each, slots) for each in (model, frozen(model, torch.float32, VOCAB)))
    for name, logits in expected.items():
        torch.testing.assert_close(got[name], logits, rtol=1e-3, atol=1e-3, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("blocks", BLOCKS)
def test_in_bfloat16_it_is_as_near_as_autocast_is(blocks: tuple[str, ...], packed: bool) -> None:
    env = CountingEnv(num_agents=3)
    model, slots = (
        stirred_model(env.spec, VOCAB, small_config(outcome_blocks=blocks)),
        random_slots(env.spec, VOCAB, batch=8),
    )
    exact = _answers(model, slots)
    trained_as = _answers(model, slots, bfloat16=True)
    got = _answers(frozen(model, torch.bfloat16, VOCAB, packed=packed), slots, bfloat16=True)
    for name, logits in exact.items():
        its, autocast = ((each[name] - logits).square().mean().sqrt() for each in (got, trained_as))
        assert 0 < its < 2.5 * autocast + 1e-3 * logits.std(), name


def test_tokens_that_stand_for_nothing_have_no_logits() -> None:
    env = CountingEnv()
    model, slots = stirred_model(env.spec, VOCAB), random_slots(env.spec, 20)
    whole, short = (_answers(frozen(model, torch.float32, size), slots) for size in (VOCAB, 20))
    for name in ("tokens", "status"):
        assert short[name].shape[-1] == 19
        torch.testing.assert_close(short[name], whole[name][..., :19], rtol=1e-5, atol=1e-5)


def test_freezing_leaves_the_model_as_it_was() -> None:
    env = CountingEnv()
    model = stirred_model(env.spec, VOCAB)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    frozen(model, torch.bfloat16, VOCAB)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_refreshed_weights_answer_as_newly_frozen_ones_and_stay_where_they_are() -> None:
    env = CountingEnv()
    older, newer = (stirred_model(env.spec, VOCAB, seed=seed) for seed in (1, 2))
    slots, ready = random_slots(env.spec, VOCAB), frozen(older, torch.float32, VOCAB, packed=False)
    held = [parameter.data_ptr() for parameter in ready.parameters()]
    refresh(ready, frozen(newer, torch.float32, VOCAB, packed=False))
    assert held == [parameter.data_ptr() for parameter in ready.parameters()]
    expected = _answers(newer, slots)
    for name, logits in _answers(ready, slots).items():
        torch.testing.assert_close(logits, expected[name], rtol=1e-4, atol=1e-4)


def test_a_dreamer_keeps_its_weights_until_it_is_told_of_new_ones() -> None:
    env = CountingEnv()
    model, slots = stirred_model(env.spec, VOCAB), random_slots(env.spec, VOCAB)
    dreamer = Dreamer(model, DreamConfig(), margin=1)
    first = _dreamt(dreamer, slots)
    model.load_state_dict(stirred_model(env.spec, VOCAB, seed=9).state_dict())
    np.testing.assert_array_equal(_dreamt(dreamer, slots).rewards, first.rewards)
    dreamer.renew()
    renewed = _dreamt(dreamer, slots)
    assert (renewed.rewards != first.rewards).any()
    np.testing.assert_array_equal(renewed.rewards, _dreamt(Dreamer(model, DreamConfig(), margin=1), slots).rewards)


@compiles
@pytest.mark.parametrize(
    ("passes", "blocks", "solid"), [(1, BLOCKS[0], True), (3, BLOCKS[0], False), (1, BLOCKS[1], True)]
)
def test_a_compiled_tick_is_one_program_and_the_same_tick(passes: int, blocks: tuple[str, ...], solid: bool) -> None:
    env = CountingEnv(num_agents=3)
    config = small_config(outcome_blocks=blocks)
    model, slots = stirred_model(env.spec, VOCAB, config), random_slots(env.spec, VOCAB, batch=3)
    slots = replace(slots, ages=torch.full_like(slots.ages, int(NOW)))
    model.habits.counts.copy_(_never(worn=3, carried=5))
    plain, compiled = (
        Dreamer(model, DreamConfig(passes=passes, precision="float32", compiled=each), margin=1, solid=solid)
        for each in (False, True)
    )
    # Traced, and run operation by operation: which would fail if anything of a tick had no place in a graph.
    compiled._advance = torch.compile(compiled._advanced, backend="eager", fullgraph=True, dynamic=False)
    for attempt in ("before", "after new weights"):
        expected, got = _dreamt(plain, slots), _dreamt(compiled, slots)
        for name in ("actions", "displacement", "tokens", "status", "terminated"):
            np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=f"{name} {attempt}")
        np.testing.assert_allclose(got.rewards, expected.rewards, rtol=1e-3, atol=1e-3)
        model.load_state_dict(stirred_model(env.spec, VOCAB, config, seed=9).state_dict())
        model.habits.counts.copy_(_never(worn=8, carried=4))
        for dreamer in (plain, compiled):
            dreamer.renew()


def _never(*, worn: int, carried: int) -> torch.Tensor:
    """Return counts (5, V) by which one token is seen at agents alone, and another comes from beside alone."""
    counts = torch.full((5, VOCAB), 1000.0)
    counts[1, worn] = counts[3, carried] = counts[4, carried] = 0.0
    return counts


@compiles
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_tick_compiled_for_this_processor_is_the_same_tick() -> None:
    env = CountingEnv(num_agents=3)
    model, slots = stirred_model(env.spec, VOCAB), random_slots(env.spec, VOCAB, batch=3)
    expected, got = (
        _dreamt(Dreamer(model, DreamConfig(passes=2, precision="float32", compiled=each), margin=1), slots)
        for each in (False, True)
    )
    for name in ("actions", "displacement", "tokens", "status"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)
    np.testing.assert_allclose(got.rewards, expected.rewards, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("margin", [1, 2])
def test_cells_are_drawn_where_somebody_looks_afterwards(margin: int) -> None:
    rng = np.random.default_rng(margin)
    height, width, agents = 5 + 2 * margin, 3 + 2 * margin, 3
    poses = rng.integers(0, 6, (4, agents, 2)).astype(np.int32)
    displacement = rng.integers(0, 9, (4, agents)).astype(np.uint8)
    seen = seen_afterwards(torch.from_numpy(poses), torch.from_numpy(displacement).long(), height, width, margin)
    for world in range(4):
        places = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1)
        places = places + poses[world][:, None, None] - [height // 2, width // 2]
        names = (places[..., 0] * 1000 + places[..., 1] + 20_000).astype(np.uint16)
        looked_at = set(views_after(names, displacement_of(displacement[world]), margin).ravel().tolist())
        expected = [[[int(name) in looked_at for name in row] for row in window] for window in names]
        np.testing.assert_array_equal(seen[world].numpy(), expected)


@pytest.mark.parametrize("num_outcomes", [2, 10, 32, 33, 300])
def test_drawing_in_two_steps_inverts_the_whole_distribution(num_outcomes: int) -> None:
    generator = torch.Generator().manual_seed(num_outcomes)
    logits = torch.randn(500, num_outcomes, generator=generator) * 3
    logits[:, 0] = float("-inf")
    draws = torch.rand(500, generator=generator)
    cumulative = torch.softmax(logits.double(), -1).cumsum(-1)
    expected = torch.searchsorted(cumulative, draws.double()[:, None], right=True)[:, 0]
    distance = (cumulative - draws.double()[:, None]).abs().amin(-1)
    # Where a draw falls on the border of two outcomes, rounding may decide.
    assert torch.equal(sample(logits, draws)[distance > 1e-6], expected[distance > 1e-6])


def test_precision_is_what_was_asked_for_or_what_the_processor_multiplies() -> None:
    cpu = torch.device("cpu")
    assert dtype_of("float32", cpu) == torch.float32 and dtype_of("bfloat16", cpu) == torch.bfloat16
    able = torch.cpu.get_capabilities()
    native = able.get("avx512_bf16", False) or able.get("amx_bf16", False)
    assert dtype_of("auto", cpu) == (torch.bfloat16 if native else torch.float32)
    assert dtype_of("auto", torch.device("cuda")) == torch.bfloat16
    with pytest.raises(ConfigError, match="precision"):
        DreamConfig(precision="float64")  # type: ignore[arg-type]


def _dreamt(dreamer: Dreamer, slots: Slots) -> Dreamt:
    worlds = len(slots.poses)
    return dreamer.tick(slots, list(range(worlds)), [7] * worlds)
