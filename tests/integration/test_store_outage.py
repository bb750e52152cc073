"""A store that falls silent pauses the worlds, and only them; when it answers again, they go on by themselves."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError

from tests.run_cases import LONG_MINUTES, Run, server_pid
from world.store.redis_store import RedisWorldStore
from world.store.server import find_server

pytestmark = pytest.mark.timeout(1800)

_AWAY_S = 4.0
_SILENT = "the store does not answer: worlds pause until it does"
_ANSWERS = "the store answers again: worlds go on"
_A_FEW_BATCHES = 128
"""Items."""


class ExternalServer:
    """A server that belongs to nobody here: if it is killed, somebody else starts it again."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._directory = directory
        self.url = f"redis://127.0.0.1:{self._port}"
        self.start()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def start(self) -> None:
        """Start it on what it has kept."""
        binary, _ = find_server()
        options = ("--port", str(self._port), "--dir", str(self._directory), "--save", "", "--logfile", "log")
        durable = ("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction")
        self._process = subprocess.Popen([binary, *options, *durable])
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with contextlib.suppress(RedisError), Redis.from_url(self.url, protocol=2) as client:
                client.ping()
                return
            time.sleep(0.02)
        raise AssertionError((self._directory / "log").read_text())

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()


@pytest.fixture
def external(tmp_path: Path) -> Iterator[ExternalServer]:
    server = ExternalServer(tmp_path / "external")
    yield server
    server.kill()


def told_to_be_away(run: Run) -> bool:
    """Return whether the last that was told of the store is its silence; a slow machine knows others than ours."""
    told = run.told.read_text()
    return told.count(_SILENT) > told.count(_ANSWERS)


def through_an_outage(run: Run, begin: Callable[[], None], end: Callable[[], None]) -> None:
    """Let the store fall silent for a while, and see who waits and who does not."""
    before = run.moments()[-1]
    begin()
    began = time.monotonic()
    # A host that is just taking a world in does not count the time, but it is told.
    run.wait_for(lambda: told_to_be_away(run))
    # What was under way is told by now; the next moments are of a run without a store.
    silent = run.moments()[-1]
    # The learner goes on; without inserts there is only so much to learn from, so it may have had its share.
    run.wait_until(
        lambda moment: (
            moment["elapsed_s"] >= silent["elapsed_s"] + 3
            and (moment["learner_step"] > silent["learner_step"] or moment["limiter_error"] < _A_FEW_BATCHES)
        )
    )
    still = run.moments()[-1]
    assert still["replay_items"] >= before["replay_items"], "replay forgot"
    time.sleep(max(0.0, began + _AWAY_S - time.monotonic()))
    end()
    run.wait_for(lambda: not told_to_be_away(run))
    run.wait_until(lambda moment: moment["agent_ticks"] > still["agent_ticks"] + 100)
    assert run.moments()[-1]["restarts"] == before["restarts"], "a silent store cost a process its life"


def test_an_embedded_store_that_stops_and_one_that_dies_pause_the_worlds_and_no_one_else(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Run(folder, minutes=LONG_MINUTES) as run:
        run.wait_until(lambda moment: moment["agent_ticks"] > 200 and moment["learner_step"] > 5)
        through_an_outage(
            run,
            lambda: os.kill(server_pid(folder), signal.SIGSTOP),
            lambda: os.kill(server_pid(folder), signal.SIGCONT),
        )
        dead = server_pid(folder)
        os.kill(dead, signal.SIGKILL)
        # Brought back by the run itself.
        back = run.wait_for_another_server(dead)
        run.wait_until(lambda moment: moment["agent_ticks"] > back["agent_ticks"] + 200)
        run.wait_for(lambda: "the embedded server was away and is back" in run.told.read_text())
        run.interrupt()
        status = run.finish()["status"]
    assert status["restarts"] == 0


@pytest.mark.long
def test_an_external_store_that_stops_and_one_that_is_restarted_by_others_are_waited_for(
    tmp_path: Path, external: ExternalServer
) -> None:
    folder = tmp_path / "run"
    with Run(folder, minutes=LONG_MINUTES, more=("--redis-url", external.url)) as run:
        run.wait_until(lambda moment: moment["agent_ticks"] > 200 and moment["learner_step"] > 5)
        through_an_outage(
            run, lambda: os.kill(external.pid, signal.SIGSTOP), lambda: os.kill(external.pid, signal.SIGCONT)
        )
        through_an_outage(run, external.kill, external.start)
        run.interrupt()
        status = run.finish()["status"]
    assert status["restarts"] == 0
    with contextlib.closing(RedisWorldStore.connect(external.url)) as store:
        ticks: dict[str, Any] = {record.world: record.tick for record in store.records()}
        assert len(ticks) >= 3
        for world, tick in ticks.items():
            record, snapshot, effects = store.load(world)  # type: ignore[arg-type]
            assert record.tick == tick == snapshot.tick + len(effects)
