"""The measurements of the parts, each with the machine that it was measured on."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.bench_architectures import bench_architectures
from cluster.bench_fleet import bench_fleet
from cluster.bench_takeover import bench_takeover
from cluster.machine import machine
from learner.allocation import keep_freed_memory
from learner.bench import bench_replay
from learner.memory_bench import bench_memory
from world.bench_dream import bench_dream
from world.envs.bench import bench_env
from world.errors import ConfigError
from world.store.bench import PAYLOADS, bench_commit, keep_from_rewriting, server_benchmark
from world.store.bench_list import bench_list
from world.store.bench_storage import bench_storage
from world.store.bench_travel import bench_travel
from world.store.records import Durability
from world.store.server import EmbeddedServer

BENCHES = (
    "env",
    "replay",
    "commit",
    "fleet",
    "takeover",
    "storage",
    "travel",
    "list",
    "dream",
    "architectures",
    "memory",
)
LEAST_COMMIT_RATIO = 0.6
"""Of commits to bare XADDs, for 400 bytes and 256 a round trip, on the disk."""
_LEVELS: tuple[Durability, ...] = ("process", "disk")


def measure(
    name: str, *, env: str, seconds: float | None, redis_url: str | None, data: Path | None = None
) -> dict[str, Any]:
    """Return one measurement. Raises `ConfigError` for a name there is none of, and for data that are not there."""
    match name:
        case "env":
            found = bench_env(env, seconds or 6.0, 0)
        case "replay":
            found = _replay()
        case "commit":
            found = _commit(seconds or 30.0, redis_url)
        case "fleet":
            if redis_url is not None:
                raise ConfigError("bench fleet fills a server with worlds, so it uses one of its own; omit --redis-url")
            found = bench_fleet(seconds or 60.0)
        case "takeover":
            found = bench_takeover()
        case "storage":
            found = bench_storage(env)
        case "travel":
            found = bench_travel()
        case "list":
            found = bench_list()
        case "memory":
            found = bench_memory()
        case "dream":
            keep_freed_memory()
            found = bench_dream(seconds or 30.0, env=env)
        case "architectures":
            if data is None:
                raise ConfigError("bench architectures trains from recorded worlds; give --data, of `worlds train`")
            found = bench_architectures(data, seconds)
        case _:
            raise ConfigError(f"there is no bench {name!r}; there are {', '.join(BENCHES)}")
    return {**found, "machine": machine()}


def _replay() -> dict[str, Any]:
    details = bench_replay()
    return {
        "bench": "replay",
        "value": details["sample_items_per_s"],
        "unit": "agent-ticks/s",
        "baseline": None,
        "ratio": None,
        "details": details,
    }


def _commit(seconds: float, redis_url: str | None) -> dict[str, Any]:
    """Measure every size of a tick at both levels; what counts is 400 bytes on the disk, which gets half the time."""
    share = seconds / (2 * len(PAYLOADS) - 1) / 2
    found, details = dict[str, Any](), dict[str, Any]()
    for durability in _LEVELS:
        details[durability] = {}
        for payload_bytes in PAYLOADS:
            is_headline = (durability, payload_bytes) == ("disk", PAYLOADS[0])
            with _server(redis_url, durability) as url:
                measured = bench_commit(
                    url, seconds / 2 if is_headline else share, payload_bytes=payload_bytes, durability=durability
                )
                measured["details"]["server_benchmark"] = server_benchmark(url, payload_bytes)
            details[durability][str(payload_bytes)] = measured["details"]
            found = measured if is_headline else found
    return {**found, "details": {"least_ratio": LEAST_COMMIT_RATIO, **details}}


@contextmanager
def _server(redis_url: str | None, durability: Durability) -> Iterator[str]:
    if redis_url is not None:
        yield redis_url
        return
    with (
        tempfile.TemporaryDirectory(prefix="worlds-bench-") as directory,
        EmbeddedServer(Path(directory), durability) as server,
    ):
        keep_from_rewriting(server.url)
        yield server.url
