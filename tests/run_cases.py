"""Real runs as a person starts them: in a process group of their own, watched from outside, stopped or killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from cluster.listing import list_worlds, opened_store, show_world
from cluster.metrics_file import read_metrics

PATIENCE_S = 800.0
"""How long a loaded machine may take for anything that is waited for here."""
LONG_MINUTES = 60.0
"""For a run that is stopped once what was waited for has come: longer than any test may take."""

Found = TypeVar("Found")


class Run:
    """`worlds run` on a folder."""

    def __init__(
        self, folder: Path, *, minutes: float, preset: str | None = "smoke", more: tuple[str, ...] = ()
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._before = len(read_metrics(folder / "metrics.jsonl"))
        arguments = ["run", "--run-dir", str(folder), "--minutes", str(minutes), "--json"]
        if preset is not None:
            arguments += ["--preset", preset]
        arguments += more
        self.told = folder.parent / f"{folder.name}.stderr"
        with self.told.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cluster.cli", *arguments],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.kill()

    def moments(self) -> list[dict[str, Any]]:
        """Return what this command has written to the metrics so far."""
        return read_metrics(self.folder / "metrics.jsonl")[self._before :]

    def wait_until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for a moment of which something holds, and return it."""
        return self.wait_for(lambda: next(filter(holds, self.moments()), None))

    def wait_for(self, come: Callable[[], Found | None]) -> Found:
        """Wait, while the run goes on, until something is there, and return it."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if found := come():
                return found
            assert self.process.poll() is None, f"the run ended early:\n{self.told.read_text()}"
            time.sleep(0.2)
        raise AssertionError(f"waited in vain:\n{self.told.read_text()}")

    def wait_for_another_moment(self) -> dict[str, Any]:
        """Wait until the run has written down one more moment, and return it."""
        known = len(self.moments())
        return self.wait_for(lambda: self.moments()[known:])[0]

    def wait_for_another_server(self, former: int) -> dict[str, Any]:
        """Wait until the run has brought its embedded server back as another process; return the newest moment."""
        self.wait_for(lambda: server_pid(self.folder) not in (0, former))
        return self.moments()[-1]

    def wait_until_worlds_went_on(self, since: dict[str, dict[str, Any]]) -> None:
        """Wait until every world, grounded and dreamed, has a later tick in the store than it had then."""
        self.wait_until(lambda moment: moment["agent_ticks"] > 0)
        self.wait_for(lambda: went_on(since, worlds_of(self.folder)))

    def finish(self) -> dict[str, Any]:
        """Wait for the end, and return the summary."""
        out, _ = self.process.communicate(timeout=PATIENCE_S)
        assert self.process.returncode == 0, self.told.read_text()
        summary: dict[str, Any] = json.loads(out)
        return summary

    def interrupt(self, number: int = signal.SIGTERM) -> None:
        """Ask it to stop."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill the whole process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate(timeout=PATIENCE_S)

    def actors(self, kind: str) -> list[int]:
        """Return the processes of an actor class."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError, IndexError):
                session = (entry / "stat").read_text().rsplit(")", 1)[1].split()[3]
                if session == str(self.process.pid) and (entry / "cmdline").read_bytes().startswith(
                    f"ray::{kind}".encode()
                ):
                    found.append(int(entry.name))
        return found


def worlds_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the worlds of a run folder by id, as `worlds list --json` prints them."""
    with opened_store(folder, None) as store:
        return {world["id"]: world for world in list_worlds(store)}


def went_on(since: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]) -> bool:
    """Return whether every world is there as it was then, and at a later tick."""
    return set(now) == set(since) and all(now[world]["tick"] > since[world]["tick"] for world in since)


def verified_digests(folder: Path) -> dict[str, str]:
    """Return every world's state digest; each logged tick is verified against the committed one on the way."""
    with opened_store(folder, None) as store:
        return {world["id"]: show_world(store, world["id"])["state_digest"] for world in list_worlds(store)}


def server_pid(folder: Path) -> int:
    """Return the process of the embedded server; 0 while one that is just starting has not yet written it down."""
    return int((folder / "redis" / "server.pid").read_text() or 0)
