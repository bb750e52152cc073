"""Dynamics p(z' | z, a): masked prediction over the slots of one update.

Axes: B worlds, A agents, N = B·A windows, H × W cells (P = H·W), K tokens a cell remembers, S status cells,
D width, V tokens, U actions, E event slots, J things placed, M rows asked for.

One pass answers in order. The state of all windows is encoded; actions enter at the agents' cells and where they
reach; what becomes of each agent is read there, its displacement and then its status; given both, the cells follow.
Cells sampled without them would now and then lose an agent, or make two of it, or fell a tree of which nobody gets the
wood.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from world.envs.grounded import EVENT_REACH
from world.errors import ConfigError
from world.field import DEPTH
from world.model.blocks import AgentBlock, CellAttention, GatedMLP, GlobalBlock, LocalBlock, RMSNorm
from world.model.memory.recall import RecallSlots
from world.model.relations import Encounters, Hubs, Reach, about, places_about
from world.model.slots import UNKNOWN_DISPLACEMENT, Slots, places_in_windows, steps_of
from world.model.tokens import CellEmbedding, TokenHead, TokenTable
from world.trajectory import NUM_DISPLACEMENTS

NUM_IDENTITIES = 64
NUM_MEMORY_SLOTS = 2
_FARTHEST = 32
"""Cells from the centre of a window; what is farther away is told to be this far."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DynamicsConfig:
    """Size and shape of the network."""

    width: int = 128
    hidden: int = 256
    """Width inside the gated MLPs."""
    num_heads: int = 4
    num_key_heads: int = 2
    encoder_blocks: int = 1
    """Blocks before actions are known; the policy reads their output."""
    action_blocks: int = 1
    """Blocks between the actions and the displacements."""
    mixing: Literal["local", "global"] = "local"
    """Kind of the blocks before the outcome. Global ones are for comparison (`learner.peers`)."""
    outcome_blocks: tuple[str, ...] = ("agents", "local")
    """Blocks between the displacements and the cells, in order: `local` over neighbouring cells, `global` over all
    slots, `agents` of the agents over all slots, of which cells hear through their own agent. A screen, where every
    cell may come from anywhere, has `global` ones for `agents`."""
    token_width: int = 64
    """Width in which tokens are embedded and told apart."""
    memory_gain: float = 1.0
    """How loud recurrent memory is when learning begins, against torch's own initialisation of what reads it. Something
    that happened once moves it by hundredths, which a small training does not hear among what else is told."""
    num_recalled: int = 0
    """Slots for what an episodic memory brings back; 0: the model has none."""
    num_hubs: int = 8
    """Slots through which screens that share no map hear of each other; 0: each is foretold by itself."""

    def __post_init__(self) -> None:
        for name in ("width", "hidden", "num_heads", "num_key_heads", "token_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"dynamics.{name} must be >= 1, got {getattr(self, name)}")
        for name in ("encoder_blocks", "action_blocks", "num_recalled", "num_hubs"):
            if getattr(self, name) < 0:
                raise ConfigError(f"dynamics.{name} must be >= 0, got {getattr(self, name)}")
        if self.width % self.num_heads or (self.width // self.num_heads) % 4:
            raise ConfigError(f"dynamics.width {self.width} must divide into {self.num_heads} heads of a multiple of 4")
        if self.num_heads % self.num_key_heads:
            raise ConfigError(f"dynamics.num_heads {self.num_heads} must be a multiple of {self.num_key_heads}")
        if self.mixing not in ("local", "global"):
            raise ConfigError(f"dynamics.mixing is 'local' or 'global', got {self.mixing!r}")
        if not 0.0 < self.memory_gain < math.inf:
            raise ConfigError(f"dynamics.memory_gain must be positive and finite, got {self.memory_gain}")
        if unknown := set(self.outcome_blocks) - {"local", "global", "agents"}:
            raise ConfigError(f"dynamics.outcome_blocks are 'local', 'global' or 'agents', got {sorted(unknown)}")

    def global_block(self) -> GlobalBlock:
        """Return a new block of attention of this size."""
        return GlobalBlock(self.width, self.hidden, num_heads=self.num_heads, num_key_heads=self.num_key_heads)

    def early_block(self) -> nn.Module:
        """Return a new block over cells before the outcome."""
        return LocalBlock(self.width, self.hidden) if self.mixing == "local" else CellAttention(self.global_block())

    def outcome_block(self, kind: str) -> nn.Module:
        """Return a new block of a kind that stands in `outcome_blocks`."""
        if kind == "local":
            return LocalBlock(self.width, self.hidden)
        return self.global_block() if kind == "global" else AgentBlock(self.global_block(), self.width)


_Told = tuple[Tensor, Tensor]
"""What is told (B, J, D) to the cells at places (B, J, 2) of worlds."""


@dataclass(slots=True)
class Encoded:
    """The windows before the outcome: cells (N, H, W, D), agents (N, D), status slots (N, S, D), looks (N, E)."""

    slots: Slots
    cells: Tensor
    agents: Tensor
    status: Tensor
    appearance: Tensor
    shares: Tensor | None = None
    """(N, 9) of the cells about each agent, upon which it acts: on a map, once actions are known."""

    def of_worlds(self, rows: Tensor) -> "Encoded":
        """Return the windows of some worlds (rows,) alone."""
        shape = self.slots.poses.shape[:2]

        def chosen(x: Tensor) -> Tensor:
            return x.reshape(*shape, *x.shape[1:])[rows].flatten(0, 1)

        return Encoded(
            self.slots.of_worlds(rows),
            cells=chosen(self.cells),
            agents=chosen(self.agents),
            status=chosen(self.status),
            appearance=chosen(self.appearance),
            shares=None if self.shares is None else chosen(self.shares),
        )


@dataclass(slots=True)
class Outcome:
    """Features from which the answers are read: cells (N, P, D), agents (N, D)."""

    slots: Slots
    cells: Tensor
    agents: Tensor
    arrived: Tensor | None = None
    """(N, P, E) what whoever stands on a cell by then looks like; None on screens."""
    finish: nn.Module | None = None
    """What cells pass through as they are read, each for itself; so only those that are asked for cost it."""


class Dynamics(nn.Module):
    """The masked network. `encode`, `act`, `outcome`, then the `*_logits` that are asked for."""

    def __init__(
        self,
        config: DynamicsConfig,
        *,
        vocab_size: int,
        num_tokens: int | None,
        num_actions: int,
        num_events: int,
        status_cells: int,
        memory_size: int,
        has_pose: bool,
    ) -> None:
        super().__init__()
        width = config.width
        self.has_pose = has_pose
        self.table = TokenTable(vocab_size, config.token_width, num_tokens)
        self.cell_embedding = CellEmbedding(self.table, width)
        self.identity = nn.Embedding(NUM_IDENTITIES, width)
        self.turn = nn.Linear(1, width)
        self.doubt = nn.Parameter(torch.zeros(width))
        """What agents are told where what is known of them was dreamed."""
        self.unknown_action = num_actions
        """Given in place of an action that is asked for."""
        self.action = nn.Embedding(num_actions + 1, width)
        self.event = nn.Embedding(num_events, width) if num_events else None
        self.about_event = nn.Embedding((2 * EVENT_REACH + 1) ** 2, width) if num_events and has_pose else None
        self.displacement = nn.Embedding(UNKNOWN_DISPLACEMENT + 1, width)
        # Small: an identity is noise that tells agents apart, and must not drown what their cells say of them.
        nn.init.normal_(self.identity.weight, std=0.02)
        nn.init.normal_(self.action.weight, std=0.3)
        nn.init.normal_(self.displacement.weight, std=0.3)
        if self.about_event is not None:
            nn.init.normal_(self.about_event.weight, std=0.3)
        self.status_token = nn.Linear(config.token_width, width)
        self.status_place = nn.Parameter(torch.randn(status_cells, width) * 0.3)
        self.status_mix = nn.Linear(max(status_cells, 1) * width, width)
        self.status_change = nn.Linear(max(status_cells, 1) * config.token_width, width, bias=False)
        self.unknown_change = nn.Parameter(torch.randn(config.token_width) * config.token_width**-0.5)
        nn.init.normal_(self.status_token.weight, std=0.15)
        # As loud as a displacement.
        nn.init.normal_(self.status_change.weight, std=0.2)
        self.memory_slots = nn.Linear(memory_size, NUM_MEMORY_SLOTS * width)
        with torch.no_grad():
            self.memory_slots.weight.mul_(config.memory_gain)
        self.recall = RecallSlots(config.token_width, width) if config.num_recalled else None
        self.presence = nn.Linear(width, width)
        self.intent = nn.Linear(width, width)
        self.arrival = nn.Linear(width, width)
        self.heard = nn.Linear(2 * width, width)
        self.encounters = Encounters(width, config.hidden, num_actions) if has_pose else None
        self.reach = Reach(width, config.hidden, config.token_width) if has_pose else None
        self.holdings = config.global_block()
        self.status_block = GatedMLP(width, config.hidden)
        self.told_norm, self.slot_norm = RMSNorm(width), RMSNorm(width)
        self.slot = nn.Linear(width, width)
        self.slot_block = GatedMLP(width, config.hidden)
        self.appearance = nn.Linear((1 + status_cells) * config.token_width, config.token_width, bias=False)
        with torch.no_grad():
            # At first, an agent looks like what is on its cell.
            self.appearance.weight.mul_(0.1)[:, : config.token_width].copy_(torch.eye(config.token_width))
        self.looks = nn.Linear(config.token_width, width)
        # Loud enough to be heard: who somebody is decides what comes of some of its actions.
        nn.init.normal_(self.looks.weight, std=0.2)
        self.encoder = nn.ModuleList(config.early_block() for _ in range(config.encoder_blocks))
        self.acting = nn.ModuleList(config.early_block() for _ in range(config.action_blocks))
        kinds = config.outcome_blocks if has_pose else ["global" if k == "agents" else k for k in config.outcome_blocks]
        self.outcomes = nn.ModuleList(map(config.outcome_block, kinds))
        self.hubs = None if has_pose or not config.num_hubs else Hubs(config.num_hubs, width, config.global_block())
        self.displacement_head = nn.Sequential(
            RMSNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, NUM_DISPLACEMENTS)
        )
        self.final = nn.Linear(2 * width, width)
        self.cell_head = TokenHead(self.table, width, num_candidates=DEPTH)
        self.status_head = TokenHead(self.table, width, num_candidates=1)
        self.action_head = nn.Sequential(RMSNorm(width), nn.Linear(width, num_actions))

    def encode(self, slots: Slots, given_tokens: Tensor) -> Encoded:
        """Encode the windows, with next tokens (B, A, H, W) given or MASK."""
        cells = self.cell_embedding(slots.tokens.flatten(0, 1), slots.ages.flatten(0, 1), given_tokens.flatten(0, 1))
        status = self.status_token(self.table.weight[slots.status.flatten(0, 1)]) + self.status_place
        memory = self.memory_slots(slots.memory.flatten(0, 1))
        # As a share, so that who comes before whom is told alike among few and many.
        turn = self.turn(slots.turns[..., None] / slots.turns.shape[1])
        doubt = slots.dreamed[:, None, None] * self.doubt
        agents = (self.identity(slots.identity) + turn + doubt).flatten(0, 1) + memory[:, : cells.shape[-1]]
        appearance = self._appearance(slots)
        agents = agents + self.looks(appearance)
        if status.shape[1]:
            # What one would hand over is the most of what one has: a comparison, which no sum makes.
            nowhere = slots.poses.new_zeros(*status.shape[:2], 2)
            status = self.holdings(status, status[:, :0], nowhere, nowhere[:, :0])
            agents = agents + self.status_mix(status.flatten(1))
        cells = self._place(cells, slots, self.presence(agents), slots.poses)
        for block in self.encoder:
            cells = block(cells)
        return Encoded(slots, cells, agents + self._at_own_place(cells), status, appearance)

    def act(self, encoded: Encoded, actions: Tensor) -> Encoded:
        """Let the joint action (B, A) enter at agents' cells and where they reach, and world events at their places."""
        slots = encoded.slots
        agents = encoded.agents + self.action(actions.flatten())
        # As loud as each other: agents are two thousand times as loud as what is in a slot.
        status = self.slot_norm(encoded.status)
        if self.encounters is not None:
            each, held = (x.view(*actions.shape, *x.shape[1:]) for x in (encoded.agents, status))
            met, passed = self.encounters(slots, each, actions, held)
            agents, status = agents + met.flatten(0, 1), status + passed.flatten(0, 1)
        shares, told = None, []
        if self.reach is not None:
            shares = self.reach.where(agents)
            told.append(_touched(slots, shares[..., None] * self.reach.intent(agents)[:, None]))
        if self.about_event is not None and _may_befall(slots):
            told.append(self._befall(slots, self.about_event.weight))
        cells = self._place(encoded.cells, slots, self.intent(agents), slots.poses, *told)
        if self.event is not None and self.about_event is None:
            everywhere = self._events(slots).sum(1).repeat_interleave(slots.poses.shape[1], dim=0)
            cells = cells + everywhere[:, None, None].to(cells.dtype)
        for block in self.acting:
            cells = block(cells)
        if shares is not None:
            assert self.reach is not None
            tokens = self.table.weight[about(slots.tokens[..., 0].flatten(0, 1))]
            agents = agents + self.reach.found(shares, agents, tokens, encoded.cells, cells)
        agents = self.heard(torch.cat([agents, self._at_own_place(cells)], dim=-1)) + agents
        return Encoded(slots, cells, agents, status, encoded.appearance, shares)

    def displacement_logits(self, acted: Encoded) -> Tensor:
        """Return (B, A, 10) over displacement classes."""
        return self.displacement_head(acted.agents).unflatten(0, acted.slots.poses.shape[:2])  # type: ignore[no-any-return]

    def status_logits(self, acted: Encoded, displacement: Tensor) -> Tensor:
        """Return logits (N, S, V) of next status tokens, given displacement classes (B, A)."""
        moved = self.displacement(displacement.flatten())
        # What an agent knows first, then what that makes of each slot, which depends on what is in it.
        told = self.told_norm(self.status_block(acted.agents + moved))[:, None]
        status = told + self.slot_block.change(told + moved[:, None] + self.slot(acted.status))
        return self.status_head(status, acted.slots.status.flatten(0, 1)[..., None])  # type: ignore[no-any-return]

    def outcome(self, acted: Encoded, displacement: Tensor, status: Tensor) -> Outcome:
        """Return features of what follows, given displacement classes (B, A) and next status tokens (B, A, S).

        UNKNOWN_DISPLACEMENT and MASK stand for what is not known.
        """
        slots = acted.slots
        agents = acted.agents + self.displacement(displacement.flatten())
        if status.shape[2]:
            agents = agents + self._changed(slots.status, status).flatten(0, 1)
        moved = (displacement < NUM_DISPLACEMENTS - 1)[..., None] * steps_of(displacement)
        told = []
        if acted.shares is not None:
            assert self.reach is not None
            told.append(_touched(slots, acted.shares[..., None] * self.reach.effect(agents)[:, None]))
        cells = self._place(acted.cells, slots, self.arrival(agents), slots.poses + moved, *told)
        height, width = cells.shape[1:3]
        arrived = None
        if self.has_pose:
            nobody = acted.appearance.new_zeros(*cells.shape[:3], acted.appearance.shape[-1])
            arrived = self._place(nobody, slots, acted.appearance, slots.poses + moved).flatten(1, 2)
        own, place, others, others_place = self._context(slots, cells, agents)
        finish = None
        for number, block in enumerate(self.outcomes, start=1):
            if isinstance(block, AgentBlock):
                cells, own = block(cells, own, others, place, others_place)
            elif isinstance(block, GlobalBlock):
                queries = block(torch.cat([cells.flatten(1, 2), own], dim=1), others, place, others_place)
                cells = queries[:, : height * width].unflatten(1, (height, width))
                own = queries[:, height * width :]
            elif number < len(self.outcomes):
                cells = block(cells)
            else:
                cells, finish = block.mixed(cells), block.mlp  # type: ignore[operator]
        here = self._at_own_place(cells)
        here = here if finish is None else finish(here)  # type: ignore[operator]
        agents = own[:, 0] + self.final(torch.cat([own[:, 0], here], dim=-1))
        return Outcome(slots, cells.flatten(1, 2), agents, arrived, finish)  # type: ignore[arg-type]

    def token_logits(self, outcome: Outcome, asked: Tensor | None = None) -> Tensor:
        """Return logits (N, P, V) of next tokens; with `asked`, flat indices (M,) of cells, only those: (M, V)."""
        cells, candidates, arrived = outcome.cells, outcome.slots.tokens.flatten(0, 1).flatten(1, 2), outcome.arrived
        if asked is not None:
            cells, candidates = cells.flatten(0, 1)[asked], candidates.flatten(0, 1)[asked]
            arrived = None if arrived is None else arrived.flatten(0, 1)[asked]
        cells = cells if outcome.finish is None else outcome.finish(cells)
        return self.cell_head(cells, candidates, arrived)  # type: ignore[no-any-return]

    def action_logits(self, outcome: Outcome) -> Tensor:
        """Return logits (N, U) of the actions that led to what was given."""
        return self.action_head(outcome.agents)  # type: ignore[no-any-return]

    def _events(self, slots: Slots) -> Tensor:
        """Return the vectors (B, E, D) of world events; zero where a slot is empty."""
        assert self.event is not None
        kinds = slots.events[..., 0]
        return self.event((kinds - 1).clamp(min=0)) * (kinds > 0)[..., None]  # type: ignore[no-any-return]

    def _befall(self, slots: Slots, about: Tensor) -> _Told:
        """Return what cells in the reach of events are told of them, and, `about` (J, D), where each is about them.

        What an event makes of a cell follows from that cell and its place about the event's.
        """
        told = (self._events(slots)[:, :, None] + about) * (slots.events[..., :1, None] > 0)
        return told.flatten(1, 2), places_about(slots.events[..., 1:], EVENT_REACH).flatten(1, 2)

    def _place(self, cells: Tensor, slots: Slots, vectors: Tensor, poses: Tensor, *told: _Told) -> Tensor:
        """Tell agents' vectors (N, D) to the cells at `poses` (B, A, 2), and on maps what else is told; on screens, to
        all of each one's own.
        """
        if self.has_pose:
            return self._tell(cells, slots, (vectors.view(*poses.shape[:2], -1), poses), *told)
        return cells + vectors[:, None, None].to(cells.dtype)

    def _tell(self, cells: Tensor, slots: Slots, *told: _Told) -> Tensor:
        """Add what is told to the cells of all windows that contain the places, in one copy of them."""
        num, height, width, _ = cells.shape
        vectors = torch.cat([vector.to(cells.dtype) for vector, _ in told], dim=1)
        index, inside = places_in_windows(slots.poses, torch.cat([places for _, places in told], dim=1), height, width)
        index = index + torch.arange(num, device=cells.device).view(*index.shape[:2], 1) * (height * width)
        spread = vectors[:, None] * inside[..., None]
        return cells.flatten(0, 2).index_add(0, index.flatten(), spread.flatten(0, 2)).view_as(cells)

    def _appearance(self, slots: Slots) -> Tensor:
        """Return what each agent looks like (N, E), by the cell that it is on and by its status."""
        height, width = slots.tokens.shape[2:4]
        own = slots.tokens[:, :, height // 2, width // 2, :1]
        seen = self.table.weight[torch.cat([own, slots.status], dim=-1).flatten(0, 1)]
        return self.appearance(seen.flatten(1))  # type: ignore[no-any-return]

    def _changed(self, status: Tensor, later: Tensor) -> Tensor:
        """Return what it means to each agent (B, A, D) that its status (B, A, S) becomes `later`: equal, nothing."""
        table = self.table.weight
        unknown = (later == self.table.mask)[..., None]
        change = torch.where(unknown, self.unknown_change, table[later] - table[status])
        return self.status_change(change.flatten(2))  # type: ignore[no-any-return]

    def _at_own_place(self, cells: Tensor) -> Tensor:
        """Return the cell (N, D) in the centre of each window, where its agent is."""
        return cells[:, cells.shape[1] // 2, cells.shape[2] // 2]

    def _context(self, slots: Slots, cells: Tensor, agents: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the own slot (N, 1, D), places of all queries, the other slots (N, J, D) and their places.

        The others are memory slots, event slots, and the other agents; on screens, hubs stand for those.
        """
        batch, num_agents = slots.poses.shape[:2]
        num, height, width, _ = cells.shape
        device = agents.device
        rows, cols = torch.arange(height, device=device), torch.arange(width, device=device)
        grid = torch.cartesian_prod(rows, cols) - torch.tensor([height // 2, width // 2], device=device)
        place = torch.cat([grid, grid.new_zeros(1, 2)]).expand(num, -1, -1)
        memory = self.memory_slots(slots.memory.flatten(0, 1)).unflatten(-1, (NUM_MEMORY_SLOTS, -1))
        others, places = [memory], [place.new_zeros(num, NUM_MEMORY_SLOTS, 2)]
        if self.has_pose:
            # Everybody but oneself: agent a's others are a + 1, a + 2, … round the circle.
            around = torch.arange(num_agents, device=device)
            order = (around[:, None] + around[None, 1:]) % num_agents
            others.append(agents.view(batch, num_agents, -1)[:, order].flatten(0, 1))
            places.append((slots.poses[:, order] - slots.poses[:, :, None]).flatten(0, 1))
        if self.recall is not None:
            recalled = self.recall(slots.recalled.flatten(0, 1), self.table.weight, self.action.weight)
            others.append(recalled[0])
            places.append(recalled[1])
        if self.event is not None:
            others.append(self._events(slots).repeat_interleave(num_agents, dim=0))
            places.append((slots.events[:, None, :, 1:] - slots.poses[:, :, None]).flatten(0, 1))
        if self.hubs is not None:
            hubs = self.hubs(cells.flatten(1, 2), agents, grid, num_agents)
            others.append(hubs.repeat_interleave(num_agents, dim=0))
            places.append(place.new_zeros(num, hubs.shape[1], 2))
        return (
            agents[:, None],
            place,
            torch.cat([other.to(agents.dtype) for other in others], dim=1),
            torch.cat(places, dim=1).clamp(-_FARTHEST, _FARTHEST),
        )


def _touched(slots: Slots, told: Tensor) -> _Told:
    """Return what the nine cells about each agent are told (N, 9, D), and where they are."""
    batch = len(slots.poses)
    return told.reshape(batch, -1, told.shape[-1]), places_about(slots.poses).flatten(1, 2)


def _may_befall(slots: Slots) -> bool:
    """Whether an event befalls any world, where that can be asked and nothing is learned: a graph has no branches, and
    what is left out has no gradient.
    """
    can_ask = not torch.compiler.is_compiling() and not torch.is_grad_enabled() and slots.events.device.type == "cpu"
    return not can_ask or bool(slots.events[..., 0].any())
