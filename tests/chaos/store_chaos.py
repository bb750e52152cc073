"""Strikes hosts, their server, its disk, its clock and the network, in an order drawn from a seed; then judges."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.chaos.judge import judge
from tests.chaos.poster import Poster
from tests.chaos.proxy import Proxy
from tests.chaos.server import ChaosServer
from tests.chaos.variants import Variant
from tests.store_cases import LivingField, record_of
from world.errors import StoreUnavailable
from world.snapshot import WorldId
from world.store.records import Durability
from world.store.redis_store import RedisWorldStore

LEASE_S: Final = 0.4
WORLDS: Final = tuple(WorldId(f"chaos-{number}") for number in range(6))
_NUM_HOSTS: Final = 2
_DRAINED_WITHIN_S: Final = 600.0
_AT_WORK_WITHIN_S: Final = 150.0
_PATIENCE_S: Final = 120.0
"""For one answer, of whoever is no part of the test."""


def run_chaos(
    directory: Path,
    *,
    seed: int,
    seconds: float,
    variant: Variant | None = None,
    only: Sequence[str] = (),
    num_faults: int = 0,
    acks: int = 0,
    posted: int = 0,
) -> dict[str, Any]:
    """Return a report: acks and faults counted, and how many promises were broken.

    A `variant` is a store with a known mistake, which this must find; `only` names the faults, if not all. It goes on
    for longer than `seconds` where so many faults, acks and posted requests take a slow machine longer.
    """
    drawn = random.Random(seed)
    durability: Durability = "process" if variant == "naive_everysec_ack" else "disk"
    with ChaosServer(directory / "store", durability) as server, contextlib.ExitStack() as ends:
        with contextlib.closing(_connected(server, durability)) as store:
            for number, world in enumerate(WORLDS):
                beginning = LivingField(number).snapshot
                store.create(record_of(world, beginning), beginning)
        stage = _Stage(server, directory / "notes", durability, variant, ends, drawn)
        faults: Counter[str] = Counter()
        deck: list[str] = []
        stage.wait_until_at_work()
        began = time.monotonic()
        while (
            time.monotonic() - began < seconds
            or faults.total() < num_faults
            or stage.num_posted < posted
            or stage.num_acks < acks
        ):
            time.sleep(drawn.uniform(0.1, 0.5))
            if time.monotonic() - began > seconds:
                # So slow a machine needs longer to start a host than passes between two faults.
                stage.wait_until_at_work()
            if not deck:
                deck = list(only) or stage.faults
                drawn.shuffle(deck)
            fault = deck.pop()
            faults[fault] += 1
            getattr(stage, fault)()
        struck_s = time.monotonic() - began
        stage.calm_down()
        with (
            contextlib.closing(_connected(server, durability)) as store,
            contextlib.closing(server.raw()) as raw,
        ):
            verdict = judge(store, raw, stage.notes, WORLDS, stage.poster.posted)
    return {
        "chaos": "random mix",
        "seed": seed,
        "variant": variant,
        "seconds": round(struck_s, 1),
        "faults": dict(sorted(faults.items())),
        "num_faults": faults.total(),
        "crashed": stage.crashed,
        "posts_repeated": stage.poster.repeated,
        **verdict.as_json(),
    }


def _connected(server: ChaosServer, durability: Durability) -> RedisWorldStore:
    return RedisWorldStore.connect(server.url, durability=durability, timeout_s=_PATIENCE_S)


class _Host:
    """A writer process behind a proxy of its own, started again under the same name whenever it was killed."""

    def __init__(
        self, name: str, server: ChaosServer, notes: Path, durability: Durability, variant: Variant | None
    ) -> None:
        self.proxy = Proxy(server.socket)
        arguments = (self.proxy.url, name, str(notes), str(LEASE_S), durability, variant or "", *WORLDS)
        self._command = [sys.executable, "-m", "tests.chaos.store_writer", *arguments]
        self.crashed: list[str] = []
        self._process = self._start()

    def restart(self) -> None:
        """Kill it, and start it anew."""
        self.kill()
        self._process = self._start()

    def kill(self) -> None:
        """SIGKILL."""
        if self._process.poll() is not None and self._process.returncode > 0:
            self.crashed.append(f"exit status {self._process.returncode}")
        self._process.kill()
        self._process.wait()

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended by itself."""
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(self._command, env={**os.environ, "OMP_NUM_THREADS": "1"})


