"""Looking at worlds without hosting them."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cluster.run_folder import read_run
from world.envs.grounded import gone
from world.errors import ConfigError, CorruptRecord, RunFolderError
from world.field import UNSEEN
from world.snapshot import WorldId
from world.store.records import WorldRecord
from world.store.redis_store import RedisWorldStore
from world.store.refusals import REASONS, unreadable
from world.store.server import shared_server


@contextmanager
def opened_store(run_dir: Path, redis_url: str | None) -> Iterator[RedisWorldStore]:
    """Yield the store of a run folder, or of a server; an embedded one runs at least as long as this.

    Raises `RunFolderError` if no run has begun in the folder.
    """
    if redis_url is None:
        stored = read_run(run_dir)
        if stored is None:
            raise RunFolderError(
                f"{run_dir}: no run has begun here; name one with --run-dir, or a server with --redis-url"
            )
        redis_url = stored[1].redis_url or None
    if redis_url is not None:
        with closing(RedisWorldStore.connect(redis_url)) as store:
            yield store
        return
    with shared_server(run_dir / "redis") as embedded, closing(RedisWorldStore.connect(embedded.url)) as store:
        yield store


def list_worlds(store: RedisWorldStore, *, limit: int | None = None, after: str | None = None) -> list[dict[str, Any]]:
    """Return all worlds that are not deleted, newest activity first; or a page of them, the newest made first.

    Raises `ConfigError` for an impossible page, `UnknownWorld` for an `after` that was never listed.
    """
    if limit is None and after is None:
        damaged: list[tuple[WorldId, CorruptRecord]] = []
        return [_listed(record) for record in store.records(damaged)] + [_unreadable(*each) for each in damaged]
    limit = 100 if limit is None else limit
    if limit < 1:
        raise ConfigError(f"--limit must be >= 1, got {limit}")
    page = store.history().page(after=None if after is None else WorldId(after), limit=limit)
    return [_unreadable(world, it) if isinstance(it, CorruptRecord) else _listed(it) for world, it in page]


def show_world(store: RedisWorldStore, world: str) -> dict[str, Any]:
    """Return all that is known of one world, every byte of it verified. Raises `UnknownWorld`, `CorruptRecord`."""
    record, snapshot, effects = store.load(WorldId(world))
    keyframe_tick = snapshot.tick
    for tick in effects:
        snapshot.apply(tick)
    layer, y, x = snapshot.field.extent()
    return {
        **_listed(record),
        "name": record.name,
        "env": record.env,
        "epoch": record.epoch,
        "episode": snapshot.episode,
        "fork_tick": record.fork_tick,
        "reason": REASONS.get(record.reason),
        "tokenizer": record.tokenizer,
        "keyframe_tick": keyframe_tick,
        "state_digest": snapshot.digest().hex(),
        "cells_seen": int(np.count_nonzero(snapshot.field.layers[layer].current(y, x) != UNSEEN)),
        "poses": [None if gone(pose) else pose.tolist() for pose in snapshot.poses],
    }


def _unreadable(world: WorldId, error: CorruptRecord) -> dict[str, Any]:
    """Return what is listed of a world whose record cannot be read; `worlds verify` says why."""
    columns = ("kind", "tick", "agents", "state", "host", "weights_version", "parent")
    return {"id": world, **dict.fromkeys(columns), "state": unreadable(error)}


def _listed(record: WorldRecord) -> dict[str, Any]:
    return {
        "id": record.world,
        "kind": record.kind,
        "tick": record.tick,
        "agents": record.agents,
        "state": record.status,
        "host": record.owner or None,
        "weights_version": record.weights_version,
        "parent": record.parent,
    }
