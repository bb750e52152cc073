"""One tick of dreamed worlds: the model advances them, agents and all, as one batch.

Axes: B worlds, A agents, N = B·A windows, H × W cells, P = H·W, S status cells, U actions, V tokens.

All randomness comes from uniform draws keyed by (world's seed, tick): a repeated tick is the same tick, and no
generator has to be kept. In bfloat16 that holds for the same worlds side by side, and on a GPU up to the order in which
it adds what several agents tell one cell: what is committed is what was drawn, whatever a repetition would be.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from world.envs.grounded import BoolArray, Float32Array, Int32Array, Uint8Array
from world.errors import ConfigError
from world.field import UNSEEN, Uint16Array
from world.model.frozen import frozen, refresh
from world.model.habits import kinds_of
from world.model.precision import Precision, computing, dtype_of
from world.model.query import Answer, Query
from world.model.slots import Slots
from world.model.world_model import WorldModel
from world.sampling import chances_of, draws_for, in_doubt, inverted, sample, together, together_in_worlds
from world.sight import occupied, places_of, seen_afterwards, tokens_beside, watched
from world.trajectory import ELSEWHERE, NUM_DISPLACEMENTS, STAY
from world.window import owners, unmerged

OWN_DRAWS = 5
"""Draws of an agent that are neither of its status nor of its cells."""
_MOST_IN_DOUBT = 64
"""Cells of a world that are drawn together. A model that doubts more of them knows too little for it to matter, and it
would cost more than all else."""
_ROWS, _MOST_ROWS = 512, 2048
"""A CPU answers cells in a multiple of so many at once, up to so many: oneDNN builds its kernels for few shapes, and a
processor's cache holds their logits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DreamConfig:
    """How outcomes are sampled."""

    passes: int = 1
    """K: unmasking passes; each reveals a share of the cells, spread evenly, and the next ones see it."""
    temperature: float = 1.0
    """Of cells and displacements. 0: the most likely."""
    least_chance: float = 0.0003
    """Of a token or displacement, below which it is never drawn: what a network believes of hundreds of impossible ones
    adds up. What truly happens less often in a cell never happens then."""

    precision: Precision = "auto"
    """What the network computes in. `auto`: bfloat16 on a GPU, and on a CPU that multiplies it natively."""
    device: str = "cpu"
    """As torch names it."""
    compiled: bool = False
    """Compile a tick, on a GPU into one CUDA graph, with worlds padded to a power of two. Each such number of them
    takes up to minutes at first."""

    def __post_init__(self) -> None:
        if not 1 <= self.passes <= 16:
            raise ConfigError(f"dream.passes must lie in 1 … 16, got {self.passes}")
        if not 0.0 <= self.temperature <= 2.0:
            raise ConfigError(f"dream.temperature must lie in [0, 2], got {self.temperature}")
        if not 0.0 <= self.least_chance <= 0.5:
            raise ConfigError(f"dream.least_chance must lie in [0, 0.5], got {self.least_chance}")
        if self.precision not in get_args(Precision):
            raise ConfigError(f"dream.precision must be one of {get_args(Precision)}, got {self.precision!r}")


@dataclass(frozen=True, slots=True)
class Dreamt:
    """What a joint action led to, over worlds (B, A, …)."""

    actions: Int32Array
    displacement: Uint8Array
    tokens: Uint16Array
    """(B, A, H, W) cells of the windows, one truth for cells that several windows share; UNSEEN where nobody looks
    afterwards."""
    status: Uint16Array
    """(B, A, S)"""
    rewards: Float32Array
    terminated: BoolArray


@dataclass(frozen=True, slots=True)
class _Told:
    """What a tick is computed from, as tensors."""

    slots: Slots
    draws: Tensor
    """(B, A, 5 + S + P): of an action, a displacement, an end, the order of cells, a second displacement; of status and
    cells."""
    merge: Tensor
    """(B, A·P) the cell of its world that answers for each cell."""
    here: Tensor
    """(B, A·P) whether that is the cell itself."""
    actions: Tensor
    """(B, A); negative: the policy acts."""


