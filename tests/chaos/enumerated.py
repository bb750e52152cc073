"""Faults at every single call: of a host to its server, and of a function to Redis."""

import contextlib
import itertools
import os
import re
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.chaos.judge import judge
from tests.chaos.life import NUMBERS, PHASES, Phase, StruckLink, live, live_on, store_over
from tests.chaos.server import ChaosServer
from tests.chaos.store_writer import Notes
from tests.chaos.variants import functions_are
from world.errors import StoreError
from world.snapshot import WorldId
from world.store.link import LIBRARY_CODE, Link
from world.store.redis_store import RedisWorldStore


def kill_host_at_every_call(server: ChaosServer, directory: Path, *, stride: int = 1) -> dict[str, Any]:
    """SIGKILL a host before, amid and after each of its calls; the same host then begins anew and must go on."""

    def struck(at_call: int, phase: Phase, world: WorldId, notes: Path) -> bool:
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0, "the host ended by itself"
            return os.WIFSIGNALED(status)
        # The host: nothing of what it was forked from may run in it, so it leaves without saying goodbye.
        try:
            link = StruckLink(
                server.url, at_call=at_call, phase=phase, strike=lambda: os.kill(os.getpid(), signal.SIGKILL)
            )
            live(store_over(link), world, Notes(str(notes)))
            os._exit(0)
        finally:
            os._exit(1)

    return _at_every_call("host killed at every call", server, directory, struck, stride)


def kill_server_at_every_call(server: ChaosServer, directory: Path, *, stride: int = 1) -> dict[str, Any]:
    """SIGKILL and restart the server before, amid and after each call of a host, which lives on."""

    def struck(at_call: int, phase: Phase, world: WorldId, notes: Path) -> bool:
        def strike() -> None:
            server.cut_power()
            server.ensure()

        link = StruckLink(server.url, at_call=at_call, phase=phase, strike=strike)
        with contextlib.closing(store_over(link)) as store, contextlib.suppress(StoreError):
            live(store, world, Notes(str(notes)))
        return link.was_struck

    return _at_every_call("server killed at every call", server, directory, struck, stride)


def fail_in_every_redis_call(server: ChaosServer, directory: Path, *, stride: int = 1) -> dict[str, Any]:
    """Let the functions fail before each of the calls they make to Redis: what they wrote before stays written."""
    with functions_are(failing_code()), contextlib.closing(server.raw()) as raw:
        RedisWorldStore.connect(server.url).close()

        def struck(at_call: int, phase: Phase, world: WorldId, notes: Path) -> bool:
            raw.fcall("chaos_arm", 0, at_call)
            with contextlib.closing(store_over(Link(server.url, durability="disk", timeout_s=2.0))) as store:
                refusals = live_on(store, world, Notes(str(notes)))
            raw.fcall("chaos_arm", 0, -1)
            return refusals > 0

        return _at_every_call("failure in mid-script", server, directory, struck, stride, phases=("before",))


def failing_code() -> str:
    """Return the functions, with a counter that every call to Redis counts down, and that fails the one at zero."""
    head, body = LIBRARY_CODE.split("\n", 1)
    counted = re.sub(r"\bredis\.(p?call)\(", r"counted(redis.\1, ", body)
    return f"""{head}
local left = -1
local function counted(call, ...)
  left = left - 1
  if left == -1 then
    error('struck in mid-script')
  end
  return call(...)
end
{counted}
redis.register_function('chaos_arm', function(_, args)
  left = tonumber(args[1])
  return left
end)
"""


def _at_every_call(
    name: str,
    server: ChaosServer,
    directory: Path,
    struck: Callable[[int, Phase, WorldId, Path], bool],
    stride: int,
    phases: tuple[Phase, ...] = PHASES,
) -> dict[str, Any]:
    """Strike call after call until there is no such call; after each strike the world must live on to its end."""
    num_struck, totals = 0, dict[str, int]()
    for at_call in itertools.count(0, stride):
        reached = False
        for phase in phases:
            world, notes = WorldId(f"w-{uuid.uuid4().hex[:12]}"), directory / f"notes-{uuid.uuid4().hex}"
            if struck(at_call, phase, world, notes):
                reached = True
                num_struck += 1
            with _healthy(server) as store, contextlib.closing(server.raw()) as raw:
                live_on(store, world, Notes(str(notes)))
                verdict = judge(store, raw, notes, [world], {world: NUMBERS}).as_json()
                assert store.record(world).tick == 8
            for count in ("acks", "violations"):
                totals[count] = totals.get(count, 0) + verdict[count]
        if not reached:
            return {"chaos": name, "num_faults": num_struck, "calls": at_call, "stride": stride, **totals}
    raise AssertionError


@contextlib.contextmanager
def _healthy(server: ChaosServer) -> Iterator[Any]:
    server.ensure()
    with contextlib.closing(store_over(Link(server.url, durability="disk", timeout_s=5.0))) as store:
        yield store
