"""On a GPU the learner learns and judges what it does on a CPU. Run by `make test-gpu` where there is one."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from learner.learner import Learner, LearnerConfig
from learner.schedule import Endless
from tests.model_cases import homestead_rows, small_config
from world.evaluation.one_step import HeldOut

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def _learner(device: str, *, compiled: bool = False) -> Learner:
    spec, tokenizer, rows = homestead_rows()
    config = LearnerConfig(precision="float32", schedule=Endless(warmup_steps=5), compiled=compiled)
    return Learner(config, small_config(), spec, tokenizer, HeldOut(rows[100:], None), seed=0, device=device)


def _columns(step: int) -> Mapping[str, NDArray[np.generic]]:
    rows = homestead_rows()[2]
    starts = np.random.default_rng(step).integers(0, 90, 4)
    return {name: np.stack([column[at : at + 2] for at in starts]) for name, column in rows.columns().items()}


def test_steps_on_gpu_and_cpu_agree() -> None:
    on_cpu, on_gpu = _learner("cpu"), _learner("cuda")
    on_gpu.model.load_state_dict(on_cpu.model.state_dict())
    for step in range(5):
        expected, got = on_cpu.train_step(_columns(step)).losses, on_gpu.train_step(_columns(step)).losses
        for name, value in expected.items():
            assert got[name] == pytest.approx(value, rel=2e-3, abs=1e-4), (step, name)


# Torch's compiler imports parts of torch that are deprecated.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_steps_in_cuda_graphs_and_on_a_cpu_agree() -> None:
    on_cpu, on_gpu = _learner("cpu"), _learner("cuda", compiled=True)
    on_gpu.model.load_state_dict(on_cpu.model.state_dict())
    for step in range(6):  # traced, captured, replayed
        expected, got = on_cpu.train_step(_columns(step)), on_gpu.train_step(_columns(step))
        assert got.grad_norm == pytest.approx(expected.grad_norm, rel=5e-3), step
        for name, value in expected.losses.items():
            assert got.losses[name] == pytest.approx(value, rel=5e-3, abs=1e-4), (step, name)


def test_judgement_on_gpu_and_cpu_agrees() -> None:
    on_cpu, on_gpu = _learner("cpu"), _learner("cuda")
    on_gpu.load_parts(on_cpu.state_parts(), step=0, random_state=on_cpu.random_state())
    expected, got = on_cpu.evaluate().metrics, on_gpu.evaluate().metrics
    assert got["nll_bits"].value == pytest.approx(expected["nll_bits"].value, rel=1e-3)


def test_weights_from_a_gpu_can_be_dreamed_on_a_cpu() -> None:
    learner = _learner("cuda")
    learner.train_step(_columns(0))
    tensors = learner.weights(epoch=1, version=1).tensors()
    assert {tensor.device.type for tensor in tensors.values()} == {"cpu"}
