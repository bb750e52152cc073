"""What an actor is built from, as one line of text: Ray may rebuild it anywhere, at any time, from nothing else."""

from dataclasses import dataclass
from typing import TypeVar

import msgspec

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvSettings:
    """The environment of a run, and what was prepared for it."""

    env: str
    num_agents: int | None
    """None: as many as the environment has."""
    warmup_directory: str
    """Where tokenizer and held-out transitions are."""


def to_text(settings: object) -> str:
    """Return settings as JSON."""
    return msgspec.json.encode(settings).decode()


def from_text(text: str, kind: type[T]) -> T:
    """Return the settings that `to_text` wrote."""
    return msgspec.json.decode(text, type=kind)
