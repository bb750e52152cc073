"""Work in a process that may be killed in the midst of it."""

import os
from collections.abc import Callable


def is_killed(work: Callable[[], object]) -> bool:
    """Do the work in a fork of this process; return whether it was killed. It must not end by itself before its end."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0, "it ended by itself"
        return os.WIFSIGNALED(status)
    # Nothing of what it was forked from may run in it, so it leaves without saying goodbye.
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)
