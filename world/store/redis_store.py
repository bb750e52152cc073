"""Worlds in Redis or Valkey: one hash, one log and a few keyframes each; every write is one atomic function."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, cast, get_args

from redis.exceptions import RedisError

from world.errors import (
    ConfigError,
    Conflict,
    CorruptRecord,
    Fenced,
    Gap,
    NewerSchema,
    StoreError,
    StoreFull,
    UnknownWorld,
)
from world.snapshot import Snapshot, TickEffects, WorldId
from world.store import keys
from world.store.codec import encode_snapshot
from world.store.commit_calls import CommitCalls, answers
from world.store.link import LIBRARY, PATIENCE_S, Link
from world.store.log import (
    DEFAULT_CAPS,
    MAX_LOG_BYTES,
    MAX_LOG_TICKS,
    UNKNOWN_DIGEST,
    LogCaps,
    PackedCommit,
    check_owner,
    genesis,
    pack,
    restore,
    verified_one,
)
from world.store.places import Places
from world.store.records import Ack, Commit, Durability, FencingToken, Status, WorldRecord
from world.store.redis_history import RedisHistory
from world.store.redis_inbox import RedisInbox
from world.store.redis_listing import ensure_index, read_record, rebuild_index
from world.store.refusals import refusal
from world.store.replies import active_at, cap_fields, log_entries, milliseconds, pairs, record_fields, record_of
from world.store.wire import Part

_PAGE = 256
_MAX_ID = 2**64 - 1


class RedisWorldStore:
    """The `WorldStore` that outlives every process. One instance may serve several threads."""

    def __init__(
        self,
        link: Link,
        *,
        durability: Durability,
        lease_s: float,
        hot_log_ticks: int,
        caps: LogCaps = DEFAULT_CAPS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = link
        self._durability: Durability = durability
        self.lease_s = lease_s
        self._hot_log_ticks, self._caps = hot_log_ticks, caps
        # Chain digests of the last commit of each world we own, its base included: what the next one builds on.
        self._digests: dict[WorldId, dict[int, bytes]] = {}
        self.calls = CommitCalls(lease_s=lease_s, hot_log_ticks=hot_log_ticks, clock=clock)

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        durability: Durability = "disk",
        lease_s: float = 10.0,
        hot_log_ticks: int = 4096,
        max_log_ticks: int = MAX_LOG_TICKS,
        max_log_bytes: int = MAX_LOG_BYTES,
        timeout_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> Self:
        """Connect to a redis://, rediss:// or unix:// URL, inspect the server and load the functions.

        `lease_s` is how long an owner that fell silent keeps its worlds; `hot_log_ticks` how far back the log reaches
        at least; `max_log_ticks` and `max_log_bytes` how far a world made here may run ahead of its archive before it
        pauses (0: without end); `timeout_s` how long one answer is waited for, which is to be less for who asks again
        and keeps others waiting; `clock` says when a lease needs prolonging.

        Raises `UnsafeServer` with the line to change, `StoreUnavailable`, and `ConfigError` for impossible arguments.
        """
        if durability not in get_args(Durability):
            raise ConfigError(f"durability should be one of {', '.join(get_args(Durability))}, got {durability!r}")
        if lease_s <= 0 or timeout_s <= 0:
            raise ConfigError(f"lease_s and timeout_s must be > 0, got {lease_s} and {timeout_s}")
        if hot_log_ticks < 0:
            raise ConfigError(f"hot_log_ticks must be >= 0, got {hot_log_ticks}")
        caps = LogCaps(max_log_ticks, max_log_bytes)
        link = Link(url, durability=durability, timeout_s=timeout_s)
        store = cls(
            link,
            durability=durability,
            lease_s=lease_s,
            hot_log_ticks=hot_log_ticks,
            caps=caps,
            clock=clock,
        )
        link.one("PING")
        return store

    @property
    def identity(self) -> str:
        """Name of the server's data set: it changes where somebody emptied or exchanged the server."""
        assert self._link.identity is not None
        return self._link.identity

    def create(self, record: WorldRecord, snapshot: Snapshot) -> None:
        """Make a world that begins at `snapshot`. Repeating is harmless; raises `WorldExists` for other content."""
        world = record.world
        keys.check_world_id(world)
        assert record.tick == snapshot.tick, f"world {world}: record and snapshot are of different ticks"
        digest = genesis(record, snapshot)
        keyframe = encode_snapshot(snapshot, chain=digest)
        given = cap_fields(self._caps) | record_fields(record)
        fields = [part for item in given.items() for part in item]
        # The index comes first: an entry without a world is skipped, a world without an entry would be lost.
        self._link.one("ZADD", keys.index(world), "NX", time.time_ns() // 1_000_000, world)
        self._write(world, "create", digest, record.tick, keyframe, *fields)

    def acquire(self, world: WorldId, *, owner: str, nonce: bytes) -> FencingToken:
        """Take the world: epoch + 1 with this nonce. Idempotent for the same nonce; the same owner may retake.

        Raises `LeaseHeld`, `UnknownWorld`, `NotRunning`, and `CorruptRecord`, having written nothing.
        """
        check_owner(owner, nonce)
        self.calls.let_go(world)
        self.calls.prolonged(world)
        try:
            _, epoch, tick, digest = self._write(world, "acquire", owner, nonce, self._lease_ms)
        except CorruptRecord:
            # What the functions of this program make no sense of may be a newer program's, which this says.
            self.record(world)
            raise
        self._digests[world] = {int(tick): digest}
        return FencingToken(world, int(epoch), nonce)

    def renew(self, tokens: Sequence[FencingToken]) -> list[bool | Exception]:
        """Prolong leases, answering for each token in order: True, or the `Fenced` that it met."""
        calls = [_function("renew", token.world, token.epoch, token.nonce, self._lease_ms) for token in tokens]
        answers: list[bool | Exception] = []
        for token, reply in zip(tokens, self._link.write_all(calls), strict=True):
            refused = self._refused(token.world, reply)
            if refused is None:
                self.calls.prolonged(token.world)
            answers.append(True if refused is None else refused)
        return answers

    def release(self, token: FencingToken) -> None:
        """End the lease at once, and the token with it; harmless if it was lost already."""
        reply = self._link.write_all([_function("release", token.world, token.epoch, token.nonce)])[0]
        self._digests.pop(token.world, None)
        self.calls.let_go(token.world)
        refused = self._refused(token.world, reply)
        if refused is not None and not isinstance(refused, Fenced | UnknownWorld):
            raise refused

    def commit(self, commits: Sequence[Commit]) -> list[Ack | Exception]:
        """Make ticks durable, all in one round trip (split at 256 commits or 1 MB); answers in order.

        An answer is an `Ack`, or the `Fenced`, `Gap`, `Conflict`, `NotRunning`, `UnknownWorld`, `WorldTooLarge` or
        `StoreFull` that this world met; the others' commits stand. Repeating a commit is harmless.

        Raises `StoreUnavailable` where an outcome is unknown: some, all or none of the commits may stand.
        """
        packed = self._pack(commits)
        both = zip(commits, packed, strict=True)
        calls = self.calls.calls([(commit.token, body) for commit, body in both if isinstance(body, PackedCommit)])
        groups = zip(calls, self._link.write_all([call for _, call in calls]), strict=True)
        replies = (reply for (num, _), group in groups for reply in answers(num, group))
        return [
            body if isinstance(body, StoreError) else self._settle(commit, body, next(replies))
            for commit, body in zip(commits, packed, strict=True)
        ]

    def load(self, world: WorldId) -> tuple[WorldRecord, Snapshot, tuple[TickEffects, ...]]:
        """Return the record, the snapshot at its newest valid keyframe, and the effects from there to the last tick.

        Every digest is verified. Raises `UnknownWorld`, also for one that was deleted, and `CorruptRecord`.
        """
        broken: CorruptRecord | None = None
        below: bytes = b"+inf"
        while found := self._link.one("ZREVRANGEBYSCORE", keys.keyframe_index(world), below, "-inf", "LIMIT", 0, 1):
            at, below = int(found[0]), b"(" + found[0]
            # One transaction: owner, keyframe and log are of the same moment, whoever commits meanwhile.
            *_, answers = self._answers(
                ("MULTI",),
                ("HGETALL", keys.meta(world)),
                ("TIME",),
                ("GET", keys.keyframe(world, at)),
                ("XRANGE", keys.log(world), f"{at}-0", "+"),
                ("EXEC",),
            )
            meta, now, keyframe, stream = map(self._link.answer, answers)
            record, digest = record_of(world, pairs(meta), milliseconds(now))
            if at > record.tick:
                continue
            try:
                if keyframe is None:
                    raise CorruptRecord(f"the keyframe of tick {at} is missing")
                entries = [entry for entry in log_entries(stream) if entry.tick <= record.tick]
                return record, *restore(keyframe, at, entries, record.tick, digest)
            except NewerSchema as error:
                raise NewerSchema(f"world {world!r}: {error}") from None
            except CorruptRecord as error:
                broken = broken or error
        record = self.record(world)
        if record.status == "deleted":
            raise refusal(world, ("GONE",))
        raise CorruptRecord(
            f"world {world!r}: no keyframe and log lead to tick {record.tick}: {broken or 'no keyframe'}"
        )

    def effects(self, world: WorldId, first: int, last: int) -> Iterator[TickEffects]:
        """Yield the logged effects of ticks first … last, as far as the log still reaches. Raises `CorruptRecord`."""
        last = min(last, self.record(world).tick)
        digest: bytes | None = None
        start = max(first - 1, 0)
        while start <= last:
            stream = self._link.one("XRANGE", keys.log(world), f"{start}-0", f"{last}-{_MAX_ID}", "COUNT", _PAGE)
            for entry in log_entries(stream):
                if entry.tick >= first:
                    yield verified_one(entry, digest)
                digest, start = entry.digest, entry.tick + 1
            if len(stream) < _PAGE:
                break
        if digest is not None and start <= last:
            raise CorruptRecord(f"world {world!r}: its log ends at tick {start - 1}, the world is at tick {last}")

    def record(self, world: WorldId) -> WorldRecord:
        """Return what is known of one world. Raises `UnknownWorld`."""
        meta, now = self._answers(("HGETALL", keys.meta(world)), ("TIME",))
        return record_of(world, pairs(meta), milliseconds(now))[0]

    def records(self, damaged: list[tuple[WorldId, CorruptRecord]] | None = None) -> list[WorldRecord]:
        """Return all worlds that are not deleted, newest activity first.

        Records that do not verify go to `damaged`; without such a list they raise `CorruptRecord`.
        """
        ensure_index(self._link)
        indexed = self._answers(*(("ZRANGE", key, 0, -1) for key in keys.index_keys()))
        worlds = [WorldId(name.decode()) for names in indexed for name in names]
        *metas, now = self._answers(*(("HGETALL", keys.meta(world)) for world in worlds), ("TIME",))
        living = [(pairs(meta), world) for meta, world in zip(metas, worlds, strict=True) if meta]
        living = [(meta, world) for meta, world in living if meta.get(b"st") != b"deleted"]
        living.sort(key=lambda item: active_at(item[0]), reverse=True)
        found = []
        for meta, world in living:
            record = read_record(world, meta, milliseconds(now))
            if isinstance(record, WorldRecord):
                found.append(record)
            elif damaged is None:
                raise record
            else:
                damaged.append((world, record))
        return found

    def rebuild_index(self) -> None:
        """Find every world by SCAN and enter it into the index, which is only a cache."""
        rebuild_index(self._link)

    def set_status(self, world: WorldId, status: Status) -> None:
        """Pause, resume, quarantine or delete a world. Raises `UnknownWorld`."""
        if status not in get_args(Status):
            raise ConfigError(f"world {world!r}: status should be one of {', '.join(get_args(Status))}, got {status!r}")
        self._write(world, "set_status", status)

    def history(self) -> RedisHistory:
        """Return the past of these worlds."""
        return RedisHistory(self._link, hot_log_ticks=self._hot_log_ticks, caps=self._caps)

    def places(self) -> Places:
        """Return where worlds are wished to be, over the same connections."""
        return Places(self._link)

    def inbox(self) -> RedisInbox:
        """Return the inboxes of the worlds on this server, over the same connections."""
        return RedisInbox(self._link)

    def close(self) -> None:
        """Close all connections; the worlds stay, and leases end by themselves."""
        self._link.close()

    @property
    def _lease_ms(self) -> int:
        return max(1, round(self.lease_s * 1000))

    def _write(self, world: WorldId, name: str, *arguments: bytes | str | int) -> list[Any]:
        reply = self._link.write_all([_function(name, world, *arguments)])[0]
        refused = self._refused(world, reply)
        if refused is not None:
            raise refused
        return reply if isinstance(reply, list) else [reply]

    def _refused(self, world: WorldId, reply: Any, builds_on: int | None = None) -> StoreError | None:
        """Return why one world's call was refused, or None; raise what concerns the whole server."""
        if isinstance(reply, RedisError):
            error = self._link.failure(reply)
            if isinstance(error, StoreFull) or type(error) is StoreError:
                return error
            raise error
        if _code(reply) in ("OK", "DUP"):
            return None
        # Of a damaged record, what is told may be no text.
        return refusal(world, [part.decode("utf-8", "replace") for part in reply], builds_on=builds_on)

    def _answers(self, *commands: tuple[Part, ...]) -> list[Any]:
        return [self._link.answer(reply) for reply in self._link.call_all(commands)]

    def _pack(self, commits: Sequence[Commit]) -> list[PackedCommit | StoreError]:
        packed: list[PackedCommit | StoreError] = []
        ahead: dict[WorldId, dict[int, bytes]] = {}
        for commit in commits:
            world, base = commit.token.world, commit.effects[0].tick - 1
            digest = ahead.get(world, {}).get(base) or self._digest_at(world, base)
            try:
                body = pack(commit, digest)
            except StoreError as error:
                packed.append(error)
                continue
            ahead.setdefault(world, {}).update(_digests(body))
            packed.append(body)
        return packed

    def _digest_at(self, world: WorldId, tick: int) -> bytes:
        known = self._digests.get(world, {}).get(tick)
        if known is not None:
            return known
        (last, digest, born_at, created), entry = self._answers(
            ("HMGET", keys.meta(world), "tk", "dg", "bt", "cd"),
            ("XRANGE", keys.log(world), f"{max(tick, 0)}-0", f"{max(tick, 0)}-{_MAX_ID}", "COUNT", 1),
        )
        if last is not None and int(last) == tick:
            return cast(bytes, digest)
        if born_at is not None and int(born_at) == tick:
            return cast(bytes, created)
        return log_entries(entry)[0].digest if entry else UNKNOWN_DIGEST

    def _settle(self, commit: Commit, packed: PackedCommit, reply: Any) -> Ack | Exception:
        world, last = commit.token.world, packed.entries[-1]
        refused = self._refused(world, reply, builds_on=packed.previous)
        if refused is not None:
            if isinstance(refused, Fenced | Gap | Conflict):
                self._digests.pop(world, None)
            return refused
        self._digests[world] = _digests(packed)
        self.calls.acknowledged(world, packed)
        return Ack(world, last.tick, self._durability, repeated=_code(reply) == "DUP")


def _function(name: str, world: WorldId, *arguments: Part) -> tuple[Part, ...]:
    return ("FCALL", f"{LIBRARY}_{name}", 2, keys.meta(world), keys.log(world), *arguments)


def _digests(packed: PackedCommit) -> dict[int, bytes]:
    return {packed.previous: packed.base} | {entry.tick: entry.digest for entry in packed.entries}


def _code(reply: Any) -> str:
    code: bytes = reply[0] if isinstance(reply, list) else reply
    return code.decode()
