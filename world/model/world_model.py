"""The world model: every learned part, on one token field.

Axes: B worlds, A agents, N = B·A windows, L ticks, D components of recurrent memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world.envs.grounded import EnvSpec
from world.errors import ConfigError
from world.model.dynamics import NUM_IDENTITIES, Dynamics, DynamicsConfig, Encoded
from world.model.habits import Habits
from world.model.heads import ContinuationHead, RewardHead, symlog
from world.model.memory.recurrent import RecurrentMemory
from world.model.policy import Policy, Reader, Value
from world.model.query import Answer, Query
from world.model.slots import Slots


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldModelConfig:
    """Sizes of all learned parts."""

    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    memory_size: int = 16
    """D: components of each agent's recurrent memory; committed as float16 with every tick."""
    num_bins: int = 255
    """Of reward and value distributions."""

    def __post_init__(self) -> None:
        if self.memory_size < 1:
            raise ConfigError(f"model.memory_size must be >= 1, got {self.memory_size}")
        if self.num_bins < 3 or self.num_bins % 2 == 0:
            raise ConfigError(f"model.num_bins must be odd and >= 3, so that zero has a bin, got {self.num_bins}")


def tiny() -> WorldModelConfig:
    """About 2.4M parameters: learns a tile world in minutes on two CPU cores."""
    return WorldModelConfig()


def small() -> WorldModelConfig:
    """About 28M parameters: one GPU."""
    return WorldModelConfig(
        dynamics=DynamicsConfig(
            width=384,
            hidden=1024,
            num_heads=6,
            encoder_blocks=3,
            action_blocks=2,
            outcome_blocks=("local", "global", "local", "local", "global", "local", "local"),
            token_width=128,
        ),
        memory_size=64,
    )


def base() -> WorldModelConfig:
    """About 143M parameters: clusters."""
    return WorldModelConfig(
        dynamics=DynamicsConfig(
            width=768,
            hidden=2304,
            num_heads=12,
            num_key_heads=4,
            encoder_blocks=4,
            action_blocks=2,
            outcome_blocks=(
                "local",
                "global",
                "local",
                "local",
                "global",
                "local",
                "local",
                "global",
                "local",
                "local",
            ),
            token_width=256,
        ),
        memory_size=128,
    )


class WorldModel(nn.Module):
    """Dynamics, reward, continuation, recurrent memory, policy, value and habits of tokens over one vocabulary."""

    def __init__(
        self, config: WorldModelConfig, spec: EnvSpec, vocab_size: int, *, num_tokens: int | None = None
    ) -> None:
        """Of the vocabulary the first `num_tokens` stand for something; without it, all.

        Raises `ConfigError` for more agents than have identities.
        """
        super().__init__()
        if len(spec.agents) > NUM_IDENTITIES:
            raise ConfigError(
                f"model: tells at most NUM_IDENTITIES = {NUM_IDENTITIES} agents of a world apart, got"
                f" {len(spec.agents)}; host worlds of fewer agents"
            )
        width = config.dynamics.width
        self.config = config
        self.dynamics = Dynamics(
            config.dynamics,
            vocab_size=vocab_size,
            num_tokens=num_tokens,
            num_actions=spec.num_actions,
            num_events=len(spec.events),
            status_cells=spec.layout.status_cells,
            memory_size=config.memory_size,
            has_pose=bool(spec.layout.map_rows),
        )
        self.reward = RewardHead(width, config.num_bins)
        self.continuation = ContinuationHead(width)
        # Nine cells around the agent, the mean of all in view, the mean of its status; its action; its reward.
        self.memory = RecurrentMemory(config.memory_size, 11 * config.dynamics.token_width + width + 1)
        self.reader = Reader(width)
        self.policy = Policy(width, spec.num_actions)
        self.value = Value(width, config.num_bins)
        self.habits = Habits(vocab_size)

    @property
    def mask(self) -> int:
        """The token that asks."""
        return self.dynamics.table.mask

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.dynamics.table.weight.device

    def answer(self, query: Query) -> Answer:
        """Return what the model believes of whatever the query asks for: the only way to ask."""
        return Answer(self, query)

    def read(self, encoded: Encoded) -> Tensor:
        """Return what policy and value read in each agent's window, (N, D).

        Of cells and agents detached: imitating or improving behaviour must not bend the dynamics.
        """
        return self.reader(encoded.cells.flatten(1, 2).detach(), encoded.agents.detach())  # type: ignore[no-any-return]

    def evidence(self, slots: Slots, actions: Tensor, rewards: Tensor) -> Tensor:
        """Return what enters recurrent memory (B, A, E): what is near, what was done (B, A), what it gave (B, A).

        It holds nothing of memory itself, so that many ticks can be learned from in parallel.
        """
        table = self.dynamics.table.weight
        newest = slots.tokens[..., 0]
        height, width = newest.shape[2:]
        y, x = max(height // 2 - 1, 0), max(width // 2 - 1, 0)
        near = F.embedding(newest[:, :, y : y + 3, x : x + 3], table).flatten(2)
        near = F.pad(near, (0, 9 * table.shape[1] - near.shape[-1]))
        seen, status = _mean_of(newest, table), _mean_of(slots.status, table)
        done = self.dynamics.action(actions)
        return torch.cat([near, seen, status, done, symlog(rewards)[..., None]], dim=-1)

    def misfit(self, weights: Mapping[str, Tensor]) -> str:
        """Return what of these weights does not fit this model; nothing, if all do."""
        own = self.state_dict()
        if missing := sorted(own.keys() - weights.keys()):
            return f"{missing[0]} is missing"
        if unknown := sorted(weights.keys() - own.keys()):
            return f"{unknown[0]} is unknown"
        shapes = ((name, tuple(weights[name].shape), tuple(tensor.shape)) for name, tensor in own.items())
        return next((f"{name} is {its}, not {mine}" for name, its, mine in shapes if its != mine), "")

    def num_parameters(self) -> int:
        """Parameters of all parts."""
        return sum(parameter.numel() for parameter in self.parameters())


def _mean_of(tokens: Tensor, table: Tensor) -> Tensor:
    """Return the mean (B, A, E) of the rows of a table (V, E) that tokens (B, A, …) name; zeros for no tokens.

    As counts times the table: to gather and add all rows, for all ticks of a past, took twice the time.
    """
    flat = tokens.flatten(2)
    counts = table.new_zeros(*flat.shape[:2], len(table)).scatter_add_(
        2, flat, torch.ones_like(flat, dtype=table.dtype)
    )
    return counts @ table / max(flat.shape[2], 1)
