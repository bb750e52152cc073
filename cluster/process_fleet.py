"""World hosts as plain processes, without Ray: for measuring what the supervisor does when one dies or moves."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

import world.errors
from actors.ports import Call, HostReport, LimiterReport, PeerLost, ShardReport, WeightsReport
from actors.synthetic_service import Answer, Order
from learner.loop import LearnerReport
from world.errors import LivingWorldsError
from world.snapshot import WorldId


class ProcessCall:
    """An answer under way from a process."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def done(self) -> bool:
        """Return whether it has answered, or died."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def result(self) -> HostReport:
        """Return the report. Raises `PeerLost`, or what the host refused with."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise PeerLost(f"process {self._process.pid} ended")
        answer = msgspec.json.decode(line, type=Answer)
        if answer.report is None:
            raise getattr(world.errors, answer.error, LivingWorldsError)(answer.message)
        return answer.report


class _Never:
    """An answer from somebody who is not there and is not missed."""

    def done(self) -> bool:
        return False

    def result(self) -> Any:
        raise AssertionError("it never answers")


class ProcessFleet:
    """A `Fleet` of world hosts only: there is no learner, no replay and no limiter, and nobody waits for them."""

    def __init__(self, start: Callable[[str], "subprocess.Popen[bytes]"], hosts: Sequence[str]) -> None:
        self._start = start
        self.processes = {name: start(name) for name in hosts}
        self.abandoned: set[str] = set()
        """Hosts that are not made again when they die, as those of a node that is gone."""

    def ensure(self, name: str) -> None:
        """Make a host again that has died."""
        if name in self.processes and name not in self.abandoned and self.processes[name].poll() is not None:
            self.processes[name] = self._start(name)

    def kill(self, name: str, pid: int | None) -> None:
        """SIGKILL."""
        with contextlib.suppress(KeyError, ProcessLookupError):
            os.kill(self.processes[name].pid, signal.SIGKILL)

    def wait(self, calls: Sequence[Call[object]], timeout_s: float) -> None:
        """Return when a host has answered, or after a while."""
        streams = [process.stdout for process in self.processes.values() if process.poll() is None]
        if streams:
            select.select(streams, [], [], timeout_s)
        else:
            time.sleep(timeout_s)

    def close(self) -> None:
        """End all hosts."""
        for process in self.processes.values():
            process.kill()
            process.communicate()

    def adopt(self, host: str, worlds: Sequence[WorldId]) -> Call[HostReport]:
        """As `WorldHost`."""
        return self._send(host, Order(call="adopt", worlds=list(worlds)))

    def drop(self, host: str, worlds: Sequence[WorldId]) -> Call[HostReport]:
        """As `WorldHost`."""
        return self._send(host, Order(call="drop", worlds=list(worlds)))

    def run_until(self, host: str, targets: Mapping[WorldId, int], budget_s: float) -> Call[HostReport]:
        """As `WorldHost`."""
        named = {str(world): tick for world, tick in targets.items()}
        return self._send(host, Order(call="run_until", targets=named, budget_s=budget_s))

    def stop_host(self, host: str) -> Call[HostReport]:
        """As `WorldHost`."""
        return self._send(host, Order(call="stop"))

    def train_until(self, step: int, budget_s: float) -> Call[LearnerReport]:
        """Nobody."""
        return _Never()

    def stop_learner(self) -> Call[LearnerReport]:
        """Nobody."""
        return _Never()

    def drain_limiter(self) -> Call[None]:
        """Nobody."""
        return _Never()

    def limiter_report(self) -> Call[LimiterReport]:
        """Nobody."""
        return _Never()

    def shard_report(self, shard: str) -> Call[ShardReport]:
        """Nobody."""
        return _Never()

    def close_shard(self, shard: str) -> Call[None]:
        """Nobody."""
        return _Never()

    def weights_report(self) -> Call[WeightsReport]:
        """Nobody."""
        return _Never()

    def _send(self, host: str, order: Order) -> Call[HostReport]:
        process = self.processes[host]
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(msgspec.json.encode(order) + b"\n")
            process.stdin.flush()
        return ProcessCall(process)


def start_synthetic(name: str, *, url: str, lease_s: float, ticks_per_s: float) -> "subprocess.Popen[bytes]":
    """Start a synthetic host."""
    command = [sys.executable, "-m", "actors.synthetic_service", name, url, str(lease_s), str(ticks_per_s)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=environment)
