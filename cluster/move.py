"""Moving a living world to another host: a wish is written down, the run's supervisor follows it."""

import time
from collections.abc import Callable
from typing import Any

from world.errors import LivingWorldsError, NotRunning
from world.snapshot import WorldId
from world.store.redis_store import RedisWorldStore

_POLL_S = 0.05
ANYWHERE = "any"


def move_world(
    store: RedisWorldStore,
    world: WorldId,
    host: str,
    *,
    within_s: float = 30.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Wish a world to be on a host, and wait until it lives there; `ANYWHERE` takes a wish back and waits for nothing.

    It is drained where it is, with a keyframe, and adopted where it goes: no tick is lost or repeated. Raises
    `UnknownWorld`, `NotRunning`, and `LivingWorldsError` where no run follows within `within_s`; the wish is then
    taken back.
    """
    before, began = store.record(world), clock()
    if before.status != "running":
        raise NotRunning(f"world {world!r}: it is {before.status}; resume it before it is moved")
    store.places().wish(world, "" if host == ANYWHERE else host)
    after = before
    while host not in (ANYWHERE, after.owner):
        if clock() - began > within_s:
            store.places().wish(world, "")
            raise LivingWorldsError(
                f"world {world!r}: no host {host!r} took it within {within_s:g} s, {after.owner or 'nobody'} has it;"
                " a run names its hosts host-0, host-1, …, and must be under way"
            )
        sleep(_POLL_S)
        after = store.record(world)
    return {
        "world": world,
        "from": before.owner or None,
        "to": after.owner or None,
        "tick_before": before.tick,
        "tick_after": after.tick,
        "epoch": after.epoch,
        "seconds": round(clock() - began, 3),
    }
