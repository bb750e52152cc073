"""What every `Inbox` promises: a request is applied once, or refused, or waits; it is never dropped."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.store_suite import NONCE, OTHER_NONCE, born, commit_one
from world.errors import ConfigError, Fenced, InboxFull, NotRunning, UnknownWorld
from world.event import WorldEvent
from world.snapshot import WorldId
from world.store.inbox import (
    BEGINNING,
    INBOX_CAP,
    MAX_POSTED,
    RESULTS_KEPT,
    AnyRequest,
    InboxProgress,
    Posted,
    Prompt,
    Request,
    RequestResult,
)
from world.store.records import Ack, Commit


def requests(num: int, first: int = 0) -> list[AnyRequest]:
    """Return requests with ids of their own: actions, and now and then an event."""
    return [
        Prompt(f"r-{number}", WorldEvent(number, -number, 2 * number))
        if number % 3 == 1
        else Request(f"r-{number}", number % 4, number)
        for number in range(first, first + num)
    ]


def applied(posted: list[Posted], tick: int) -> InboxProgress:
    """Return the progress of a commit that applies these at a tick."""
    results = [RequestResult(entry.request.request_id, tick, True) for entry in posted if entry.request is not None]
    return InboxProgress(posted[-1].cursor, tuple(results))


class InboxSuite:
    """Fixtures that a subclass gives: `connect` and `world`, as for the store suite."""

    @pytest.fixture
    def store(self, connect: Callable[..., Any]) -> Any:
        return connect()

    def test_requests_are_read_in_the_order_in_which_they_were_posted(self, store: Any, world: WorldId) -> None:
        born(store, world)
        inbox = store.inbox()
        assert inbox.read({world: BEGINNING}, 10) == {}
        receipts = inbox.post(world, requests(3)) + inbox.post(world, requests(2, first=3))
        assert [receipt.request_id for receipt in receipts] == [f"r-{number}" for number in range(5)]
        assert [receipt.position - receipts[0].position for receipt in receipts] == list(range(5))
        assert receipts[-1].waiting == 5
        posted = inbox.read({world: BEGINNING}, 10)[world]
        assert [entry.request for entry in posted] == requests(5)
        assert inbox.read({world: BEGINNING}, 2)[world] == posted[:2]
        assert inbox.read({world: posted[1].cursor}, 10)[world] == posted[2:]

    def test_the_commit_that_applies_a_request_moves_the_cursor_and_keeps_its_result(
        self, store: Any, world: WorldId
    ) -> None:
        life, token = born(store, world)
        inbox = store.inbox()
        inbox.post(world, requests(3))
        assert inbox.result(world, "r-0") is None
        posted = inbox.read({world: BEGINNING}, 2)[world]
        progress = InboxProgress(posted[1].cursor, (RequestResult("r-0", 1, True), RequestResult("r-1", 2, False)))
        assert isinstance(commit_one(store, Commit(token, life.steps(2), inbox=progress)), Ack)
        assert inbox.progress(world) == progress
        assert inbox.result(world, "r-0") == RequestResult("r-0", 1, True)
        assert inbox.result(world, "r-1") == RequestResult("r-1", 2, False)
        assert inbox.result(world, "r-2") is None
        left = inbox.read({world: progress.cursor}, 10)[world]
        assert [entry.request for entry in left] == requests(1, first=2)

    def test_a_repeated_commit_applies_nothing_again(self, store: Any, world: WorldId) -> None:
        life, token = born(store, world)
        inbox = store.inbox()
        inbox.post(world, requests(2))
        commit = Commit(token, life.steps(1), inbox=applied(inbox.read({world: BEGINNING}, 10)[world], 1))
        commit_one(store, commit)
        before = inbox.progress(world)
        answer = commit_one(store, commit)
        assert isinstance(answer, Ack)
        assert answer.repeated
        assert inbox.progress(world) == before

    def test_a_displaced_owner_moves_no_cursor(self, store: Any, world: WorldId) -> None:
        life, former = born(store, world)
        inbox = store.inbox()
        inbox.post(world, requests(1))
        token = store.acquire(world, owner="host-0", nonce=OTHER_NONCE)
        progress = applied(inbox.read({world: BEGINNING}, 10)[world], 1)
        assert isinstance(commit_one(store, Commit(former, life.steps(1), inbox=progress)), Fenced)
        assert inbox.progress(world) == InboxProgress()
        # It is still there for the owner.
        assert inbox.read({world: BEGINNING}, 10)[world][0].request == requests(1)[0]
        assert token.epoch == 2

    def test_a_commit_without_requests_leaves_the_inbox_as_it_is(self, store: Any, world: WorldId) -> None:
        life, token = born(store, world)
        inbox = store.inbox()
        inbox.post(world, requests(1))
        commit_one(store, Commit(token, life.steps(3), life.snapshot))
        assert inbox.progress(world) == InboxProgress()
        assert len(inbox.read({world: BEGINNING}, 10)[world]) == 1

    def test_a_full_inbox_refuses_and_drops_nothing(self, store: Any, world: WorldId) -> None:
        life, token = born(store, world)
        inbox = store.inbox()
        for first in range(0, INBOX_CAP, MAX_POSTED):
            inbox.post(world, requests(MAX_POSTED, first))
        with pytest.raises(InboxFull, match=world):
            inbox.post(world, requests(1, INBOX_CAP))
        posted = inbox.read({world: BEGINNING}, INBOX_CAP + 1)[world]
        assert [entry.request for entry in posted] == requests(INBOX_CAP)
        commit_one(store, Commit(token, life.steps(1), inbox=applied(posted[:10], 1)))
        inbox.post(world, requests(10, INBOX_CAP))
        with pytest.raises(InboxFull):
            inbox.post(world, requests(1, INBOX_CAP + 10))

    def test_results_are_kept_for_the_newest_requests_only(self, store: Any, world: WorldId) -> None:
        life, token = born(store, world)
        inbox = store.inbox()
        num, first = RESULTS_KEPT + 50, 0
        cursor = BEGINNING
        while first < num:
            inbox.post(world, requests(MAX_POSTED, first))
            posted = inbox.read({world: cursor}, MAX_POSTED)[world]
            cursor, first = posted[-1].cursor, first + len(posted)
            commit_one(store, Commit(token, life.steps(1), inbox=applied(posted, life.tick)))
        kept = inbox.progress(world).results
        assert len(kept) == RESULTS_KEPT
        assert inbox.result(world, "r-0") is None
        assert inbox.result(world, f"r-{first - 1}") == RequestResult(f"r-{first - 1}", life.tick, True)

    def test_worlds_that_take_no_requests_say_so(self, store: Any, world: WorldId) -> None:
        inbox = store.inbox()
        with pytest.raises(UnknownWorld):
            inbox.post(world, requests(1))
        with pytest.raises(UnknownWorld):
            inbox.progress(world)
        born(store, world)
        store.set_status(world, "paused")
        inbox.post(world, requests(1))
        for status in ("quarantined", "deleted"):
            store.set_status(world, status)
            with pytest.raises(NotRunning, match=status):
                inbox.post(world, requests(1, first=1))

    def test_requests_that_make_no_sense_are_refused_before_they_are_posted(self, store: Any, world: WorldId) -> None:
        born(store, world)
        for bad in (("", 0, 0), ("a b", 0, 0), ("x" * 65, 0, 0), ("r", -1, 0), ("r", 0, 2**31)):
            with pytest.raises(ConfigError):
                Request(*bad)
        for bad in ((0, 0, 0), (2**31, 0, 0), (1, 2**31, 0), (1, 0, -(2**31))):
            with pytest.raises(ConfigError):
                Prompt("r", WorldEvent(*bad))
        with pytest.raises(ConfigError):
            Prompt("a b", WorldEvent(1, 0, 0))
        for num in (0, MAX_POSTED + 1):
            with pytest.raises(ConfigError):
                store.inbox().post(world, requests(num))

    def test_the_inbox_survives_a_change_of_owner(self, store: Any, world: WorldId) -> None:
        life, token = born(store, world)
        inbox = store.inbox()
        inbox.post(world, requests(4))
        posted = inbox.read({world: BEGINNING}, 2)[world]
        commit_one(store, Commit(token, life.steps(1), inbox=applied(posted, 1)))
        store.release(token)
        store.acquire(world, owner="host-1", nonce=NONCE)
        progress = inbox.progress(world)
        assert {result.request_id for result in progress.results} == {"r-0", "r-1"}
        assert [entry.request for entry in inbox.read({world: progress.cursor}, 10)[world]] == requests(2, first=2)