class _Scene(NamedTuple):
    """What the cells (B, A·P) of all windows are drawn by."""

    places: Tensor
    """(B, A·P, 2)"""
    draws: Tensor
    """(B, A·P)"""
    now: Tensor
    """(B, A·P) tokens before the tick."""
    watched: Tensor
    """(B, A·P) whether the cell and all four beside it are drawn."""
    kinds: Tensor
    """(B, A·P) by which it is told what can never be there."""
    beside: Tensor
    """(B, A·P, 5) tokens before the tick, there and in the four cells beside it."""


class Dreamer:
    """Samples ticks from a world model."""

    def __init__(
        self,
        model: WorldModel,
        config: DreamConfig,
        *,
        margin: int = 0,
        num_tokens: int | None = None,
        solid: bool = False,
    ) -> None:
        """Windows reach `margin` beyond views; of the vocabulary the first `num_tokens` stand for something.

        On a map where agents are `solid`, none comes to a cell that another is on at its turn.
        """
        self._model, self._config = model, config
        self._is_solid = solid and model.dynamics.has_pose
        self._margin, self._num_tokens = margin if model.dynamics.has_pose else 0, num_tokens or model.mask
        self._device = torch.device(config.device)
        self._dtype = dtype_of(config.precision, self._device)
        self._ready: WorldModel | None = None
        self._is_stale = True
        self._advance: Callable[[_Told, bool], tuple[Tensor, ...]] = self._advanced
        if config.compiled:
            mode = "reduce-overhead" if self._device.type == "cuda" else "default"
            self._advance = torch.compile(self._advanced, mode=mode, dynamic=False)

    def renew(self) -> None:
        """Dream from now on with the weights that the model has now."""
        self._is_stale = True

    @torch.inference_mode()
    def tick(
        self, slots: Slots, seeds: Sequence[int], ticks: Sequence[int], actions: Int32Array | None = None
    ) -> Dreamt:
        """Advance worlds by one tick. Without `actions` (B, A), or where one is negative, the learned policy acts.

        Order: actions, displacements given actions, status given displacements, cells given all of it.
        """
        self._make_ready()
        batch, agents, height, width = slots.tokens.shape[:4]
        cells, num_status = height * width, slots.status.shape[2]
        per_agent = OWN_DRAWS + num_status + cells
        draws = torch.from_numpy(draws_for(seeds, ticks, agents * per_agent)).view(batch, agents, per_agent)
        poses = slots.poses.numpy().astype(np.int32)
        has_pose = self._model.dynamics.has_pose
        here, merge = owners(poses, height, width) if has_pose else unmerged(batch, agents, height, width)
        if actions is None:
            actions = np.full((batch, agents), -1, np.int32)
        told = _Told(
            slots,
            draws,
            torch.from_numpy(np.array(merge)).flatten(1),
            torch.from_numpy(np.array(here)).flatten(1),
            torch.from_numpy(actions.astype(np.int64)),
        )
        if self._config.compiled:
            told = _padded(told)
        told = _to(told, self._device)
        with computing(self._config.precision, self._device):
            answers = self._advance(told, bool((actions < 0).any()))
        chosen, displacement, tokens, status, rewards, ends = (part[:batch].cpu().numpy() for part in answers)
        return Dreamt(
            actions=chosen.astype(np.int32),
            displacement=displacement.astype(np.uint8),
            tokens=tokens.reshape(batch, agents, height, width).astype(np.uint16),
            status=status.astype(np.uint16),
            rewards=rewards.astype(np.float32),
            terminated=ends,
        )

    def _make_ready(self) -> None:
        if not self._is_stale:
            return
        source = self._model if self._model.device == self._device else copy.deepcopy(self._model).to(self._device)
        compiled = self._config.compiled
        newer = frozen(source, self._dtype, self._num_tokens, packed=not compiled)
        if self._ready is not None and compiled:
            refresh(self._ready, newer)
        else:
            self._ready = newer
        self._is_stale = False

    def _advanced(self, told: _Told, policy_acts: bool) -> tuple[Tensor, ...]:
        """Return actions, displacements, tokens (B, A·P), status, rewards and ends (B, A, …)."""
        model, slots, draws = self._ready, told.slots, told.draws
        assert model is not None
        num_status = slots.status.shape[2]
        answer = model.answer(Query(slots))
        chosen = told.actions
        if policy_acts:
            chosen = torch.where(chosen < 0, sample(answer.log_policy(), draws[..., 0]), chosen)
        answer = answer.given(actions=chosen)
        # On a map nobody sees beyond the window they were in; on a screen there is no place to go to.
        classes = torch.arange(NUM_DISPLACEMENTS, device=chosen.device)
        impossible = classes == ELSEWHERE if model.dynamics.has_pose else classes != STAY
        moves = answer.displacement_logits().float().masked_fill(impossible, float("-inf"))
        displacement = self._moved(moves, slots, draws[..., 1], draws[..., 4])
        answer = answer.given(displacement=displacement)
        status = self._draw(answer.status_logits(), draws[..., OWN_DRAWS : OWN_DRAWS + num_status])
        answer, tokens = self._cells(answer.given(status=status), told, displacement)
        ends = torch.sigmoid(answer.continuation_logits().float()) < draws[..., 2]
        rewards = model.reward.mean(answer.reward_logits())
        return chosen, displacement, tokens, status, rewards, ends

    def _cells(self, answer: Answer, told: _Told, displacement: Tensor) -> tuple[Answer, Tensor]:
        """Return the last answer, and the tokens (B, A·P) drawn in passes of it.

        Drawn is what somebody sees afterwards, as in training: there nothing else is ever known of what follows.
        """
        slots, draws, passes = told.slots, told.draws, self._config.passes
        batch, agents, height, width = slots.tokens.shape[:4]
        mask = self._model.mask
        asked = told.here & seen_afterwards(slots.poses, displacement, height, width, self._margin).flatten(1)
        # Shared cells have one place, so they are revealed in one pass; and one draw, their owner's.
        places = places_of(slots.poses, height, width, shared=self._model.dynamics.has_pose).flatten(1, 2)
        turn = reveal_order(places, passes, draws[:, 0, 3])
        chance = draws[..., OWN_DRAWS + slots.status.shape[2] :].flatten(1)
        now = slots.tokens[..., 0]
        scene = _Scene(
            places,
            chance,
            now.flatten(1),
            watched(asked, told.merge, height, width),
            kinds_of(now, slots.ages[..., -1], slots.poses, displacement).flatten(1),
            tokens_beside(now).flatten(1, 3),
        )
        answered = torch.full_like(told.merge, mask)
        for number in range(passes):
            if number:
                answer = answer.given(tokens=answered.gather(1, told.merge).view(batch, agents, height, width))
            answered = self._reveal(answer, answered, asked & (turn == number), scene)
        tokens = answered.gather(1, told.merge)
        return answer, torch.where(tokens == mask, UNSEEN, tokens)

    def _reveal(self, answer: Answer, answered: Tensor, asked: Tensor, scene: _Scene) -> Tensor:
        """Return the cells answered (B, A·P) with those asked for drawn at their chances; of known ones that touch each
        other, whichever are in doubt together.

        Of land that nobody has seen nothing is known that could have gone from one cell to another.
        """
        known = scene.now != UNSEEN
        if self._config.compiled:
            chances = self._possible(answer.token_logits().flatten(1, 3), scene.kinds, scene.beside)
            answered = torch.where(asked, inverted(chances, scene.draws), answered)
            unsure = asked & known & in_doubt(chances)
            unsure &= unsure.sum(1, keepdim=True) <= _MOST_IN_DOUBT
            cells = unsure.int().topk(min(_MOST_IN_DOUBT, unsure.shape[1])).indices.sort().values
            counted = unsure.gather(1, cells)
            there = _Scene(*(_at(of, cells) for of in scene))
            shared = together(_at(chances, cells), there.places, there.draws, counted, there.now, there.watched)
            return answered.scatter(1, cells, torch.where(counted, shared, answered.gather(1, cells)))
        rows = asked.flatten().nonzero()[:, 0]
        if not len(rows):
            return answered
        drawn: list[Tensor] = []
        doubt: list[Tensor] = []
        doubtful: list[Tensor] = []
        flat = _Scene(*(of.flatten(0, 1) for of in scene))
        for cells in at_once(rows):
            chances = self._possible(answer.token_logits(cells), flat.kinds[cells], flat.beside[cells])
            drawn.append(inverted(chances, flat.draws[cells]))
            doubt.append(in_doubt(chances) & known.flatten()[cells])
            doubtful.append(chances[doubt[-1]])
        answered = answered.flatten().index_copy(0, rows, torch.cat(drawn)[: len(rows)])
        cells = rows[torch.cat(doubt)[: len(rows)]]
        worlds = cells // asked.shape[1]
        few = torch.bincount(worlds, minlength=len(asked))[worlds] <= _MOST_IN_DOUBT
        cells, chances = cells[few], torch.cat(doubtful)[: len(cells)][few]
        there = _Scene(*(of[cells] for of in flat))
        shared = together_in_worlds(
            worlds[few],
            chances,
            there.places,
            there.draws,
            there.now,
            there.watched,
        )
        return answered.index_copy(0, cells, shared).view_as(asked)

    def _possible(self, logits: Tensor, kinds: Tensor, beside: Tensor) -> Tensor:
        """Return the chances (…, V) of cells by logits (…, V), without what is never there."""
        assert self._ready is not None
        if self._ready.dynamics.has_pose:
            logits = self._ready.habits.barred(logits, kinds, beside)
        return self._chances(logits)

    def _moved(self, moves: Tensor, slots: Slots, draws: Tensor, second_draws: Tensor) -> Tensor:
        """Return displacement classes (B, A) drawn from logits (B, A, 10), each by itself, as the model believes.

        What becomes of two agents may hang together, so that their draws are no joint draw: where agents are solid, who
        would come to a cell that another is on draws again among the rest, in the order in which they act.
        """
        drawn = self._draw(moves, draws)
        if not self._is_solid:
            return drawn
        num_agents = drawn.shape[1]
        for _ in range(num_agents):
            barred = occupied(slots.poses, slots.turns, drawn)
            in_the_way = barred.gather(-1, drawn[..., None])[..., 0]
            if not self._config.compiled and not bool(in_the_way.any()):
                break
            first = torch.where(in_the_way, slots.turns, num_agents).amin(1, keepdim=True)
            again = self._draw(moves.masked_fill(barred, float("-inf")), second_draws)
            drawn = torch.where(slots.turns == first, again, drawn)
        return drawn

    def _draw(self, logits: Tensor, draws: Tensor) -> Tensor:
        return inverted(self._chances(logits), draws)

    def _chances(self, logits: Tensor) -> Tensor:
        return chances_of(logits, temperature=self._config.temperature, least_chance=self._config.least_chance)


