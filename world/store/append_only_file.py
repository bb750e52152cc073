"""What a power cut can do to an append-only file, undone: zeros at its end.

A file system may have lengthened a file and not yet written what belongs there. The server cuts off a command that
is incomplete, but refuses to start over zeros.
"""

import os
from pathlib import Path

_BLOCK = 1 << 16


def cut_padding(directory: Path) -> int:
    """Cut the zero bytes off the end of the newest append-only file in a data directory; return how many.

    Harmless: a whole command ends in a line feed, so what ends in zeros was never acknowledged. No server may run.
    """
    newest = _newest(directory / "appendonlydir" / "appendonly.aof.manifest")
    if newest is None or not newest.exists():
        return 0
    with newest.open("r+b") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _BLOCK)
            file.seek(start)
            kept = len(file.read(end - start).rstrip(b"\0"))
            end = start + kept
            if kept:
                break
        if end < size:
            file.truncate(end)
            os.fsync(file.fileno())
    return size - end


def _newest(manifest: Path) -> Path | None:
    """Return the file that a manifest, lines of `file NAME seq NUMBER type KIND`, names last as incremental."""
    if not manifest.exists():
        return None
    found = [line.split() for line in manifest.read_text("utf-8", errors="replace").splitlines()]
    names = [words[1] for words in found if len(words) >= 6 and words[5] == "i"]
    return manifest.parent / Path(names[-1]).name if names else None
