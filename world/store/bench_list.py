"""How long it takes to list very many worlds, and how long the server is held up by it at most."""

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np

from world.snapshot import WorldId
from world.store import keys
from world.store.link import Link
from world.store.records import WorldRecord
from world.store.redis_store import RedisWorldStore
from world.store.replies import record_fields
from world.store.server import EmbeddedServer
from world.store.wire import Part

NUM_WORLDS: Final = 100_000
_PAGE: Final = 100
_BATCH: Final = 5000
_PING_EVERY_S: Final = 0.001


def bench_list(*, num_worlds: int = NUM_WORLDS) -> dict[str, Any]:
    """Return how long a page, and a walk through all pages, of so many worlds take, beside the pings of another client.

    The value is the p95 of a page of 100 in ms, from the beginning to the end of the list. `command_ms` tells how long
    the server was busy with one command, from its slow log; the pings are from a thread of this same process.
    """
    with (
        tempfile.TemporaryDirectory(prefix="worlds-bench-") as directory,
        EmbeddedServer(Path(directory), "process") as server,
        closing(RedisWorldStore.connect(server.url, durability="process")) as store,
        closing(Link(server.url, durability="process", timeout_s=60.0)) as link,
    ):
        for commands in _worlds(num_worlds):
            for reply in link.call_all(commands):
                link.answer(reply)
        link.one("SET", keys.INDEX_BUILT, 1)
        history = store.history()
        idle = _pings(server.url, lambda: time.sleep(0.5))
        link.one("CONFIG", "SET", "slowlog-log-slower-than", 0, "slowlog-max-len", 200_000)
        link.one("SLOWLOG", "RESET")
        pages: list[float] = []
        found: list[WorldId] = []

        def walk() -> None:
            while True:
                begun = time.perf_counter()
                page = history.listed(after=found[-1] if found else None, limit=_PAGE)
                pages.append(time.perf_counter() - begun)
                found.extend(record.world for record in page)
                if not page:
                    return

        begun = time.perf_counter()
        meanwhile = _pings(server.url, walk)
        walked_s = time.perf_counter() - begun
        commands_us = [int(entry[2]) for entry in link.one("SLOWLOG", "GET", 200_000) if entry[3][0] != b"SLOWLOG"]
        link.one("CONFIG", "SET", "slowlog-log-slower-than", -1)
        begun = time.perf_counter()
        all_at_once = len(store.records())
        records_s = time.perf_counter() - begun
    assert len(set(found)) == len(found) == all_at_once == num_worlds
    p50, p95 = np.percentile(pages, (50, 95)) * 1000
    return {
        "bench": "list",
        "value": round(float(p95), 2),
        "unit": "ms a page of 100",
        "baseline": None,
        "ratio": None,
        "details": {
            "worlds": num_worlds,
            "page_p50_ms": round(float(p50), 2),
            "page_p95_ms": round(float(p95), 2),
            "all_pages_s": round(walked_s, 2),
            "all_at_once_s": round(records_s, 2),
            "command_ms": {
                "p99.9": round(float(np.percentile(commands_us, 99.9)) / 1000, 3),
                "slowest": max(commands_us) / 1000,
            },
            "ping_p99_ms": {"idle": idle, "meanwhile": meanwhile},
        },
    }


def _worlds(num_worlds: int) -> Iterator[list[tuple[Part, ...]]]:
    """Yield the commands that enter worlds, as far as a list looks at them."""
    commands: list[tuple[Part, ...]] = []
    for number in range(num_worlds):
        world = WorldId(f"w{number:012x}")
        record = WorldRecord(
            world=world,
            name=f"world {number}",
            kind="dreamed",
            env="homestead",
            agents=4,
            tick=number,
            status="running",
            owner="",
            epoch=1,
            weights_version=3,
            tokenizer="0" * 16,
        )
        fields = record_fields(record) | {"tk": number, "ep": 1, "ow": "host-0", "lu": 0, "no": "n" * 16, "at": number}
        flat = [part for item in fields.items() for part in item]
        commands.append(("HSET", keys.meta(world), "dg", bytes(16), *flat))
        # Made in one millisecond each hundred, so that ties are met.
        commands.append(("ZADD", keys.index(world), 1_700_000_000_000 + number // 100, world))
        if len(commands) >= _BATCH:
            yield commands
            commands = []
    yield commands


def _pings(url: str, work: Any) -> float:
    """Return the p99 in ms of another client's pings while some work is done."""
    stopped = threading.Event()
    trips: list[float] = []

    def ping() -> None:
        with closing(Link(url, durability="process", timeout_s=60.0)) as link:
            while not stopped.is_set():
                begun = time.perf_counter()
                link.one("PING")
                trips.append(time.perf_counter() - begun)
                stopped.wait(_PING_EVERY_S)

    thread = threading.Thread(target=ping)
    thread.start()
    try:
        work()
    finally:
        stopped.set()
        thread.join()
    return round(float(np.percentile(trips, 99)) * 1000, 3)
