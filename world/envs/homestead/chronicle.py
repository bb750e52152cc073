"""What changed at which of the last ticks, and through whom."""

from collections import deque

from world.envs.grounded import Int32Array

CHRONICLE_TICKS = 1024
"""Ticks back that can be asked for."""


class Chronicle:
    """The changes (n, 3) of the last ticks."""

    def __init__(self) -> None:
        self._ticks: deque[tuple[int, Int32Array]] = deque(maxlen=CHRONICLE_TICKS)

    def record(self, tick: int, changes: Int32Array) -> None:
        """Note what the step to `tick` changed."""
        self._ticks.append((tick, changes))

    def clear(self) -> None:
        """Forget everything: another history begins."""
        self._ticks.clear()

    def copy(self) -> "Chronicle":
        """Return a chronicle of the same past."""
        twin = Chronicle()
        twin._ticks = self._ticks.copy()
        return twin

    def causes(self, tick: int) -> Int32Array:
        """Return rows (y, x, cause) of all cells that the step to `tick` changed.

        Raises `KeyError` for a tick that is not among the last `CHRONICLE_TICKS` played here.
        """
        for played, changes in reversed(self._ticks):
            if played == tick:
                return changes
        raise KeyError(f"homestead: tick {tick} was not played here within the last {CHRONICLE_TICKS} ticks")
