"""Small worlds, models and recorded ticks for the tests of the model, the tick and the learner."""

import struct
from functools import cache

import numpy as np
import torch

from world.envs.grounded import BY_CHANCE, EnvSpec, Int32Array, Observed, Stepped, ViewLayout
from world.errors import EnvironmentUnusable
from world.event import MAX_EVENTS
from world.live import LiveWorld, begin
from world.model.dynamics import DynamicsConfig
from world.model.slots import Slots
from world.model.tokenizer import DiscreteTokenizer, PatchTokenizer, Tokenizer, build_codebook
from world.model.tokens import TokenHead
from world.model.world_model import WorldModel, WorldModelConfig
from world.snapshot import Snapshot, WorldId
from world.tick import TickConfig, Ticker
from world.trajectory import Transitions

torch.set_num_threads(1)

NUM_VALUES = 64
BEYOND = 63
SIDE = 12
_MOVES = np.array([(0, 0), (-1, 0), (0, 1), (1, 0), (0, -1)], np.int32)
_STATE = struct.Struct("<qqq")


class CountingEnv:
    """Agents on a small map leave a mark that names the tick; status and rewards count ticks.

    Whoever skips, repeats or misplaces a tick is found out by its own record. With `map_rows` 0 it is a screen.
    """

    def __init__(
        self, *, num_agents: int = 2, map_rows: int = 3, cols: int = 3, length: int = 1 << 30, truncates: bool = False
    ) -> None:
        self.spec = EnvSpec(
            name="counting",
            agents=tuple(f"agent_{i}" for i in range(num_agents)),
            num_actions=len(_MOVES),
            layout=ViewLayout(rows=(map_rows or 3) + 1, cols=cols, map_rows=map_rows, tile_px=0, num_values=NUM_VALUES),
        )
        self.length, self.truncates = length, truncates
        self.seed, self.tick = 0, 0
        self.resets, self.steps = 0, 0
        self.poses = np.zeros((num_agents, 2), np.int32)
        self.cells = np.zeros((SIDE, SIDE), np.int32)

    def reset(self, seed: int) -> Observed:
        """Begin anew."""
        self.resets += 1
        self.seed, self.tick = seed, 0
        rng = np.random.default_rng(seed)
        self.cells = rng.integers(0, 20, (SIDE, SIDE), np.int32)
        self.poses = rng.integers(2, SIDE - 2, self.poses.shape, np.int32)
        return self.observe()

    def step(self, actions: Int32Array) -> Stepped:
        """Move, and mark."""
        self.steps += 1
        self.tick += 1
        self.poses = (self.poses + _MOVES[actions]).clip(0, SIDE - 1)
        changes = []
        for agent, (y, x) in enumerate(self.poses.tolist()):
            self.cells[y, x] = 20 + self.tick % 40
            changes.append((y, x, agent))
        y, x = divmod(self.tick * 31 % (SIDE * SIDE), SIDE)
        self.cells[y, x] = self.tick % 20
        changes.append((y, x, BY_CHANCE))
        over = np.full(len(self.poses), self.tick >= self.length)
        never = np.zeros_like(over)
        return Stepped(
            observed=self.observe(),
            rewards=self.tick + np.arange(len(self.poses), dtype=np.float32) / 4,
            terminated=never if self.truncates else over,
            truncated=over if self.truncates else never,
            changes=np.array(changes, np.int32),
        )

    def observe(self) -> Observed:
        """Return the views."""
        layout = self.spec.layout
        rows = layout.map_rows or layout.rows - 1
        padded = np.pad(self.cells, 16, constant_values=BEYOND)
        views = []
        for agent, (y, x) in enumerate(self.poses.tolist()):
            top, left = y + 16 - rows // 2, x + 16 - layout.cols // 2
            status = np.array([self.tick % NUM_VALUES, self.seed % NUM_VALUES, *[agent] * (layout.cols - 2)])
            views.append(np.concatenate([padded[top : top + rows, left : left + layout.cols].ravel(), status]))
        poses = self.poses if layout.map_rows else np.zeros_like(self.poses)
        return Observed(np.stack(views).astype(np.int32), poses.copy())

    def snapshot(self) -> bytes:
        """Everything."""
        return _STATE.pack(self.seed, self.tick, self.resets) + self.poses.tobytes() + self.cells.tobytes()

    def restore(self, blob: bytes) -> Observed:
        """Return there."""
        if len(blob) != _STATE.size + self.poses.nbytes + self.cells.nbytes:
            raise EnvironmentUnusable("counting: the snapshot is of another size")
        self.seed, self.tick, self.resets = _STATE.unpack_from(blob)
        poses, cells = blob[_STATE.size :][: self.poses.nbytes], blob[_STATE.size + self.poses.nbytes :]
        self.poses = np.frombuffer(poses, np.int32).reshape(self.poses.shape).copy()
        self.cells = np.frombuffer(cells, np.int32).reshape(SIDE, SIDE).copy()
        return self.observe()


