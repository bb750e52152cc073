"""A thousand worlds of four agents at ten ticks a second, by two hosts on two cores, every tick on the disk."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from actors.settings import to_text
from actors.synthetic import FleetHostReport, FleetHostSettings, synthetic_snapshot
from world.errors import LivingWorldsError
from world.snapshot import WorldId
from world.store.bench import used_memory
from world.store.codec import encode_snapshot
from world.store.records import WorldRecord
from world.store.redis_store import RedisWorldStore
from world.store.server import EmbeddedServer

NUM_WORLDS: Final = 1000
NUM_AGENTS: Final = 4
NUM_HOSTS: Final = 2
NUM_CORES: Final = 2
TICKS_PER_S: Final = 10.0
KEYFRAME_EVERY_S: Final = 10.0
MOST_MISSED: Final = 0.01
_HEAD_START_S: Final = 0.5

_BASE_BYTES: Final = 1 << 20
"""Of functions, connections and buffers."""
_WORLD_BYTES: Final = 3072
"""Of a world's hash, indexes and key names."""
_KEYFRAME_OVERHEAD_BYTES: Final = 512
_TICK_OVERHEAD_BYTES: Final = 64
"""Of a log entry: its id, its digest, and its share of the stream's nodes."""
_SLACK: Final = 1.25
"""For what the allocator rounds up and a stream's last node keeps free."""


def predicted_bytes(*, num_worlds: int, ticks: float, keyframes: float, frame_bytes: float, keyframe_bytes: int) -> int:
    """Return the bound on what the server needs for worlds that have committed so many ticks and keyframes each.

    1 MB + worlds · 1.25 · (3,072 + keyframes · (keyframe + 512) + ticks · (frame + 64)) bytes
    """
    keyframed = keyframes * (keyframe_bytes + _KEYFRAME_OVERHEAD_BYTES)
    logged = ticks * (frame_bytes + _TICK_OVERHEAD_BYTES)
    return _BASE_BYTES + int(num_worlds * _SLACK * (_WORLD_BYTES + keyframed + logged))


def bench_fleet(seconds: float = 60.0, *, num_worlds: int = NUM_WORLDS) -> dict[str, Any]:
    """Return the share of ticks that were acknowledged before the next was due, and what the server needed.

    Effects are synthetic: as large as homestead's, made without a model or a field. Everything after them is real:
    host, encoding, group commits, `appendfsync always`. Raises `LivingWorldsError` if a host fails.
    """
    with (
        _on_few_cores(),
        tempfile.TemporaryDirectory(prefix="worlds-bench-") as directory,
        EmbeddedServer(Path(directory)) as server,
    ):
        before = used_memory(server.url)
        worlds = make_worlds(server.url, num_worlds)
        reports = _run_hosts(server.url, worlds, seconds)
        used = used_memory(server.url) - before
    due, missed = sum(report.due for report in reports), sum(report.missed for report in reports)
    ticks = sum(report.commits for report in reports) / num_worlds
    frame_bytes = sum(report.frame_bytes for report in reports) / len(reports)
    predicted = predicted_bytes(
        num_worlds=num_worlds,
        ticks=max(ticks, seconds * TICKS_PER_S),
        keyframes=seconds / KEYFRAME_EVERY_S + 2,
        frame_bytes=frame_bytes,
        keyframe_bytes=len(encode_snapshot(synthetic_snapshot(0, NUM_AGENTS))),
    )
    share = missed / due
    return {
        "bench": "fleet",
        "value": round(share, 5),
        "unit": "share of deadlines missed",
        "baseline": {"name": "most that may be missed", "value": MOST_MISSED},
        "ratio": round(share / MOST_MISSED, 3),
        "details": {
            "worlds": num_worlds,
            "agents": num_worlds * NUM_AGENTS,
            "hosts": NUM_HOSTS,
            "cores": _num_cores(),
            "ticks_per_s": TICKS_PER_S,
            "seconds": seconds,
            "ticks_due": due,
            "ticks_missed": missed,
            "commits": sum(report.commits for report in reports),
            "ack_after_due_ms": [_quantiles(report.lateness_s) for report in reports],
            "group_commit_ms": [_quantiles(report.group_commit_s) for report in reports],
            "host_cpu_share": [round(report.cpu_s / seconds, 3) for report in reports],
            "frame_bytes": round(frame_bytes, 1),
            "redis_bytes": used,
            "redis_bytes_predicted": predicted,
            "redis_within_prediction": used <= predicted,
        },
    }


def make_worlds(url: str, num_worlds: int) -> list[WorldId]:
    """Make synthetic worlds before their first tick."""
    with closing(RedisWorldStore.connect(url)) as store:
        worlds = [WorldId(f"fleet-{number}") for number in range(num_worlds)]
        for number, world in enumerate(worlds):
            snapshot = synthetic_snapshot(number, NUM_AGENTS)
            record = WorldRecord(
                world=world,
                name=world,
                kind="dreamed",
                env="synthetic",
                agents=NUM_AGENTS,
                tick=0,
                status="running",
                owner="",
                epoch=0,
                weights_version=0,
                tokenizer="",
            )
            store.create(record, snapshot)
    return worlds


def _run_hosts(url: str, worlds: list[WorldId], seconds: float) -> list[FleetHostReport]:
    processes: list[subprocess.Popen[str]] = []
    for number in range(NUM_HOSTS):
        settings = FleetHostSettings(
            name=f"host-{number}",
            redis_url=url,
            worlds=tuple(worlds[number::NUM_HOSTS]),
            ticks_per_s=TICKS_PER_S,
            seconds=seconds,
        )
        command = [sys.executable, "-m", "actors.synthetic", to_text(settings)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        processes.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)
        )
    try:
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline() != "adopted\n":
                raise LivingWorldsError("a host of the measurement could not adopt its worlds; see above")
        begin_at = time.time() + _HEAD_START_S
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(f"{begin_at}\n")
            process.stdin.flush()
        said = [process.communicate(timeout=seconds + 60)[0] for process in processes]
        if any(process.returncode for process in processes):
            raise LivingWorldsError("a host of the measurement failed; see above")
        return [msgspec.json.decode(line, type=FleetHostReport) for line in said]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextmanager
def _on_few_cores() -> Iterator[None]:
    """Keep this process, and what it starts meanwhile, to two cores where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(before)[:NUM_CORES]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return min(NUM_CORES, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def _quantiles(seconds: tuple[float, ...]) -> dict[str, float]:
    return {name: round(1000 * value, 1) for name, value in zip(("p50", "p99", "max"), seconds, strict=True)}
