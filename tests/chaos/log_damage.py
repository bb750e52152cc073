"""Damage to the server's append-only file, at any byte: what was acknowledged stays, or is known to be gone."""

import contextlib
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.life import live
from tests.chaos.store_writer import HOT_LOG_TICKS, Notes
from tests.store_cases import LivingField
from world.errors import CorruptRecord, LivingWorldsError, StoreUnavailable
from world.snapshot import WorldId
from world.store.records import Ack, Commit
from world.store.redis_store import RedisWorldStore
from world.store.server import EmbeddedServer

_WORLD = WorldId("damaged")


class _WatchedStore(RedisWorldStore):
    """Remembers how long the log was when each commit was acknowledged."""

    log: Path
    acked: "list[tuple[int, int]]"

    def commit(self, commits: Sequence[Commit]) -> list[Ack | Exception]:
        answers = super().commit(commits)
        self.acked.append((self.log.stat().st_size, commits[-1].effects[-1].tick))
        return answers


@dataclass(frozen=True)
class _Recorded:
    """A server's data after a world's life, and what was acknowledged at which length of its log."""

    directory: Path
    log: bytes
    name: str
    born: int
    """Length of the log before the world was made: what lies there is the functions' text."""
    acked: list[tuple[int, int]]
    ticks: list[tuple[int, str]]

    def damaged(self, directory: Path, log: bytes) -> EmbeddedServer:
        """Return a server, not started, on a copy with this log instead."""
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(self.directory / "appendonlydir", directory / "appendonlydir")
        (directory / "appendonlydir" / self.name).write_bytes(log)
        return EmbeddedServer(directory)


def cut_log_at_many_bytes(directory: Path, *, num: int, seed: int) -> dict[str, Any]:
    """Cut the log at drawn bytes, half of the times with zeros in its place, and start the server again."""
    drawn, recorded = random.Random(seed), _record(directory / "recorded")
    outcomes: Counter[str] = Counter()
    begins = recorded.acked[0][0]
    for at in sorted(drawn.sample(range(begins, len(recorded.log) + 1), num)):
        padding = bytes(drawn.choice((0, 0, 1, 70_000)))
        server = recorded.damaged(directory / "cut", recorded.log[:at] + padding)
        promised = max(tick for size, tick in recorded.acked if size <= at)
        outcomes[_outcome(server, recorded, promised)] += 1
    return _report("log cut at any byte", outcomes, allowed=("whole",))


def flip_bits(directory: Path, *, num: int, seed: int) -> dict[str, Any]:
    """Flip one bit of the log, and start the server again: other content is never taken for what was committed.

    The server does not checksum its commands. A bit of the key's name in the very last command moves a world's tick
    to a key that nobody reads, and the world is where it was before that commit: this is counted, and known.
    """
    drawn, recorded = random.Random(seed), _record(directory / "recorded")
    outcomes: Counter[str] = Counter()
    for _ in range(num):
        log = bytearray(recorded.log)
        # A few in the text of the functions, which is the longest part of so short a log.
        at = drawn.randrange(recorded.born if drawn.random() < 0.9 else 0, len(log))
        log[at] ^= 1 << drawn.randrange(8)
        server = recorded.damaged(directory / "flipped", bytes(log))
        outcome = _outcome(server, recorded, recorded.acked[-1][1])
        if outcome == "lost" and recorded.acked[-2][0] <= at < recorded.acked[-1][0]:
            outcome = "last commit undone"
        outcomes[outcome] += 1
    # A length that now reaches beyond the end makes the server cut the log there, which it says in its own log.
    known = ("whole", "detected", "cut, and said so", "last commit undone")
    return _report("one bit of the log flipped", outcomes, allowed=known)


def _record(directory: Path) -> _Recorded:
    with EmbeddedServer(directory) as server:
        notes = directory / "notes"
        log = next((directory / "appendonlydir").glob("*.incr.aof"))
        plain = RedisWorldStore.connect(server.url, hot_log_ticks=HOT_LOG_TICKS)
        store = _WatchedStore(plain._link, durability="disk", lease_s=10.0, hot_log_ticks=HOT_LOG_TICKS)
        store.log, store.acked = log, []
        born = log.stat().st_size
        with contextlib.closing(store):
            live(store, _WORLD, Notes(str(notes)))
            ticks = [(tick.tick, tick.state_digest.hex()) for tick in store.effects(_WORLD, 1, HOT_LOG_TICKS)]
        os.kill(server.pid, signal.SIGKILL)
        server.ensure()
        return _Recorded(directory, log.read_bytes(), log.name, born, store.acked, ticks)


def _outcome(server: EmbeddedServer, recorded: _Recorded, promised: int) -> str:
    """Return what became of the world: whole, detected, cut and said so, lost, or other content."""
    try:
        server.start()
    except StoreUnavailable:
        return "detected"
    try:
        with contextlib.closing(RedisWorldStore.connect(server.url, hot_log_ticks=HOT_LOG_TICKS)) as store:
            kept = list(store.effects(_WORLD, 1, HOT_LOG_TICKS))
            _, snapshot, after = store.load(_WORLD)
        life = LivingField.resume(LivingField(0).snapshot, tuple(kept))
        if LivingField.resume(snapshot, after).snapshot.digest() != life.snapshot.digest():
            return "other content"
    except (CorruptRecord, LivingWorldsError):
        return "detected"
    finally:
        server.stop()
    if [(tick.tick, tick.state_digest.hex()) for tick in kept] != recorded.ticks[: len(kept)]:
        return "other content"
    if len(kept) >= promised:
        return "whole"
    said = "Truncat" in server.log_path.read_text("utf-8", errors="replace")
    return "cut, and said so" if said else "lost"


def _report(name: str, outcomes: Counter[str], allowed: tuple[str, ...]) -> dict[str, Any]:
    wrong = sum(count for outcome, count in outcomes.items() if outcome not in allowed)
    return {"chaos": name, "num_faults": outcomes.total(), "outcomes": dict(outcomes), "violations": wrong}
