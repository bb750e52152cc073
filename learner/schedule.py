"""Learning-rate schedules: which share of its peak the learning rate has at a step.

A run that goes on for as long as worlds live has no last step; a training within a budget has, and ends at zero.
"""

import math

import msgspec

from world.errors import ConfigError


class Endless(msgspec.Struct, frozen=True, kw_only=True, tag="endless"):
    """Rises, holds, and falls with the root of steps, whatever comes."""

    warmup_steps: int = 50
    """Steps until the peak."""
    hold_steps: int = 1_000
    """Steps up to which the peak is held."""

    def __post_init__(self) -> None:
        for name in ("warmup_steps", "hold_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"schedule.{name} must be >= 1, got {getattr(self, name)}")

    def share(self, step: int, done: float) -> float:
        """Return the share of the peak in (0, 1] for step number `step`, from 1; `done` of a budget is of no matter."""
        return min(step / self.warmup_steps, 1.0, math.sqrt(self.hold_steps / step))


class ToZero(msgspec.Struct, frozen=True, kw_only=True, tag="to_zero"):
    """Rises, holds, and falls in a straight line to zero at the end of a budget.

    The course of Hu et al. 2024 (arXiv 2404.06395, section 4), whose budget may be of time as well as of steps.
    """

    warmup_steps: int = 50
    """Steps until the peak."""
    hold: float = 0.3
    """Share of the budget after which the fall begins."""

    def __post_init__(self) -> None:
        if self.warmup_steps < 1:
            raise ConfigError(f"schedule.warmup_steps must be >= 1, got {self.warmup_steps}")
        if not 0.0 <= self.hold < 1.0:
            raise ConfigError(f"schedule.hold must lie in [0, 1), got {self.hold}")

    def share(self, step: int, done: float) -> float:
        """Return the share of the peak in [0, 1] for step number `step`, from 1, with a share `done` of the budget."""
        left = (1.0 - min(max(done, 0.0), 1.0)) / (1.0 - self.hold)
        return min(step / self.warmup_steps, 1.0, left)
