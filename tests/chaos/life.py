"""A host's life with one world, call by call, from its creation to its release; and links on which calls go wrong."""

import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

from actors.requests import WorldRequests
from tests.chaos.store_writer import FIRST_NUMBER, Notes
from tests.store_cases import LivingField, record_of
from world.errors import StoreError
from world.snapshot import WorldId
from world.store.inbox import Request
from world.store.link import Link, Reply
from world.store.records import Ack, Commit
from world.store.redis_store import RedisWorldStore
from world.store.wire import Command, packed

LAST_TICK: Final = 8
PATIENCE_S: Final = 120.0
"""For one answer, of a server that was not struck: a slow one is none that loses anything."""
NUMBERS: Final = tuple(range(FIRST_NUMBER, FIRST_NUMBER + 5))
"""Actions that a client asks for."""
Phase = Literal["before", "sent", "after"]
PHASES: Final[tuple[Phase, ...]] = ("before", "sent", "after")


def live(
    store: RedisWorldStore, world: WorldId, notes: Notes, call: Callable[..., Any] = lambda act, *a, **k: act(*a, **k)
) -> None:
    """Make the world unless it is there, take it, post what a client asks for, and commit up to the last tick.

    Raises the `StoreError` that a call is refused with; whoever goes on begins anew.
    """
    beginning, inbox, nonce = LivingField(0), store.inbox(), secrets.token_bytes(16)
    call(store.create, record_of(world, beginning.snapshot), beginning.snapshot)
    token = call(store.acquire, world, owner="host-0", nonce=nonce)
    _, snapshot, effects = call(store.load, world)
    life = LivingField.resume(snapshot, effects)
    requests = WorldRequests(call(inbox.progress, world))
    holder = f"{world} {token.epoch} {nonce.hex()}"
    notes.add(f"o {holder}")
    call(inbox.post, world, [Request(f"q-{number}", number % 2, number) for number in NUMBERS])
    requests.take_in(call(inbox.read, {world: requests.read_up_to}, 32).get(world, []))
    while life.tick < LAST_TICK:
        ticks = tuple(
            life.step(
                salt=int.from_bytes(nonce[:4]),
                asked=requests.asked(life.tick + 1, num_agents=4, num_actions=2**31 - 1).actions,
            )
            for _ in range(2)
        )
        lines = [f"{holder} {tick.tick} {tick.state_digest.hex()}" for tick in ticks]
        notes.add(*(f"s {line}" for line in lines))
        keyframe = life.snapshot if life.tick % 4 == 0 else None
        (answer,) = call(store.commit, [Commit(token, ticks, keyframe, requests.progress())])
        if not isinstance(answer, Ack):
            raise answer
        requests.acknowledged()
        notes.add("c", *(f"a {line}" for line in lines))
    call(store.renew, [token])
    call(store.release, token)


def live_on(store: RedisWorldStore, world: WorldId, notes: Notes) -> int:
    """Live to the end whatever is refused on the way; return how often the world had to be taken anew."""
    for refusals in range(1000):
        try:
            live(store, world, notes)
        except StoreError:
            continue
        return refusals
    raise AssertionError(f"world {world} was refused a thousand times")


class StruckLink(Link):
    """A link to a real server, on one of whose calls something is struck: before it, amid it, or after it."""

    def __init__(self, url: str, *, at_call: int, phase: Phase, strike: Callable[[], None]) -> None:
        super().__init__(url, durability="disk", timeout_s=PATIENCE_S)
        self._at_call, self._phase, self._strike = at_call, phase, strike
        self.num_calls = 0

    def call(self, commands: Sequence[Command]) -> list[Reply]:
        self.num_calls += 1
        if self.num_calls - 1 != self._at_call:
            return super().call(commands)
        if self._phase == "before":
            self._strike()
            return super().call(commands)
        if self._phase == "after":
            replies = super().call(commands)
            self._strike()
            return replies
        connection: Any = self._pool.get_connection()
        try:
            connection.send_packed_command([packed(commands)])
            self._strike()
        finally:
            # Whatever is answered now, nobody hears it.
            connection.disconnect()
            self._pool.release(connection)
        raise self.failure(ConnectionError("the answer was lost"))

    @property
    def was_struck(self) -> bool:
        """Whether the call was reached."""
        return self.num_calls > self._at_call


def store_over(link: Link) -> RedisWorldStore:
    """Return a store that keeps its whole log."""
    return RedisWorldStore(link, durability="disk", lease_s=10.0, hot_log_ticks=10**9)
