"""The limiter's process."""

from dataclasses import dataclass
from pathlib import Path

from actors.kept_limiter import KeptLimiter
from actors.settings import from_text
from learner.limiter import LimiterConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class LimiterSettings:
    """What the limiter is built from."""

    directory: str
    limiter: LimiterConfig


class LimiterActor(KeptLimiter):
    """Takes plain values only, so Ray can rebuild it on any node."""

    def __init__(self, settings: str) -> None:
        read = from_text(settings, LimiterSettings)
        super().__init__(read.limiter, Path(read.directory))
