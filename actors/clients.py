"""The ports, joined through Ray: peers are found by name, and every failure of a process is a `PeerLost`."""

import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RaySystemError, RayTaskError

from actors.kept_limiter import Debtor
from actors.ports import Drawn, Inserted, PeerFailed, PeerLost
from actors.shares import Shares
from learner.limiter import Grant, LimiterState
from learner.loop import CollectionState
from learner.replay import ShardState, shard_of
from learner.weights import WeightSet
from world.errors import LivingWorldsError
from world.trajectory import Chunk

T = TypeVar("T")

_ANSWER_WITHIN_S = 5.0
_AWAY = Grant(0, 0.2)
_POLL_EVERY_S = 0.25
_NEVER = float("-inf")

LIMITER, WEIGHTS, LEARNER = "limiter", "weights", "learner"
"""Names of the actors there is one of."""


class PeerLate(PeerLost):
    """It did not answer in time; it may yet."""


def told(reference: Any, timeout_s: float | None = None) -> Any:
    """Return what a reference stands for.

    Raises `PeerLost`, `PeerFailed`, or the error of our tree that the other side raised.
    """
    try:
        return ray.get(reference, timeout=timeout_s)
    except RayTaskError as error:
        # Ray's own class carries the other side's traceback in its text; a person needs our sentence.
        if isinstance(error.cause, LivingWorldsError):
            raise error.cause from None
        raise PeerFailed(f"{type(error.cause).__name__}: {error.cause}\n{error}") from error
    except GetTimeoutError as error:
        raise PeerLate(f"{type(error).__name__}: {error}") from error
    except (RayActorError, ObjectLostError, RaySystemError) as error:
        raise PeerLost(f"{type(error).__name__}: {error}") from error


class RayCall(Generic[T]):
    """An answer under way from another process."""

    def __init__(self, reference: Any, on_lost: Callable[[], None]) -> None:
        self.reference, self._on_lost = reference, on_lost

    def done(self) -> bool:
        """Return whether `result` would answer at once."""
        ready, _ = ray.wait([self.reference], timeout=0, fetch_local=False)
        return bool(ready)

    def result(self, timeout_s: float | None = None) -> T:
        """Return the answer. Raises as `told`."""
        try:
            answer: T = told(self.reference, timeout_s)
        except PeerLost:
            self._on_lost()
            raise
        return answer


class FailedCall:
    """A call that could not even be sent."""

    def __init__(self, error: PeerLost) -> None:
        self._error = error

    def done(self) -> bool:
        """It failed already."""
        return True

    def result(self) -> Any:
        """Raises the `PeerLost`."""
        raise self._error


def answer_of(call: RayCall[Any] | FailedCall) -> Any:
    """Wait a few seconds for an answer. Raises as `told`."""
    return call.result(_ANSWER_WITHIN_S) if isinstance(call, RayCall) else call.result()


class Peer:
    """An actor by its name. Found anew after it was lost, since it may have been made again."""

    def __init__(self, name: str, namespace: str) -> None:
        self.name, self._namespace = name, namespace
        self._handle: Any = None

    def call(self, method: str, *arguments: object) -> RayCall[Any] | FailedCall:
        """Send a call; never waits for its answer."""
        try:
            if self._handle is None:
                self._handle = ray.get_actor(self.name, self._namespace)
            return RayCall(getattr(self._handle, method).remote(*arguments), self._forget)
        except (ValueError, RayActorError) as error:
            self._forget()
            return FailedCall(PeerLost(f"{self.name} is not there: {error}"))

    def ask(self, method: str, *arguments: object) -> Any:
        """Send a call and wait a few seconds for its answer. Raises `PeerLost`, or what the other side raised."""
        return answer_of(self.call(method, *arguments))

    def _forget(self) -> None:
        self._handle = None


class LimiterClient:
    """`InsertLimiter` and `SampleLimiter`. A limiter that is away grants nothing."""

    def __init__(self, namespace: str, name: str) -> None:
        """Take the name of the process that asks; its incarnation tells it from the ones before it."""
        self._peer = Peer(LIMITER, namespace)
        self._debtor = Debtor(name, secrets.token_hex(8))
        self._late: dict[str, RayCall[Any] | FailedCall] = {}

    def request_inserts(self, num_items: int) -> Grant:
        """Ask to insert."""
        return self._request("request_inserts", num_items, self._debtor)

    def request_samples(self, num_items: int) -> Grant:
        """Ask to sample."""
        return self._request("request_samples", num_items)

    def return_inserts(self, num_items: int) -> None:
        """Give back what will not be inserted; a limiter that is away forgets it, which its counts survive."""
        self._peer.call("return_inserts", num_items, self._debtor)

    def settle_inserts(self, num_items: int) -> None:
        """Say that replay has so many; does not wait."""
        self._peer.call("settle_inserts", num_items, self._debtor)

    def return_samples(self, num_items: int) -> None:
        """Give back what was not sampled."""
        self._peer.call("return_samples", num_items)

    def state(self) -> LimiterState:
        """Return the counts. Raises `PeerLost`."""
        state: LimiterState = self._peer.ask("state")
        return state

    def _request(self, method: str, num_items: int, *debtor: Debtor) -> Grant:
        # What was granted too late to wait for counts all the same: it is taken when it is asked for the next time.
        call = self._late.pop(method, None) or self._peer.call(method, num_items, *debtor)
        try:
            granted, retry_after_s = answer_of(call)
        except PeerLate:
            self._late[method] = call
            return _AWAY
        except PeerLost:
            return _AWAY
        return Grant(granted, retry_after_s)