def at_once(cells: Tensor) -> list[Tensor]:
    """Return indices of cells (M,) as a CPU answers them: in parts, the last of which ends in zeros for no cells."""
    padded = torch.nn.functional.pad(cells, (0, -len(cells) % _ROWS))
    return [padded[first : first + _MOST_ROWS] for first in range(0, len(padded), _MOST_ROWS)]


def reveal_order(places: Tensor, passes: int, draw: Tensor) -> Tensor:
    """Return the pass (B, …) in which each cell at places (B, …, 2) is revealed: neighbours in different ones.

    Cells are coloured by row + 2·column modulo K (row + column for K = 2), so that of two cells next to each other in
    a row or column never both are drawn blindly. Which colour comes first is drawn (B,) anew at every tick.
    """
    colour = places[..., 0] + (2 if passes > 2 else 1) * places[..., 1]
    first = (draw * passes).long().view(-1, *[1] * (colour.dim() - 1))
    return (colour + first) % passes


def _at(values: Tensor, cells: Tensor) -> Tensor:
    """Return values (B, N, …) at cells (B, C): (B, C, …)."""
    return values.gather(1, cells.view(*cells.shape, *[1] * (values.dim() - 2)).expand(-1, -1, *values.shape[2:]))


def _padded(told: _Told) -> _Told:
    """Return the same, with the first world repeated until the number of worlds is a power of two."""
    batch = len(told.actions)
    rows = torch.arange(1 << (batch - 1).bit_length())
    rows = rows.where(rows < batch, 0)
    return _Told(told.slots.of_worlds(rows), *(getattr(told, name)[rows] for name in _TENSORS))


def _to(told: _Told, device: torch.device) -> _Told:
    return _Told(told.slots.to(device), *(getattr(told, name).to(device) for name in _TENSORS))


_TENSORS = ("draws", "merge", "here", "actions")
