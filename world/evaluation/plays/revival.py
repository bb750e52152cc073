"""Killed and restored: dreams hosted by a process of their own, on a server of their own, both killed on the way.

What the host process had acknowledged is in the append-only file; another process takes the worlds from there. Neither
Ray nor anything of this process takes part: the hosts are `python -m world.evaluation.plays.revival_host`.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors
from torch import Tensor

from world.envs.grounded import Int32Array
from world.errors import StoreError
from world.evaluation.plays.revival_host import ACTIONS, Job
from world.model.tokenizer import Tokenizer
from world.model.tokenizer_files import save_tokenizer
from world.model.world_model import WorldModelConfig
from world.snapshot import Snapshot, WorldId
from world.store.records import WorldRecord
from world.store.redis_store import RedisWorldStore
from world.store.server import EmbeddedServer
from world.tick import TickConfig

_HOSTED_WITHIN_S = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Reviver:
    """Plays dreams in a host process that is killed at a tick, along with the server, and in another from there on."""

    env_name: str
    num_agents: int
    model_config: WorldModelConfig
    weights: Mapping[str, Tensor]
    weights_version: int
    tokenizer: Tokenizer
    tick: TickConfig

    def play(self, dreams: Sequence[Snapshot], actions: Int32Array, *, kill_after: int) -> list[Snapshot]:
        """Return the dreams after actions (T, B, A), killed once `kill_after` of the ticks were acknowledged.

        Raises `StoreError` where a host process ends in another way than it should, or not in time.
        """
        with tempfile.TemporaryDirectory(prefix="worlds-revival-") as name:
            directory = Path(name)
            server = EmbeddedServer(directory / "server")
            with server:
                worlds = self._create(server.url, dreams)
                job = self._write_job(directory, server.url, worlds, actions, dreams[0].tick)
                self._host_until_killed(job, dreams[0].tick + kill_after)
                os.kill(server.pid, signal.SIGKILL)
                server.ensure()
                self._host(job)
                return _loaded(server.url, worlds, dreams[0].tick + len(actions))

    def _create(self, url: str, dreams: Sequence[Snapshot]) -> list[WorldId]:
        store = RedisWorldStore.connect(url)
        worlds = [WorldId(f"revived-{index}") for index in range(len(dreams))]
        for world, dream in zip(worlds, dreams, strict=True):
            record = WorldRecord(
                world=world,
                name=world,
                kind="dreamed",
                env=self.env_name,
                agents=self.num_agents,
                tick=dream.tick,
                status="running",
                owner="",
                epoch=0,
                weights_version=self.weights_version,
                tokenizer=self.tokenizer.digest,
            )
            store.create(record, dream)
        return worlds

    def _write_job(self, directory: Path, url: str, worlds: Sequence[WorldId], actions: Int32Array, began: int) -> Path:
        # Cloned, for some are one tensor under several names, which the format does not hold.
        save_tensors({name: weight.clone() for name, weight in self.weights.items()}, directory / "weights")
        save_tokenizer(self.tokenizer, directory / "tokenizer")
        save_file({ACTIONS: np.ascontiguousarray(actions)}, directory / "actions")
        job = Job(
            url=url,
            worlds=tuple(worlds),
            env_name=self.env_name,
            num_agents=self.num_agents,
            model_config=self.model_config,
            tick=self.tick,
            weights_version=self.weights_version,
            weights=str(directory / "weights"),
            tokenizer=str(directory / "tokenizer"),
            actions=str(directory / "actions"),
            began=began,
            threads=torch.get_num_threads(),
        )
        path = directory / "job.json"
        path.write_bytes(msgspec.json.encode(job))
        return path

    def _host_until_killed(self, job: Path, tick: int) -> None:
        with _host_process(job) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) >= tick:
                    process.kill()
                    break
            process.wait()
        if process.returncode != -signal.SIGKILL:
            raise StoreError(
                f"the host process ended with {process.returncode} before it could be killed: {_said(job)}"
            )

    def _host(self, job: Path) -> None:
        with _host_process(job) as process:
            try:
                process.communicate(timeout=_HOSTED_WITHIN_S)
            except subprocess.TimeoutExpired as late:
                process.kill()
                raise StoreError(
                    f"the process that took over was not done within {_HOSTED_WITHIN_S:g} s: {_said(job)}"
                ) from late
        if process.returncode:
            raise StoreError(f"the process that took over ended with {process.returncode}: {_said(job)}")


def _host_process(job: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "world.evaluation.plays.revival_host", str(job)]
    with (job.parent / "said").open("a") as said:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True)


def _said(job: Path) -> str:
    lines = (job.parent / "said").read_text(errors="replace").splitlines()
    return " / ".join(lines[-2:]) or "it said nothing"


def _loaded(url: str, worlds: Sequence[WorldId], tick: int) -> list[Snapshot]:
    store, found = RedisWorldStore.connect(url), []
    for world in worlds:
        _, snapshot, effects = store.load(world)
        for done in effects:
            snapshot.apply(done)
        if snapshot.tick != tick:
            raise StoreError(f"world {world!r}: expected tick {tick}, got {snapshot.tick}")
        found.append(snapshot)
    return found
