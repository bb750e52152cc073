"""What comes into a world from outside: actions for its agents and world events, each applied exactly once.

A request is a stream entry; the cursor moves in the very commit that applies it, with the result under the request's
id. So a host that dies between reading and committing has done nothing, and whoever takes the world reads again. A
client that got no answer posts the same id again: the id is known for as long as its result is kept.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from world.errors import ConfigError
from world.event import WorldEvent
from world.snapshot import WorldId

RESULTS_KEPT: Final = 1024
"""Results of the newest requests of a world; an id that is older is a new one."""
INBOX_CAP: Final = 1024
"""Requests that may wait in one inbox; more are refused, and none is ever dropped."""
MAX_POSTED: Final = 64
"""Requests in one call. Two gateways that post at once know of each other only afterwards, so this is by how much
each may exceed the cap."""
BEGINNING: Final = "0-0"
"""The cursor of a world to which nobody ever posted."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
_MAX_INT32 = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Request:
    """One agent's action for the next tick that is free for it."""

    request_id: str
    """Chosen by the client, once: 1 to 64 letters, digits, dots, colons, dashes and underscores."""
    agent: int
    action: int

    def __post_init__(self) -> None:
        _check_id(self.request_id)
        if not 0 <= self.agent <= _MAX_INT32 or not 0 <= self.action <= _MAX_INT32:
            raise ConfigError(
                f"request {self.request_id}: agent and action must be >= 0, got {self.agent} and {self.action}"
            )


@dataclass(frozen=True, slots=True)
class Prompt:
    """A world event for the next tick that has room for it."""

    request_id: str
    """As of a request."""
    event: WorldEvent

    def __post_init__(self) -> None:
        _check_id(self.request_id)
        kind, *place = self.event
        if not 1 <= kind <= _MAX_INT32 or not all(-_MAX_INT32 <= at <= _MAX_INT32 for at in place):
            raise ConfigError(f"request {self.request_id}: {self.event} is no event of any world")


AnyRequest: TypeAlias = Request | Prompt


@dataclass(frozen=True, slots=True)
class Receipt:
    """A request that is durable in the inbox. It is applied, or refused, by the time the cursor reaches `position`."""

    request_id: str
    position: int
    """Its number among all that was ever posted to this world."""
    waiting: int
    """Requests in the inbox, this one included."""


@dataclass(frozen=True, slots=True)
class Posted:
    """A request as its host reads it."""

    cursor: str
    """The inbox's cursor once this is applied."""
    request: AnyRequest | None
    """None: what was posted is no request; it is passed over."""


@dataclass(frozen=True, slots=True)
class RequestResult:
    """What became of a request."""

    request_id: str
    tick: int
    """The tick whose joint action it is part of, or which it befell."""
    applied: bool
    """False: there is no such agent, action or kind of event; nothing was done."""


@dataclass(frozen=True, slots=True)
class InboxProgress:
    """How far a world has read its inbox. Part of the commit of the ticks that applied it."""

    cursor: str = BEGINNING
    results: tuple[RequestResult, ...] = ()


class Inbox(Protocol):
    """The way into worlds. Every method may raise `StoreUnavailable`; calls are then safe to repeat."""

    def post(self, world: WorldId, requests: Sequence[AnyRequest]) -> list[Receipt]:
        """Hand requests in, at most `MAX_POSTED`, in order. All or none where the inbox is full.

        Raises `InboxFull`, `UnknownWorld`, and `NotRunning` for a world that is quarantined or deleted.
        """

    def read(self, after: Mapping[WorldId, str], limit: int) -> dict[WorldId, list[Posted]]:
        """Return up to `limit` requests of each world after its cursor, in order; worlds without any are left out."""

    def progress(self, world: WorldId) -> InboxProgress:
        """Return what was committed: the cursor, and the results that are kept. Raises `UnknownWorld`."""

    def result(self, world: WorldId, request_id: str) -> RequestResult | None:
        """Return what became of a request; None while it waits, or if its result is no longer kept."""


def cursor_number(cursor: str) -> int:
    """Return the position that a cursor, <part>-<number>, stands for."""
    return int(cursor.partition("-")[2])


def check_posted(requests: Sequence[AnyRequest]) -> None:
    """Raise `ConfigError` unless one call can carry these."""
    if not 1 <= len(requests) <= MAX_POSTED:
        raise ConfigError(f"one call posts 1 to {MAX_POSTED} requests, got {len(requests)}")


def _check_id(request_id: str) -> None:
    if not _REQUEST_ID.fullmatch(request_id):
        raise ConfigError(
            f"request id {request_id!r} should be 1 to 64 letters, digits, dots, colons, dashes, underscores"
        )
