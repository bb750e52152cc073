"""Writes a golden world of the present schema: exported, and as the server holds its record. Run once for a new schema.

python -m tests.golden.make_world
"""

import base64
import json
import tempfile
from contextlib import closing
from pathlib import Path

from tests.integration.store_suite import born, commit_one
from tests.store_cases import LivingField
from world.snapshot import WorldId
from world.store import keys
from world.store.archive import Archive
from world.store.archiver import ArchiveConfig, Archiver
from world.store.exported import export_world
from world.store.history import History
from world.store.records import Commit
from world.store.redis_store import RedisWorldStore
from world.store.server import EmbeddedServer
from world.store.upgrade import SCHEMA_VERSION

HERE = Path(__file__).parent / "worlds"
WORLD = WorldId("golden")
SEED, NUM_TICKS = 1, 30


def states() -> list[str]:
    """Return the digests of the states that the world went through."""
    life = LivingField(SEED)
    return [life.snapshot.digest().hex(), *(life.step().state_digest.hex() for _ in range(NUM_TICKS))]


def main() -> None:
    """Let the world live, archive some of it, and write it down."""
    HERE.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as directory,
        EmbeddedServer(Path(directory) / "store") as server,
        closing(RedisWorldStore.connect(server.url)) as store,
    ):
        life, token = born(store, WORLD, SEED)
        for number in range(NUM_TICKS // 5):
            commit_one(store, Commit(token, life.steps(5), life.snapshot if number % 2 == 0 else None))
        history = History(store.history(), Archive(Path(directory) / "archive"))
        config = ArchiveConfig(segment_ticks=8, least_segment_ticks=2)
        Archiver(history.kept, history.archive, config).archive(WORLD)
        export_world(history, WORLD, HERE / f"schema_{SCHEMA_VERSION}.zip")
        fields = store._link.one("HGETALL", keys.meta(WORLD))
    pairs = zip(fields[::2], fields[1::2], strict=True)
    record = {name.decode(): base64.b64encode(value).decode() for name, value in pairs}
    held = {"states": states(), "record": record}
    (HERE / f"schema_{SCHEMA_VERSION}.json").write_text(json.dumps(held, indent=1) + "\n")


if __name__ == "__main__":
    main()
