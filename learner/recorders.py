"""Recorders: worlds live beside each other in processes, and hand over the chunks of their lives.

Worlds that are recorded know nothing of each other, so as many processes as there are cores record as much faster.
"""

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from typing import Generic, TypeVar

import torch

from world.trajectory import Chunk

Task = TypeVar("Task")
Stopped = Callable[[], bool]
_stopping: Event | None = None
"""In a process of its own: set when nobody waits for its chunks any more."""


class Recorders(Generic[Task]):
    """Lets `live(task, stopped)` run for many tasks at once, in spawned processes of one thread each.

    `live` is a function of a module and tasks can be pickled; a program that spawns must guard its main module.
    """

    def __init__(self, live: Callable[[Task, Stopped], list[Chunk]], num_processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._live, self._stop = live, context.Event()
        self._pool = ProcessPoolExecutor(num_processes, context, initializer=_begin, initargs=(self._stop,))

    def lived(self, tasks: list[Task]) -> Iterator[list[Chunk]]:
        """Yield the chunks of each task as it is done, whichever is first. Raises what `live` raises."""
        with _interrupts_kept():
            # Processes are spawned by the first tasks, and begin with what is blocked here.
            futures = [self._pool.submit(_lived, self._live, task) for task in tasks]
        for future in as_completed(futures):
            yield future.result()

    def close(self) -> None:
        """End all processes; what they were about to live is left out."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_kept() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(stop: Event) -> None:
    global _stopping
    _stopping = stop
    # A terminal's Ctrl-C reaches all processes; whoever waits for this one says when it is to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # As many processes as cores: their threads would only wait for each other.
    torch.set_num_threads(1)


def _lived(live: Callable[[Task, Stopped], list[Chunk]], task: Task) -> list[Chunk]:
    assert _stopping is not None
    return live(task, _stopping.is_set)
