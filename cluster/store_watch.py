"""The store's absences: noticed through the hosts, told once, and mended without anybody being kept waiting."""

import threading
from collections.abc import Callable

from world.errors import LivingWorldsError, StoreUnavailable


class StoreWatch:
    """Says when the store falls silent and when it is back; asks for it to be mended meanwhile."""

    def __init__(self, ensure: Callable[[], bool | None], tell: Callable[[str], None]) -> None:
        """`ensure` restarts a server of our own that is away, and returns whether it was; None: under way."""
        self._ensure, self._tell = ensure, tell
        self.away = False
        """Some host missed it, and none has had an answer since."""
        self._mending = False

    def missed(self) -> bool:
        """Note that somebody had no answer; return whether the server was just brought back."""
        if not self.away:
            self.away = True
            self._tell("the store does not answer: worlds pause until it does")
        return self._mended()

    def answered(self) -> None:
        """Note that a host's commits were acknowledged, and that it waits for no other."""
        if self.away:
            self.away = False
            # It may have been brought back before anybody missed it a second time.
            self._mended()
            self._tell("the store answers again: worlds go on")
        elif self._mending:
            # Whoever brought it back comes to say so only now.
            self._mended()

    def _mended(self) -> bool:
        restarted = self._ensure()
        self._mending = restarted is None
        if restarted:
            self._tell("the embedded server was away and is back")
        return bool(restarted)


class InBackground:
    """Runs a restart in a thread of its own: a server that hangs is waited for by nobody else."""

    def __init__(self, ensure: Callable[[], bool]) -> None:
        self._ensure = ensure
        self._thread: threading.Thread | None = None
        """Of a restart whose outcome was not told yet."""
        self._restarted = False
        self._refusal: LivingWorldsError | None = None

    def __call__(self) -> bool | None:
        """Begin a restart, or return what the one before has come to: whether it was needed. None: it is under way.

        Raises what a restart was refused with, as `DiskFull`. A server that does not answer is simply asked again.
        """
        if self._thread is None:
            # A daemon: a server that hangs must not keep the program from ending.
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        if self._thread.is_alive():
            return None
        self._thread = None
        restarted, self._restarted = self._restarted, False
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            raise refusal
        return restarted

    def _run(self) -> None:
        try:
            self._restarted = self._ensure()
        except StoreUnavailable:
            pass
        except LivingWorldsError as error:
            self._refusal = error
