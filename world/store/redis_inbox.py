"""Inboxes in Redis or Valkey. A gateway posts with two commands, XADD and HMGET, and needs no further rights."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

from world.errors import ConfigError, CorruptRecord, InboxFull
from world.event import WorldEvent
from world.snapshot import WorldId
from world.store import keys
from world.store.inbox import (
    INBOX_CAP,
    AnyRequest,
    InboxProgress,
    Posted,
    Prompt,
    Receipt,
    Request,
    RequestResult,
    check_posted,
    cursor_number,
)
from world.store.keys import check_world_id
from world.store.link import PATIENCE_S, Link
from world.store.refusals import refusal
from world.store.replies import pairs
from world.store.wire import Command

_NEXT_ID: Final = "0-*"
"""The server numbers what is posted, without gaps: so one answer says how much waits beyond the cursor."""
_CLOSED: Final = ("quarantined", "deleted")


class RedisInbox:
    """The `Inbox` of worlds on one server."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._newest: dict[WorldId, int] = {}

    @classmethod
    def connect(cls, url: str, *, timeout_s: float = PATIENCE_S) -> Self:
        """Connect as a user that may only post, to a redis://, rediss:// or unix:// URL.

        Whether the server keeps what it is given is for the hosts to inspect, who have the right to. Raises
        `StoreUnavailable`, and `ConfigError` for impossible arguments.
        """
        if timeout_s <= 0:
            raise ConfigError(f"timeout_s must be > 0, got {timeout_s}")
        return cls(Link(url, durability="disk", timeout_s=timeout_s, inspected=False))

    def post(self, world: WorldId, requests: Sequence[AnyRequest]) -> list[Receipt]:
        """Hand requests in, at most `MAX_POSTED`, in order. All or none where the inbox is full.

        Raises `InboxFull`, `UnknownWorld`, and `NotRunning` for a world that is quarantined or deleted.
        """
        check_world_id(world)
        check_posted(requests)
        status, cursor = self._link.one("HMGET", keys.meta(world), "st", "ic")
        if status is None:
            raise refusal(world, ("NO_WORLD",))
        if status.decode() in _CLOSED:
            raise refusal(world, ("NOT_RUNNING", status.decode()))
        reached = cursor_number(cursor.decode())
        waiting = max(0, self._newest.get(world, 0) - reached)
        if waiting + len(requests) > INBOX_CAP:
            raise InboxFull(
                f"world {world!r}: {waiting} requests wait in its inbox, which takes {INBOX_CAP}; nothing was posted,"
                " post again when its host has applied some"
            )
        receipts = []
        for request, reply in zip(requests, self._link.call([_posting(world, r) for r in requests]), strict=True):
            position = cursor_number(self._link.answer(reply).decode())
            self._newest[world] = position
            receipts.append(Receipt(request.request_id, position, max(1, position - reached)))
        return receipts

    def read(self, after: Mapping[WorldId, str], limit: int) -> dict[WorldId, list[Posted]]:
        """Return up to `limit` requests of each world after its cursor, in order; worlds without any are left out."""
        calls = [("XRANGE", keys.inbox(world), f"({cursor}", "+", "COUNT", limit) for world, cursor in after.items()]
        replies = map(self._link.answer, self._link.call_all(calls))
        return {
            world: [_posted(*entry) for entry in found] for world, found in zip(after, replies, strict=True) if found
        }

    def progress(self, world: WorldId) -> InboxProgress:
        """Return what was committed: the cursor, and the results that are kept. Raises `UnknownWorld`."""
        *_, answers = self._link.call(
            [
                ("MULTI",),
                ("HMGET", keys.meta(world), "ic", "tk"),
                ("ZRANGE", keys.results(world), 0, -1, "WITHSCORES"),
                ("EXEC",),
            ]
        )
        (cursor, tick), kept = map(self._link.answer, self._link.answer(answers))
        if cursor is None:
            raise refusal(world, ("NO_WORLD",))
        try:
            results = [_result(name, score) for name, score in zip(kept[::2], kept[1::2], strict=True)]
            cursor_number(cursor.decode())
            # Beyond the last tick lies what a function left behind that failed half-way.
            return InboxProgress(cursor.decode(), tuple(result for result in results if result.tick <= int(tick)))
        except ValueError as error:
            raise CorruptRecord(f"world {world!r}: what is kept of its inbox does not verify ({error})") from None

    def result(self, world: WorldId, request_id: str) -> RequestResult | None:
        """Return what became of a request; None while it waits, or if its result is no longer kept."""
        replies = self._link.call([("HGET", keys.meta(world), "tk"), ("ZSCORE", keys.results(world), request_id)])
        tick, score = map(self._link.answer, replies)
        if tick is None:
            raise refusal(world, ("NO_WORLD",))
        found = None if score is None else _result(request_id.encode(), score)
        return found if found is not None and found.tick <= int(tick) else None

    def close(self) -> None:
        """Close all connections."""
        self._link.close()


def result_arguments(progress: InboxProgress) -> list[str | int]:
    """Return the results as the commit function takes them: score and request id in turn."""
    scored = ((2 * result.tick + (not result.applied), result.request_id) for result in progress.results)
    return [part for pair in scored for part in pair]


def _result(name: bytes, score: bytes) -> RequestResult:
    number = int(float(score))
    return RequestResult(name.decode(), number // 2, applied=number % 2 == 0)


def _posting(world: WorldId, request: AnyRequest) -> Command:
    asked: Command
    if isinstance(request, Prompt):
        asked = ("e", request.event.kind, "y", request.event.y, "x", request.event.x)
    else:
        asked = ("a", request.agent, "c", request.action)
    return ("XADD", keys.inbox(world), _NEXT_ID, "r", request.request_id, *asked)


def _posted(name: bytes, flat: Sequence[Any]) -> Posted:
    request: AnyRequest
    try:
        fields = pairs(flat)
        request_id, numbers = fields.pop(b"r").decode(), {key: int(value) for key, value in fields.items()}
        if b"e" in numbers:
            request = Prompt(request_id, WorldEvent(numbers[b"e"], numbers[b"y"], numbers[b"x"]))
        else:
            request = Request(request_id, numbers[b"a"], numbers[b"c"])
    except (KeyError, ValueError):
        # A user who may post may post anything.
        return Posted(name.decode(), None)
    return Posted(name.decode(), request)
