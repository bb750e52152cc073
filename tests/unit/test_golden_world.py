"""A world that was ever exported can be imported for ever, and a record that was ever stored can be read."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from world.snapshot import WorldId
from world.store.archive import Archive
from world.store.audit import audit
from world.store.history import History
from world.store.in_process import InProcessWorldStore
from world.store.portable import import_world
from world.store.replies import record_of
from world.store.upgrade import SCHEMA_VERSION

WORLDS = Path(__file__).parents[1] / "golden" / "worlds"


@pytest.fixture(params=sorted(path.stem for path in WORLDS.glob("schema_*.zip")))
def golden(request: pytest.FixtureRequest) -> tuple[Path, dict[str, Any]]:
    """A file that was exported, and what it holds."""
    return WORLDS / f"{request.param}.zip", json.loads((WORLDS / f"{request.param}.json").read_text())


def test_there_is_a_world_of_the_present_schema() -> None:
    assert (WORLDS / f"schema_{SCHEMA_VERSION}.zip").is_file(), "run python -m tests.golden.make_world"


def test_a_golden_world_is_imported_and_every_tick_of_it_is_what_it_was(
    golden: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    file, held = golden
    store, world = InProcessWorldStore(), WorldId("imported")
    history = History(store.history(), Archive(tmp_path))
    import_world(history.kept, history.archive, file, world)
    assert [history.state_at(world, tick).digest().hex() for tick in range(len(held["states"]))] == held["states"]
    assert audit(history, world).verified
    assert history.kept.past(world).segments, "it has no archived past"


def test_a_golden_record_is_read(golden: tuple[Path, dict[str, Any]]) -> None:
    _, held = golden
    fields = {name.encode(): base64.b64decode(value) for name, value in held["record"].items()}
    record, digest = record_of(WorldId("golden"), fields, now_ms=0)
    assert (record.name, record.tick, record.agents, record.epoch) == ("golden, a test", 30, 4, 1)
    assert (record.status, record.tokenizer, len(digest)) == ("running", "0" * 16, 16)
