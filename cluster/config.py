"""The configuration of a run: what each part's owner says of itself, put together, and kept in the run folder."""

import sys
from dataclasses import dataclass, field, replace

from actors.host_config import WorldHostConfig
from cluster.supervisor_config import SupervisorConfig
from learner.learner import LearnerConfig
from learner.limiter import LimiterConfig
from learner.loop import LoopConfig
from learner.recording import RecordingConfig
from learner.replay import ReplayConfig
from learner.start import NOTHING
from learner.training import TrainingConfig
from world.errors import ConfigError
from world.model.world_model import WorldModelConfig
from world.store.records import Durability
from world.tick import TickConfig
from world.warmup import WarmupConfig

MAX_SEED = 999_999


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Everything that a run is made of. It is stored when a run begins, and wins when it goes on."""

    preset: str
    """The preset that this began as."""
    env: str
    """As given to `make_env`."""
    num_agents: int | None = None
    """Agents of every world; None: as many as the environment has."""
    seed: int = 0
    """Of worlds, weights and draws."""
    start_from: str = NOTHING
    """Weights and tokenizer that a new run begins with: a shipped name, a checkpoint or run folder, or "nothing"."""
    num_worlds: int = 8
    """Grounded worlds."""
    num_dreams: int = 2
    """Dreamed worlds, forked from grounded ones once the weights pass the gate."""
    num_hosts: int = 1
    num_shards: int = 2
    """Replay shards. One process that inserts and samples at once is less than half as fast as two."""
    durability: Durability = "disk"
    """What an acknowledgement of the store promises."""
    redis_url: str = ""
    """Empty: the embedded server, in the run folder."""
    address: str = ""
    """Of a Ray cluster; empty: a local one of our own."""
    dashboard: bool = True
    """Ray's dashboard, on loopback, for a local cluster."""
    learner_gpus: int = 0
    """0 or 1. With 1 the learner waits for a node that has a GPU."""
    host_gpus: float = 0.0
    """Share of a GPU for each host, on which it dreams if `tick.dream.device` says so."""
    host: WorldHostConfig = field(default_factory=WorldHostConfig)
    tick: TickConfig = field(default_factory=TickConfig)
    model: WorldModelConfig = field(default_factory=WorldModelConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    limiter: LimiterConfig = field(default_factory=LimiterConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    recording: RecordingConfig = field(default_factory=RecordingConfig)
    """Of `worlds train`, which hosts nothing."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Of `worlds train`."""
    supervisor: SupervisorConfig = field(default_factory=SupervisorConfig)

    def __post_init__(self) -> None:
        for name in ("num_worlds", "num_hosts", "num_shards"):
            if getattr(self, name) < 1:
                raise ConfigError(f"run.{name} must be >= 1, got {getattr(self, name)}")
        if self.num_dreams < 0:
            raise ConfigError(f"run.num_dreams must be >= 0, got {self.num_dreams}")
        if not 0 <= self.seed <= MAX_SEED:
            # Beyond it the seeds of training worlds would reach those of held-out ones.
            raise ConfigError(f"run.seed must be in 0 … {MAX_SEED}, got {self.seed}")
        if self.learner_gpus not in (0, 1):
            raise ConfigError(f"run.learner_gpus must be 0 or 1, got {self.learner_gpus}")
        if not 0.0 <= self.host_gpus <= 1.0 or (self.host_gpus > 0) != (self.tick.dream.device != "cpu"):
            raise ConfigError(
                "run.host_gpus must lie in [0, 1], and above 0 where tick.dream.device is a GPU alone, got "
                f"{self.host_gpus} and {self.tick.dream.device!r}"
            )
        if self.host.credit_items > self.limiter.max_insert_items:
            raise ConfigError(
                f"host.credit_items must be <= limiter.max_insert_items = {self.limiter.max_insert_items},"
                f" got {self.host.credit_items}"
            )
        if self.host.chunk_ticks > self.replay.chunk_ticks:
            raise ConfigError(
                f"host.chunk_ticks must be <= replay.chunk_ticks = {self.replay.chunk_ticks},"
                f" got {self.host.chunk_ticks}"
            )
        if self.learner.sampled_ticks > self.host.chunk_ticks:
            raise ConfigError(
                f"learner.past_ticks + sequence_ticks must be <= host.chunk_ticks = {self.host.chunk_ticks}, for a"
                f" sequence lies in one chunk; got {self.learner.sampled_ticks}"
            )

    def limiter_for(self, num_agents: int) -> LimiterConfig:
        """Return the limiter with room for a batch of so many agents, for a chunk of every world, and for all credit.

        A batch is sampled whole or not at all. Hosts hand over chunks that are full: with less, all of them could wait
        for credit to fill theirs, for ever.
        """
        batch = self.learner.batch_sequences * self.learner.sampled_ticks * num_agents
        samples = max(self.limiter.max_sample_items, batch)
        needed = self.num_worlds * num_agents * self.host.chunk_ticks + self.num_hosts * self.host.credit_items
        # Far enough for any batch: how far is enough follows from the rest.
        endless = replace(self.limiter, max_sample_items=samples, max_ahead_items=sys.maxsize)
        ahead = max(self.limiter.max_ahead_items, needed - self.limiter.min_items, endless.least_ahead_items)
        return replace(endless, max_ahead_items=ahead)

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names of the world hosts."""
        return tuple(f"host-{index}" for index in range(self.num_hosts))

    @property
    def shards(self) -> tuple[str, ...]:
        """Names of the replay shards."""
        return tuple(f"replay-{index}" for index in range(self.num_shards))
