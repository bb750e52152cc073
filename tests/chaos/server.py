"""A server that can be killed, stalled, slowed, robbed of what it had not synced, and told another time."""

import contextlib
import mmap
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from redis import Redis

from world.store.records import Durability
from world.store.server import EmbeddedServer

_CONTROLS = 5
_DELAY, _OFFSET, _SYNCS, _SYNCED, _INODE = range(_CONTROLS)
_PRELOAD = Path(__file__).with_name("preload.c")


class ChaosServer:
    """An embedded server of our own supervisor, with a disk and a clock that obey."""

    def __init__(self, directory: Path, durability: Durability = "disk") -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._embedded = EmbeddedServer(directory, durability)
        self._file = directory.with_name(f"{directory.name}.control").open("w+b")
        self._file.write(bytes(8 * _CONTROLS))
        self._file.flush()
        self._control = mmap.mmap(self._file.fileno(), 8 * _CONTROLS)
        self._library = _built(directory.parent)

    def __enter__(self) -> "ChaosServer":
        self.ensure()
        return self

    def __exit__(self, *exception: object) -> None:
        self.slow_disk(0.0)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._embedded.pid, signal.SIGCONT)
        self._embedded.stop()
        self._control.close()
        self._file.close()

    @property
    def url(self) -> str:
        """URL of its socket."""
        return self._embedded.url

    @property
    def socket(self) -> Path:
        """Path of its socket."""
        return Path(self._embedded.url.removeprefix("unix://"))

    @property
    def can_be_slowed(self) -> bool:
        """Whether a C compiler was there to build what slows its disk and steps its clock."""
        return self._library is not None

    def ensure(self) -> None:
        """Start it, or start it again."""
        with _environment(self._library, self._file.name):
            self._embedded.ensure()

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self._embedded.pid, signal.SIGKILL)
        _until_gone(self._embedded.pid)

    def stall(self, seconds: float) -> None:
        """SIGSTOP for a while."""
        os.kill(self._embedded.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(self._embedded.pid, signal.SIGCONT)

    def slow_disk(self, delay_s: float) -> None:
        """Let every sync take this much longer."""
        self._set(_DELAY, round(delay_s * 1e6))

    def step_clock(self, seconds: float) -> None:
        """Move its clock from where it should be."""
        self._set(_OFFSET, round(seconds * 1e6))

    def cut_power(self, *, padding: int = 0) -> None:
        """SIGKILL it, and take from its log what was written and not synced; `padding` zeros take its place."""
        self.kill()
        log = self.log_file()
        if self._library is not None and log.stat().st_ino == self._get(_INODE):
            os.truncate(log, min(log.stat().st_size, self._get(_SYNCED)))
        with log.open("ab") as file:
            file.write(bytes(padding))

    def log_file(self) -> Path:
        """Return its newest append-only file."""
        return max(
            (self.directory / "appendonlydir").glob("*.incr.aof"), key=lambda path: int(path.name.split(".")[-3])
        )

    def raw(self) -> Any:
        """Return a client with all rights."""
        return Redis.from_url(self.url, protocol=2)

    def _set(self, index: int, value: int) -> None:
        self._control[8 * index : 8 * index + 8] = struct.pack("<q", value)

    def _get(self, index: int) -> int:
        return int(struct.unpack("<q", self._control[8 * index : 8 * index + 8])[0])


def _built(directory: Path) -> Path | None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    library = directory / "preload.so"
    if not library.exists():
        with tempfile.NamedTemporaryFile(dir=directory, suffix=".so", delete=False) as made:
            command = [compiler, "-shared", "-fPIC", "-O2", "-o", made.name, _PRELOAD, "-ldl"]
        subprocess.run(command, check=True)
        Path(made.name).replace(library)
    return library


@contextlib.contextmanager
def _environment(library: Path | None, control: str) -> Iterator[None]:
    """Let what is spawned meanwhile be preloaded. Nothing else of this process is."""
    if library is None:
        yield
        return
    before = os.environ.copy()
    os.environ.update(LD_PRELOAD=str(library), CHAOS_CONTROL=control)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _until_gone(pid: int) -> None:
    """Wait until a killed process has let go of its files; it may stay a zombie until its parent looks."""
    while True:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (OSError, IndexError):
            return
        if state in "ZX":
            return
        time.sleep(0.002)
