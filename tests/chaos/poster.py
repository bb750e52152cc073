"""Clients of the chaos test: they post requests, again where they heard nothing, and remember what was received."""

import random
import threading
import time
from collections import defaultdict

from tests.chaos.store_writer import FIRST_NUMBER
from world.errors import InboxFull, StoreFull, StoreUnavailable
from world.snapshot import WorldId
from world.store.inbox import Request
from world.store.redis_inbox import RedisInbox

_PAUSE_S = 0.02


class Poster:
    """A thread that posts until it is stopped."""

    def __init__(self, url: str, worlds: tuple[WorldId, ...], *, seed: int) -> None:
        self._worlds, self._random = worlds, random.Random(seed)
        self._inbox = RedisInbox.connect(url, timeout_s=0.5)
        self.posted: dict[WorldId, list[int]] = defaultdict(list)
        """Numbers of the requests that have a receipt."""
        self.repeated = 0
        """Calls that were made again, in doubt or out of spite."""
        self._next = FIRST_NUMBER
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._post_for_ever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish what is in doubt, and end."""
        self._stopping.set()
        self._thread.join()
        self._inbox.close()

    def _post_for_ever(self) -> None:
        while not self._stopping.is_set():
            world = self._random.choice(self._worlds)
            numbers = [self._next + offset for offset in range(self._random.randint(1, 4))]
            self._next += len(numbers)
            requests = [Request(f"q-{number}", self._random.randrange(4), number) for number in numbers]
            if not self._post_until_received(world, requests):
                return
            self.posted[world] += numbers
            if self._random.random() < 0.1:
                self._post_until_received(world, requests)
                self.repeated += 1
            time.sleep(_PAUSE_S)

    def _post_until_received(self, world: WorldId, requests: list[Request]) -> bool:
        """Return whether they were received: where no host lives any more, a full inbox stays full."""
        while True:
            try:
                self._inbox.post(world, requests)
                return True
            except InboxFull:
                if self._stopping.is_set():
                    return False
            except (StoreUnavailable, StoreFull):
                pass
            self.repeated += 1
            time.sleep(_PAUSE_S)
