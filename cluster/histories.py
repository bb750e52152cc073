"""A run's worlds with their history, opened for a command."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.listing import opened_store
from cluster.run_folder import ARCHIVE
from world.errors import ConfigError
from world.snapshot import WorldId
from world.store.archive import Archive
from world.store.history import History
from world.store.lineage import Lineage
from world.store.records import WorldRecord
from world.store.redis_store import RedisWorldStore


@dataclass(frozen=True, slots=True)
class Opened:
    """A store, and what makes history of it."""

    store: RedisWorldStore
    history: History
    lineage: Lineage
    run_dir: Path


@contextmanager
def opened_history(run_dir: Path, redis_url: str | None) -> Iterator[Opened]:
    """Yield the worlds of a run folder, or of a server with the archive of a run folder.

    Raises `RunFolderError` if no run has begun in the folder and no server is named.
    """
    with opened_store(run_dir, redis_url) as store:
        history = History(store.history(), Archive(run_dir / ARCHIVE))
        yield Opened(store, history, Lineage(store, history), run_dir)


def tick_range(
    history: History, world: WorldId, first: int | None, last: int | None, *, default: int
) -> tuple[int, int]:
    """Return the ticks that are meant: up to the last one, and `default` of them, where nothing is said.

    Raises `ConfigError` for ticks that the world has not had, `UnknownWorld`.
    """
    tick = history.kept.past(world).record.tick
    last = tick if last is None else last
    begins = history.begins(world) + 1
    first = max(begins, last - default + 1) if first is None else first
    if tick < begins:
        raise ConfigError(f"world {world!r}: it has no ticks of its own yet, only the state of tick {tick}")
    if not begins <= first <= last <= tick:
        raise ConfigError(f"world {world!r}: it has ticks {begins} to {tick}, asked for {first} to {last}")
    return first, last


def described_damaged(world: WorldId, state: str) -> dict[str, Any]:
    """Return the same of a world whose record does not verify."""
    columns = ("kind", "tick", "state", "parent", "fork_tick", "name")
    return {"id": world, **dict.fromkeys(columns), "state": state}


def described(record: WorldRecord) -> dict[str, Any]:
    """Return what every command says of a world."""
    return {
        "id": record.world,
        "kind": record.kind,
        "tick": record.tick,
        "state": record.status,
        "parent": record.parent,
        "fork_tick": record.fork_tick,
        "name": record.name,
    }
