"""What is done to worlds as wholes, by commands and by moves between hosts; and what is true whoever dies of it."""

import contextlib
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.chaos.scene import LAST, Scene, living_host
from tests.store_cases import LivingField
from world.errors import CorruptRecord, NoHistory
from world.store import keys
from world.store.audit import audit
from world.store.exported import export_world
from world.store.lineage import Lineage, new_world_id
from world.store.portable import import_world
from world.store.records import Ack, Commit
from world.store.redis_store import RedisWorldStore
from world.store.repair import roll_back

AT: Final = 7
"""Tick that it is forked at, or taken back to."""
_GRANDCHILD_AT: Final = 9
_FORGOTTEN_BEFORE: Final = 6
_DAMAGED: Final = 12
_MOVED_TO: Final = LAST + 8


class Act:
    """Something that is done to a world. Whoever was struck, or somebody else, does it again."""

    def prepare(self, scene: Scene) -> None:
        """Make what is there before."""
        scene.archive()

    def do(self, scene: Scene, store: RedisWorldStore) -> None:
        """Do it, over a store on which calls may go wrong."""

    def broken(self, scene: Scene) -> list[str]:
        """Return what is wrong after a death, before anybody does anything about it."""
        return scene.wrong(scene.world, range(LAST + 1)) + scene.unverified(scene.world)

    def undone(self, scene: Scene) -> list[str]:
        """Return what is wrong once it was done again."""
        return self.broken(scene)


class ArchiveOld(Act):
    """Ticks move from the log to segments."""

    def prepare(self, scene: Scene) -> None:
        """Nothing is archived yet."""

    def do(self, scene: Scene, store: RedisWorldStore) -> None:
        scene.archive(store)

    def undone(self, scene: Scene) -> list[str]:
        archived = scene.history().kept.past(scene.world).archived_to
        return self.broken(scene) + ([] if archived >= 5 else [f"only archived up to tick {archived}"])


class Fork(Act):
    """A new world begins as another was."""

    def do(self, scene: Scene, store: RedisWorldStore) -> None:
        Lineage(store, scene.history(store)).fork(scene.world, AT, scene.child, dream=True)

    def broken(self, scene: Scene) -> list[str]:
        return super().broken(scene) + _half_made(scene)

    def undone(self, scene: Scene) -> list[str]:
        return super().broken(scene) + _whole(scene, range(AT), "running")


class Rewound(Fork):
    """A new world is exactly what another was."""

    def do(self, scene: Scene, store: RedisWorldStore) -> None:
        Lineage(store, scene.history(store)).rewound(scene.world, AT, scene.child)

    def undone(self, scene: Scene) -> list[str]:
        return Act.broken(self, scene) + _whole(scene, range(AT + 1), "running")


class RewindInPlace(Act):
    """A world goes back itself; what it did since becomes a fork, which takes over what builds on it."""

    def prepare(self, scene: Scene) -> None:
        super().prepare(scene)
        Lineage(scene.store, scene.history()).fork(scene.world, _GRANDCHILD_AT, scene.child, dream=True)

    def do(self, scene: Scene, store: RedisWorldStore) -> None:
        Lineage(store, scene.history(store)).rewind_in_place(scene.world, AT)

    def broken(self, scene: Scene) -> list[str]:
        tick = scene.store.record(scene.world).tick
        found = scene.wrong(scene.world, range(tick + 1)) + scene.unverified(scene.world)
        found += scene.wrong(scene.child, range(_GRANDCHILD_AT))
        if tick == LAST:
            return found
        future = scene.store.record(scene.child).parent
        assert future is not None
        return found + scene.wrong(future, range(LAST + 1)) + scene.unverified(future)

    def undone(self, scene: Scene) -> list[str]:
        tick = scene.store.record(scene.world).tick
        found = self.broken(scene) + ([] if tick == AT else [f"it is at tick {tick}"])
        # Nothing that was cut off may come back when it goes on, and is archived as far as it was before.
        token = scene.store.acquire(scene.world, owner="host-0", nonce=secrets.token_bytes(16))
        _, snapshot, effects = scene.store.load(scene.world)
        life = LivingField.resume(snapshot, effects)
        (answer,) = scene.store.commit([Commit(token, life.steps(LAST, salt=1), life.snapshot)])
        assert isinstance(answer, Ack), answer
        scene.archive()
        return found + scene.wrong(scene.world, range(AT + 1)) + scene.unverified(scene.world)


class Delete(Act):
    """A world ends, with its history and its archive."""

    def do(self, scene: Scene, store: RedisWorldStore) -> None:
        Lineage(store, scene.history(store)).delete(scene.world)

    def broken(self, scene: Scene) -> list[str]:
        return [] if scene.status(scene.world) == "deleted" else super().broken(scene)

    def undone(self, scene: Scene) -> list[str]:
        left = [f"{key!r} is left" for key in scene.raw.scan_iter(f"w:{{{scene.world}}}:*")]
        left = [text for text in left if not text.startswith(repr(keys.meta(scene.world).encode()))]
        folder = scene.directory / "archive" / scene.world
        left += [f"{folder} is left"] if folder.exists() else []
        status = scene.status(scene.world)
        return left + ([] if status == "deleted" else [f"it is {status}"])


class Forget(Act):
    """Archived history is dropped up to a tick."""

    def do(self, scene: Scene, store: RedisWorldStore) -> None:
        Lineage(store, scene.history(store)).forget(scene.world, _FORGOTTEN_BEFORE)

    def broken(self, scene: Scene) -> list[str]:
        begins = scene.history().begins(scene.world)
        return scene.wrong(scene.world, range(begins, LAST + 1)) + scene.unverified(scene.world)

    def undone(self, scene: Scene) -> list[str]:
        begins = scene.history().begins(scene.world)
        return self.broken(scene) + ([] if 0 < begins <= _FORGOTTEN_BEFORE else [f"it begins at tick {begins}"])


