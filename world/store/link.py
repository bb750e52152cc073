"""Connections to a server that has been found safe: every one is inspected as it is made, reconnections too.

Knows Redis, and nothing of worlds. All failures leave here as errors of our tree.
"""

import hashlib
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl, urlsplit

from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

from world.errors import ConfigError, LivingWorldsError, StoreError, StoreFull, StoreUnavailable, UnsafeServer
from world.store import keys
from world.store.records import Durability
from world.store.wire import Command, packed, size_of

Reply: TypeAlias = Any

OLDEST_SERVER: Final = (7, 0)
APPENDFSYNC: Final[Mapping[Durability, str]] = {"process": "everysec", "disk": "always", "replica": "always"}
PATIENCE_S: Final = 30.0
"""For one answer: a disk or a machine with many neighbours may stand still for seconds, and does not lose anything."""
PROMPTLY_S: Final = 5.0
"""For one answer, where others wait for whoever asks: a store that takes longer is silent, and is asked again."""
MAX_CALLS: Final = 256
MAX_BYTES: Final = 1 << 20
"""Of one round trip; more are split, so that no world waits behind a megabyte of others."""

_SOURCE: Final = "\n".join(
    files("world.store").joinpath(name).read_text("utf-8") for name in ("functions.lua", "history.lua")
)
LIBRARY: Final = f"worlds_{hashlib.blake2b(_SOURCE.encode(), digest_size=4).hexdigest()}"
LIBRARY_CODE: Final = _SOURCE.replace("@LIBRARY@", LIBRARY)


def check_server(info: Mapping[str, str], settings: Mapping[str, str], durability: Durability) -> None:
    """Raise `UnsafeServer` unless a server with this INFO and CONFIG keeps what it acknowledges."""
    # Valkey gives the Redis version that it is compatible with, 7.2, under the old name.
    version = info.get("redis_version", "0")
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST_SERVER:
        raise UnsafeServer(f"the server is version {version}; Redis 7.0 or later, or Valkey, is needed")
    if info.get("role") != "master":
        raise UnsafeServer("the server is a replica; give the address of its primary")
    if info.get("aof_enabled") == "0":
        raise UnsafeServer(
            "the server's append-only file is off, so nothing outlives it; put this line into its configuration:"
            " appendonly yes"
        )
    if info.get("cluster_enabled") == "1":
        raise UnsafeServer("the server is a cluster node, which is not supported; use a single primary")
    wanted = {
        "appendonly": ("yes",),
        # "always" keeps more than "everysec" promises.
        "appendfsync": ("everysec", "always") if durability == "process" else ("always",),
        "no-appendfsync-on-rewrite": ("no",),
        "maxmemory-policy": ("noeviction",),
    }
    for name, allowed in wanted.items():
        got = settings.get(name)
        if got not in allowed:
            raise UnsafeServer(
                f"the server has {name} {got or 'hidden'}, which can lose acknowledged ticks at durability "
                f"{durability!r}; put this line into its configuration: {name} {allowed[0]}"
            )


