"""Ctrl-C and SIGTERM: at once while a run is being started, in order once it goes on."""

import signal
from types import FrameType


class Interruption:
    """Catches the two signals. While not `patient` they raise `KeyboardInterrupt`; later they are only noted."""

    def __init__(self) -> None:
        self.patient = False
        self.requested = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self.install()
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def install(self) -> None:
        """Catch them, also after another library has put its own handlers in place."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._caught)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if not self.patient:
            raise KeyboardInterrupt
