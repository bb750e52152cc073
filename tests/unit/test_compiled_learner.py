"""A compiled loss is the same loss: the CPU path, step by step, against the one that a compiler made."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from learner.learner import Learner, LearnerConfig
from learner.losses import cells_asked, world_model_loss
from learner.schedule import Endless
from tests.model_cases import homestead_rows, small_config
from world.evaluation.one_step import HeldOut

# Torch's compiler imports parts of torch that are deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def _learner(**config: bool) -> Learner:
    spec, tokenizer, rows = homestead_rows()
    settings = LearnerConfig(precision="float32", schedule=Endless(warmup_steps=5), **config)  # type: ignore[arg-type]
    return Learner(settings, small_config(), spec, tokenizer, HeldOut(rows[100:], None), seed=0)


def _columns(step: int) -> Mapping[str, NDArray[np.generic]]:
    rows = homestead_rows()[2]
    starts = np.random.default_rng(step).integers(0, 90, 4)
    return {name: np.stack([column[at : at + 2] for at in starts]) for name, column in rows.columns().items()}


def _assert_steps_agree(plain: Learner, compiled: Learner, steps: int) -> None:
    for step in range(steps):
        expected, got = plain.train_step(_columns(step)), compiled.train_step(_columns(step))
        for name, value in expected.losses.items():
            assert got.losses[name] == pytest.approx(value, rel=1e-3, abs=1e-4), (step, name)
        assert got.grad_norm == pytest.approx(expected.grad_norm, rel=1e-3), step


def test_a_traced_loss_is_one_program_and_the_same_loss() -> None:
    plain, traced = _learner(), _learner(compiled=True)
    # Its gradients are traced too; only code for this processor is not generated, which takes minutes.
    traced._loss = torch.compile(world_model_loss, backend="aot_eager", fullgraph=True, dynamic=False)
    _assert_steps_agree(plain, traced, 3)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_loss_compiled_for_this_processor_is_the_same_loss() -> None:
    _assert_steps_agree(_learner(), _learner(compiled=True), 3)


def test_cells_are_asked_in_few_sizes_and_what_fills_up_changes_nothing() -> None:
    learner = _learner()
    batches = [learner.batch(_columns(step)) for step in range(8)]
    sizes = {len(cells_asked(learner.model, batch)) for batch in batches}
    assert len(sizes) <= 2 and all(size % 1024 == 0 for size in sizes)
    asked = cells_asked(learner.model, batches[0])
    longer = torch.nn.functional.pad(asked, (0, 1024), value=-1)
    mine, its = (
        world_model_loss(learner.model, batches[0], learner.config.loss, None, cells)["cells"]
        for cells in (asked, longer)
    )
    torch.testing.assert_close(mine, its)
