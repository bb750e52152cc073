"""One training to a checkpoint: prepare, record, train, judge. Plain Python, for any machine with torch.

from learner.train import TrainingPlan, train
train(TrainingPlan(env="homestead", out=Path("out"), budget=Budget(seconds=600)), command="…")
"""

import platform
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import msgspec
import torch

from learner.learner import Learner, LearnerConfig
from learner.recording import RecordedWorlds, RecordingConfig, recorded
from learner.restored import CHECKPOINTS, WARMUP, Restored, restore
from learner.schedule import ToZero
from learner.start import NOTHING, bring, hand_over
from learner.training import Budget, Training, TrainingConfig, TrainingStatus
from world.dream import DreamConfig
from world.durable import write_file
from world.envs.grounded import EnvSpec
from world.errors import CheckpointError, ConfigError
from world.model.precision import check_device
from world.model.tokenizer import Tokenizer
from world.model.tokenizer_files import load_tokenizer
from world.model.world_model import WorldModelConfig
from world.tick import TickConfig
from world.warmup import HELD_OUT_FILE, TOKENIZER_FILE, WarmupConfig, load_held_out, prepare, spec_of

DATA, START = "data", "start"
_PAST_TICKS = 32
"""Ticks before a sequence that recurrent memory is run over: recorded worlds have none of their own. 6% of a step."""
_AGAIN = 0.5
"""Of the peak rate, for weights that were trained to the end of a budget: its full height would take them back to where
they were half done."""


def within_budget(learner: LearnerConfig, *, again: bool = False) -> LearnerConfig:
    """Return a learner's configuration for recorded worlds and a budget, at whose end the learning rate is zero.

    Every tick of a batch is of another sequence: what memory needs are the ticks before, which cost the network
    nothing, and consecutive ticks of one world say nearly the same. Weights may be trained so `again`.
    """
    return replace(
        learner,
        learning_rate=learner.learning_rate * (_AGAIN if again else 1.0),
        schedule=ToZero(),
        batch_sequences=learner.batch_sequences * learner.sequence_ticks,
        sequence_ticks=1,
        past_ticks=max(learner.past_ticks, _PAST_TICKS),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPlan:
    """Everything that a training is made of."""

    env: str
    """As given to `make_env`."""
    budget: Budget
    out: Path
    """Folder of checkpoints, tokenizer and log; one that exists is gone on with."""
    start: str = NOTHING
    """Shipped weights, a checkpoint or a run folder whose weights to begin with, with the tokenizer that they know."""
    data: Path | None = None
    """Folder of what is recorded, which several trainings may share in turn; None: in `out`."""
    num_agents: int | None = None
    """None: as many as the environment has."""
    seed: int = 0
    """Of worlds, weights and draws."""
    device: str = "cpu"
    """As torch names it."""
    model: WorldModelConfig = field(default_factory=WorldModelConfig)
    learner: LearnerConfig = field(default_factory=lambda: within_budget(LearnerConfig()))
    tick: TickConfig = field(default_factory=TickConfig)
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    recording: RecordingConfig = field(default_factory=RecordingConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        if self.learner.sampled_ticks > self.recording.chunk_ticks:
            raise ConfigError(
                "learner.past_ticks + sequence_ticks must be <= recording.chunk_ticks ="
                f" {self.recording.chunk_ticks}, for a sequence lies in one chunk; got {self.learner.sampled_ticks}"
            )


def train(
    plan: TrainingPlan,
    *,
    command: str,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[str, float], None] = lambda what, done: None,
    tell: Callable[[TrainingStatus], None] = lambda status: None,
) -> TrainingStatus:
    """Record what is not recorded yet, train until the budget is used up or `stop` says so, judge and save.

    `progress` is told how far preparations are, `tell` how far the training is; `command` is kept with the weights.
    Raises `ConfigError`, `EnvironmentUnusable`, `CheckpointError`, `ReplayError`, and `DiskFull`.
    """
    check_device(plan.device)
    data, spec = plan.data or plan.out / DATA, spec_of(plan.env, plan.num_agents)
    begun = _begun(plan, data, spec) if plan.start != NOTHING else None
    warmup = _prepared(plan, data, progress)
    tokenizer = load_tokenizer(warmup / TOKENIZER_FILE)
    worlds = _recorded_worlds(plan, tokenizer)
    progress("reading recorded worlds", 0.0)
    with recorded(data, worlds, plan.recording, tokenizer=tokenizer, seed=plan.seed, progress=progress) as shard:
        learner = Learner(
            plan.learner,
            plan.model,
            spec,
            tokenizer,
            load_held_out(warmup / HELD_OUT_FILE),
            seed=plan.seed,
            device=plan.device,
        )
        if begun is not None:
            learner.begin_from(begun.weights, step=0)
        training = Training(
            plan.training,
            plan.budget,
            learner=learner,
            shard=shard,
            num_agents=len(spec.agents),
            directory=plan.out / CHECKPOINTS,
            tokenizer=tokenizer.digest,
            made=_made(plan, worlds, shard.stats().items, command),
        )
        with closing(training):
            return training.go_on(stop, tell)


def _begun(plan: TrainingPlan, data: Path, spec: EnvSpec) -> Restored:
    """Bring the weights to begin with, and to the data the tokenizer that they know; return them."""
    start, warmup = plan.out / START, data / WARMUP
    if not start.exists():
        bring(plan.start, start, warmup, plan.model, spec)
    begun = restore(start)
    # Of a training that goes on, the data may have moved.
    hand_over(begun.tokenizer, warmup)
    if load_tokenizer(warmup / TOKENIZER_FILE).digest != begun.tokenizer.digest:
        raise CheckpointError(f"{plan.start}: knows another tokenizer than {data}; choose another --data")
    return begun


def _prepared(plan: TrainingPlan, data: Path, progress: Callable[[str, float], None]) -> Path:
    """Make tokenizer and held-out worlds with the data, and bring them to the checkpoints; return where they are."""
    source, warmup = data / WARMUP, plan.out / WARMUP
    prepare(
        plan.env,
        plan.warmup,
        source,
        num_agents=plan.num_agents,
        memory_size=plan.model.memory_size,
        tick=plan.tick,
        progress=progress,
    )
    warmup.mkdir(parents=True, exist_ok=True)
    for name in (TOKENIZER_FILE, HELD_OUT_FILE):
        if not (warmup / name).exists():
            write_file(warmup / name, (source / name).read_bytes())
    return warmup


def _recorded_worlds(plan: TrainingPlan, tokenizer: Tokenizer) -> RecordedWorlds:
    return RecordedWorlds(
        env=plan.env,
        num_agents=plan.num_agents,
        seed=plan.seed,
        tokenizer=tokenizer.digest,
        memory_size=plan.model.memory_size,
        # How they would be dreamed is of no matter here.
        tick=replace(plan.tick, dream=DreamConfig(), event_rate=plan.recording.event_rate),
    )


def _made(plan: TrainingPlan, worlds: RecordedWorlds, items: int, command: str) -> dict[str, object]:
    """Return what is to be known of how the weights came to be, as plain values."""
    return {
        "command": command,
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": f"{platform.machine()}, {_processor(plan.device)}, {plan.training.torch_threads} threads",
        "torch": torch.__version__,
        "seed": plan.seed,
        "start": plan.start,
        "data": {**asdict(worlds), **asdict(plan.recording), "agent_ticks": items},
        "learner": msgspec.to_builtins(plan.learner),
    }


def _processor(device: str) -> str:
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.get_device_name(device)
    if kind != "cpu":
        return device
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
