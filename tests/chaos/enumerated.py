"""Faults at every single call: of a host to its server, and of a function to Redis."""

import contextlib
import itertools
import os
import re
import signal
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from tests.chaos.acts import Act
from tests.chaos.judge import judge
from tests.chaos.life import NUMBERS, PATIENCE_S, PHASES, Phase, StruckLink, live, live_on, store_over
from tests.chaos.scene import Scene
from tests.chaos.server import ChaosServer
from tests.chaos.store_writer import Notes
from tests.chaos.variants import functions_are
from tests.forked import is_killed
from world.errors import LivingWorldsError, StoreError
from world.snapshot import WorldId
from world.store.link import LIBRARY_CODE, Link
from world.store.redis_store import RedisWorldStore

Work: TypeAlias = Callable[[RedisWorldStore], object]
Strike: TypeAlias = Callable[[ChaosServer, int, Phase, Work], bool]
"""Does the work over a store whose nth call is struck, in that phase; returns whether there was such a call."""


def host_dies(server: ChaosServer, at_call: int, phase: Phase, work: Work) -> bool:
    """SIGKILL whoever works before, amid or after a call to the server."""

    def host() -> None:
        strike = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
        work(store_over(StruckLink(server.url, at_call=at_call, phase=phase, strike=strike)))

    return is_killed(host)


def server_dies(server: ChaosServer, at_call: int, phase: Phase, work: Work) -> bool:
    """SIGKILL and restart the server before, amid or after a call; whoever works lives on and is told."""

    def strike() -> None:
        server.cut_power()
        server.ensure()

    link = StruckLink(server.url, at_call=at_call, phase=phase, strike=strike)
    with contextlib.closing(store_over(link)) as store, contextlib.suppress(StoreError):
        work(store)
    return link.was_struck


def function_fails(server: ChaosServer, at_call: int, phase: Phase, work: Work) -> bool:
    """Let a function fail before one of its calls to Redis: what it wrote before stays written."""
    with contextlib.closing(server.raw()) as raw:
        link = Link(server.url, durability="disk", timeout_s=PATIENCE_S)
        with contextlib.closing(store_over(link)) as store, contextlib.suppress(StoreError):
            link.one("PING")
            raw.fcall("chaos_arm", 0, at_call)
            work(store)
        return int(raw.fcall("chaos_arm", 0, -1)) < 0


def kill_host_at_every_call(server: ChaosServer, directory: Path, *, stride: int = 1) -> dict[str, Any]:
    """SIGKILL a host before, amid and after each of its calls; the same host then begins anew and must go on."""
    return _in_every_call("host killed at every call", server, directory, host_dies, stride)


def kill_server_at_every_call(server: ChaosServer, directory: Path, *, stride: int = 1) -> dict[str, Any]:
    """SIGKILL and restart the server before, amid and after each call of a host, which lives on."""
    return _in_every_call("server killed at every call", server, directory, server_dies, stride)


def fail_in_every_redis_call(server: ChaosServer, directory: Path, *, stride: int = 1) -> dict[str, Any]:
    """Let the functions fail before each of the calls they make to Redis: what they wrote before stays written."""
    with functions_are(failing_code()):
        return _in_every_call("failure in mid-script", server, directory, function_fails, stride, phases=("before",))


def strike_act_at_every_call(act: Act, server: ChaosServer, directory: Path, *, stride: int = 1) -> dict[str, Any]:
    """Strike an act on a world by all three at every call; nothing is lost, and doing it again completes it."""
    strikes: tuple[tuple[Strike, str, tuple[Phase, ...]], ...] = (
        (host_dies, LIBRARY_CODE, PHASES),
        (server_dies, LIBRARY_CODE, PHASES),
        (function_fails, failing_code(), ("before",)),
    )
    struck: dict[str, int] = {}
    problems: list[str] = []
    directory.mkdir(parents=True, exist_ok=True)
    for strike, code, phases in strikes:
        with functions_are(code):
            for at_call, phase, reached in _every_call(phases, stride):
                with _healthy(server) as store, contextlib.closing(server.raw()) as raw:
                    scene = Scene(store, raw, directory)
                    act.prepare(scene)
                if not strike(server, at_call, phase, partial(act.do, scene)):
                    continue
                reached.add(at_call)
                struck[strike.__name__] = struck.get(strike.__name__, 0) + 1
                with _healthy(server) as store, contextlib.closing(server.raw()) as raw:
                    scene.store, scene.raw = store, raw
                    found = act.broken(scene)
                    try:
                        act.do(scene, store)
                    except LivingWorldsError as error:
                        found.append(f"it cannot be done again: {error}")
                    else:
                        found += act.undone(scene)
                problems += [f"{strike.__name__} {phase} call {at_call}: {text}" for text in found]
    name = f"{type(act).__name__}, struck at every call"
    counts = {"num_faults": sum(struck.values()), "struck": struck, "violations": len(problems)}
    return {"chaos": name, **counts, "stride": stride, "problems": problems[:20]}


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
  local before = left
  left = tonumber(args[1])
  return before
end)
"""


def _in_every_call(
    name: str,
    server: ChaosServer,
    directory: Path,
    strike: Strike,
    stride: int,
    phases: tuple[Phase, ...] = PHASES,
) -> dict[str, Any]:
    """Strike a host's life at call after call; after each strike the world must live on to its end."""
    num_struck, totals = 0, dict[str, int]()
    for at_call, phase, reached in _every_call(phases, stride):
        world, notes = WorldId(f"w-{uuid.uuid4().hex[:12]}"), directory / f"notes-{uuid.uuid4().hex}"
        if strike(
            server, at_call, phase, lambda store, world=world, notes=notes: live(store, world, Notes(str(notes)))
        ):  # type: ignore[misc]
            reached.add(at_call)
            num_struck += 1
        with _healthy(server) as store, contextlib.closing(server.raw()) as raw:
            live_on(store, world, Notes(str(notes)))
            verdict = judge(store, raw, notes, [world], {world: NUMBERS}).as_json()
            assert store.record(world).tick == 8
        for count in ("acks", "violations"):
            totals[count] = totals.get(count, 0) + verdict[count]
    return {"chaos": name, "num_faults": num_struck, "calls": at_call, "stride": stride, **totals}


def _live(world: WorldId, notes: Path, store: RedisWorldStore) -> None:
    live(store, world, Notes(str(notes)))


def _every_call(phases: tuple[Phase, ...], stride: int) -> Iterator[tuple[int, Phase, set[int]]]:
    """Yield call after call, each with every phase and the calls that were reached, until one was not."""
    reached: set[int] = set()
    for at_call in itertools.count(0, stride):
        for phase in phases:
            yield at_call, phase, reached
        if at_call not in reached:
            return


@contextlib.contextmanager
def _healthy(server: ChaosServer) -> Iterator[RedisWorldStore]:
    server.ensure()
    with contextlib.closing(store_over(Link(server.url, durability="disk", timeout_s=PATIENCE_S))) as store:
        yield store
