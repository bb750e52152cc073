"""Which worlds a run has: their ids are made of the run's own, so that beginning them twice is harmless."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cluster.config import RunConfig
from world.durable import write_file
from world.envs.grounded import EnvSpec
from world.errors import CheckpointError, CorruptRecord, NewerSchema, UnknownWorld
from world.live import fork_dream
from world.snapshot import Kind, Snapshot, WorldId
from world.store.past import HistoricStore
from world.store.records import WorldRecord, WorldStore
from world.store.redis_store import RedisWorldStore

_SEED_STRIDE = 1_000_003


@dataclass(frozen=True, slots=True)
class _Ledger:
    """What a run folder remembers of its worlds."""

    server: str
    """Identity of the server's data set."""
    worlds: list[str]


@dataclass(frozen=True, slots=True)
class PlannedWorld:
    """A world that the run shall have."""

    world: WorldId
    name: str
    kind: Kind
    seed: int
    parent: WorldId | None = None
    """Of a dreamed world: whose present it begins at."""


def plan_worlds(config: RunConfig, run_id: str) -> tuple[tuple[PlannedWorld, ...], tuple[PlannedWorld, ...]]:
    """Return the grounded worlds of a run, and the dreamed ones."""
    stem = config.env.split(":")[0].split("/")[-1].lower()
    base = config.seed * _SEED_STRIDE
    grounded = tuple(
        PlannedWorld(_world_id(run_id, "grounded", index), f"{stem}-{index}", "grounded", base + index)
        for index in range(config.num_worlds)
    )
    dreamed = tuple(
        PlannedWorld(
            _world_id(run_id, "dreamed", index),
            f"{stem}-dream-{index}",
            "dreamed",
            base + config.num_worlds + index,
            grounded[index % config.num_worlds].world,
        )
        for index in range(config.num_dreams)
    )
    return grounded, dreamed


def settle_worlds(
    store: RedisWorldStore,
    worlds: Sequence[PlannedWorld],
    *,
    ledger: Path,
    env: str,
    spec: EnvSpec,
    memory_size: int,
    tokenizer: str,
) -> None:
    """Make the grounded worlds, or find those that were made, which the `ledger` file remembers.

    Raises `UnknownWorld` if the server has lost them or is another one, and `CheckpointError` if they were made with
    another tokenizer.
    """
    if ledger.exists():
        written = msgspec.json.decode(ledger.read_bytes(), type=_Ledger)
        if written.server != store.identity:
            raise UnknownWorld(
                "the server is not the one that this run's worlds were begun on, or it was emptied since;"
                " start the one that has them, or choose another --run-dir"
            )
        for planned in worlds:
            try:
                record = store.record(planned.world)
            except NewerSchema:
                raise
            except CorruptRecord:
                # Its host quarantines it; the others are as they were.
                continue
            if record.tokenizer != tokenizer:
                raise CheckpointError(
                    f"world {planned.world} was made with tokenizer {record.tokenizer}, the run folder has {tokenizer};"
                    " restore the folder's warmup/tokenizer.safetensors, or choose another --run-dir"
                )
        return
    for planned in worlds:
        begin_world(store, planned, env=env, spec=spec, memory_size=memory_size, tokenizer=tokenizer)
    write_file(ledger, msgspec.json.encode(_Ledger(store.identity, [planned.world for planned in worlds])))


def begin_world(
    store: WorldStore, planned: PlannedWorld, *, env: str, spec: EnvSpec, memory_size: int, tokenizer: str
) -> None:
    """Make a grounded world before its first tick, with which its host resets the environment."""
    snapshot = Snapshot.empty("grounded", planned.seed, spec.layout, len(spec.agents), memory_size)
    record = WorldRecord(
        world=planned.world,
        name=planned.name,
        kind="grounded",
        env=env,
        agents=len(spec.agents),
        tick=0,
        status="running",
        owner="",
        epoch=0,
        weights_version=0,
        tokenizer=tokenizer,
    )
    store.create(record, snapshot)


def is_there(store: WorldStore, planned: PlannedWorld) -> bool:
    """Return whether a world was made; one whose record does not verify was, and is for its host to quarantine."""
    try:
        store.record(planned.world)
    except UnknownWorld:
        return False
    except CorruptRecord:
        return True
    return True


def fork_world(store: HistoricStore, planned: PlannedWorld) -> int:
    """Make a dreamed world that begins as its parent was last committed; return that tick. Repeating is harmless."""
    assert planned.parent is not None
    with suppress(UnknownWorld):
        # An answer that was lost: the parent has moved on since, the fork is where it was made.
        return store.record(planned.world).fork_tick or 0
    parent, snapshot, effects = store.load(planned.parent)
    for tick in effects:
        snapshot.apply(tick)
    record = WorldRecord(
        world=planned.world,
        name=planned.name,
        kind="dreamed",
        env=parent.env,
        agents=parent.agents,
        tick=snapshot.tick,
        status="running",
        owner="",
        epoch=0,
        weights_version=parent.weights_version,
        tokenizer=parent.tokenizer,
        parent=planned.parent,
        fork_tick=snapshot.tick,
    )
    store.history().pin(planned.parent, snapshot.tick, planned.world)
    store.create(record, fork_dream(snapshot, planned.seed))
    return snapshot.tick


def _world_id(run_id: str, kind: str, index: int) -> WorldId:
    return WorldId("w" + hashlib.blake2b(f"{run_id}/{kind}/{index}".encode(), digest_size=6).hexdigest())
