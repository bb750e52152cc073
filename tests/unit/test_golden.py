"""What was ever written can be read for ever: files of every schema decode to what they were made of."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from world.errors import CorruptRecord, NewerSchema
from world.store import upgrade
from world.store.codec import decode_snapshot, effects_of, snapshot_of, unseal_effects
from world.store.segment import decode_segment
from world.store.upgrade import SCHEMA_VERSION, upgraded

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(params=range(1, SCHEMA_VERSION + 1))
def folder(request: pytest.FixtureRequest) -> Path:
    """Files that were written in one schema."""
    return GOLDEN / f"schema_{request.param}"


@pytest.fixture
def held(folder: Path) -> dict[str, Any]:
    """What they hold."""
    found: dict[str, Any] = json.loads((folder / "holds.json").read_text())
    return found


def _events(held: dict[str, Any]) -> list[list[list[int]]]:
    """World events of each tick; before schema 2 there were none."""
    found: list[list[list[int]]] = held.get("events", [[]] * int(held["ticks"]))
    return found


def test_golden_effects_decode(folder: Path, held: dict[str, Any]) -> None:
    effects = effects_of(unseal_effects((folder / "effects.bin").read_bytes()))
    assert effects.state_digest.hex() == held["state"]
    assert effects.poses.tolist() == held["poses"]
    assert effects.actions.tolist() == held["actions"]
    assert effects.rewards.tolist() == held["rewards"]
    assert effects.events.tolist() == _events(held)[-1]
    assert effects.memory.tobytes().hex() == held["memory"]
    assert (effects.changes.token.tolist(), effects.changes.y.tolist()) == (held["tokens"], held["rows"])


def test_golden_snapshots_decode(folder: Path, held: dict[str, Any]) -> None:
    empty, _ = decode_snapshot((folder / "snapshot_empty.bin").read_bytes())
    grown, chain = decode_snapshot((folder / "snapshot.bin").read_bytes())
    assert (empty.digest().hex(), grown.digest().hex()) == (held["begun"], held["state"])
    assert (chain.hex(), grown.env) == (held["chain"], b"environment")


def test_golden_segments_lead_to_the_state_they_led_to(folder: Path, held: dict[str, Any]) -> None:
    segment = decode_segment((folder / "segment.bin").read_bytes())
    assert (segment.first, segment.last, segment.end.hex()) == (1, held["ticks"], held["chain"])
    snapshot, _ = snapshot_of(segment.keyframe)
    for tick, events in zip(segment.ticks, _events(held), strict=True):
        effects = effects_of(tick.payload)
        assert effects.events.tolist() == events
        snapshot.apply(effects)
    assert snapshot.digest().hex() == held["state"]


def test_there_is_an_upgrade_from_every_version_to_the_next() -> None:
    for upgrades in (upgrade.EFFECTS_UPGRADES, upgrade.SNAPSHOT_UPGRADES, upgrade.RECORD_UPGRADES):
        assert len(upgrades) == SCHEMA_VERSION - 1
    assert {path.name for path in GOLDEN.glob("schema_*")} == {f"schema_{n}" for n in range(1, SCHEMA_VERSION + 1)}


def test_old_records_are_brought_to_the_newest_schema_step_by_step() -> None:
    steps: list[Any] = [lambda fields: [*fields, "two"], lambda fields: ["three", *fields], upgrade.unchanged]
    raw = msgspec.msgpack.encode(["one"])
    read = [msgspec.msgpack.decode(upgraded("thing", bytes((version,)) + raw, steps)) for version in range(1, 5)]
    assert read == [["three", "one", "two"], ["three", "one"], ["one"], ["one"]]


def test_unknown_versions_and_content_that_no_upgrade_takes_are_corrupt() -> None:
    for payload in (b"", b"\0", b"\x03\xc0"):
        with pytest.raises(CorruptRecord, match="schema"):
            upgraded("thing", payload, [upgrade.unchanged])
    with pytest.raises(NewerSchema, match="use the one that wrote it"):
        upgraded("thing", b"\x03\xc0", [upgrade.unchanged])
    for body in (b"\xc1", msgspec.msgpack.encode([])):
        with pytest.raises(CorruptRecord, match="cannot be brought"):
            upgraded("thing", b"\1" + body, [lambda fields: [fields[3]]])
