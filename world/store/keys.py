"""Names of everything the store keeps. The keys of one world share a hash slot, by their braces."""

import hashlib
import re
from typing import Final

from world.errors import ConfigError
from world.snapshot import WorldId

NUM_INDEX_KEYS: Final = 64
IDENTITY: Final = "store:id"
"""A random name given at first use: a server without it, or with another, is not the one that held our worlds."""
INDEX_BUILT: Final = "idx:built"
_WORLD_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def check_world_id(world: str) -> None:
    """Raise `ConfigError` unless the id is 1 to 64 letters, digits, dots, dashes and underscores."""
    if not _WORLD_ID.fullmatch(world):
        raise ConfigError(f"world id {world!r} should be 1 to 64 letters, digits, dots, dashes and underscores")


def meta(world: WorldId) -> str:
    """HASH: owner, tick, chain digest and all fixed facts."""
    return f"w:{{{world}}}:m"


def log(world: WorldId) -> str:
    """STREAM, id <tick>-<epoch>: digest d and effects e."""
    return f"w:{{{world}}}:l"


def keyframe_index(world: WorldId) -> str:
    """ZSET of the ticks that have a keyframe."""
    return f"w:{{{world}}}:x"


def keyframe(world: WorldId, tick: int) -> str:
    """STRING: the snapshot after a tick."""
    return f"w:{{{world}}}:k:{tick}"


def pins(world: WorldId) -> str:
    """ZSET of forks by the tick they build on: up to there, nothing is cut off or deleted."""
    return f"w:{{{world}}}:pin"


def pinned_at(world: WorldId) -> str:
    """ZSET of the same forks by the time, in ms, at which they were pinned."""
    return f"w:{{{world}}}:pint"


def segments(world: WorldId) -> str:
    """ZSET of archived segments, <first>-<last>-<name>, by first tick."""
    return f"w:{{{world}}}:s"


def inbox(world: WorldId) -> str:
    """STREAM of requests from outside, id 0-<number>: request id r, agent a, action c."""
    return f"w:{{{world}}}:in"


def results(world: WorldId) -> str:
    """ZSET of request ids by twice the tick that answered them, plus one where they were refused."""
    return f"w:{{{world}}}:rs"


def index(world: WorldId) -> str:
    """ZSET, ms of creation → id: one of 64. A cache of what a SCAN for metas would find."""
    return f"idx:{hashlib.blake2b(world.encode(), digest_size=1).digest()[0] % NUM_INDEX_KEYS}"


def index_keys() -> list[str]:
    """All 64."""
    return [f"idx:{number}" for number in range(NUM_INDEX_KEYS)]
