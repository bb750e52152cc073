"""Which worlds a run has: made once, found again; of those that cannot be read only a newer one stops a run."""

from pathlib import Path

import pytest

from cluster.presets import preset
from cluster.worlds import PlannedWorld, is_there, plan_worlds, settle_worlds
from world.envs.catalog import make_env
from world.errors import CheckpointError, CorruptRecord, NewerSchema, UnknownWorld
from world.snapshot import WorldId
from world.store.in_process import InProcessWorldStore
from world.store.records import WorldRecord

CONFIG = preset("smoke")


class DamagedStore(InProcessWorldStore):
    """A store with an identity, in which records can be damaged."""

    identity = "this server"

    def __init__(self) -> None:
        super().__init__()
        self.damaged: set[WorldId] = set()
        self.error: type[CorruptRecord] = CorruptRecord

    def record(self, world: WorldId) -> WorldRecord:
        """As the store, unless it is damaged."""
        if world in self.damaged:
            raise self.error(f"world {world!r}: its record does not verify")
        return super().record(world)


def settle(store: DamagedStore, ledger: Path, *, tokenizer: str = "t") -> tuple[PlannedWorld, ...]:
    """Settle the grounded worlds of a run, and return them."""
    grounded, _ = plan_worlds(CONFIG, "a" * 32)
    spec = make_env(CONFIG.env, num_agents=CONFIG.num_agents).spec
    settle_worlds(
        store,  # type: ignore[arg-type]
        grounded,
        ledger=ledger,
        env=CONFIG.env,
        spec=spec,
        memory_size=CONFIG.model.memory_size,
        tokenizer=tokenizer,
    )
    return grounded


def test_worlds_are_made_once_and_only_a_newer_one_keeps_others_from_being_found(tmp_path: Path) -> None:
    store, ledger = DamagedStore(), tmp_path / "worlds.json"
    grounded = settle(store, ledger)
    assert {record.world for record in store.records()} == {planned.world for planned in grounded}
    store.damaged = {grounded[0].world}
    settle(store, ledger)
    with pytest.raises(CheckpointError, match=str(grounded[1].world)):
        settle(store, ledger, tokenizer="other")
    store.error = NewerSchema
    with pytest.raises(NewerSchema):
        settle(store, ledger)


def test_worlds_that_a_server_has_lost_are_missed(tmp_path: Path) -> None:
    ledger = tmp_path / "worlds.json"
    settle(DamagedStore(), ledger)
    with pytest.raises(UnknownWorld):
        settle(DamagedStore(), ledger)


def test_a_damaged_world_is_there() -> None:
    store, planned = DamagedStore(), PlannedWorld(WorldId("d0"), "dream-0", "dreamed", 1, WorldId("w0"))
    assert not is_there(store, planned)
    store.damaged = {planned.world}
    assert is_there(store, planned)
