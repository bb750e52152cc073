"""Files that survive a crash: written beside, fsynced, renamed. What a file system refuses is told as our errors."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from world.errors import DiskFull, LivingWorldsError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def disk_full_told(path: Path, num_bytes: int) -> Iterator[None]:
    """Raise `DiskFull` in place of the operating system's own error for want of space or quota."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise DiskFull(f"{path}: no space for {num_bytes:,} bytes; free some on that disk, then repeat") from error


@contextmanager
def refusals_told(path: Path, error: type[LivingWorldsError], advice: str) -> Iterator[None]:
    """Raise `DiskFull`, or another error with its advice, in place of the operating system's own."""
    try:
        yield
    except OSError as refused:
        if refused.errno in _NO_SPACE:
            raise DiskFull(f"{path}: no space; free some on that disk, then repeat") from refused
        raise error(f"{path}: cannot be used ({refused.strerror}); {advice}") from refused


def write_file(path: Path, *parts: bytes, several_writers: bool = False) -> None:
    """Replace `path` by these bytes atomically and durably. Raises `DiskFull`; the file is then what it was.

    What a writer who is killed leaves beside it, <name>.partial, the next one overwrites. With `several_writers`, who
    may be at it at once, each has its own, <name>.<process>-<random>.partial: what is left is for the caller to sweep.
    """
    own = f".{os.getpid()}-{secrets.token_hex(4)}" if several_writers else ""
    partial = path.with_name(f"{path.name}{own}.partial")
    try:
        with disk_full_told(path, sum(map(len, parts))), partial.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make names in a directory durable: what was created, renamed or removed there."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
