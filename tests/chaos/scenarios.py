"""Faults that need a stage: an epoch given out twice, two hosts and a cut wire, a full, emptied or mistimed server."""

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.judge import judge
from tests.chaos.life import PATIENCE_S
from tests.chaos.proxy import Proxy
from tests.chaos.server import ChaosServer
from tests.chaos.store_writer import HOT_LOG_TICKS, Notes
from tests.chaos.variants import Variant, broken_code, functions_are
from tests.store_cases import LivingField, record_of
from world.errors import Fenced, LeaseHeld, StoreFull, StoreUnavailable, UnknownWorld
from world.snapshot import TickEffects, WorldId
from world.store.records import Ack, Commit, FencingToken
from world.store.redis_store import RedisWorldStore


@dataclass
class Owner:
    """A host that takes a world and commits to it, and notes what it is told."""

    store: RedisWorldStore
    name: str
    world: WorldId
    notes: Notes
    token: FencingToken | None = None
    life: LivingField | None = None

    def take(self) -> None:
        """Take the world and load it."""
        nonce = os.urandom(16)
        self.token = self.store.acquire(self.world, owner=self.name, nonce=nonce)
        self.notes.add(f"o {self.world} {self.token.epoch} {nonce.hex()}")
        _, snapshot, effects = self.store.load(self.world)
        self.life = LivingField.resume(snapshot, effects)

    def steps(self, num: int) -> tuple[TickEffects, ...]:
        """Live on, not committed yet."""
        assert self.life is not None and self.token is not None
        return self.life.steps(num, salt=int.from_bytes(self.token.nonce[:4]))

    def commit(self, ticks: Sequence[TickEffects]) -> Ack | Exception:
        """Commit, noting what is sent and what is acknowledged."""
        assert self.token is not None
        holder = f"{self.world} {self.token.epoch} {self.token.nonce.hex()}"
        lines = [f"{holder} {tick.tick} {tick.state_digest.hex()}" for tick in ticks]
        self.notes.add(*(f"s {line}" for line in lines))
        (answer,) = self.store.commit([Commit(self.token, tuple(ticks))])
        if isinstance(answer, Ack):
            self.notes.add("c", *(f"a {line}" for line in lines))
        return answer


class Stage:
    """One world on one server, and what was noted of it."""

    def __init__(self, server: ChaosServer, directory: Path) -> None:
        self.server = server
        self.world = WorldId(f"w-{uuid.uuid4().hex[:12]}")
        self._notes_path = directory / f"notes-{self.world}"
        self.notes = Notes(str(self._notes_path))
        self._stores = contextlib.ExitStack()
        beginning = LivingField(0)
        self.connect().create(record_of(self.world, beginning.snapshot), beginning.snapshot)

    def connect(
        self, url: str | None = None, *, lease_s: float = 600.0, timeout_s: float = PATIENCE_S
    ) -> RedisWorldStore:
        """Return a store of one host's own."""
        store = RedisWorldStore.connect(
            url or self.server.url, lease_s=lease_s, timeout_s=timeout_s, hot_log_ticks=HOT_LOG_TICKS
        )
        self._stores.callback(store.close)
        return store

    def owner(self, name: str, store: RedisWorldStore | None = None) -> Owner:
        """Return a host that owns nothing yet."""
        return Owner(store or self.connect(), name, self.world, self.notes)

    def verdict(self, name: str, problems: Sequence[str] = ()) -> dict[str, Any]:
        """Judge, and end."""
        with contextlib.closing(self.server.raw()) as raw:
            verdict = judge(self.connect(), raw, self._notes_path, [self.world], {})
        self._stores.close()
        return {
            "chaos": name,
            "num_faults": 1,
            "acks": verdict.acks,
            "problems": list(problems),
            "commits_by_a_displaced_owner": verdict.commits_by_a_displaced_owner,
            "acked_ticks_lost": verdict.acked_ticks_lost,
            "violations": verdict.violations + len(problems),
        }


def reissued_epoch(server: ChaosServer, directory: Path, variant: Variant | None = None) -> dict[str, Any]:
    """A disk that lied loses an acquisition; its epoch is given out again, and its first holder wakes and writes."""
    with functions_are(broken_code(variant)) if variant is not None else contextlib.nullcontext():
        stage = Stage(server, directory)
        former = stage.owner("host-0")
        former.take()
        _all_acked(former.commit(former.steps(2)))
        former.store.release(former.token)  # type: ignore[arg-type]
        kept = server.log_file().stat().st_size
        sleeper = stage.owner("host-1")
        sleeper.take()
        server.kill()
        os.truncate(server.log_file(), kept)
        server.ensure()
        holder = stage.owner("host-2")
        holder.take()
        assert sleeper.token is not None and holder.token is not None
        assert sleeper.token.epoch == holder.token.epoch
        answers = [_until_answered(sleeper, sleeper.steps(1)), _until_answered(holder, holder.steps(2))]
        got = [type(answer).__name__ for answer in answers]
        problems = (
            [] if variant is not None or got == ["Fenced", "Ack"] else [f"sleeper and holder were answered {got}"]
        )
        return stage.verdict("epoch given out twice", problems)


