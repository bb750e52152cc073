"""Repair of a world that does not verify: back to a tick that does, when a person asks for it."""

from pathlib import Path

import msgspec

from world.errors import CorruptRecord, NewerSchema, NoHistory
from world.snapshot import WorldId
from world.store.audit import Audit
from world.store.history import History
from world.store.lineage import Lineage
from world.store.past import HistoricStore

_LAST = (1 << 53) - 1
"""No world ever gets to a later tick."""


def offered(history: History, audited: Audit) -> int | None:
    """Return the newest tick that a damaged world can go on from, or None.

    What an audit found sound tick by tick is tried first; a keyframe before the damage may lead further back only.
    """
    if audited.newest_verified is None:
        return None
    past = history.kept.past(audited.world)
    candidates = {audited.newest_verified, *past.keyframes, *(ref.first - 1 for ref in past.segments)}
    for tick in sorted((tick for tick in candidates if tick <= audited.newest_verified), reverse=True):
        if _reaches(history, audited.world, tick):
            return tick
    return None


def roll_back(store: HistoricStore, lineage: Lineage, history: History, audited: Audit, tick: int) -> Path | None:
    """Take a world back to a verified tick and let it run. Return where what it did since is kept, if it did anything.

    That is damaged, so it cannot be a world: the bytes are kept as they are. Raises `CorruptRecord` for a tick that
    does not verify, `NewerSchema` for what a newer program wrote, `LeaseHeld` if a host runs it, and as `Lineage.cut`
    does.
    """
    if not _reaches(history, audited.world, tick):
        newest = offered(history, audited)
        raise CorruptRecord(f"world {audited.world!r}: tick {tick} does not verify; the newest that does is {newest}")
    if audited.verified and tick == audited.tick:
        store.set_status(audited.world, "running")
        return None
    aside = _keep(history, audited.world, tick)
    lineage.cut(audited.world, tick, audited.damage)
    store.set_status(audited.world, "running")
    return aside


def _reaches(history: History, world: WorldId, tick: int) -> bool:
    try:
        return history.reach(world, tick).record.world == world and history.state_at(world, tick).tick == tick
    except NewerSchema:
        # Nobody is to cut off what only a newer program can judge.
        raise
    except (CorruptRecord, NoHistory):
        return False


def _keep(history: History, world: WorldId, tick: int) -> Path:
    """Store all that the store holds beyond a tick, undamaged or not. Cold segments stay in the archive anyway."""
    past = history.kept.past(world)
    # To the end of the log: a record that does not verify may say of too few ticks that they are there.
    entries = [(entry.tick, entry.digest, entry.frame) for entry in history.kept.entries(world, tick + 1, _LAST)]
    keyframes = [(at, history.kept.keyframe(world, at)) for at in past.keyframes if at >= tick]
    segments = [(ref.first, ref.last, ref.name) for ref in past.segments if ref.last > tick]
    kept = {"world": world, "tick": past.record.tick, "digest": past.digest, "entries": entries}
    data = msgspec.msgpack.encode({**kept, "keyframes": keyframes, "segments": segments})
    return history.archive.keep_aside(world, f"aside-{past.record.epoch}-{past.record.tick}.msgpack", data)
