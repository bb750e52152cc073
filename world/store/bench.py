"""How many commits a second a server takes, beside the least it could do instead: a bare XADD of the same bytes.

Both run in turns in one process on one connection, so that they meet the same disk and the same neighbours.
"""

import secrets
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import unquote

import numpy as np

from world.envs.grounded import ViewLayout
from world.snapshot import Snapshot, WorldId
from world.store import keys
from world.store.codec import DIGEST_BYTES
from world.store.link import Link
from world.store.log import LogEntry, PackedCommit
from world.store.records import Durability, FencingToken, WorldRecord
from world.store.redis_store import RedisWorldStore
from world.store.wire import Command

PIPELINES: Final = (1, 32, 256)
PAYLOADS: Final = (400, 4096, 65_536)
_SLICE_S: Final = 0.05
"""Short, so that what disturbs the disk for a while disturbs both kinds of calls."""
_CPU_TRIPS: Final = 20
_MOST_BYTES: Final = 96 << 20
"""Of one kind of call in one measurement: it all stays in the server's memory until the measurement ends."""


def bench_commit(
    url: str, seconds: float = 6.0, *, payload_bytes: int = 400, durability: Durability = "disk"
) -> dict[str, Any]:
    """Return commits/s of ticks of `payload_bytes` random bytes, one tick each of 1, 32 and 256 worlds a round trip.

    The value is that of 256; `details` has for each the rate, the round trip's p50 and p99 in ms, and the XADD's.
    The worlds it makes are removed again. Raises what `RedisWorldStore.connect` raises.
    """
    store = RedisWorldStore.connect(url, durability=durability)
    link = Link(url, durability=durability, timeout_s=30.0)
    tag = secrets.token_hex(6)
    worlds = [WorldId(f"bench-{tag}-{number}") for number in range(max(PIPELINES))]
    streams = [f"bench:{tag}:{number}" for number in range(max(PIPELINES))]
    payload = secrets.token_bytes(payload_bytes)
    try:
        commits = _Commits(store, [_new_world(store, world) for world in worlds], payload)
        for reply in link.write_all(commits.calls(first := commits.prepared(len(worlds)))):
            link.answer(reply)
        commits.acknowledged(first)
        appends = _Appends(streams, payload)
        details: dict[str, Any] = {"payload_bytes": payload_bytes, "durability": durability}
        for num_calls in PIPELINES:
            ours, bare = _in_turns(
                link,
                (commits, appends),
                num_calls,
                seconds / len(PIPELINES),
                _MOST_BYTES // (num_calls * payload_bytes) + 1,
            )
            details[f"pipeline_{num_calls}"] = {
                **_rates(ours, num_calls, "commits_per_s"),
                "xadd": _rates(bare, num_calls, "xadds_per_s"),
            }
        details["server_cpu_us"] = {"commit": _server_cpu(link, commits), "xadd": _server_cpu(link, appends)}
    finally:
        _remove(link, worlds, streams)
        link.close()
        store.close()
    widest = details[f"pipeline_{max(PIPELINES)}"]
    value, baseline = widest["commits_per_s"], widest["xadd"]["xadds_per_s"]
    return {
        "bench": "store_commit",
        "value": value,
        "unit": "commits/s",
        "baseline": {"name": f"bare XADD, pipeline {max(PIPELINES)}", "value": baseline},
        "ratio": round(value / baseline, 3),
        "details": details,
    }


class _Calls(Protocol):
    """A kind of call. What is prepared is what a caller has in hand; making calls of it is measured."""

    def prepared(self, num_calls: int) -> Sequence[Any]:
        """Return what the next round trip is made of."""

    def calls(self, prepared: Sequence[Any]) -> list[Command]:
        """Return its calls."""


class _Appends:
    """Bare XADDs of the same bytes, each to a stream of its own."""

    def __init__(self, streams: Sequence[str], payload: bytes) -> None:
        self._calls: list[Command] = [("XADD", name, "*", "d", bytes(DIGEST_BYTES), "e", payload) for name in streams]

    def prepared(self, num_calls: int) -> Sequence[Any]:
        return self._calls[:num_calls]

    def calls(self, prepared: Sequence[Any]) -> list[Command]:
        return list(prepared)


class _Commits:
    """Commit calls of worlds that advance by one tick with each."""

    def __init__(self, store: RedisWorldStore, tokens: Sequence[FencingToken], payload: bytes) -> None:
        self._store, self._tokens, self._payload = store, tokens, payload
        self._ticks = [0] * len(tokens)

    def prepared(self, num_calls: int) -> Sequence[Any]:
        return [self._advance(number) for number in range(num_calls)]

    def calls(self, prepared: Sequence[Any]) -> list[Command]:
        return [call for _, call in self._store.calls.calls(prepared)]

    def acknowledged(self, prepared: Sequence[Any]) -> None:
        for token, packed in prepared:
            self._store.calls.acknowledged(token.world, packed)

    def _advance(self, number: int) -> tuple[FencingToken, PackedCommit]:
        before = self._ticks[number]
        self._ticks[number] = before + 1
        # The server compares digests only where a commit is repeated; none is here.
        entry = LogEntry(before + 1, bytes(DIGEST_BYTES), self._payload)
        return self._tokens[number], PackedCommit(before, bytes(DIGEST_BYTES), (entry,), b"", 0)


