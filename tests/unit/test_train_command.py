"""`worlds train --start-from`: a wrong start spoils no folder, and a right one is gone on with at half the rate."""

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.presets import preset
from cluster.run_folder import RunFolder
from cluster.training import TrainingRequest, plan_of, train_recorded
from learner.start import NOTHING
from learner.training import Budget
from world.errors import CheckpointError, ConfigError


def _request(out: Path, start_from: str | None, preset: str = "smoke") -> TrainingRequest:
    return TrainingRequest(
        out=out,
        preset=preset,
        minutes=None,
        steps=1,
        data=None,
        env=None,
        seed=None,
        start_from=start_from,
        device="cpu",
    )


@pytest.mark.parametrize(
    ("start", "error", "said"),
    [("runs/typo", CheckpointError, "no such checkpoint"), ("homestead-tiny", ConfigError, "of other sizes")],
)
def test_a_start_that_does_not_fit_spoils_no_folder(
    tmp_path: Path, start: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        train_recorded(_request(tmp_path, start), as_json=True)
    folder = RunFolder.open(tmp_path)
    assert folder.stored() is None
    folder.close()


def test_a_device_that_is_not_there_is_told_before_anything_is_recorded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="device 'gpu' cannot be used here"):
        train_recorded(replace(_request(tmp_path, None), device="gpu"), as_json=True)
    assert not (tmp_path / "data").exists() and not (tmp_path / "warmup").exists()


def test_weights_that_were_trained_before_are_trained_at_half_the_rate(tmp_path: Path) -> None:
    config, budget = preset("homestead-tiny"), Budget(steps=1)
    again = plan_of(config, budget, _request(tmp_path, "homestead-tiny"))
    assert (again.start, again.learner.learning_rate) == ("homestead-tiny", config.learner.learning_rate / 2)
    # A folder of checkpoints that began with nothing, whatever its preset says.
    (tmp_path / "checkpoints" / "step-1").mkdir(parents=True)
    goes_on = plan_of(config, budget, _request(tmp_path, None))
    assert (goes_on.start, goes_on.learner.learning_rate) == (NOTHING, config.learner.learning_rate)
