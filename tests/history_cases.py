"""A run folder with one homestead world that lived for a while, made without Ray."""

import secrets
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from cluster.histories import Opened, opened_history
from cluster.presets import preset
from cluster.run_folder import RunFolder
from world.envs.catalog import make_env
from world.live import LiveWorld, begin
from world.model.tokenizer_files import save_tokenizer
from world.model.world_model import WorldModelConfig
from world.snapshot import Snapshot, WorldId
from world.store.records import Ack, Commit, WorldRecord
from world.tick import TickConfig, Ticker
from world.warmup import TOKENIZER_FILE, WarmupConfig, make_tokenizer

ENV = "homestead:16x16x2"
MEMORY_SIZE = 4


class SmallRun:
    """A run of one grounded world, whose ticks are made when asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        folder = RunFolder.open(directory)
        folder.begin(replace(preset("smoke"), env=ENV))
        folder.close()
        env = make_env(ENV)
        (directory / "warmup").mkdir()
        config = WarmupConfig(explored_seeds=1, explored_ticks=20, surveyed_seeds=8)
        self.tokenizer = make_tokenizer(env, config, lambda doing, done: None)
        save_tokenizer(self.tokenizer, directory / "warmup" / TOKENIZER_FILE)
        self._ticker = Ticker(env.spec, self.tokenizer, TickConfig(), WorldModelConfig(memory_size=MEMORY_SIZE))
        self.world = WorldId("w" + secrets.token_hex(6))
        self._live: LiveWorld = begin(self.world, env_name=ENV, seed=3, memory_size=MEMORY_SIZE)
        self.digests = [self._live.snapshot.digest()]
        record = WorldRecord(
            world=self.world,
            name="first",
            kind="grounded",
            env=ENV,
            agents=len(env.spec.agents),
            tick=0,
            status="running",
            owner="",
            epoch=0,
            weights_version=0,
            tokenizer=self.tokenizer.digest,
        )
        with self.opened() as opened:
            opened.store.create(record, self._live.snapshot)

    def opened(self) -> AbstractContextManager[Opened]:
        """Open its store, as commands do."""
        return opened_history(self.directory, None)

    def live(self, num_ticks: int, *, keyframe_every: int = 20) -> None:
        """Let the world live and commit what it does."""
        with self.opened() as opened:
            token = opened.store.acquire(self.world, owner="host-0", nonce=secrets.token_bytes(16))
            for number in range(1, num_ticks + 1):
                effects = self._ticker.tick([self._live])[0].effects
                self.digests.append(self._live.snapshot.digest())
                keyframe: Snapshot | None = self._live.keyframe() if number % keyframe_every == 0 else None
                (answer,) = opened.store.commit([Commit(token, (effects,), keyframe)])
                assert isinstance(answer, Ack), answer
            opened.store.release(token)
