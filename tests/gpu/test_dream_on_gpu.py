"""On a GPU worlds are dreamed as on a CPU, and a tick in a CUDA graph is the same tick. Run by `make test-gpu`."""

import numpy as np
import pytest
import torch

from tests.model_cases import CountingEnv, random_slots, stirred_model
from world.bench_dream import LEAST_RATE, bench_dream
from world.dream import DreamConfig, Dreamer, Dreamt
from world.model.precision import Precision
from world.model.slots import Slots
from world.model.world_model import WorldModel

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # Torch's compiler imports parts of torch that are deprecated.
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]
VOCAB = 40


def _model(seed: int = 0) -> tuple[WorldModel, Slots]:
    env = CountingEnv(num_agents=3)
    return stirred_model(env.spec, VOCAB, seed=seed), random_slots(env.spec, VOCAB, batch=5)


def _dreamer(
    model: WorldModel, device: str, *, passes: int = 2, compiled: bool = False, precision: Precision = "float32"
) -> Dreamer:
    config = DreamConfig(passes=passes, precision=precision, device=device, compiled=compiled)
    return Dreamer(model, config, margin=1)


def _dreamt(dreamer: Dreamer, slots: Slots) -> Dreamt:
    worlds = len(slots.poses)
    return dreamer.tick(slots, list(range(worlds)), [7] * worlds)


def _assert_alike(mine: Dreamt, its: Dreamt, *, share: float) -> None:
    """A draw that falls next to a border between two outcomes may fall on the other side of it."""
    for name in ("actions", "displacement", "tokens", "status", "terminated"):
        assert (getattr(mine, name) == getattr(its, name)).mean() >= share, name


@pytest.mark.parametrize("passes", [1, 2, 4])
def test_a_gpu_dreams_what_a_cpu_dreams(passes: int) -> None:
    model, slots = _model()
    # With one pass nothing is told of what was drawn; with more, one other draw leads to others.
    share = 0.99 if passes == 1 else 0.95
    _assert_alike(
        _dreamt(_dreamer(model, "cuda", passes=passes), slots),
        _dreamt(_dreamer(model, "cpu", passes=passes), slots),
        share=share,
    )


def test_bfloat16_on_a_gpu_draws_nearly_what_float32_does() -> None:
    model, slots = _model()
    _assert_alike(
        _dreamt(_dreamer(model, "cuda", passes=1, precision="bfloat16"), slots),
        _dreamt(_dreamer(model, "cuda", passes=1), slots),
        share=0.9,
    )


def test_a_tick_in_a_cuda_graph_is_the_same_tick_for_every_number_of_worlds() -> None:
    model, slots = _model()
    plain, compiled = _dreamer(model, "cuda"), _dreamer(model, "cuda", compiled=True)
    for worlds in (5, 3, 4, 1, 5):
        some = slots.of_worlds(torch.arange(worlds))
        for _ in range(3):  # traced, captured, replayed
            _assert_alike(_dreamt(compiled, some), _dreamt(plain, some), share=0.95)


def test_a_cuda_graph_goes_on_with_new_weights() -> None:
    model, slots = _model()
    compiled = _dreamer(model, "cuda", compiled=True)
    before = [_dreamt(compiled, slots) for _ in range(3)][-1]
    model.load_state_dict(_model(seed=9)[0].state_dict())
    compiled.renew()
    after = _dreamt(compiled, slots)
    assert (after.rewards != before.rewards).any()
    _assert_alike(after, _dreamt(_dreamer(model, "cuda"), slots), share=0.95)
    np.testing.assert_allclose(after.rewards, _dreamt(_dreamer(model, "cuda"), slots).rewards, rtol=1e-2, atol=1e-2)


def test_small_is_dreamed_as_fast_as_it_should_be() -> None:
    found = bench_dream(10.0)["details"]["gpu"]
    assert max(found["agent_ticks_per_s"].values()) >= LEAST_RATE["cuda"], found