class Repair(Act):
    """A damaged world is audited, quarantined, and rolled back."""

    def prepare(self, scene: Scene) -> None:
        super().prepare(scene)
        log = keys.log(scene.world)
        kept = scene.raw.xrange(log)
        scene.raw.delete(log)
        for entry, fields in kept:
            frame = bytearray(fields[b"e"])
            frame[30] ^= int(entry.split(b"-")[0]) == _DAMAGED
            scene.raw.xadd(log, {b"d": fields[b"d"], b"e": bytes(frame)}, id=entry)
        scene.raw.delete(keys.keyframe(scene.world, LAST))
        scene.raw.zrem(keys.keyframe_index(scene.world), LAST)

    def do(self, scene: Scene, store: RedisWorldStore) -> None:
        history = scene.history(store)
        found = audit(history, scene.world)
        if not found.verified:
            store.set_status(scene.world, "quarantined")
        roll_back(store, Lineage(store, history), history, found, _DAMAGED - 1)

    def broken(self, scene: Scene) -> list[str]:
        found = scene.wrong(scene.world, range(_DAMAGED))
        with contextlib.suppress(CorruptRecord, NoHistory):
            if scene.history().state_at(scene.world, _DAMAGED):
                found.append("it verifies where it was damaged")
        return found

    def undone(self, scene: Scene) -> list[str]:
        record = scene.store.record(scene.world)
        found = scene.wrong(scene.world, range(_DAMAGED)) + scene.unverified(scene.world)
        return found + ([] if (record.tick, record.status) == (_DAMAGED - 1, "running") else [f"it is {record}"])


class Export(Act):
    """A world is written to a file."""

    def do(self, scene: Scene, store: RedisWorldStore) -> None:
        export_world(scene.history(store), scene.world, _file(scene))

    def broken(self, scene: Scene) -> list[str]:
        found = super().broken(scene)
        return found + (_imported(scene) if _file(scene).exists() else [])

    def undone(self, scene: Scene) -> list[str]:
        return super().broken(scene) + _imported(scene)


class Import(Act):
    """A world is made of a file."""

    def prepare(self, scene: Scene) -> None:
        super().prepare(scene)
        export_world(scene.history(), scene.world, _file(scene))

    def do(self, scene: Scene, store: RedisWorldStore) -> None:
        history = scene.history(store)
        import_world(history.kept, history.archive, _file(scene), scene.child)

    def broken(self, scene: Scene) -> list[str]:
        left = (scene.directory / "archive" / scene.child).exists() and scene.status(scene.child) is None
        unknown = [f"files of {scene.child} are archived, and nobody knows of it"] if left else []
        return super().broken(scene) + _half_made(scene) + unknown

    def undone(self, scene: Scene) -> list[str]:
        return super().broken(scene) + _whole(scene, range(LAST + 1), "paused")


class Move(Act):
    """A world is drained by the host that has it, and adopted by another, which goes on with it."""

    def do(self, scene: Scene, store: RedisWorldStore) -> None:
        for name, target in (("host-0", LAST + 4), ("host-1", _MOVED_TO)):
            host = living_host(name, store)
            for _ in range(3):
                # Whoever had it and is dead by now has let go of it.
                scene.raw.hset(keys.meta(scene.world), "lu", 1)
                host.adopt([scene.world])
                acked = host.run_until({scene.world: target}, 60.0).ticks.get(scene.world, 0)
                if acked >= target:
                    break
            with _acked(scene).open("a") as file:
                file.write(f"{acked}\n")
            host.drop([scene.world])

    def broken(self, scene: Scene) -> list[str]:
        acked = int(_acked(scene).read_text().split()[-1]) if _acked(scene).exists() else LAST
        tick = scene.store.record(scene.world).tick
        life = LivingField(1)
        scene.digests = [life.snapshot.digest()] + [life.step().state_digest for _ in range(tick)]
        found = scene.wrong(scene.world, range(tick + 1)) + scene.unverified(scene.world)
        return found + ([] if tick >= acked else [f"it is at tick {tick}, and {acked} was acknowledged"])

    def undone(self, scene: Scene) -> list[str]:
        record = scene.store.record(scene.world)
        return self.broken(scene) + ([] if record.tick == _MOVED_TO else [f"it is at tick {record.tick}"])


ACTS: Final[tuple[type[Act], ...]] = (
    ArchiveOld, Fork, Rewound, RewindInPlace, Delete, Forget, Repair, Export, Import, Move,
)  # fmt: skip


def _half_made(scene: Scene) -> list[str]:
    """Return what is wrong with a world that may be there, not yet, or in the making, which nobody can run then."""
    status = scene.status(scene.child)
    if status in (None, "quarantined"):
        return []
    return scene.unverified(scene.child)


def _whole(scene: Scene, ticks: Sequence[int], status: str) -> list[str]:
    found = scene.wrong(scene.child, ticks) + scene.unverified(scene.child)
    return found + ([] if (got := scene.status(scene.child)) == status else [f"{scene.child} is {got}"])


def _file(scene: Scene) -> Path:
    return scene.directory / f"{scene.world}.zip"


def _acked(scene: Scene) -> Path:
    return scene.directory / f"acked-{scene.world}"


def _imported(scene: Scene) -> list[str]:
    history, made = scene.history(), new_world_id()
    import_world(history.kept, history.archive, _file(scene), made)
    return scene.wrong(made, range(LAST + 1))
