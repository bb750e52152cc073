"""Old schemas are read for ever: one function for each version turns its fields into those of the next.

Whoever changes a stored struct raises `SCHEMA_VERSION`, appends an upgrade to each tuple below (`unchanged` where a
kind did not change), and adds golden files of the new version to tests/golden; the old ones stay.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from world.errors import CorruptRecord, NewerSchema

SCHEMA_VERSION: Final = 2
"""Of effects, snapshots and the fields of a world's record. 2: effects name the world events of their tick."""

Fields: TypeAlias = list[Any]
Upgrade: TypeAlias = Callable[[Fields], Fields]
_EFFECTS_1: Final = 14
"""Fields of effects in version 1."""


def unchanged(fields: Fields) -> Fields:
    """Return the fields of a kind that the next version did not change."""
    return fields


def without_events(fields: Fields) -> Fields:
    """Return the effects of a tick which nobody could befall, before there were world events."""
    *others, memory = fields
    if len(others) != _EFFECTS_1 - 1:
        raise ValueError(f"expected {_EFFECTS_1} fields, got {len(fields)}")
    return [*others, [], memory]


def same_record(fields: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the fields of a record that the next version did not change."""
    return fields


EFFECTS_UPGRADES: Final[tuple[Upgrade, ...]] = (without_events,)
"""Element i turns version i + 1 into version i + 2."""
SNAPSHOT_UPGRADES: Final[tuple[Upgrade, ...]] = (unchanged,)
RECORD_UPGRADES: Final[tuple[Callable[[dict[bytes, bytes]], dict[bytes, bytes]], ...]] = (same_record,)


def check_schema(what: str, version: int, newest: int) -> None:
    """Raise `NewerSchema` for a version beyond the newest that is known, `CorruptRecord` for one that never was."""
    if not 1 <= version <= newest:
        raise (NewerSchema if version > newest else CorruptRecord)(
            f"{what} schema {version}, this program reads 1 to {newest}; use the one that wrote it"
        )


def upgraded(kind: str, payload: bytes, upgrades: Sequence[Upgrade]) -> bytes:
    """Return the msgpack of a payload, its version byte taken off, as the newest version has it.

    Raises as `check_schema` does, and `CorruptRecord` for content that its upgrade cannot take.
    """
    newest = 1 + len(upgrades)
    version = payload[0] if payload else 0
    if version == newest:
        return payload[1:]
    check_schema(f"{kind} of", version, newest)
    try:
        fields = msgspec.msgpack.decode(payload[1:])
        for upgrade in upgrades[version - 1 :]:
            fields = upgrade(fields)
        return msgspec.msgpack.encode(fields)
    except (msgspec.MsgspecError, UnicodeDecodeError, LookupError, TypeError, ValueError) as error:
        raise CorruptRecord(f"{kind} of schema {version} cannot be brought to schema {newest}: {error}") from None
