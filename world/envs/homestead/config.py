"""What a homestead world may be set to."""

import struct
import zlib
from dataclasses import dataclass
from typing import Literal

from world.errors import ConfigError

MAX_AGENTS = 16
"""Agents that have a colour of their own."""
MIN_SIDE = 16
"""The smallest map that holds a vault, a gate room and a commons beside open ground."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HomesteadConfig:
    """Size, population, rates and senses of a homestead world."""

    height: int = 32
    """Rows of cells, border wall included."""
    width: int = 32
    """Columns of cells, border wall included."""
    num_agents: int = 4
    """Agents, 1 to 16."""
    num_animals: int = 2
    """Wandering animals, 0 to 8."""
    min_landmarks: int = 24
    """Fewest landmarks of a map; small maps take as many as fit."""
    max_landmarks: int = 40
    """Most landmarks of a map."""
    regrow_ticks: int = 200
    """Ticks after which a harvested bush or a felled tree has grown again."""
    sapling_rate: float = 0.01
    """Chance, at each tick, that a sapling becomes a young tree."""
    commons_rate: float = 0.002
    """Chance, at each tick, that a bare plant of the commons ripens, for each ripe one within two cells."""
    animal_rate: float = 0.25
    """Chance, at each tick, that an animal tries to move."""
    hidden_switches: bool = False
    """A switch looks the same whether it was thrown or not, and moves nothing by itself: the gate beside it opens for
    whoever tries it (uses it) after the switch was thrown, which then springs back. A gate that is open can be shut by
    hand."""
    max_ticks: int | None = None
    """Ticks after which an episode is truncated; None: it goes on for ever."""
    orientation: Literal["north", "heading"] = "north"
    """What is up in a view: north, or where the agent is heading (then a view is no piece of a map)."""
    sensor_noise: int = 0
    """Hard mode: each channel of each pixel is off by up to this much, 0 to 64."""
    dimming: float = 0.0
    """Hard mode: part of the brightness that is lost at the darkest of a 256-tick day, 0 to 1."""
    occlusion: float = 0.0
    """Hard mode: chance, at each tick, that a cell of a view is hidden, 0 to 1."""

    def __post_init__(self) -> None:
        if not (MIN_SIDE <= self.height <= 1024 and MIN_SIDE <= self.width <= 1024):
            raise ConfigError(f"homestead sides must be {MIN_SIDE} to 1024 cells, got {self.height}x{self.width}")
        if not 1 <= self.num_agents <= MAX_AGENTS:
            raise ConfigError(f"homestead.num_agents must be 1 to {MAX_AGENTS}, got {self.num_agents}")
        if not 0 <= self.num_animals <= 8:
            raise ConfigError(f"homestead.num_animals must be 0 to 8, got {self.num_animals}")
        if not 0 <= self.min_landmarks <= self.max_landmarks <= 256:
            raise ConfigError(
                "homestead landmarks must satisfy 0 <= min <= max <= 256, "
                f"got {self.min_landmarks} and {self.max_landmarks}"
            )
        if self.regrow_ticks < 1:
            raise ConfigError(f"homestead.regrow_ticks must be >= 1, got {self.regrow_ticks}")
        if self.max_ticks is not None and self.max_ticks < 1:
            raise ConfigError(f"homestead.max_ticks must be >= 1 or None, got {self.max_ticks}")
        if self.orientation not in ("north", "heading"):
            raise ConfigError(f"homestead.orientation must be 'north' or 'heading', got {self.orientation!r}")
        if not 0 <= self.sensor_noise <= 64:
            raise ConfigError(f"homestead.sensor_noise must be 0 to 64, got {self.sensor_noise}")
        if not 0.0 < self.sapling_rate <= 1.0:
            raise ConfigError(f"homestead.sapling_rate must be above 0 and at most 1, got {self.sapling_rate}")
        for name in ("commons_rate", "animal_rate", "dimming", "occlusion"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"homestead.{name} must be 0 to 1, got {getattr(self, name)}")

    @property
    def hard(self) -> bool:
        """Whether views differ from what is there."""
        return self.sensor_noise > 0 or self.dimming > 0 or self.occlusion > 0

    def fingerprint(self) -> int:
        """Return 32 bits that differ where the rules would go another way from one state."""
        rules = (self.regrow_ticks, self.max_ticks or 0, self.sapling_rate, self.commons_rate, self.animal_rate)
        # Worlds without the option keep the fingerprint that they were saved with.
        return zlib.crc32(struct.pack("<qqddd", *rules) + b"hidden switches" * self.hidden_switches)