class ShardsClient:
    """`ReplaySink` and `SequenceSource` over all shards of a run."""

    def __init__(self, shards: Sequence[str], namespace: str, *, seed: int = 0) -> None:
        self._names = tuple(shards)
        self._peers = {name: Peer(name, namespace) for name in shards}
        self._shares = Shares(shards, seed=seed)

    def insert(self, chunk: Chunk) -> RayCall[Inserted] | FailedCall:
        """Send a chunk to the shard of its world."""
        return self._peers[shard_of(chunk.world, self._names)].call("insert", chunk)

    def draw(self, num_sequences: int, length: int) -> dict[str, NDArray[np.generic]] | None:
        """Return columns (B, L, …), from each shard as many as its share of what all hold.

        A shard that is away is left out for a moment; None if the others cannot fill the batch.
        """
        parts: list[dict[str, NDArray[np.generic]]] = []
        wanted = num_sequences
        for _ in range(2):
            for drawn in self._draw_from(self._shares.of(wanted), length):
                if drawn.columns:
                    parts.append(drawn.columns)
                    wanted -= len(drawn.columns["is_first"])
            if not wanted:
                return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return None

    def states(self) -> dict[str, ShardState]:
        """Return every shard's state, durable. Raises `PeerLost`, `DiskFull`."""
        return {name: peer.ask("state") for name, peer in self._peers.items()}

    def _draw_from(self, shares: dict[str, int], length: int) -> list[Drawn]:
        calls = {name: self._peers[name].call("draw", count, length) for name, count in shares.items()}
        drawn = []
        for name, call in calls.items():
            try:
                answer: Drawn = answer_of(call)
            except PeerLost:
                self._shares.lost(name)
                continue
            self._shares.answered(name, answer.held_items if answer.columns else 0)
            drawn.append(answer)
        return drawn


class WeightsClient:
    """`WeightsSource`, and the learner's way to publish."""

    def __init__(self, namespace: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._peer, self._clock = Peer(WEIGHTS, namespace), clock
        self._asked: RayCall[WeightSet | None] | FailedCall | None = None
        self._asked_at = _NEVER
        self._published: list[RayCall[bool] | FailedCall] = []

    def poll(self, newer_than: tuple[int, int]) -> WeightSet | None:
        """Return newer weights if some have arrived; asks every quarter of a second, and never waits."""
        if self._asked is None:
            if self._clock() - self._asked_at >= _POLL_EVERY_S:
                self._asked, self._asked_at = self._peer.call("newest", newer_than), self._clock()
            return None
        if not self._asked.done():
            return None
        asked, self._asked = self._asked, None
        try:
            newest: WeightSet | None = asked.result()
        except PeerLost:
            return None
        return newest if newest is not None and newest.order > newer_than else None

    def publish(self, weights: WeightSet) -> None:
        """Hand over weights without waiting.

        Raises, once, what an earlier publication was refused with, as `DiskFull`; these are then not sent.
        """
        answered = [call for call in self._published if call.done()]
        # Before any is read: a refusal that is kept would refuse all that is published later.
        self._published = [call for call in self._published if call not in answered]
        for call in answered:
            # A store that was lost comes back with the weights it had; the next publication is newer than these.
            with contextlib.suppress(PeerLost):
                call.result()
        self._published.append(self._peer.call("publish", weights))

    def newest(self) -> WeightSet | None:
        """Return the newest weights, waiting for the answer. Raises `PeerLost`."""
        newest: WeightSet | None = self._peer.ask("newest", (-1, -1))
        return newest


class LearnerOutside:
    """What the learner reaches beyond its process, through Ray."""

    def __init__(self, limiter: LimiterClient, shards: ShardsClient, weights: WeightsClient) -> None:
        self._limiter, self._shards, self._weights = limiter, shards, weights

    def publish(self, weights: WeightSet) -> None:
        """Hand over weights; does not wait."""
        self._weights.publish(weights)

    def newest_published(self) -> tuple[int, int]:
        """Return (epoch, version) of what was published last; (0, 0) if nothing. Raises `PeerLost`.

        Whoever took (0, 0) from a store that is away could give weights the epoch of a learner before it.
        """
        newest = self._weights.newest()
        return newest.order if newest is not None else (0, 0)

    def collection_state(self) -> CollectionState | None:
        """Return the state of limiter and replay, durable; None if one of them is away at the moment."""
        try:
            return CollectionState(self._limiter.state(), self._shards.states())
        except PeerLost:
            return None
