"""Recorders: worlds live beside each other in processes, and hand over the chunks of their lives.

Worlds that are recorded know nothing of each other, so as many processes as there are cores record as much faster.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Generic, TypeVar

import torch

from world.errors import LivingWorldsError, ReplayError
from world.trajectory import Chunk

Task = TypeVar("Task")


class Recorders(Generic[Task]):
    """Lets `live(task)` run for many tasks at once, in spawned processes of one thread each.

    `live` is a function of a module and tasks can be pickled; a program that spawns must guard its main module.
    Processes end with whoever began them, whatever he dies of. They are not those of `concurrent.futures`, which waits
    for ever for the rest of what a process was handing over when it was ended.
    """

    def __init__(self, live: Callable[[Task], list[Chunk]], num_processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._processes: dict[Connection, SpawnProcess] = {}
        # It lets interrupts through when it starts, and processes would start it.
        resource_tracker.ensure_running()
        with _interrupts_kept():
            for _ in range(num_processes):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(live, theirs), daemon=True)
                process.start()
                theirs.close()
                self._processes[ours] = process

    def lived(self, tasks: list[Task]) -> Iterator[list[Chunk]]:
        """Yield the chunks of each task as it is done, whichever is first.

        Raises the `LivingWorldsError` that `live` raises, and `ReplayError` where a process ended before its task.
        """
        left, busy = deque(tasks), set[Connection]()

        def occupy(connection: Connection) -> None:
            busy.discard(connection)
            if left:
                connection.send(left.popleft())
                busy.add(connection)

        for connection in self._processes:
            occupy(connection)
        while busy:
            for ready in wait(busy):
                assert isinstance(ready, Connection)
                answer = self._answer(ready)
                occupy(ready)
                yield answer

    def close(self) -> None:
        """End all processes at once; what they were about to live is left out."""
        for connection, process in self._processes.items():
            process.kill()
            process.join()
            connection.close()

    def _answer(self, connection: Connection) -> list[Chunk]:
        try:
            answer: list[Chunk] | LivingWorldsError = connection.recv()
        except (EOFError, OSError) as error:
            process = self._processes[connection]
            process.join()
            raise ReplayError(
                f"a process that records ended with status {process.exitcode}: what it said of it is above, or there"
                " was too little memory for it; repeat, and what is recorded is gone on with"
            ) from error
        if isinstance(answer, LivingWorldsError):
            raise answer
        return answer


@contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Keep interrupts from processes that are spawned meanwhile: they begin with what is blocked here."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(live: Callable[[Task], list[Chunk]], connection: Connection) -> None:
    # A terminal's Ctrl-C reaches all processes; whoever waits for this one ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # As many processes as cores: their threads would only wait for each other.
    torch.set_num_threads(1)
    while True:
        try:
            task: Task = connection.recv()
        except (EOFError, ConnectionError):
            return
        try:
            answer: list[Chunk] | LivingWorldsError = live(task)
        except LivingWorldsError as error:
            answer = error
        with suppress(ConnectionError):
            connection.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
