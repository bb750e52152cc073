"""Randomness as a function of (seed, tick, key): nothing to save, nothing that depends on the order of calls.

The mixing is the finaliser of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
generators"), in whole numbers only, so it is the same on every machine and with every version of numpy.
"""

import math
from collections.abc import MutableSequence
from typing import TypeVar

_MASK = (1 << 64) - 1
_UNIT = 2.0**-53

T = TypeVar("T")


def draw(seed: int, tick: int, key: int) -> int:
    """Return the 64 random bits of (seed, tick, key)."""
    z = (seed * 0x9E3779B97F4A7C15 + tick * 0xD1B54A32D192ED03 + key * 0x8CB92BA72F3D8DD7 + 0x632BE59BD9B4E019) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def unit(bits: int) -> float:
    """Return a number in [0, 1) from 64 random bits."""
    return (bits >> 11) * _UNIT


def geometric(bits: int, rate: float) -> int:
    """Return how many ticks, 1 or more, a thing waits that happens at `rate` a tick."""
    if rate >= 1.0:
        return 1
    return 1 + int(math.log1p(-unit(bits)) / math.log1p(-rate))


class Draws:
    """One stream of draws in a row."""

    def __init__(self, seed: int, stream: int) -> None:
        self._seed, self._stream, self._count = seed, stream, 0

    def bits(self) -> int:
        """Return the next 64 random bits."""
        self._count += 1
        return draw(self._seed, self._count, self._stream)

    def below(self, bound: int) -> int:
        """Return a number from 0 to bound - 1."""
        return (self.bits() >> 16) % bound

    def between(self, low: int, high: int) -> int:
        """Return a number from low to high, both included."""
        return low + self.below(high - low + 1)

    def unit(self) -> float:
        """Return a number in [0, 1)."""
        return unit(self.bits())

    def shuffle(self, items: MutableSequence[T]) -> None:
        """Put items into a random order, in place."""
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]
