"""The process that hosts dreams to be killed: takes worlds from the store, ticks, commits, says how far it is.

Run as `python -m world.evaluation.plays.revival_host JOB`. It may be killed at any moment, and run again. It ends with
its input: whoever wants to kill it may come as late as it will.
"""

import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors

from world.envs.grounded import Int32Array
from world.live import LiveWorld, resume
from world.model.tokenizer_files import load_tokenizer
from world.model.world_model import WorldModelConfig
from world.snapshot import WorldId
from world.store.records import Commit, FencingToken
from world.store.redis_store import RedisWorldStore
from world.tick import TickConfig, Ticker
from world.warmup import spec_of

ACTIONS = "actions"
_OWNER = "revival"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is to be hosted, until its actions are used up. Paths are of safetensors files."""

    url: str
    worlds: tuple[WorldId, ...]
    env_name: str
    num_agents: int
    model_config: WorldModelConfig
    tick: TickConfig
    weights_version: int
    weights: str
    tokenizer: str
    actions: str
    """(T, B, A)"""
    began: int
    """The tick from which the first of the actions leads on."""
    threads: int
    """Of torch: as many as whoever compares has, for sums depend on how they are split."""


def host(job: Job) -> None:
    """Take the worlds where they are, and advance them to the last tick, committing every one."""
    torch.set_num_threads(job.threads)
    actions: Int32Array = load_file(job.actions)[ACTIONS]
    spec = spec_of(job.env_name, job.num_agents)
    ticker = Ticker(spec, load_tokenizer(Path(job.tokenizer)), job.tick, job.model_config)
    ticker.load_weights(load_tensors(job.weights), job.weights_version)
    store = RedisWorldStore.connect(job.url)
    tokens: dict[WorldId, FencingToken] = {}
    lives: list[LiveWorld] = []
    for world in job.worlds:
        tokens[world] = store.acquire(world, owner=_OWNER, nonce=secrets.token_bytes(16))
        record, snapshot, effects = store.load(world)
        lives.append(resume(world, env_name=record.env, snapshot=snapshot, effects=effects))
    while any(live.snapshot.tick < job.began + len(actions) for live in lives):
        # A kill can leave some worlds a tick behind the others; these catch up first.
        now = min(live.snapshot.tick for live in lives)
        due = [index for index, live in enumerate(lives) if live.snapshot.tick == now]
        ticked = ticker.tick([lives[index] for index in due], actions[now - job.began, due])
        commits = [Commit(tokens[lives[index].world], (done.effects,)) for index, done in zip(due, ticked, strict=True)]
        for answer in store.commit(commits):
            if isinstance(answer, Exception):
                raise answer
        print(now + 1, flush=True)


if __name__ == "__main__":
    host(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job))
    sys.stdin.read()
