"""Inboxes on a real server pass the suite of every inbox, and survive what only servers suffer."""

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

from tests.integration.inbox_suite import InboxSuite, applied, requests
from tests.integration.store_suite import NONCE, born, commit_one
from world.errors import StoreUnavailable
from world.snapshot import WorldId
from world.store import keys
from world.store.inbox import BEGINNING, InboxProgress, RequestResult
from world.store.records import Ack, Commit
from world.store.redis_inbox import RedisInbox
from world.store.redis_store import RedisWorldStore
from world.store.server import EmbeddedServer


class TestRedisInbox(InboxSuite):
    """On a real server."""


def test_what_is_no_request_is_read_as_none_and_passed_over(store: RedisWorldStore, raw: Any, world: WorldId) -> None:
    born(store, world)
    inbox = store.inbox()
    inbox.post(world, requests(1))
    for junk in (
        {"r": "a b", "a": "0", "c": "0"},
        {"x": "y"},
        {"r": "ok", "a": "one", "c": "0"},
        {"r": b"\xff"},
        {"r": "ok", "e": "0", "y": "1", "x": "1"},
        {"r": "ok", "e": "1", "y": "1"},
    ):
        raw.xadd(keys.inbox(world), junk, id="0-*")
    inbox.post(world, requests(1, first=1))
    posted = inbox.read({world: BEGINNING}, 10)[world]
    assert [entry.request for entry in posted] == [requests(2)[0], *[None] * 6, requests(2)[1]]


def test_posted_requests_survive_the_servers_sudden_death(tmp_path: Path, world: WorldId) -> None:
    with (
        EmbeddedServer(tmp_path) as server,
        contextlib.closing(RedisWorldStore.connect(server.url)) as store,
        contextlib.closing(RedisInbox.connect(server.url)) as gateway,
    ):
        life, token = born(store, world)
        gateway.post(world, requests(3))
        posted = store.inbox().read({world: BEGINNING}, 1)[world]
        assert isinstance(commit_one(store, Commit(token, life.steps(1), inbox=applied(posted, 1))), Ack)
        os.kill(server.pid, signal.SIGKILL)
        assert server.ensure()
        with contextlib.suppress(StoreUnavailable):
            gateway.progress(world)
        progress = gateway.progress(world)
        assert progress.results == (RequestResult("r-0", 1, True),)
        left = gateway.read({world: progress.cursor}, 10)[world]
        assert [entry.request for entry in left] == requests(2, first=1)
        # Applied requests are gone, and the numbering goes on where it was.
        assert gateway.post(world, requests(1, first=3))[0].waiting == 3


def test_results_that_a_half_failed_function_left_behind_are_not_believed(
    store: RedisWorldStore, raw: Any, world: WorldId
) -> None:
    life, token = born(store, world)
    inbox = store.inbox()
    inbox.post(world, requests(1))
    raw.zadd(keys.results(world), {"r-0": 2 * 5})
    assert inbox.result(world, "r-0") is None
    assert inbox.progress(world) == InboxProgress()
    token = store.acquire(world, owner="host-0", nonce=NONCE[::-1])
    assert raw.zcard(keys.results(world)) == 0
    posted = inbox.read({world: BEGINNING}, 10)[world]
    assert isinstance(commit_one(store, Commit(token, life.steps(1), inbox=applied(posted, 1))), Ack)


def test_applied_requests_leave_the_stream(store: RedisWorldStore, raw: Any, world: WorldId) -> None:
    life, token = born(store, world)
    inbox = store.inbox()
    inbox.post(world, requests(5))
    posted = inbox.read({world: BEGINNING}, 3)[world]
    commit_one(store, Commit(token, life.steps(1), inbox=applied(posted, 1)))
    assert raw.xlen(keys.inbox(world)) == 2