class CyclingPolicy:
    """Actions that depend on the tick alone, so that a resumed world acts as the uninterrupted one does."""

    def act(self, env: CountingEnv, tick: int) -> Int32Array:
        """Return the joint action (A,)."""
        agents = np.arange(len(env.spec.agents), dtype=np.int32)
        return ((tick * 7 + agents * 3 + tick // 5) % env.spec.num_actions).astype(np.int32)


def small_config(*, memory_size: int = 4, outcome_blocks: tuple[str, ...] = ("local", "global")) -> WorldModelConfig:
    """A network that a test can afford."""
    return WorldModelConfig(
        dynamics=DynamicsConfig(
            width=16, hidden=16, num_heads=2, num_key_heads=1, token_width=16, outcome_blocks=outcome_blocks
        ),
        memory_size=memory_size,
        num_bins=15,
    )


def silence(*heads: TokenHead) -> None:
    """Let heads have no opinion of any token."""
    with torch.no_grad():
        for head in heads:
            for layer in (head.project, head.point, head.way):
                for parameter in layer.parameters():
                    parameter.zero_()
            head.bias.zero_()


def stirred_model(
    spec: EnvSpec, vocab_size: int, config: WorldModelConfig | None = None, *, seed: int = 0
) -> WorldModel:
    """A model whose zero-initialised parts are not zero, so that every path through it can be felt."""
    torch.manual_seed(seed)
    model = WorldModel(config or small_config(), spec, vocab_size).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
    return model


def counting_world(env: CountingEnv, *, seed: int = 5, memory_size: int = 4, world: str = "w") -> LiveWorld:
    """A world before its first tick."""
    snapshot = Snapshot.empty("grounded", seed, env.spec.layout, len(env.spec.agents), memory_size)
    return LiveWorld(WorldId(world), "counting", snapshot, env, CyclingPolicy(), ended=True)


def counting_ticker(env: CountingEnv, *, margin: int = 1, version: int = 0, seed: int = 0) -> Ticker:
    """A ticker for counting worlds; with a version, it has weights."""
    tokenizer = DiscreteTokenizer(env.spec.layout)
    ticker = Ticker(env.spec, tokenizer, TickConfig(margin=margin), small_config())
    if version:
        weights = stirred_model(env.spec, tokenizer.vocab_size, seed=seed).state_dict()
        ticker.load_weights(weights, version)
    return ticker


def random_slots(
    spec: EnvSpec,
    vocab_size: int,
    *,
    batch: int = 2,
    margin: int = 1,
    memory_size: int = 4,
    seed: int = 0,
    apart: int = 3,
) -> Slots:
    """Slots of windows with random content, agents within `apart` cells of each other."""
    rng = np.random.default_rng(seed)
    layout, agents = spec.layout, len(spec.agents)
    rows = layout.map_rows + 2 * margin if layout.map_rows else layout.rows
    cols = layout.cols + 2 * margin if layout.map_rows else layout.cols
    shape = (batch, agents, rows, cols)
    return Slots.from_arrays(
        tokens=rng.integers(0, vocab_size, (*shape, 4)),
        ages=rng.integers(0, 30, (*shape, 5)),
        status=rng.integers(1, vocab_size, (batch, agents, layout.status_cells)),
        poses=rng.integers(0, apart + 1, (batch, agents, 2)) if layout.map_rows else np.zeros((batch, agents, 2)),
        turns=np.broadcast_to(np.arange(agents), (batch, agents)),
        memory=rng.standard_normal((batch, agents, memory_size)),
        identity=np.broadcast_to(np.arange(agents), (batch, agents)),
        events=np.zeros((batch, MAX_EVENTS, 3)),
        dreamed=np.arange(batch) % 2,
    )


@cache
def homestead_rows(ticks: int = 120) -> tuple[EnvSpec, Tokenizer, Transitions]:
    """Recorded ticks of one small homestead, with its exact codebook."""
    world = begin(WorldId("h"), env_name="homestead:16x16x2", seed=3, memory_size=4)
    env = world.env
    assert env is not None
    blank = PatchTokenizer(env.spec.layout, np.zeros((1, 7, 7, 3), np.uint8), 2)
    Ticker(env.spec, blank, TickConfig(), small_config()).tick([world])
    tokenizer = PatchTokenizer(env.spec.layout, build_codebook(env.survey(), 200), 256)  # type: ignore[attr-defined]
    world = begin(WorldId("h"), env_name="homestead:16x16x2", seed=3, memory_size=4)
    ticker = Ticker(env.spec, tokenizer, TickConfig(), small_config())
    rows = [ticked.row for _ in range(ticks + 1) for ticked in ticker.tick([world])]
    assert tokenizer.unknown_patches == 0
    return env.spec, tokenizer, Transitions.stack([row for row in rows if row is not None])
