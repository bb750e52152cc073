"""What Redis keeps of a world and answers, as records and log entries; and a record as what Redis keeps."""

from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

from world.errors import CorruptRecord
from world.snapshot import Kind, WorldId
from world.store.codec import DIGEST_BYTES
from world.store.log import LogCaps, LogEntry
from world.store.records import Status, WorldRecord
from world.store.refusals import refusal
from world.store.upgrade import RECORD_UPGRADES, SCHEMA_VERSION, check_schema

RECORD_FIELDS = (
    "kind", "st", "dg", "sv", "name", "env", "agents", "tk", "ow", "lu", "ep", "wv", "tokenizer", "parent", "fork_tick",
    "why",
)  # fmt: skip
"""What `record_of` reads."""


def cap_fields(caps: LogCaps) -> dict[str, str | int]:
    """Return what a world is created with of its caps."""
    return {"cap": caps.ticks, "capb": caps.bytes}


def record_fields(record: WorldRecord) -> dict[str, str | int]:
    """Return the fields that a world is created with; its owner, epoch and tick are the store's own."""
    fields: dict[str, str | int] = {
        "name": record.name,
        "kind": record.kind,
        "env": record.env,
        "agents": record.agents,
        "st": record.status,
        "wv": record.weights_version,
        "tokenizer": record.tokenizer,
        "sv": SCHEMA_VERSION,
    }
    if record.parent is not None:
        fields["parent"] = record.parent
    if record.fork_tick is not None:
        fields["fork_tick"] = record.fork_tick
    return fields


def record_of(world: WorldId, fields: Mapping[bytes, bytes], now_ms: int) -> tuple[WorldRecord, bytes]:
    """Return the record in a world's hash, and the digest of its log.

    Raises `UnknownWorld` where there are no fields, `NewerSchema` where a newer program wrote them, `CorruptRecord`
    where they do not make a record.
    """
    if not fields:
        raise refusal(world, ("NO_WORLD",))
    try:
        # First of all: what follows may not hold of a newer program's.
        version = int(fields[b"sv"])
        check_schema(f"world {world!r}: has", version, SCHEMA_VERSION)
        kind, status, digest = fields[b"kind"].decode(), fields[b"st"].decode(), fields[b"dg"]
        if kind not in get_args(Kind) or status not in get_args(Status) or len(digest) != DIGEST_BYTES:
            raise ValueError(f"kind {kind!r}, status {status!r}, digest of {len(digest)} bytes")
        for upgrade in RECORD_UPGRADES[version - 1 :]:
            fields = upgrade(dict(fields))
        record = WorldRecord(
            world=world,
            name=fields[b"name"].decode(),
            kind=cast(Kind, kind),
            env=fields[b"env"].decode(),
            agents=int(fields[b"agents"]),
            tick=int(fields[b"tk"]),
            status=cast(Status, status),
            owner=fields[b"ow"].decode() if int(fields[b"lu"]) > now_ms else "",
            epoch=int(fields[b"ep"]),
            weights_version=int(fields[b"wv"]),
            tokenizer=fields[b"tokenizer"].decode(),
            parent=WorldId(fields[b"parent"].decode()) if b"parent" in fields else None,
            fork_tick=int(fields[b"fork_tick"]) if b"fork_tick" in fields else None,
            reason=fields.get(b"why", b"").decode(),
        )
    except (KeyError, ValueError) as error:
        raise CorruptRecord(
            f"world {world!r}: its record does not verify ({error!r}); restore it from a backup, or delete it"
        ) from None
    return record, digest


def active_at(fields: Mapping[bytes, bytes]) -> int:
    """Return the server's time, in ms, of a world's last activity; 0 where it is unknown.

    A commit does not write it down: it prolongs the lease `lu` by the length `lt`.
    """
    at, until, length = (fields.get(name, b"0") for name in (b"at", b"lu", b"lt"))
    if not (at.isdigit() and until.isdigit() and length.isdigit()):
        return 0
    return max(int(at), int(until) - int(length) if int(length) else 0)


def pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return what HGETALL, or a stream entry, lists as names and values in turn."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def milliseconds(time: Sequence[bytes]) -> int:
    """Return what TIME answers in milliseconds."""
    return int(time[0]) * 1000 + int(time[1]) // 1000


def log_entries(stream: Sequence[Any]) -> list[LogEntry]:
    """Return what XRANGE answers as entries, in order. Raises `CorruptRecord`."""
    entries = []
    for name, flat in stream:
        fields = pairs(flat)
        if set(fields) != {b"d", b"e"}:
            raise CorruptRecord(f"log entry {name.decode()} has the fields {sorted(fields)}, not d and e")
        entries.append(LogEntry(int(name.split(b"-")[0]), fields[b"d"], fields[b"e"]))
    return entries