class _Stage:
    """All that can be struck; each fault is a method."""

    def __init__(
        self,
        server: ChaosServer,
        notes: Path,
        durability: Durability,
        variant: Variant | None,
        ends: contextlib.ExitStack,
        drawn: random.Random,
    ) -> None:
        self.notes, self._server, self._drawn = notes, server, drawn
        self._hosts = [_Host(f"host-{number}", server, notes, durability, variant) for number in range(_NUM_HOSTS)]
        poster_proxy = Proxy(server.socket)
        self._proxies = [poster_proxy, *(host.proxy for host in self._hosts)]
        self.poster = Poster(poster_proxy.url, WORLDS, seed=drawn.randrange(2**32))
        for host in self._hosts:
            ends.callback(host.kill)
        for proxy in self._proxies:
            ends.callback(proxy.close)

    @property
    def faults(self) -> list[str]:
        """Names of the faults, in an order that is always the same."""
        names = ["kill_host", "kill_server", "kill_both", "zombie", "stall_server", "reset", "cut_requests",
                 "cut_answers", "full_memory", "functions_lost"]  # fmt: skip
        # These need what slows a disk and steps a clock, which needs a C compiler.
        names += ["cut_power", "slow_disk_then_kill", "step_clock"] if self._server.can_be_slowed else []
        return names

    @property
    def num_acks(self) -> int:
        """Commits acknowledged so far."""
        return sum(line == "c" for line in self.notes.read_text().splitlines()) if self.notes.exists() else 0

    @property
    def num_posted(self) -> int:
        """Requests received so far."""
        return sum(map(len, list(self.poster.posted.values())))

    def wait_until_at_work(self) -> None:
        """Wait until a host has committed from now on: before, there is nothing to strike."""
        before, deadline = self.num_acks, time.monotonic() + _AT_WORK_WITHIN_S
        while self.num_acks == before and time.monotonic() < deadline:
            time.sleep(0.05)

    @property
    def crashed(self) -> list[str]:
        """Hosts that ended by themselves."""
        return [reason for host in self._hosts for reason in host.crashed]

    def calm_down(self) -> None:
        """Strike no more, wait until every request has been read, and end the hosts."""
        time.sleep(4 * LEASE_S)
        self.poster.stop()
        deadline = time.monotonic() + _DRAINED_WITHIN_S
        with contextlib.closing(_connected(self._server, "process")) as store:
            while time.monotonic() < deadline and any(host.is_alive for host in self._hosts):
                if not any(self._waiting(store).values()):
                    break
                time.sleep(0.05)
        for host in self._hosts:
            host.kill()

    def kill_host(self) -> None:
        """SIGKILL a host."""
        self._drawn.choice(self._hosts).restart()

    def kill_server(self) -> None:
        """SIGKILL the server."""
        self._server.kill()
        self._server.ensure()

    def kill_both(self) -> None:
        """SIGKILL the server, and a host before it is back."""
        self._server.kill()
        self._drawn.choice(self._hosts).restart()
        self._server.ensure()

    def cut_power(self) -> None:
        """The server's machine loses power: what was not synced is gone, zeros may have taken its place."""
        self._server.cut_power(padding=self._drawn.choice((0, 0, 1, 5000)))
        self._server.ensure()

    def slow_disk_then_kill(self) -> None:
        """Syncs take long, and the server dies amid one."""
        self._server.slow_disk(self._drawn.uniform(0.02, 0.4))
        time.sleep(self._drawn.uniform(0.2, 1.0))
        self._server.cut_power()
        self._server.slow_disk(0.0)
        self._server.ensure()

    def zombie(self) -> None:
        """A host sleeps until another has taken its worlds, and then goes on where it was."""
        host = self._drawn.choice(self._hosts)
        host.signal(signal.SIGSTOP)
        time.sleep(3 * LEASE_S)
        host.signal(signal.SIGCONT)

    def stall_server(self) -> None:
        """Longer than anybody waits for an answer."""
        self._server.stall(0.6)

    def reset(self) -> None:
        """Connections break."""
        self._drawn.choice(self._proxies).reset()

    def cut_requests(self) -> None:
        """What a host sends arrives when another has its worlds."""
        proxy = self._drawn.choice(self._proxies)
        proxy.holds_requests = True
        time.sleep(self._drawn.uniform(1, 3) * LEASE_S)
        proxy.holds_requests = False

    def cut_answers(self) -> None:
        """A host is not answered, and its requests still arrive."""
        proxy = self._drawn.choice(self._proxies)
        proxy.drops_answers = True
        time.sleep(self._drawn.uniform(1, 3) * LEASE_S)
        proxy.drops_answers = False

    def full_memory(self) -> None:
        """The server takes no more for a while."""
        with contextlib.closing(self._server.raw()) as raw:
            raw.config_set("maxmemory", max(1, raw.info("memory")["used_memory"] // 2))
            time.sleep(self._drawn.uniform(0.2, 0.8))
            raw.config_set("maxmemory", 0)

    def functions_lost(self) -> None:
        """Somebody flushes the functions."""
        with contextlib.closing(self._server.raw()) as raw:
            raw.function_flush("SYNC")

    def step_clock(self) -> None:
        """The server's clock jumps, by minutes, forth or back."""
        self._server.step_clock(self._drawn.uniform(-300, 300))

    def _waiting(self, store: RedisWorldStore) -> dict[WorldId, list[Any]]:
        with contextlib.suppress(StoreUnavailable):
            return store.inbox().read({world: store.inbox().progress(world).cursor for world in WORLDS}, 1)
        return {WORLDS[0]: [None]}