def cut_wire(server: ChaosServer, directory: Path, *, held: bool) -> dict[str, Any]:
    """Two hosts hold one world, and one direction between the first and the server is cut for longer than a lease."""
    stage, lease_s = Stage(server, directory), 0.3
    proxy = Proxy(server.socket)
    wired = _retried(lambda: stage.connect(proxy.url, lease_s=lease_s, timeout_s=1.0), StoreUnavailable)
    near = stage.owner("host-0", wired)
    far = stage.owner("host-1", stage.connect(lease_s=lease_s))
    _retried(near.take, StoreUnavailable)
    _all_acked(_until_answered(near, near.steps(2)))
    cut = near.steps(2)
    proxy.holds_requests, proxy.drops_answers = held, not held
    problems = []
    with contextlib.suppress(StoreUnavailable):
        problems.append(f"answered {near.commit(cut)} over a wire that was cut")
    _until_taken(far)
    _all_acked(far.commit(far.steps(2)))
    proxy.holds_requests = proxy.drops_answers = False
    # Requests that were held arrive now; then the same commit is sent once more.
    answer = _until_answered(near, cut)
    if not isinstance(answer, Fenced):
        problems.append(f"the displaced host was answered {answer!r}")
    _all_acked(far.commit(far.steps(2)))
    proxy.close()
    return stage.verdict("requests held back" if held else "answers dropped", problems)


def stepped_clock(server: ChaosServer, directory: Path, *, by_s: float) -> dict[str, Any]:
    """The server's clock jumps while a host holds a world: another may take it, and none keeps it for ever."""
    # No lease ends by itself meanwhile; the server looks at its clock only now and then.
    stage = Stage(server, directory)
    first, second = (stage.owner(f"host-{number}") for number in range(2))
    first.take()
    _all_acked(first.commit(first.steps(2)))
    server.step_clock(by_s)
    try:
        _until_taken(second)
        _all_acked(second.commit(second.steps(2)))
        answer = first.commit(first.steps(1))
        problems = [] if isinstance(answer, Fenced) else [f"the displaced host was answered {answer!r}"]
    finally:
        server.step_clock(0.0)
    # The lease given in the other time must not keep anybody out either.
    _until_taken(first)
    _all_acked(first.commit(first.steps(1)))
    return stage.verdict(f"clock stepped by {by_s:+.0f} s", problems)


def full_memory(server: ChaosServer, directory: Path) -> dict[str, Any]:
    """The server's memory is full: the world pauses and keeps its owner, nothing is dropped, and it goes on."""
    stage = Stage(server, directory)
    owner, other = stage.owner("host-0"), stage.owner("host-1")
    owner.take()
    ticks, problems = owner.steps(2), []
    with contextlib.closing(server.raw()) as raw:
        raw.config_set("maxmemory", raw.info("memory")["used_memory"] + 100_000)
        try:
            while not isinstance(answer := owner.commit(ticks), StoreFull):
                _all_acked(answer)
                ticks = owner.steps(2)
            if owner.token is None or owner.store.renew([owner.token]) != [True]:
                problems.append("a full server did not prolong a lease")
            with contextlib.suppress(LeaseHeld):
                other.take()
                problems.append("a world changed hands while its owner held it")
        finally:
            raw.config_set("maxmemory", 0)
    _all_acked(owner.commit(ticks))
    return stage.verdict("full memory", problems)


def emptied(server: ChaosServer, directory: Path) -> dict[str, Any]:
    """FLUSHALL: what was there is missed by whoever knew it, and nothing empty is taken for it."""
    stage = Stage(server, directory)
    owner = stage.owner("host-0")
    owner.take()
    _all_acked(owner.commit(owner.steps(2)))
    problems = []
    with contextlib.closing(server.raw()) as raw:
        raw.flushall()
        if not isinstance(answer := owner.commit(owner.steps(1)), UnknownWorld):
            problems.append(f"an emptied server answered {answer!r}")
        raw.client_kill_filter(_type="normal", skipme=True)
        with contextlib.suppress(StoreUnavailable, UnknownWorld):
            owner.store.load(stage.world)
            problems.append("a world was loaded from an emptied server")
        try:
            owner.store.records()
            problems.append("an emptied server was adopted")
        except StoreUnavailable as error:
            if "emptied" not in str(error):
                problems.append(f"nobody was told: {error}")
    return {"chaos": "FLUSHALL", "num_faults": 1, "problems": problems, "violations": len(problems)}


def all_scenarios(server: ChaosServer, directory: Path) -> Iterator[dict[str, Any]]:
    """Yield the report of each, the emptied server last."""
    yield reissued_epoch(server, directory)
    yield cut_wire(server, directory, held=False)
    yield cut_wire(server, directory, held=True)
    if server.can_be_slowed:
        yield stepped_clock(server, directory, by_s=3600.0)
        yield stepped_clock(server, directory, by_s=-3600.0)
    yield full_memory(server, directory)
    yield emptied(server, directory)


def _all_acked(answer: object) -> None:
    assert isinstance(answer, Ack), answer


def _until_answered(owner: Owner, ticks: Sequence[TickEffects]) -> Ack | Exception:
    return _retried(lambda: owner.commit(ticks), StoreUnavailable)


def _until_taken(owner: Owner) -> None:
    _retried(owner.take, LeaseHeld)


def _retried(act: Callable[[], Any], error: type[Exception]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return act()
        except error:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
