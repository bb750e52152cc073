"""Archives a run's worlds while it goes on, in a thread of its own: hosts never wait for it."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from world.errors import DiskFull, LivingWorldsError, StoreError, StoreUnavailable
from world.snapshot import WorldId
from world.store.archive import Archive
from world.store.archiver import Archiver
from world.store.history import History
from world.store.lineage import Lineage
from world.store.link import PROMPTLY_S
from world.store.redis_store import RedisWorldStore

EVERY_S = 5.0
_SWEEP_EVERY = 120
"""Passes between two looks for what nobody refers to."""
_STOP_WITHIN_S = 10.0


class ArchivingThread:
    """Looks at every world now and then, and archives what is due."""

    def __init__(
        self,
        redis_url: str,
        directory: Path,
        worlds: Callable[[RedisWorldStore], Iterable[WorldId]],
        tell: Callable[[str], None],
        *,
        every_s: float = EVERY_S,
    ) -> None:
        """Take who is to be archived, asked anew with every pass, and whom to tell what a person should know."""
        self._url, self._archive, self._worlds, self._tell = redis_url, Archive(directory), worlds, tell
        self._every_s = every_s
        self._told: set[str] = set()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="archiver", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the world that is being archived. What is not archived yet stays in the log."""
        self._stopped.set()
        self._thread.join(_STOP_WITHIN_S)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                with closing(RedisWorldStore.connect(self._url, timeout_s=PROMPTLY_S)) as store:
                    self._go_on(store)
            except StoreUnavailable:
                self._stopped.wait(self._every_s)
            except LivingWorldsError as error:
                self._say(f"archiving stands still: {error}")
                self._stopped.wait(self._every_s)

    def _go_on(self, store: RedisWorldStore) -> None:
        history = History(store.history(), self._archive)
        archiver, lineage = Archiver(history.kept, self._archive), Lineage(store, history)
        for number in range(1 << 62):
            for world in self._worlds(store):
                if self._stopped.is_set():
                    return
                sweep = number % _SWEEP_EVERY == _SWEEP_EVERY - 1
                self._archive_one(archiver, world, lineage if sweep else None)
            if self._stopped.wait(self._every_s):
                return

    def _archive_one(self, archiver: Archiver, world: WorldId, sweep_with: Lineage | None) -> None:
        """Archive what is due of one world. What it is refused is told, and keeps no other world waiting."""
        try:
            if sweep_with is not None:
                sweep_with.sweep(world)
            refused = archiver.run([world]).refused
        except StoreUnavailable:
            raise
        except (DiskFull, StoreError) as error:
            refused = {world: str(error)}
        for text in refused.values():
            self._say(f"not archived: {text}")

    def _say(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._tell(text)


@contextmanager
def archiving(
    redis_url: str,
    directory: Path,
    worlds: Callable[[RedisWorldStore], Iterable[WorldId]],
    tell: Callable[[str], None],
) -> Iterator[None]:
    """Archive worlds until the context ends."""
    thread = ArchivingThread(redis_url, directory, worlds, tell)
    thread.start()
    try:
        yield
    finally:
        thread.stop()
