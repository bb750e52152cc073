"""Listing many worlds without holding up the server: from the index, in pages, every command a short one.

The index is a cache: 64 sorted sets of ids by the time they were made, so that no one of them is long.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from world.errors import CorruptRecord, UnknownWorld
from world.snapshot import WorldId
from world.store import keys
from world.store.link import Link
from world.store.records import WorldRecord
from world.store.replies import RECORD_FIELDS, active_at, milliseconds, record_of

_SCAN_COUNT: Final = 1000
_LEAST_PAGE: Final = 16


def page(link: Link, *, after: WorldId | None, limit: int) -> list[tuple[WorldId, WorldRecord | CorruptRecord]]:
    """Return up to `limit` worlds that are not deleted, the newest made first, from the one that follows `after`.

    A record that does not verify is its error. Raises `UnknownWorld` for an `after` that the index does not have.
    """
    ensure_index(link)
    position = None
    if after is not None:
        score = link.one("ZSCORE", keys.index(after), after)
        if score is None:
            raise UnknownWorld(f"world {after!r}: no page begins after it, for the store lists no world of this id")
        position = (int(float(score)), after.encode())
    found: list[tuple[WorldId, WorldRecord | CorruptRecord]] = []
    newest = _newest_first(link, position, max(_LEAST_PAGE, limit // keys.NUM_INDEX_KEYS * 2))
    while len(found) < limit:
        worlds = [WorldId(name.decode()) for _, name in _take(newest, limit - len(found))]
        if not worlds:
            break
        *metas, now = _answers(link, [("HMGET", keys.meta(world), *RECORD_FIELDS) for world in worlds] + [("TIME",)])
        for world, values in zip(worlds, metas, strict=True):
            given = zip(map(str.encode, RECORD_FIELDS), values, strict=True)
            meta = {name: value for name, value in given if value is not None}
            if meta and meta.get(b"st") != b"deleted":
                found.append((world, read_record(world, meta, milliseconds(now))))
    return found


def read_record(world: WorldId, meta: Mapping[bytes, bytes], now_ms: int) -> WorldRecord | CorruptRecord:
    """Return a record, or why it is none."""
    try:
        return record_of(world, meta, now_ms)[0]
    except CorruptRecord as error:
        return error


def ensure_index(link: Link) -> None:
    """Build the index if it is not there."""
    if not link.one("EXISTS", keys.INDEX_BUILT):
        rebuild_index(link)


def rebuild_index(link: Link) -> None:
    """Find every world by SCAN, and enter it by the time of its last activity: when it was made is not kept."""
    cursor = b"0"
    while True:
        cursor, names = link.one("SCAN", cursor, "MATCH", "w:{*}:m", "COUNT", _SCAN_COUNT)
        worlds = [WorldId(name.decode()[3:-3]) for name in names]
        active = _answers(link, [("HMGET", keys.meta(world), "at", "gone") for world in worlds])
        entries = [
            ("ZADD", keys.index(world), "NX", active_at({b"at": at or b"0"}), world)
            for world, (at, gone) in zip(worlds, active, strict=True)
            if gone is None
        ]
        _answers(link, entries)
        if cursor == b"0":
            break
    link.one("SET", keys.INDEX_BUILT, 1)


def _newest_first(link: Link, after: tuple[int, bytes] | None, page: int) -> Iterator[tuple[int, bytes]]:
    """Yield (ms, id) of all 64 keys together, descending, from the one that follows `after`."""
    pages: dict[str, list[tuple[int, bytes]]] = {key: [] for key in keys.index_keys()}
    # All first pages in one round trip; the next ones as their key runs out.
    first = _answers(link, [_page(key, "+inf" if after is None else after[0], 0, page) for key in pages])
    streams = [_of_key(link, key, flat, after, page) for key, flat in zip(pages, first, strict=True)]
    yield from heapq.merge(*streams, reverse=True)


def _of_key(
    link: Link, key: str, flat: list[bytes], after: tuple[int, bytes] | None, page: int
) -> Iterator[tuple[int, bytes]]:
    offset = 0
    below: int | str = "+inf" if after is None else after[0]
    while True:
        entries = [(int(float(score)), name) for name, score in zip(flat[::2], flat[1::2], strict=True)]
        yield from (entry for entry in entries if after is None or entry < after)
        if len(entries) < page:
            return
        # By score, not by rank: what is added meanwhile is newer, and moves nothing. Ties are counted off.
        lowest = entries[-1][0]
        ties = sum(score == lowest for score, _ in entries)
        offset = offset + ties if below == lowest else ties
        below = lowest
        flat = link.one(*_page(key, below, offset, page))


def _page(key: str, below: int | str, offset: int, page: int) -> tuple[str | int, ...]:
    return ("ZREVRANGEBYSCORE", key, below, "-inf", "WITHSCORES", "LIMIT", offset, page)


def _take(entries: Iterator[tuple[int, bytes]], num: int) -> list[tuple[int, bytes]]:
    return [entry for _, entry in zip(range(num), entries, strict=False)]


def _answers(link: Link, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
    return [link.answer(reply) for reply in link.call_all(list(commands))]