class Link:
    """Sends pipelines to one server, each once: nothing is ever repeated behind the caller's back."""

    def __init__(self, url: str, *, durability: Durability, timeout_s: float, inspected: bool = True) -> None:
        """Connect with the first call. Not `inspected`: for users who may not, and who write no worlds."""
        self._durability, self._timeout_s = durability, timeout_s
        self._where = without_password(url)
        self.identity: str | None = None
        """Name of the data set, the same as long as it has not been wiped."""
        _check_tls(url)
        try:
            self._pool = ConnectionPool.from_url(
                url,
                retry=Retry(NoBackoff(), 0),
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                protocol=2,
                redis_connect_func=self._greet if inspected else None,
            )
        except ValueError as error:
            raise ConfigError(f"store URL {self._where!r}: {error}") from None

    def call(self, commands: Sequence[Command]) -> list[Reply]:
        """Send commands in one round trip; answers in order, a refused command's being its exception.

        Raises `StoreUnavailable` where the outcome is unknown, `UnsafeServer`, and `ConfigError` for credentials.
        """
        try:
            connection: Any = self._pool.get_connection()
        except (RedisError, OSError) as error:
            raise self.failure(error) from error
        try:
            connection.send_packed_command([packed(commands)])
            return [_read(connection) for _ in commands]
        except BaseException as error:
            # Replies may still be under way: this connection must never answer another call.
            connection.disconnect()
            if isinstance(error, RedisError | OSError):
                raise self.failure(error) from error
            raise
        finally:
            self._pool.release(connection)

    def call_all(self, commands: Sequence[Command]) -> list[Reply]:
        """Send commands as `call` does, in round trips of at most `MAX_CALLS` commands or `MAX_BYTES`."""
        return [reply for batch in _batches(commands) for reply in self.call(batch)]

    def write_all(self, commands: Sequence[Command]) -> list[Reply]:
        """Send writes as `call_all` does. What is answered is durable at this link's level.

        Raises as `call` does, and `StoreUnavailable` where no replica confirms.
        """
        return [reply for batch in _batches(commands) for reply in self._write(batch)]

    def _write(self, batch: Sequence[Command]) -> list[Reply]:
        # A server reads a pipeline in pieces and syncs its disk after each; queued, they are executed, and synced, at
        # once: 25,500 instead of 11,400 commits/s of 400 B where an fsync takes 4 ms. Nothing is rolled back together:
        # a command that is refused leaves the others' effects as they are.
        queued = self._durability != "process" and len(batch) > 1
        commands = [("MULTI",), *batch, ("EXEC",)] if queued else list(batch)
        if self._durability == "replica":
            # Half the time that the whole answer is waited for, so that a missing replica is told from a dead server.
            commands.append(("WAITAOF", 1, 1, max(1, round(self._timeout_s * 500))))
        replies = self.call(commands)
        if self._durability == "replica" and min(self.answer(replies.pop())) < 1:
            raise StoreUnavailable(f"{self._where}: no replica has confirmed the write on its disk")
        if not queued:
            return replies
        _, *receipts, replies_or_abort = replies
        if not isinstance(replies_or_abort, RedisError):
            return list(replies_or_abort)
        # None was executed, for the reason that some were not even queued.
        refused = [receipt for receipt in receipts if isinstance(receipt, RedisError)]
        return [refused[0] if refused else replies_or_abort] * len(batch)

    def one(self, *command: bytes | str | int) -> Reply:
        """Send one command and return its answer, or raise what it is refused with."""
        return self.answer(self.call([command])[0])

    def answer(self, reply: Reply) -> Reply:
        """Return a reply, or raise it as an error of our tree."""
        if isinstance(reply, RedisError):
            raise self.failure(reply) from reply
        return reply

    def failure(self, error: Exception) -> LivingWorldsError:
        """Return what redis-py raised, or answered, as an error of our tree."""
        text = f"{self._where}: {error}"
        if isinstance(error, OutOfMemoryError):
            return StoreFull(f"{text} Raise maxmemory, or delete worlds.")
        if _says(error, "CERTIFICATE_VERIFY_FAILED"):
            return ConfigError(f"{text} Name the authority that signed it: rediss://…?ssl_ca_certs=FILE.")
        if isinstance(error, AuthenticationError | NoPermissionError):
            return ConfigError(f"{text} Check the user and password of the store's URL, and what its ACL allows.")
        if not isinstance(error, ResponseError):
            return StoreUnavailable(
                f"{text} Start the server, or name another one; nothing that was acknowledged is lost."
            )
        if isinstance(error, ReadOnlyError):
            return StoreUnavailable(text)
        if _says(error, "MISCONF"):
            return StoreFull(f"{text} The server cannot write to its disk: free space there.")
        if _says(error, "Function not found"):
            # Somebody flushed the functions; the next connection loads them again.
            self._pool.disconnect(inuse_connections=False)
            return StoreUnavailable(text)
        if _says(error, "NOREPLICAS", "CLUSTERDOWN", "MASTERDOWN", "BUSY"):
            return StoreUnavailable(text)
        if _says(error, "unknown command", "unknown subcommand"):
            return UnsafeServer(f"{text} Redis 7.0 or later, or Valkey, is needed.")
        return StoreError(text)

    def close(self) -> None:
        """Close all connections."""
        self._pool.disconnect()

    def _greet(self, connection: Any) -> None:
        try:
            connection.on_connect()
            self._inspect(connection)
        except BaseException:
            connection.disconnect()
            raise

    def _inspect(self, connection: Any) -> None:
        ask = self._asker(connection)
        settings = ("appendonly", "appendfsync", "no-appendfsync-on-rewrite", "maxmemory-policy")
        text, pairs = ask(("INFO", "server", "persistence", "replication", "cluster"), ("CONFIG", "GET", *settings))
        info = dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
        if info.get("loading") == "1":
            raise StoreUnavailable(f"{self._where}: the server is still loading its data; try again")
        decoded = [part.decode() for part in pairs]
        check_server(info, dict(zip(decoded[::2], decoded[1::2], strict=True)), self._durability)
        libraries, identity = ask(("FUNCTION", "LIST", "LIBRARYNAME", LIBRARY, "WITHCODE"), ("GET", keys.IDENTITY))
        if self.identity is None and identity is None:
            _, identity = ask(("SET", keys.IDENTITY, secrets.token_hex(16), "NX"), ("GET", keys.IDENTITY))
        # A damaged one is another one, not a mistake of ours.
        found = (identity or b"").decode("utf-8", "replace")
        if self.identity not in (None, found):
            raise StoreUnavailable(f"{self._where}: the server was emptied or exchanged; restore its data first")
        self.identity = found
        # Its name is a digest of its text, but the text may have been damaged since it was loaded.
        if not any(LIBRARY_CODE.encode() in library for library in libraries):
            # REPLACE: another client may load the same text in this moment.
            ask(("FUNCTION", "LOAD", "REPLACE", LIBRARY_CODE))

    def _asker(self, connection: Any) -> Callable[..., list[Reply]]:
        def ask(*commands: Command) -> list[Reply]:
            connection.send_packed_command([packed(commands)], check_health=False)
            return [self.answer(reply) for reply in [_read(connection) for _ in commands]]

        return ask


