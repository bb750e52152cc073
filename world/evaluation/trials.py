"""Trials of memory: moments whose outcome follows from something that happened earlier and cannot be seen any more.

Axes: T ticks, A agents, H × W cells of a window, D components of recurrent memory, n trials.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from world.envs.grounded import BoolArray
from world.envs.homestead.tiles import AGENT_CODE, STEPS, THING_CODE, Action, Thing
from world.errors import ConfigError
from world.evaluation.codes import CodeTable, is_agent
from world.evaluation.foretell import slots_of
from world.evaluation.metrics import FloatArray
from world.field import UNSEEN, IntpArray, Uint16Array
from world.model.memory.recall import recalled_in_order
from world.model.query import Query
from world.model.tokenizer import PatchTokenizer, Tokenizer
from world.model.world_model import WorldModel
from world.trajectory import Transitions

_GATE_CLOSED, _GATE_OPEN = THING_CODE + Thing.GATE_CLOSED, THING_CODE + Thing.GATE_OPEN
_KEY_PATCH, _BALL_PATCH = (5, 1, 0), (6, 1, 0)
"""Kind, colour (green) and state, as MiniGrid encodes them."""
_LEAST_CHANCE = 2.0**-20
"""A belief counts as at least this, so that one sure error costs twenty bits and not infinitely many."""


@dataclass(frozen=True, slots=True)
class Trials:
    """Where an outcome was open, and which it was."""

    row: IntpArray
    """(n,) tick, as an index of the recorded rows."""
    agent: IntpArray
    """(n,)"""
    happened: BoolArray
    """(n,) whether the gate opened, or the cue is the key."""
    asked: Uint16Array
    """(T, A, H, W) the token that is there if it happened, in one cell of each trial; 0 elsewhere."""

    def __len__(self) -> int:
        return len(self.row)


def gate_trials(ticks: Transitions, tokenizer: Tokenizer) -> Trials:
    """Return each use of a closed gate of a homestead: does it open? Read from tokens alone.

    Raises `ConfigError` for a tokenizer that is not of homestead's patches.
    """
    table = CodeTable.of(tokenizer)
    if table is None:
        raise ConfigError("gate trials are read from homestead's patches, and this tokenizer has none of them")
    height, width = ticks.next_tokens.shape[2:]
    own = table.codes(ticks.tokens[:, :, height // 2, width // 2, 0])
    ahead = np.array([height // 2, width // 2]) + STEPS[(own - AGENT_CODE) % 4]
    row, agent = np.indices(own.shape)
    y, x = ahead[..., 0], ahead[..., 1]
    before = table.codes(ticks.tokens[row, agent, y, x, 0])
    after = ticks.next_tokens[row, agent, y, x]
    is_trial = is_agent(own) & (before == _GATE_CLOSED) & (ticks.actions == Action.USE) & (after != UNSEEN)
    asked = np.zeros(ticks.next_tokens.shape, np.uint16)
    rows, agents = np.nonzero(is_trial)
    asked[rows, agents, y[is_trial], x[is_trial]] = table.token_of[_GATE_OPEN]
    return Trials(rows, agents, table.codes(after[is_trial]) == _GATE_OPEN, asked)


def cue_trials(ticks: Transitions, tokenizer: Tokenizer) -> Trials:
    """Return each look back at what a MiniGrid-Memory began with, out of view since: is it the key? Read from tokens.

    Who looks west along the hallway has the cue in the row of cells to his right, and nothing else in view. Raises
    `ConfigError` for a tokenizer of other patches.
    """
    key, ball = (_token_of(tokenizer, patch) for patch in (_KEY_PATCH, _BALL_PATCH))
    now, after = (_cue_in_view(tokens, key, ball) for tokens in (ticks.tokens[..., 0], ticks.next_tokens))
    last_seen = np.maximum.accumulate(np.where(now, np.arange(len(ticks))[:, None], -1))
    episode = np.cumsum(ticks.is_first)
    is_trial = after & ~now & (last_seen >= 0) & (episode[last_seen] == episode[:, None])
    rows, agents = np.nonzero(is_trial)
    there = np.isin(ticks.next_tokens, (key, ball)) & is_trial[..., None, None]
    happened = (ticks.next_tokens[rows, agents] == key).any(axis=(1, 2))
    return Trials(rows, agents, happened, np.where(there, np.uint16(key), np.uint16(0)))


def _cue_in_view(tokens: Uint16Array, key: int, ball: int) -> BoolArray:
    """Return whether a view (T, A, H, W) shows one thing alone, one row to the right of who looks."""
    things = np.isin(tokens, (key, ball))
    # MiniGrid's images have columns first: what is to the right is below.
    seen: BoolArray = (things.sum(axis=(2, 3)) == 1) & things[:, :, things.shape[2] // 2 + 1].any(axis=2)
    return seen


def _token_of(tokenizer: Tokenizer, patch: tuple[int, int, int]) -> int:
    if isinstance(tokenizer, PatchTokenizer) and tokenizer.codebook.shape[1:] == (1, 1, 3):
        found = np.flatnonzero((tokenizer.codebook.reshape(-1, 3) == patch).all(axis=1))
        if len(found):
            return 1 + int(found[0])
    raise ConfigError("cue trials are read from MiniGrid's keys and balls, and this tokenizer has none of them")


@torch.inference_mode()
def remembered(model: WorldModel, ticks: Transitions) -> Transitions:
    """Return consecutive ticks of one world with the recurrent memory that a host would have had, as it keeps it."""
    slots = slots_of(ticks)
    evidence = model.evidence(slots, torch.from_numpy(ticks.actions).long(), torch.from_numpy(ticks.rewards))
    is_first = torch.from_numpy(ticks.is_first).expand(ticks.num_agents, -1)
    memory = model.memory.scan(torch.zeros_like(slots.memory[0]), evidence.transpose(0, 1), is_first)
    return replace(ticks, memory=memory.transpose(0, 1).numpy().astype(np.float16))


@torch.inference_mode()
def beliefs(model: WorldModel, ticks: Transitions, trials: Trials) -> FloatArray:
    """Return the belief (n,) that it will happen, of ticks whose memory is filled in, given where agents go."""
    if not len(trials):
        return np.zeros(0)
    rows, position = np.unique(trials.row, return_inverse=True)
    part = Transitions(*(column[rows] for column in ticks.columns().values()))  # type: ignore[arg-type]
    slots = replace(slots_of(part), recalled=torch.from_numpy(_recalled(model, ticks, rows)).long())
    actions, moved = (torch.from_numpy(column.astype(np.int64)) for column in (part.actions, part.displacement))
    answer = model.answer(Query(slots, actions=actions, displacement=moved))
    asked = torch.from_numpy(trials.asked[rows].astype(np.int64))
    chances = torch.softmax(answer.token_logits().float(), -1).gather(-1, asked[..., None])[..., 0]
    believed = (chances * (asked > 0)).sum((2, 3))
    return believed.numpy()[position, trials.agent].astype(np.float64)


def _recalled(model: WorldModel, ticks: Transitions, rows: IntpArray) -> NDArray[np.int32]:
    asked = np.zeros(len(ticks), np.bool_)
    asked[rows] = True
    recalled: NDArray[np.int32] = recalled_in_order(
        ticks.tokens[..., 0],
        ticks.poses,
        ticks.actions,
        ticks.rewards,
        ticks.is_first,
        count=model.config.dynamics.num_recalled,
        asked=asked,
        has_pose=model.dynamics.has_pose,
    )[rows]
    return recalled


def surprise(believed: FloatArray, happened: BoolArray) -> FloatArray:
    """Return the bits (n,) of what happened under beliefs (n,)."""
    of_truth = np.where(happened, believed, 1.0 - believed)
    bits: FloatArray = -np.log2(np.clip(of_truth, _LEAST_CHANCE, 1.0))
    return bits
