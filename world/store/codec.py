"""The only place where records become bytes: effects of one tick, and snapshots, as frames of msgpack.

Axes: A agents, D memory components, n changed cells, N chunks of a layer.
"""

from typing import Annotated, Final, Literal, TypeVar, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from world.envs.grounded import BoolArray, Float32Array, Int32Array, Uint8Array, ViewLayout
from world.errors import CorruptRecord, WorldTooLarge
from world.event import MAX_EVENTS
from world.field import Changes, Field, Layer, Uint16Array
from world.snapshot import Float16Array, Snapshot, TickEffects
from world.store.frame import TOO_LARGE, ArrayReader, PackedArray, pack_array, seal, unseal_any
from world.store.upgrade import EFFECTS_UPGRADES, SCHEMA_VERSION, SNAPSHOT_UPGRADES, upgraded

DIGEST_BYTES: Final = 16
MAX_EFFECTS_BYTES: Final = 1 << 23
"""Raw size of one tick's effects, and of each of its arrays."""
MAX_SNAPSHOT_BYTES: Final = 1 << 28
"""Raw size of a snapshot, and of each of its arrays."""
MAX_DIRECTORY: Final = 1 << 22
"""Chunks in the bounding box of a layer: what finding them costs in memory, four bytes each."""

_EFFECTS_MAGIC: Final = b"LWef"
_SNAPSHOT_MAGIC: Final = b"LWsn"
_LAYER_ARRAYS: Final = ("coordinates", "tokens", "set_at", "seen_at")

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Size = Annotated[int, msgspec.Meta(ge=0, le=2**12)]
_Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Event = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
_Digest = Annotated[bytes, msgspec.Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
_Chain = Annotated[bytes, msgspec.Meta(max_length=DIGEST_BYTES)]


class _Effects(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    tick: _Count
    is_first: bool
    weights_version: _Count
    state_digest: _Digest
    poses: PackedArray
    actions: PackedArray
    rewards: PackedArray
    terminated: PackedArray
    truncated: PackedArray
    layer: PackedArray
    y: PackedArray
    x: PackedArray
    token: PackedArray
    events: Annotated[tuple[tuple[_Event, _Int32, _Int32], ...], msgspec.Meta(max_length=MAX_EVENTS)]
    """Not a packed array: that there are none, as mostly, takes one byte."""
    memory: PackedArray
    """The last, as `segment` relies on."""


class _Layout(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    rows: _Size
    cols: _Size
    map_rows: _Size
    tile_px: _Size
    num_values: _Count


class _Snapshot(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    kind: Literal["grounded", "dreamed"]
    seed: _Int64
    tick: _Count
    episode: _Count
    layout: _Layout
    num_agents: _Size
    layers: tuple[
        tuple[PackedArray, PackedArray, PackedArray, PackedArray],
        tuple[PackedArray, PackedArray, PackedArray, PackedArray],
    ]
    poses: PackedArray
    memory: PackedArray
    env: Annotated[bytes, msgspec.Meta(max_length=MAX_SNAPSHOT_BYTES)]
    chain: _Chain


_Struct = TypeVar("_Struct", _Effects, _Snapshot)
_encoder: Final = msgspec.msgpack.Encoder()
_effects_decoder: Final = msgspec.msgpack.Decoder(_Effects)
_snapshot_decoder: Final = msgspec.msgpack.Decoder(_Snapshot)


def encode_effects(effects: TickEffects) -> bytes:
    """Return the frame of one tick's effects. Raises `WorldTooLarge` where it exceeds `MAX_EFFECTS_BYTES`."""
    return seal_effects(effects_payload(effects))


def seal_effects(payload: bytes) -> bytes:
    """Return the frame of an effects payload."""
    return seal(_EFFECTS_MAGIC, payload[0], payload[1:], MAX_EFFECTS_BYTES)


def unseal_effects(frame: bytes) -> bytes:
    """Return the payload in an effects frame. Raises `CorruptRecord`."""
    version, raw = unseal_any(_EFFECTS_MAGIC, SCHEMA_VERSION, frame, MAX_EFFECTS_BYTES)
    return bytes((version,)) + raw


def effects_payload(effects: TickEffects) -> bytes:
    """Return what is chained and sealed of one tick: its schema version, one byte, and its msgpack.

    Equal effects give equal payloads, whatever compresses them. Raises `WorldTooLarge` above `MAX_EFFECTS_BYTES`.
    """
    changes = effects.changes
    record = _Effects(
        tick=effects.tick,
        is_first=effects.is_first,
        weights_version=effects.weights_version,
        state_digest=effects.state_digest,
        poses=pack_array(effects.poses, narrow=True),
        actions=pack_array(effects.actions, narrow=True),
        rewards=pack_array(effects.rewards),
        terminated=pack_array(effects.terminated),
        truncated=pack_array(effects.truncated),
        layer=pack_array(changes.layer),
        y=pack_array(changes.y, narrow=True),
        x=pack_array(changes.x, narrow=True),
        token=pack_array(changes.token, narrow=True),
        events=tuple((kind, y, x) for kind, y, x in effects.events.tolist()),
        memory=pack_array(effects.memory),
    )
    arrays = (getattr(effects, name) for name in ("poses", "actions", "rewards", "terminated", "truncated", "memory"))
    columns = (changes.layer, changes.y, changes.x, changes.token)
    _refuse_oversize("effects", sum(array.nbytes for array in (*arrays, *columns)), MAX_EFFECTS_BYTES)
    return bytes((SCHEMA_VERSION,)) + _encoder.encode(record)


def effects_of(payload: bytes) -> TickEffects:
    """Return the effects in a payload of any schema. Raises `CorruptRecord`."""
    record = _decode(_effects_decoder, upgraded("effects", payload, EFFECTS_UPGRADES))
    reader = ArrayReader("effects", MAX_EFFECTS_BYTES)

    def array(name: str, dtype: type[np.generic], *shape: int | None) -> NDArray[np.generic]:
        return reader.read(name, getattr(record, name), dtype, shape)

    actions = cast(Int32Array, array("actions", np.int32, None))
    num_agents = len(actions)
    layer = cast(Uint8Array, array("layer", np.uint8, None))
    num_changes = len(layer)
    return TickEffects(
        tick=record.tick,
        is_first=record.is_first,
        weights_version=record.weights_version,
        state_digest=record.state_digest,
        poses=cast(Int32Array, array("poses", np.int32, num_agents, 2)),
        actions=actions,
        rewards=cast(Float32Array, array("rewards", np.float32, num_agents)),
        terminated=cast(BoolArray, array("terminated", np.bool_, num_agents)),
        truncated=cast(BoolArray, array("truncated", np.bool_, num_agents)),
        changes=Changes(
            layer,
            cast(Int32Array, array("y", np.int32, num_changes)),
            cast(Int32Array, array("x", np.int32, num_changes)),
            cast(Uint16Array, array("token", np.uint16, num_changes)),
        ),
        events=np.array(record.events, np.int32).reshape(-1, 3),
        memory=cast(Float16Array, array("memory", np.float16, num_agents, None)),
    )


def encode_snapshot(snapshot: Snapshot, *, chain: bytes = b"") -> bytes:
    """Return the frame of a snapshot, with the digest of the log up to it.

    Raises `WorldTooLarge` where it exceeds `MAX_SNAPSHOT_BYTES` or its cells lie too far apart to be read back.
    """
    return seal_snapshot(snapshot_payload(snapshot, chain=chain))


def decode_snapshot(frame: bytes) -> tuple[Snapshot, bytes]:
    """Return the snapshot in a frame and the digest of the log up to it. Raises `CorruptRecord`."""
    return snapshot_of(unseal_snapshot(frame))


def seal_snapshot(payload: bytes) -> bytes:
    """Return the frame of a snapshot's payload."""
    return seal(_SNAPSHOT_MAGIC, payload[0], payload[1:], MAX_SNAPSHOT_BYTES)


def unseal_snapshot(frame: bytes) -> bytes:
    """Return the payload in a snapshot's frame. Raises `CorruptRecord`."""
    version, raw = unseal_any(_SNAPSHOT_MAGIC, SCHEMA_VERSION, frame, MAX_SNAPSHOT_BYTES)
    return bytes((version,)) + raw


def snapshot_payload(snapshot: Snapshot, *, chain: bytes = b"") -> bytes:
    """Return a snapshot's schema version, one byte, and its msgpack. Raises as `encode_snapshot` does."""
    layout = snapshot.field.layout
    layers, num_bytes = [], snapshot.poses.nbytes + snapshot.memory.nbytes
    for layer in snapshot.field.layers:
        arrays = layer.arrays()
        if not _directory_fits(arrays["coordinates"]):
            raise WorldTooLarge(f"the field spans more than {MAX_DIRECTORY} chunks: {TOO_LARGE}")
        num_bytes += sum(array.nbytes for array in arrays.values())
        layers.append(tuple(pack_array(arrays[name]) for name in _LAYER_ARRAYS))
    _refuse_oversize("a snapshot", num_bytes, MAX_SNAPSHOT_BYTES)
    record = _Snapshot(
        kind=snapshot.kind,
        seed=snapshot.seed,
        tick=snapshot.tick,
        episode=snapshot.episode,
        layout=_Layout(layout.rows, layout.cols, layout.map_rows, layout.tile_px, layout.num_values),
        num_agents=snapshot.field.num_agents,
        layers=tuple(layers),  # type: ignore[arg-type]
        poses=pack_array(snapshot.poses, narrow=True),
        memory=pack_array(snapshot.memory),
        env=snapshot.env,
        chain=chain,
    )
    return bytes((SCHEMA_VERSION,)) + _encoder.encode(record)


def snapshot_of(payload: bytes) -> tuple[Snapshot, bytes]:
    """Return the snapshot in a payload of any schema, and the digest of the log up to it. Raises `CorruptRecord`."""
    record = _decode(_snapshot_decoder, upgraded("snapshot", payload, SNAPSHOT_UPGRADES))
    layout = record.layout
    if layout.map_rows > layout.rows:
        raise CorruptRecord(f"snapshot: {layout.map_rows} map rows of {layout.rows} rows")
    field = Field(
        ViewLayout(
            rows=layout.rows,
            cols=layout.cols,
            map_rows=layout.map_rows,
            tile_px=layout.tile_px,
            num_values=layout.num_values,
        ),
        record.num_agents,
    )
    reader = ArrayReader("snapshot", MAX_SNAPSHOT_BYTES)
    field.layers = (_decode_layer(reader, record.layers[0]), _decode_layer(reader, record.layers[1]))
    poses = reader.read("poses", record.poses, np.int32, (record.num_agents, 2))
    memory = reader.read("memory", record.memory, np.float16, (record.num_agents, None))
    snapshot = Snapshot(
        kind=record.kind,
        seed=record.seed,
        tick=record.tick,
        episode=record.episode,
        field=field,
        poses=cast(Int32Array, poses),
        memory=cast(Float16Array, memory),
        env=record.env,
    )
    return snapshot, record.chain


def _decode_layer(reader: ArrayReader, packed: tuple[PackedArray, PackedArray, PackedArray, PackedArray]) -> Layer:
    dtypes: tuple[type[np.generic], ...] = (np.int32, np.uint16, np.int32, np.int32)
    arrays = {
        name: reader.read(name, array, dtype, (None,) * len(array.shape))
        for name, array, dtype in zip(_LAYER_ARRAYS, packed, dtypes, strict=True)
    }
    coordinates = arrays["coordinates"]
    if coordinates.ndim != 2 or coordinates.shape[1] != 2 or not _is_ascending(coordinates):
        raise CorruptRecord("field layer: chunk coordinates are not pairs in ascending order")
    if not _directory_fits(coordinates):
        raise CorruptRecord(f"field layer: chunks span more than {MAX_DIRECTORY}")
    return Layer.from_arrays(arrays)


def _refuse_oversize(what: str, num_bytes: int, limit: int) -> None:
    if num_bytes > limit:
        raise WorldTooLarge(f"{what} of {num_bytes} bytes exceeds the limit of {limit}: {TOO_LARGE}")


def _directory_fits(coordinates: NDArray[np.generic]) -> bool:
    if not len(coordinates):
        return True
    spans = coordinates.max(axis=0).astype(np.int64) - coordinates.min(axis=0) + 1
    return int(spans[0]) * int(spans[1]) <= MAX_DIRECTORY


def _is_ascending(coordinates: NDArray[np.generic]) -> bool:
    steps = np.diff(coordinates.astype(np.int64), axis=0)
    return bool(((steps[:, 0] > 0) | ((steps[:, 0] == 0) & (steps[:, 1] > 0))).all())


def _decode(decoder: "msgspec.msgpack.Decoder[_Struct]", raw: bytes) -> _Struct:
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptRecord(f"a record does not fit its schema: {error}") from None
