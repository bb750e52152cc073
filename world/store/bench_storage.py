"""How many bytes an agent's tick takes: in the log, on the server's disk, and archived, beside what it shows.

A real homestead, ticked by its data policies, with the recurrent memory of a network that has not been trained.
"""

import secrets
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from world.envs.catalog import make_env
from world.live import LiveWorld, begin
from world.model.world_model import WorldModelConfig
from world.snapshot import TickEffects, WorldId
from world.store import keys
from world.store.archive import Archive
from world.store.archiver import Archiver
from world.store.codec import effects_payload
from world.store.history import History
from world.store.link import Link
from world.store.records import Ack, Commit, WorldRecord
from world.store.redis_store import RedisWorldStore
from world.store.server import EmbeddedServer
from world.tick import TickConfig, Ticker
from world.warmup import WarmupConfig, make_tokenizer

KEYFRAME_TICKS: Final = 256
_TICKS_PER_COMMIT: Final = 16


def bench_storage(env_name: str = "homestead", *, num_ticks: int = 4096) -> dict[str, Any]:
    """Return bytes per agent-tick of one world that lived for `num_ticks`. The value is that of the archive.

    Raises `EnvironmentUnusable`.
    """
    env = make_env(env_name)
    tokenizer = make_tokenizer(env, WarmupConfig(explored_seeds=4, surveyed_seeds=16), lambda doing, done: None)
    model = WorldModelConfig()
    ticker = Ticker(env.spec, tokenizer, TickConfig(), model)
    ticker.load_weights(ticker.model.state_dict(), version=1)
    world = WorldId(f"bench-{secrets.token_hex(6)}")
    live = begin(world, env_name=env_name, seed=1, memory_size=model.memory_size)
    agents, layout = len(env.spec.agents), env.spec.layout
    with (
        tempfile.TemporaryDirectory(prefix="worlds-bench-") as directory,
        EmbeddedServer(Path(directory) / "redis") as server,
        closing(RedisWorldStore.connect(server.url)) as store,
        closing(Link(server.url, durability="disk", timeout_s=30.0)) as link,
    ):
        before = _appended(link)
        raw_bytes = _live(store, ticker, live, num_ticks)
        appended = _appended(link) - before
        past = store.history().past(world)
        log = int(link.one("MEMORY", "USAGE", keys.log(world), "SAMPLES", 0))
        kept = sum(int(link.one("MEMORY", "USAGE", keys.keyframe(world, at))) for at in past.keyframes)
        archive = Archive(Path(directory) / "archive")
        history = History(store.history(), archive)
        refs = Archiver(history.kept, archive).archive(world, all_of_it=True)
        archived = archive.num_bytes(world)
    agent_ticks = agents * num_ticks
    raw_tokens = 2 * layout.rows * layout.cols
    per_tick = {
        "hot_log": log / agent_ticks,
        "hot_keyframes": kept / agent_ticks,
        "hot": (log + kept) / agent_ticks,
        "appended_to_disk": appended / agent_ticks,
        "effects_before_compression": raw_bytes / agent_ticks,
        "recurrent_memory_alone": 2.0 * model.memory_size,
        "archived": archived / agent_ticks,
        "raw_tokens": float(raw_tokens),
        "raw_pixels": float(3 * raw_tokens // 2 * layout.tile_px**2),
    }
    return {
        "bench": "storage",
        "value": round(per_tick["archived"], 2),
        "unit": "bytes/agent-tick",
        "baseline": {"name": "raw tokens of a view", "value": raw_tokens},
        "ratio": round(per_tick["archived"] / raw_tokens, 4),
        "details": {
            "env": env.spec.name,
            "ticks": num_ticks,
            "agents": agents,
            "segments": len(refs),
            "keyframe_every_ticks": KEYFRAME_TICKS,
            "bytes_per_agent_tick": {name: round(value, 2) for name, value in per_tick.items()},
        },
    }


def _live(store: RedisWorldStore, ticker: Ticker, live: LiveWorld, num_ticks: int) -> int:
    """Let a world live and commit; return how many bytes its effects have before they are compressed."""
    record = WorldRecord(
        world=live.world,
        name="bench storage",
        kind="grounded",
        env=live.env_name,
        agents=len(live.snapshot.poses),
        tick=0,
        status="running",
        owner="",
        epoch=0,
        weights_version=0,
        tokenizer="",
    )
    store.create(record, live.snapshot)
    token = store.acquire(live.world, owner="bench", nonce=secrets.token_bytes(16))
    raw_bytes, batch = 0, list[TickEffects]()
    for tick in range(1, num_ticks + 1):
        batch.append(ticker.tick([live])[0].effects)
        raw_bytes += len(effects_payload(batch[-1]))
        due = tick % KEYFRAME_TICKS == 0
        if due or len(batch) == _TICKS_PER_COMMIT or tick == num_ticks:
            (answer,) = store.commit([Commit(token, tuple(batch), live.keyframe() if due else None)])
            if not isinstance(answer, Ack):
                raise answer
            batch = []
    store.release(token)
    return raw_bytes


def _appended(link: Link) -> int:
    """Return how long the server's append-only file is."""
    told = link.one("INFO", "persistence").decode().splitlines()
    return next(int(line.split(":")[1]) for line in told if line.startswith("aof_current_size:"))