def _says(error: Exception, *parts: str) -> bool:
    return any(part in str(error) for part in parts)


def _read(connection: Any) -> Reply:
    try:
        return connection.read_response(disable_decoding=True)
    except ResponseError as refused:
        return refused


def _check_tls(url: str) -> None:
    """Raise `ConfigError` for TLS that would trust anybody, or whose files are not there."""
    options = dict(parse_qsl(urlsplit(url).query))
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        if name in options and not Path(options[name]).is_file():
            raise ConfigError(f"store URL {without_password(url)!r}: there is no file {options[name]!r} for {name}")
    if options.get("ssl_cert_reqs", "required") != "required" or options.get("ssl_check_hostname", "true") != "true":
        raise ConfigError(
            f"store URL {without_password(url)!r} would trust whoever answers; remove ssl_cert_reqs and"
            " ssl_check_hostname, and name the authority: ssl_ca_certs=FILE"
        )


def without_password(url: str) -> str:
    """Return a store's URL as it may be shown."""
    # Between the first colon and the last @, or, for sockets, among the options.
    return re.sub(r"([?&]password=)[^&]*", r"\1***", re.sub(r"(://[^/@:]*:)[^@/]*@", r"\1***@", url))


def _batches(commands: Sequence[Command]) -> Iterator[list[Command]]:
    batch: list[Command] = []
    size = 0
    for command in commands:
        num_bytes = size_of(command)
        if batch and (len(batch) == MAX_CALLS or size + num_bytes > MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(command)
        size += num_bytes
    if batch:
        yield batch