def _new_world(store: RedisWorldStore, world: WorldId) -> FencingToken:
    layout = ViewLayout(rows=1, cols=1, map_rows=0, tile_px=0, num_values=2)
    snapshot = Snapshot.empty("dreamed", 0, layout, num_agents=1, memory_size=0)
    record = WorldRecord(
        world=world,
        name=world,
        kind="dreamed",
        env="none",
        agents=1,
        tick=0,
        status="running",
        owner="",
        epoch=0,
        weights_version=0,
        tokenizer="",
    )
    store.create(record, snapshot)
    return store.acquire(world, owner="bench", nonce=secrets.token_bytes(16))


def used_memory(url: str) -> int:
    """Return the bytes that a server uses. Raises `StoreUnavailable`."""
    with closing(Link(url, durability="process", timeout_s=30.0)) as link:
        return int(_info(link, "memory")["used_memory"])


def keep_from_rewriting(url: str) -> None:
    """Let a server of our own not rewrite its append-only file while it is measured."""
    with closing(Link(url, durability="process", timeout_s=30.0)) as link:
        link.one("CONFIG", "SET", "auto-aof-rewrite-percentage", 0)


def server_benchmark(url: str, payload_bytes: int, num_calls: int = 50_000) -> dict[str, Any] | None:
    """Return what the server's own benchmark tool reaches with XADDs of as many bytes; None where there is no tool.

    One client, 256 commands in flight. It knows no MULTI: a server that syncs always does so after each piece of the
    pipeline that it reads, several times as often as for a group commit.
    """
    tool = shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")
    if tool is None or not url.startswith("unix://"):
        return None
    stream = f"bench:{secrets.token_hex(6)}"
    command = [tool, "-s", unquote(url.removeprefix("unix://")), "-c", "1", "-P", str(max(PIPELINES)), "--csv"]
    command += ["-n", str(min(num_calls, _MOST_BYTES // payload_bytes))]
    command += ["XADD", stream, "*", "d", "d" * DIGEST_BYTES, "e", secrets.token_hex(payload_bytes // 2)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    with closing(Link(url, durability="process", timeout_s=30.0)) as link:
        link.one("UNLINK", stream)
    fields = [field.strip('"') for field in said.stdout.splitlines()[-1].split('","')] if said.stdout else []
    try:
        return {"tool": Path(tool).name, "xadds_per_s": round(float(fields[1]))}
    except (IndexError, ValueError):
        return None


def _server_cpu(link: Link, kind: _Calls) -> float:
    """Return what one call costs the server's main thread, in microseconds of its processor."""
    before, num = _cpu_s(link), 0
    for _ in range(_CPU_TRIPS):
        prepared = kind.prepared(max(PIPELINES))
        link.write_all(kind.calls(prepared))
        num += len(prepared)
    return round((_cpu_s(link) - before) / num * 1e6, 2)


def _cpu_s(link: Link) -> float:
    found = _info(link, "cpu")
    return float(found["used_cpu_user_main_thread"]) + float(found["used_cpu_sys_main_thread"])


def _info(link: Link, section: str) -> dict[str, str]:
    lines: list[str] = link.one("INFO", section).decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _in_turns(
    link: Link, kinds: Sequence[_Calls], num_calls: int, seconds: float, most_trips: int
) -> list[list[float]]:
    """Return the durations in seconds of the round trips of each kind, run in slices by turns."""
    trips: list[list[float]] = [[] for _ in kinds]
    ends = time.perf_counter() + seconds
    while not all(trips) or (time.perf_counter() < ends and max(map(len, trips)) < most_trips):
        for kind, durations in zip(kinds, trips, strict=True):
            slice_ends = time.perf_counter() + min(_SLICE_S, seconds / 4)
            while time.perf_counter() < slice_ends and len(durations) < most_trips:
                prepared = kind.prepared(num_calls)
                begun = time.perf_counter()
                for reply in link.write_all(kind.calls(prepared)):
                    link.answer(reply)
                durations.append(time.perf_counter() - begun)
    return trips


def _rates(durations: Sequence[float], num_calls: int, name: str) -> dict[str, float]:
    p50, p99 = np.percentile(durations, (50, 99)) * 1000
    return {
        name: round(num_calls * len(durations) / sum(durations)),
        "p50_ms": round(float(p50), 3),
        "p99_ms": round(float(p99), 3),
    }


def _remove(link: Link, worlds: Sequence[WorldId], streams: Sequence[str]) -> None:
    removals: list[Command] = [("UNLINK", *streams)]
    for world in worlds:
        of = (keys.meta(world), keys.log(world), keys.keyframe_index(world), keys.keyframe(world, 0))
        removals += [("UNLINK", *of), ("ZREM", keys.index(world), world)]
    for reply in link.call_all(removals):
        link.answer(reply)
