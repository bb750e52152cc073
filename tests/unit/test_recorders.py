"""What recorders promise: they end with whoever began them, at once and in silence, whatever he ends of."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from learner.recorders import Recorders
from world.errors import EnvironmentUnusable, ReplayError
from world.trajectory import Chunk

ROOT = Path(__file__).parents[2]
_PROMPTLY_S = 10.0


def dawdle(task: float) -> list[Chunk]:
    """Say on stdout who lives, and live for a while."""
    print(f"alive {os.getpid()}", flush=True)
    time.sleep(task)
    return []


def give_up(task: str) -> list[Chunk]:
    """End as the task says."""
    if task == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise EnvironmentUnusable(task)


def main() -> None:
    """Record with one process that dawdles, and one that has nothing to do; be interrupted, and say so."""
    # Whatever started the tests in its background ignores it, and so would we.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with suppress(KeyboardInterrupt), closing(Recorders(dawdle, 2)) as recorders:
        print("began", flush=True)
        list(recorders.lived([0.0, 600.0]))
    print("interrupted", flush=True)


def _begun() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.unit.test_recorders"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _heard(process: subprocess.Popen[str], what: str) -> str:
    assert process.stdout is not None
    return next(line for line in process.stdout if line.startswith(what))


@pytest.mark.parametrize("at", ["began", "alive"])
def test_an_interrupt_that_all_processes_hear_ends_them_at_once_and_in_silence(at: str) -> None:
    """While they are being spawned, and while one lives and one waits for more to do."""
    process = _begun()
    _heard(process, at)
    time.sleep(0.3)
    interrupted_at = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "interrupted" in out
    assert err == ""
    assert time.monotonic() - interrupted_at < _PROMPTLY_S


def test_whoever_is_killed_leaves_no_process_behind() -> None:
    process = _begun()
    living = [int(_heard(process, "alive").split()[1]) for _ in range(2)]
    process.kill()
    process.wait()
    assert _within(_PROMPTLY_S, lambda: not any(map(_is_there, living)))
    assert process.communicate()[1] == ""


@pytest.mark.parametrize(("task", "error"), [("no such world", EnvironmentUnusable), ("killed", ReplayError)])
def test_a_life_that_cannot_be_lived_is_told(task: str, error: type[Exception]) -> None:
    with closing(Recorders(give_up, 1)) as recorders, pytest.raises(error, match=task if task != "killed" else "-9"):
        list(recorders.lived([task]))


def _is_there(pid: int) -> bool:
    # Where nobody collects the dead they stay as zombies.
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _within(seconds: float, holds: Callable[[], bool]) -> bool:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and not holds():
        time.sleep(0.05)
    return holds()


if __name__ == "__main__":
    main()
