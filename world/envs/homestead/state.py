"""All there is of a homestead world, and its bytes.

Axes: N = height × width cells in reading order, A agents.
"""

import hashlib
import struct
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from world.envs.grounded import Uint8Array
from world.envs.homestead.config import HomesteadConfig
from world.envs.homestead.tiles import NUM_ITEMS
from world.errors import EnvironmentUnusable

_MAGIC = b"HMST"
_VERSION = 1
_HEADER = struct.Struct("<4sHHHHHIQQ")
_LEDGER = struct.Struct("<8q")
_DIGEST_BYTES = 8


@dataclass(slots=True)
class Ledger:
    """What came into the world and went out of it, so that conservation can be checked at any time."""

    stones: int = 0
    """Stones there are, on the map and in hands; world events alone bring or take any."""
    first_doors: int = 0
    """Doors the world began with."""
    doors_made: int = 0
    """Doors crafted since."""
    wood_cut: int = 0
    """Wood harvested from trees."""
    fruit_picked: int = 0
    """Fruit harvested, and saplings pulled out again."""
    fruit_eaten: int = 0
    """Fruit eaten."""
    fruit_planted: int = 0
    """Fruit put into the ground."""
    trades: int = 0
    """Exchanges that both sides accepted."""


@dataclass(slots=True)
class HomesteadState:
    """The state of one world; everything else is derived from it."""

    seed: int
    tick: int
    ground: Uint8Array
    """(N,) terrain and paint."""
    thing: NDArray[np.uint16]
    """(N,) what lies or stands there."""
    due: dict[int, int]
    """Cell → tick at which what grows there has grown."""
    cells: list[int]
    """Where each agent stands."""
    facing: list[int]
    """Where each agent looks: 0 north, 1 east, 2 south, 3 west."""
    inventory: list[list[int]]
    """What each agent holds, by item."""
    animals: list[int]
    """Where each animal stands."""
    ledger: Ledger = field(default_factory=Ledger)

    def copy(self) -> "HomesteadState":
        """Return an independent copy."""
        ledger = self.ledger
        return HomesteadState(
            seed=self.seed,
            tick=self.tick,
            ground=self.ground.copy(),
            thing=self.thing.copy(),
            due=self.due.copy(),
            cells=self.cells.copy(),
            facing=self.facing.copy(),
            inventory=[held.copy() for held in self.inventory],
            animals=self.animals.copy(),
            ledger=Ledger(*(getattr(ledger, name) for name in Ledger.__slots__)),
        )


def encode(state: HomesteadState, config: HomesteadConfig) -> bytes:
    """Return the state as bytes: header, arrays, checksum. Equal states have equal bytes."""
    header = _HEADER.pack(
        _MAGIC,
        _VERSION,
        config.height,
        config.width,
        len(state.cells),
        len(state.animals),
        config.fingerprint(),
        state.seed,
        state.tick,
    )
    ledger = _LEDGER.pack(*(getattr(state.ledger, name) for name in Ledger.__slots__))
    waiting = np.array(sorted(state.due.items()), "<i8").reshape(-1, 2)
    agents = [
        (cell, facing, *held) for cell, facing, held in zip(state.cells, state.facing, state.inventory, strict=True)
    ]
    body = b"".join((
        header,
        ledger,
        state.ground.tobytes(),
        state.thing.astype("<u2").tobytes(),
        np.array(agents, "<u4").tobytes(),
        np.array(state.animals, "<u4").tobytes(),
        waiting.tobytes(),
    ))  # fmt: skip
    return body + _checksum(body)


def decode(blob: bytes, config: HomesteadConfig) -> HomesteadState:
    """Return the state of bytes from `encode`.

    Raises `EnvironmentUnusable` for bytes that are damaged, of another version, or of a world of another shape
    or other rules.
    """
    body, checksum = blob[:-_DIGEST_BYTES], blob[-_DIGEST_BYTES:]
    if len(body) < _HEADER.size + _LEDGER.size or body[:4] != _MAGIC:
        raise EnvironmentUnusable(f"homestead state: expected bytes of a homestead world, got {len(blob)} other bytes")
    if _checksum(body) != checksum:
        raise EnvironmentUnusable("homestead state: the checksum does not fit, so the bytes are damaged")
    _, version, height, width, num_agents, num_animals, rules, seed, tick = _HEADER.unpack_from(body)
    if version != _VERSION:
        raise EnvironmentUnusable(f"homestead state: expected version {_VERSION}, got {version}")
    got, wanted = (height, width, num_agents), (config.height, config.width, config.num_agents)
    if got != wanted:
        raise EnvironmentUnusable(f"homestead state: expected height, width, agents {wanted}, got {got}")
    if rules != config.fingerprint():
        raise EnvironmentUnusable("homestead state: written under other rates or limits; restore with the same config")
    num_cells = height * width
    fixed = _HEADER.size + _LEDGER.size + 3 * num_cells + 4 * (2 + NUM_ITEMS) * num_agents + 4 * num_animals
    if len(body) < fixed or (len(body) - fixed) % 16:
        raise EnvironmentUnusable(f"homestead state: expected {fixed} bytes and 16 for each plant, got {len(body)}")
    reader = _Reader(body, _HEADER.size)
    ledger = Ledger(*_LEDGER.unpack(reader.take(_LEDGER.size)))
    ground = np.frombuffer(reader.take(num_cells), np.uint8).copy()
    thing = np.frombuffer(reader.take(2 * num_cells), "<u2").astype(np.uint16)
    agents = np.frombuffer(reader.take(4 * (2 + NUM_ITEMS) * num_agents), "<u4").reshape(num_agents, -1).tolist()
    animals = np.frombuffer(reader.take(4 * num_animals), "<u4").tolist()
    waiting = np.frombuffer(reader.rest(), "<i8").reshape(-1, 2).tolist()
    return HomesteadState(
        seed=seed,
        tick=tick,
        ground=ground,
        thing=thing,
        due=dict(waiting),
        cells=[row[0] for row in agents],
        facing=[row[1] for row in agents],
        inventory=[row[2:] for row in agents],
        animals=animals,
        ledger=ledger,
    )


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()


class _Reader:
    def __init__(self, body: bytes, offset: int) -> None:
        self._body, self._offset = body, offset

    def take(self, num_bytes: int) -> bytes:
        start, self._offset = self._offset, self._offset + num_bytes
        return self._body[start : self._offset]

    def rest(self) -> bytes:
        return self._body[self._offset :]
