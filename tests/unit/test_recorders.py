"""What recorders promise: whoever presses Ctrl-C in a terminal, which all processes hear, is left alone with it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from learner.recorders import Recorders, Stopped
from world.trajectory import Chunk

ROOT = Path(__file__).parents[2]


def dawdle(task: float, stopped: Stopped) -> list[Chunk]:
    """Say so on stdout, and live until nobody waits any more, or for a while."""
    print("alive", flush=True)
    ends = time.monotonic() + task
    while time.monotonic() < ends and not stopped():
        time.sleep(0.01)
    return []


def main() -> None:
    """Record with one process that dawdles, and one that has nothing to do; be interrupted, and say so."""
    # Whatever started the tests in its background ignores it, and so would we.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with suppress(KeyboardInterrupt), closing(Recorders(dawdle, 2)) as recorders:
        print("began", flush=True)
        list(recorders.lived([0.0, 60.0]))
    print("interrupted", flush=True)


@pytest.mark.parametrize("at", ["began", "alive"])
def test_an_interrupt_that_all_processes_hear_ends_them_in_silence(at: str) -> None:
    """While they are being spawned, and while one lives and one waits for more to do."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.test_recorders"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    said = [process.stdout.readline()]
    while said[-1].strip() != at:
        said.append(process.stdout.readline())
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "interrupted" in out
    assert "Traceback" not in err and "KeyboardInterrupt" not in err


if __name__ == "__main__":
    main()
