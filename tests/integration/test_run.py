"""A whole run: it learns and dreams, stops in order, goes on, and survives a kill of everything at once."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from learner.checkpoint import load_newest
from tests.run_cases import LONG_MINUTES, Run, server_pid, verified_digests, went_on, worlds_of

pytestmark = pytest.mark.timeout(1800)

_ENOUGH_ITEMS = 4000
"""Inserted, for a ratio to be told to two percent: a batch, which is what may be owed in the end, is 16."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder that all tests of this file go on with, in order."""
    return tmp_path_factory.mktemp("run") / "smoke"


@pytest.fixture(scope="module")
def summary(folder: Path) -> Iterator[dict[str, Any]]:
    """The first run, until it has done all that is asked of it here."""
    with Run(folder, minutes=LONG_MINUTES) as run:
        run.wait_until(lambda moment: moment["dreamed_agent_ticks"] > 0 and moment["inserted_items"] > _ENOUGH_ITEMS)
        run.interrupt()
        yield run.finish()


def test_a_run_hosts_learns_passes_the_gate_and_dreams(summary: dict[str, Any]) -> None:
    status = summary["status"]
    assert status["grounded_worlds"] == 3
    assert status["dreamed_worlds"] == 1
    assert status["dreamed_agent_ticks"] > 0
    assert status["learner_step"] > 0
    assert status["weights"][1] > 0
    assert 0 <= status["metrics"]["changed_f1_known"]["value"] <= 1
    assert status["metrics"]["changed_f1_known"]["copy_last"] == 0
    assert status["restarts"] == 0


def test_measured_samples_per_insert_is_within_two_percent_of_the_configured(summary: dict[str, Any]) -> None:
    assert abs(summary["status"]["samples_per_insert"] / summary["samples_per_insert"] - 1) < 0.02


def test_a_run_leaves_metrics_pictures_a_checkpoint_and_the_command_to_go_on(
    folder: Path, summary: dict[str, Any]
) -> None:
    assert str(folder) in summary["go_on"]
    with Image.open(folder / "curves.png") as curves:
        assert curves.width > 500
    with Image.open(folder / "dream.gif") as dream:
        assert getattr(dream, "n_frames", 1) > 10
    with Image.open(folder / "map.png") as seen:
        assert len(np.unique(np.asarray(seen))) > 5
    moments = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [moment["run_s"] for moment in moments] == sorted(moment["run_s"] for moment in moments)
    checkpoint = load_newest(folder / "checkpoints")
    assert str(checkpoint.path) == summary["checkpoint"]
    assert checkpoint.manifest.step == summary["status"]["learner_step"]
    assert set(checkpoint.manifest.replay) == {"replay-0", "replay-1"}


def test_a_stopped_run_goes_on_with_the_same_worlds_weights_optimizer_and_replay_until_sigterm(
    folder: Path, summary: dict[str, Any]
) -> None:
    before, digests = worlds_of(folder), verified_digests(folder)
    held = summary["status"]["replay_items"]
    with Run(folder, minutes=LONG_MINUTES, preset=None) as run:
        # The first moment is before anybody has said anything: what was inserted by then was by the run before.
        begun = run.wait_for(run.moments)[0]["inserted_items"]
        first = run.wait_until(
            lambda moment: (
                moment["learner_step"] > 0
                and moment["grounded_worlds"] == 3
                # One of the shards may be the last to say what it holds; without what is new, it is what was held.
                and moment["replay_items"] - (moment["inserted_items"] - begun) >= held
            )
        )
        assert first["learner_step"] >= summary["status"]["learner_step"]
        assert first["weights"][0] == summary["status"]["weights"][0] + 1
        run.wait_until(lambda moment: moment["agent_ticks"] > 100 and moment["dreamed_worlds"] == 1)
        run.wait_until_worlds_went_on(before)
        run.interrupt(signal.SIGTERM)
        assert run.finish()["status"]["agent_ticks"] > 100
    assert went_on(before, worlds_of(folder))
    assert all(verified_digests(folder)[world] != digests[world] for world in before)


def test_after_a_kill_of_everything_at_once_no_acknowledged_tick_is_lost_and_the_run_goes_on(
    folder: Path, summary: dict[str, Any]
) -> None:
    with Run(folder, minutes=LONG_MINUTES, preset=None) as run:
        run.wait_until(lambda moment: moment["agent_ticks"] > 200 and moment["learner_step"] > 0)
        acknowledged = worlds_of(folder)
        server = server_pid(folder)
        run.kill()
        os.kill(server, signal.SIGKILL)
    # Every tick is verified against its committed digest while it is read.
    verified_digests(folder)
    kept = worlds_of(folder)
    assert set(kept) == set(acknowledged)
    assert all(kept[world]["tick"] >= acknowledged[world]["tick"] for world in acknowledged)
    step = load_newest(folder / "checkpoints").manifest.step
    # A run ends by itself when its time is over. How much time every world needs to go on is for the machine to say.
    for minutes in (0.2, 1.0, 3.0):
        with Run(folder, minutes=minutes, preset=None) as run:
            again = run.finish()
        if went_on(kept, after := worlds_of(folder)):
            break
    assert again["status"]["learner_step"] >= step
    assert went_on(kept, after)
    assert not list((folder).glob("leavings.json")), "something of the killed run was left behind"
