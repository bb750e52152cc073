"""A synthetic host that obeys: orders as lines of JSON on its input, reports as lines on its output.

Run as a program: python -m actors.synthetic_service NAME URL LEASE_S TICKS_PER_S
"""

import os
import sys
from dataclasses import dataclass, field

import msgspec

from actors.collection import freeze_imports
from actors.host_config import WorldHostConfig
from actors.ports import HostReport
from actors.synthetic import synthetic_host
from actors.world_host import WorldHost
from world.errors import LivingWorldsError
from world.snapshot import WorldId
from world.store.redis_store import RedisWorldStore


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """A call of a world host."""

    call: str
    """adopt, drop, run_until, or stop."""
    worlds: list[str] = field(default_factory=list)
    targets: dict[str, int] = field(default_factory=dict)
    budget_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came of it: a report, or the refusal by its class and message."""

    report: HostReport | None
    error: str = ""
    message: str = ""


def serve(name: str, url: str, lease_s: float, ticks_per_s: float) -> None:
    """Obey until the input ends."""
    store = RedisWorldStore.connect(url, lease_s=lease_s)
    host = synthetic_host(name, store, WorldHostConfig(dream_ticks_per_s=ticks_per_s, lease_s=lease_s))
    freeze_imports()
    for line in sys.stdin:
        order = msgspec.json.decode(line, type=Order)
        try:
            answer = Answer(report=_obey(host, order))
        except LivingWorldsError as error:
            answer = Answer(report=None, error=type(error).__name__, message=str(error))
        print(msgspec.json.encode(answer).decode(), flush=True)


def _obey(host: WorldHost, order: Order) -> HostReport:
    worlds = [WorldId(world) for world in order.worlds]
    match order.call:
        case "adopt":
            return host.adopt(worlds)
        case "drop":
            return host.drop(worlds)
        case "run_until":
            return host.run_until({WorldId(world): tick for world, tick in order.targets.items()}, order.budget_s)
        case _:
            return host.stop()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    serve(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
