"""A run's folder: its configuration, its lock, and where each part keeps its files."""

import fcntl
import os
import shutil
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import msgspec

from cluster.config import RunConfig
from learner.restored import CHECKPOINTS, RUN_FILE, WARMUP
from world.durable import refusals_told, write_file
from world.errors import ConfigError, DiskFull, RunFolderError
from world.store.link import without_password

SCHEMA_VERSION = 1
ARCHIVE = "archive"
_LEAST_FREE_BYTES = 256 << 20
_LOCK_FILE = "lock"


@dataclass(frozen=True, slots=True)
class _Stored:
    """What `run.json` holds."""

    schema_version: int
    run_id: str
    config: RunConfig


@dataclass(frozen=True, slots=True)
class _Header:
    """What every schema of `run.json` holds."""

    schema_version: int


class RunFolder:
    """An open run folder. One command holds it at a time."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path.resolve()
        self._lock = lock

    @classmethod
    def open(cls, path: Path) -> Self:
        """Make the folder if need be, and hold it. Raises `RunFolderError` if another run does, and `DiskFull`."""
        with refusals_told(path, RunFolderError, "choose another --run-dir"):
            path.mkdir(parents=True, exist_ok=True)
            lock = os.open(path / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise RunFolderError(
                f"{path}: another run is using it; stop that one, or choose another --run-dir"
            ) from None
        return cls(path, lock)

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._lock)

    def check_space(self) -> None:
        """Raises `DiskFull` where too little is left to begin."""
        free = shutil.disk_usage(self.path).free
        if free < _LEAST_FREE_BYTES:
            raise DiskFull(
                f"{self.path}: {free >> 20} MB are free on that disk, {_LEAST_FREE_BYTES >> 20} MB are needed;"
                " free some, or choose another --run-dir"
            )

    def stored(self) -> tuple[str, RunConfig] | None:
        """Return the run's id and configuration, or None if no run has begun here. Raises `RunFolderError`."""
        return read_run(self.path)

    def begin(self, config: RunConfig) -> str:
        """Store the configuration of a new run, and return the id it is given. Raises `DiskFull`."""
        run_id = uuid.uuid4().hex
        data = msgspec.json.encode(_Stored(SCHEMA_VERSION, run_id, config))
        write_file(self.path / RUN_FILE, msgspec.json.format(data))
        return run_id

    @property
    def redis(self) -> Path:
        """Of the embedded server."""
        return self.path / "redis"

    @property
    def archive(self) -> Path:
        """Of the cold segments of its worlds."""
        return self.path / ARCHIVE

    @property
    def replay(self) -> Path:
        """Of the shards and the limiter."""
        return self.path / "replay"

    @property
    def checkpoints(self) -> Path:
        """Of the learner."""
        return self.path / CHECKPOINTS

    @property
    def start(self) -> Path:
        """Of the weights that the run began with."""
        return self.path / "start"

    @property
    def weights(self) -> Path:
        """Of the weight store."""
        return self.path / "weights"

    @property
    def warmup(self) -> Path:
        """Of the tokenizer and the held-out transitions."""
        return self.path / WARMUP

    @property
    def metrics(self) -> Path:
        """One line of JSON a second."""
        return self.path / "metrics.jsonl"

    @property
    def worlds(self) -> Path:
        """Which worlds were begun, and on which server."""
        return self.path / "worlds.json"

    @property
    def leavings(self) -> Path:
        """What a killed command would leave behind, to be removed by the next."""
        return self.path / "leavings.json"


def read_run(path: Path) -> tuple[str, RunConfig] | None:
    """Return the id and the configuration of the run in a folder, or None. Raises `RunFolderError`."""
    file = path / RUN_FILE
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunFolderError(f"{file}: cannot be read ({error.strerror}); choose another --run-dir") from error
    try:
        version = msgspec.json.decode(data, type=_Header).schema_version
        if version != SCHEMA_VERSION:
            raise RunFolderError(
                f"{file}: is of schema {version}, this program reads {SCHEMA_VERSION}; use the version that wrote it,"
                " or choose another --run-dir"
            )
        stored = msgspec.json.decode(data, type=_Stored)
    except (msgspec.DecodeError, ConfigError) as error:
        raise RunFolderError(f"{file}: cannot be read ({error}); restore it, or choose another --run-dir") from error
    return stored.run_id, stored.config


def stored_address(path: Path) -> str:
    """Return the address of the Ray cluster that the run in a folder joins; empty: a local one, or no run yet."""
    stored = read_run(path)
    return stored[1].address if stored else ""


def continued(stored: RunConfig, **given: object) -> RunConfig:
    """Return the stored configuration, to go on with. Raises `ConfigError` where what was given contradicts it."""
    for name, value in given.items():
        if value is not None and value != getattr(stored, name):
            # One of them may be a server's address, with a password in it.
            begun, asked = (without_password(repr(each)) for each in (getattr(stored, name), value))
            raise ConfigError(
                f"this run was begun with {name} {begun} and cannot go on with {asked}; leave that out, or choose"
                " another --run-dir"
            )
    return replace(stored)
