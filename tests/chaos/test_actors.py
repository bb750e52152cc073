"""Every process of a run is killed once while it goes on; the run mends itself."""

import os
import signal
from itertools import pairwise
from pathlib import Path

import pytest

from tests.run_cases import LONG_MINUTES, Run, server_pid, verified_digests, worlds_of

pytestmark = pytest.mark.timeout(1800)

KINDS = ("WorldHostActor", "ReplayShardActor", "LimiterActor", "WeightStoreActor", "LearnerActor")


def test_a_run_survives_the_death_of_each_of_its_processes_and_of_its_server(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Run(folder, minutes=LONG_MINUTES) as run:
        run.wait_until(lambda moment: moment["dreamed_worlds"] == 1 and moment["agent_ticks"] > 200)
        acknowledged = worlds_of(folder)
        for number, kind in enumerate(KINDS, start=1):
            # Soon after its last report: what a shard has drawn since then is never told.
            run.wait_for_another_moment()
            victim = run.actors(kind)[0]
            os.kill(victim, signal.SIGKILL)
            mended = run.wait_until(
                lambda moment, number=number: moment["restarts"] == number and moment["grounded_worlds"] == 3  # type: ignore[misc]
            )
            # It lives only if ticks and steps come after the death.
            run.wait_until(
                lambda moment, mended=mended: (  # type: ignore[misc]
                    moment["agent_ticks"] > mended["agent_ticks"] + 100
                    and moment["learner_step"] > mended["learner_step"] + 5
                )
            )
        # One that hangs is as good as dead: it is found out, killed and made anew.
        os.kill(run.actors("WorldHostActor")[0], signal.SIGSTOP)
        mended = run.wait_until(lambda moment: moment["restarts"] == len(KINDS) + 1 and moment["grounded_worlds"] == 3)
        run.wait_until(lambda moment: moment["agent_ticks"] > mended["agent_ticks"] + 100)
        dead = server_pid(folder)
        os.kill(dead, signal.SIGKILL)
        back = run.wait_for_another_server(dead)
        run.wait_until(lambda moment: moment["agent_ticks"] > back["agent_ticks"] + 200)
        run.interrupt(signal.SIGINT)
        status = run.finish()["status"]
        moments = run.moments()
    assert status["restarts"] == len(KINDS) + 1
    assert status["weights"][0] == 2, "the killed learner came back with another epoch"
    after = worlds_of(folder)
    assert all(after[world]["tick"] > acknowledged[world]["tick"] for world in acknowledged)
    verified_digests(folder)
    # What the killed shard drew after its last report was never told: at most what was drawn between two reports.
    drawn = [moment["sampled_items"] for moment in moments]
    untold = 2 * max(later - earlier for earlier, later in pairwise(drawn))
    assert abs(status["sampled_items"] - status["inserted_items"]) < 0.02 * status["inserted_items"] + untold
