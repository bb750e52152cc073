"""Inboxes of worlds in this process's memory: the same promises, and nothing that survives."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from world.errors import InboxFull
from world.snapshot import WorldId
from world.store.inbox import (
    BEGINNING,
    INBOX_CAP,
    RESULTS_KEPT,
    AnyRequest,
    InboxProgress,
    Posted,
    Receipt,
    RequestResult,
    check_posted,
    cursor_number,
)
from world.store.records import Status
from world.store.refusals import refusal


@dataclass(slots=True)
class InProcessStream:
    """One world's inbox."""

    cursor: str = BEGINNING
    newest: int = 0
    waiting: dict[int, AnyRequest] = field(default_factory=dict)
    results: dict[str, RequestResult] = field(default_factory=dict)

    def move(self, progress: InboxProgress) -> None:
        """Apply what a commit says of the inbox."""
        self.cursor = progress.cursor
        reached = cursor_number(self.cursor)
        self.waiting = {number: request for number, request in self.waiting.items() if number > reached}
        self.results |= {result.request_id: result for result in progress.results}
        self.results = dict(list(self.results.items())[-RESULTS_KEPT:])


class InProcessInbox:
    """The `Inbox` of the worlds of one `InProcessWorldStore`."""

    def __init__(self, lock: threading.RLock, streams: Callable[[WorldId], tuple[InProcessStream, Status]]) -> None:
        self._lock, self._streams = lock, streams

    def post(self, world: WorldId, requests: Sequence[AnyRequest]) -> list[Receipt]:
        """Hand requests in, at most `MAX_POSTED`, in order. Raises `InboxFull`, `UnknownWorld`, `NotRunning`."""
        check_posted(requests)
        with self._lock:
            stream, status = self._streams(world)
            if status in ("quarantined", "deleted"):
                raise refusal(world, ("NOT_RUNNING", status))
            if len(stream.waiting) + len(requests) > INBOX_CAP:
                raise InboxFull(
                    f"world {world!r}: {len(stream.waiting)} requests wait in its inbox; nothing was posted"
                )
            receipts = []
            for request in requests:
                stream.newest += 1
                stream.waiting[stream.newest] = request
                receipts.append(Receipt(request.request_id, stream.newest, len(stream.waiting)))
            return receipts

    def read(self, after: Mapping[WorldId, str], limit: int) -> dict[WorldId, list[Posted]]:
        """Return up to `limit` requests of each world after its cursor, in order; worlds without any are left out."""
        found: dict[WorldId, list[Posted]] = {}
        with self._lock:
            for world, cursor in after.items():
                stream, _ = self._streams(world)
                numbers = [number for number in sorted(stream.waiting) if number > cursor_number(cursor)][:limit]
                if numbers:
                    found[world] = [Posted(f"0-{number}", stream.waiting[number]) for number in numbers]
        return found

    def progress(self, world: WorldId) -> InboxProgress:
        """Return what was committed: the cursor, and the results that are kept. Raises `UnknownWorld`."""
        with self._lock:
            stream, _ = self._streams(world)
            return InboxProgress(stream.cursor, tuple(stream.results.values()))

    def result(self, world: WorldId, request_id: str) -> RequestResult | None:
        """Return what became of a request; None while it waits, or if its result is no longer kept."""
        with self._lock:
            stream, _ = self._streams(world)
            return stream.results.get(request_id)
