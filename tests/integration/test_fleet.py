"""Actors on a real Ray: one whose process does not come up is told of, and not taken for placed."""

import os
import subprocess
import sys
from pathlib import Path

# A process of its own, for Ray reads its environment when it is imported.
_PROGRAM = """
import sys
from pathlib import Path

from cluster.launch import ray_cluster, set_environment

set_environment("")

from actors.clients import LIMITER
from actors.ports import PeerLost
from cluster.fleet import RayFleet, _Recipe
from cluster.presets import preset
from cluster.run_folder import RunFolder

class Stillborn:
    def __init__(self):
        raise KeyError("its settings")

folder = RunFolder.open(Path(sys.argv[1]))
with ray_cluster(address="", namespace="test", num_cpus=1, dashboard=False, leavings=folder.leavings):
    fleet = RayFleet(preset("smoke"), folder, num_agents=4, namespace="test", redis_url="")
    fleet._recipes = {LIMITER: _Recipe(Stillborn, ())}
    try:
        fleet.place(600.0)
    except PeerLost as error:
        assert "its settings" in str(error), error
        print("told")
"""


def test_an_actor_whose_process_does_not_come_up_is_not_taken_for_placed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "told\n", done.stderr
