"""Chunks on their way to replay: a few in flight, the rest waiting, none dropped, none waited for."""

import time
from collections import deque
from collections.abc import Callable

from actors.ports import Call, Inserted, PeerLost, ReplaySink
from world.errors import LivingWorldsError
from world.trajectory import Chunk


class ChunkOutbox:
    """Sends chunks in order of arrival. A chunk whose shard was lost is sent again; replay knows duplicates."""

    def __init__(
        self,
        sink: ReplaySink,
        *,
        max_in_flight: int,
        retry_after_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sink, self._max_in_flight, self._retry_after_s, self._clock = sink, max_in_flight, retry_after_s, clock
        self._waiting: deque[Chunk] = deque()
        self._in_flight: list[tuple[Chunk, Call[Inserted]]] = []
        self._not_before = 0.0
        self._items = self._duplicates = 0

    @property
    def blocked(self) -> bool:
        """Chunks wait because replay does not take them: whoever fills this should pause."""
        return bool(self._waiting)

    @property
    def empty(self) -> bool:
        """Replay has acknowledged everything."""
        return not self._waiting and not self._in_flight

    def put(self, chunk: Chunk) -> None:
        """Take a chunk, to be sent by the next `pump`."""
        self._waiting.append(chunk)

    def pump(self) -> None:
        """Collect answers that have come and send what may go; never waits. Raises what a shard refused with."""
        self._collect()
        while self._waiting and len(self._in_flight) < self._max_in_flight and self._clock() >= self._not_before:
            chunk = self._waiting.popleft()
            self._in_flight.append((chunk, self._sink.insert(chunk)))

    def take_totals(self) -> Inserted:
        """Return what was acknowledged since this was last asked."""
        totals = Inserted(self._items, self._duplicates)
        self._items = self._duplicates = 0
        return totals

    def _collect(self) -> None:
        under_way: list[tuple[Chunk, Call[Inserted]]] = []
        unsent: list[Chunk] = []
        refusal: LivingWorldsError | None = None
        for chunk, call in self._in_flight:
            if not call.done():
                under_way.append((chunk, call))
                continue
            try:
                inserted = call.result()
            except PeerLost:
                unsent.append(chunk)
            except LivingWorldsError as error:
                # Refused, as by a full disk: whoever goes on after that must find the chunk still here.
                unsent.append(chunk)
                refusal = error
            else:
                self._items += inserted.items
                self._duplicates += inserted.duplicates
        self._in_flight = under_way
        if unsent:
            self._waiting.extendleft(reversed(unsent))
            self._not_before = self._clock() + self._retry_after_s
        if refusal is not None:
            raise refusal
