"""The architectures that are compared, each with what it takes to train it and to ask it.

Ours and attention alone are trained by `Learner`; the model of frames by a twin of it, with the same optimizer, the
same course of the learning rate and the same average of weights, on the same ticks.

Axes: B sequences, L ticks, A agents, n ticks asked about, R × C cells of a view, V tokens.
"""

import copy
from dataclasses import replace
from typing import Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from learner.learner import Learner, LearnerConfig
from learner.optimizer import BLOCKS, Optimizer
from learner.peers.frames import Columns, following, frames_of, shifted
from learner.peers.scoring import Foreseen
from learner.peers.spatio_temporal import SpatioTemporal, SpatioTemporalConfig, TemporalAttention
from learner.schedule import ToZero
from world.envs.grounded import EnvSpec
from world.evaluation.foretell import bits_of, foretell, slots_of
from world.evaluation.one_step import HeldOut
from world.field import UNSEEN, IntpArray
from world.model.dynamics import DynamicsConfig
from world.model.precision import computing
from world.model.query import Query
from world.model.tokenizer import Tokenizer
from world.model.world_model import WorldModel, WorldModelConfig, tiny
from world.trajectory import Transitions

OURS, ATTENTION, SPATIO_TEMPORAL = "ours", "attention", "spatio_temporal"
NAMES = (OURS, ATTENTION, SPATIO_TEMPORAL)
_ROWS_AT_ONCE = 16
_CPU = torch.device("cpu")
_Model = TypeVar("_Model", WorldModel, SpatioTemporal)


class Contender(Protocol):
    """One architecture in training."""

    num_sequences: int
    """B: sequences of one step."""
    num_ticks: int
    """L: ticks of one sequence."""
    num_parameters: int
    """Of all that is trained."""

    def train_step(self, columns: Columns, done: float) -> float:
        """Improve by columns (B, L, A, …), with a share `done` of the budget used up; return the loss."""

    def foresee(self, ticks: Transitions, rows: IntpArray) -> Foreseen:
        """Return what the averaged weights foretell at these ticks (n,) of one world."""

    def answer(self, ticks: Transitions, rows: IntpArray) -> None:
        """Find the most likely next views at these ticks, as a world's tick would, and throw them away."""


def contender(
    name: str, spec: EnvSpec, tokenizer: Tokenizer, held_out: HeldOut, *, learning_rate: float, seed: int
) -> Contender:
    """Return one of `NAMES`, untrained.

    None is given recurrent memory, which none of the three comes with by its architecture.
    """
    learning = LearnerConfig(batch_sequences=16, sequence_ticks=1, learning_rate=learning_rate, schedule=ToZero())
    if name == SPATIO_TEMPORAL:
        return FramesContender(learning, SpatioTemporalConfig(), spec, tokenizer, seed=seed)
    model = tiny() if name == OURS else attention_only()
    return FieldContender(Learner(learning, model, spec, tokenizer, held_out, seed=seed), view_of(spec))


def attention_only() -> WorldModelConfig:
    """Return `tiny` with attention in place of all local mixing.

    It keeps what agents have to do with each other and with what is beside them (`world.model.relations`). Its gated
    MLPs are narrower, since attention costs parameters too.
    """
    return replace(
        tiny(),
        dynamics=DynamicsConfig(mixing="global", hidden=208, outcome_blocks=("global",) * 2),
    )


def view_of(spec: EnvSpec) -> tuple[int, int]:
    """Return the rows and columns of a view."""
    return spec.layout.map_rows or spec.layout.rows, spec.layout.cols


class FieldContender:
    """A world model on the token field."""

    def __init__(self, learner: Learner, view: tuple[int, int]) -> None:
        self._learner, self._view = learner, view
        self.num_sequences = learner.config.batch_sequences
        self.num_ticks = learner.config.sampled_ticks
        self.num_parameters = learner.model.num_parameters()

    def train_step(self, columns: Columns, done: float) -> float:
        """See `Contender`."""
        return self._learner.train_step(columns, done=done).losses["total"]

    def foresee(self, ticks: Transitions, rows: IntpArray) -> Foreseen:
        """See `Contender`. Each window is asked alone; where several show a cell, a tick would take the best placed."""
        chosen = _rows(ticks, rows)
        told = foretell(self._averaged(), chosen, chosen.next_tokens != UNSEEN)
        return Foreseen(
            tokens=shifted(told.tokens, told.displacement, self._view),
            status=told.status,
            cell_bits=shifted(told.cell_bits, chosen.displacement, self._view).astype(np.float64),
            own_bits=told.bits - told.cell_bits.astype(np.float64).sum(axis=(1, 2, 3)),
        )

    @torch.inference_mode()
    def answer(self, ticks: Transitions, rows: IntpArray) -> None:
        """See `Contender`."""
        chosen, model = _rows(ticks, rows), self._learner.model
        with computing("auto", _CPU):
            answer = model.answer(Query(slots_of(chosen), torch.from_numpy(chosen.actions).long()))
            answer = answer.given(displacement=answer.displacement_logits().argmax(-1))
            answer.given(status=answer.status_logits().argmax(-1)).token_logits().argmax(-1)

    def _averaged(self) -> WorldModel:
        averaged = self._learner.state_parts()["average"]
        return _with_weights(self._learner.model, averaged)


class FramesContender:
    """A spatio-temporal transformer, and its training."""

    def __init__(
        self, learning: LearnerConfig, config: SpatioTemporalConfig, spec: EnvSpec, tokenizer: Tokenizer, *, seed: int
    ) -> None:
        torch.manual_seed(seed)
        self._learning, self._view = learning, view_of(spec)
        self.num_ticks = config.num_frames
        # As many agent-ticks in a step as the others have.
        self.num_sequences = max(learning.batch_sequences * learning.sequence_ticks // config.num_frames, 1)
        self.model = SpatioTemporal(
            config,
            vocab_size=tokenizer.vocab_size,
            num_tokens=tokenizer.num_tokens,
            num_actions=spec.num_actions,
            num_events=len(spec.events),
            num_agents=len(spec.agents),
            view=self._view,
            status_cells=spec.layout.status_cells,
        )
        self.num_parameters = self.model.num_parameters()
        self._average = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self._optimizer = Optimizer(
            self.model,
            learning_rate=learning.learning_rate,
            weight_decay=learning.weight_decay,
            blocks=(*BLOCKS, TemporalAttention) if learning.muon else (),
        )
        self._step = 0

    def train_step(self, columns: Columns, done: float) -> float:
        """See `Contender`."""
        self._step += 1
        with computing(self._learning.precision, _CPU):
            loss = frames_loss(self.model, columns, self._learning.loss.unseen, self._learning.loss.status)
        self._optimizer.forget_gradients()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._learning.max_grad_norm)
        self._optimizer.step(self._learning.schedule.share(self._step, done))
        decay = min(self._learning.averaging, self._step / (self._step + 10))
        torch._foreach_lerp_(list(self._average.values()), list(self.model.state_dict().values()), 1 - decay)
        return float(loss.detach())

    @torch.inference_mode()
    def foresee(self, ticks: Transitions, rows: IntpArray) -> Foreseen:
        """See `Contender`."""
        model = _with_weights(self.model, self._average)
        parts = [self._foresee(model, ticks, rows[i : i + _ROWS_AT_ONCE]) for i in range(0, len(rows), _ROWS_AT_ONCE)]
        return Foreseen(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    @torch.inference_mode()
    def answer(self, ticks: Transitions, rows: IntpArray) -> None:
        """See `Contender`: all its frames are read again, as a window that moves on demands."""
        with computing("auto", _CPU):
            for logits in self._last_logits(self.model, _contexts(ticks, rows, self.num_ticks)):
                logits.argmax(-1)

    @torch.inference_mode()
    def answer_newest(self, ticks: Transitions, rows: IntpArray) -> None:
        """Find the same from the newest frame alone: less than even a cache of the other frames could do."""
        with computing("auto", _CPU):
            for logits in self._last_logits(self.model, _contexts(ticks, rows, 1)):
                logits.argmax(-1)

    def _last_logits(self, model: SpatioTemporal, columns: Columns) -> tuple[Tensor, Tensor]:
        """Return logits (n·A, 1, P, V) and (n·A, 1, S, V) of what follows the last of columns (n, L, A, …)."""
        frames = frames_of(columns, self._view)
        return model.logits(model(frames)[:, -1:], frames.cells[:, -1:], frames.status[:, -1:])

    def _foresee(self, model: SpatioTemporal, ticks: Transitions, rows: IntpArray) -> tuple[np.ndarray, ...]:
        columns = _contexts(ticks, rows, self.num_ticks)
        cells, status = self._last_logits(model, columns)
        truth = following({name: column[:, -1:] for name, column in columns.items()}, self._view)
        shape = (len(rows), -1)
        cell_bits = bits_of(torch.log_softmax(cells, -1), truth.cells.flatten(2)).numpy()
        own_bits = bits_of(torch.log_softmax(status, -1), truth.status).numpy()
        return (
            cells.argmax(-1).numpy().astype(np.uint16).reshape(*shape, *self._view),
            status.argmax(-1).numpy().astype(np.uint16).reshape(*shape, status.shape[2]),
            cell_bits.reshape(*shape, *self._view),
            own_bits.reshape(len(rows), -1).sum(axis=1),
        )


def frames_loss(model: SpatioTemporal, columns: Columns, unseen: float, status_weight: float) -> Tensor:
    """Return the loss of columns (B, L, A, …): as for ours, what nobody had seen weighs little."""
    frames, truth = frames_of(columns, model.view), following(columns, model.view)
    cells, status = model.logits(model(frames), frames.cells, frames.status)
    target, known = truth.cells.flatten(), truth.known.flatten()
    losses = F.cross_entropy(cells.flatten(0, 2), target, reduction="none", ignore_index=UNSEEN)
    weighted = (losses * torch.where(known, 1.0, unseen)).sum() / known.sum().clamp(min=1)
    if not truth.status.numel():
        return weighted
    return weighted + status_weight * F.cross_entropy(status.flatten(0, 2), truth.status.flatten())


def _rows(ticks: Transitions, rows: IntpArray) -> Transitions:
    return Transitions.from_columns({name: column[rows] for name, column in ticks.columns().items()})


def _contexts(ticks: Transitions, rows: IntpArray, length: int) -> Columns:
    """Return columns (n, L, A, …) of the ticks that end at each of `rows`."""
    index = rows[:, None] + np.arange(1 - length, 1)
    return {name: column[index] for name, column in ticks.columns().items()}


def _with_weights(model: _Model, weights: object) -> _Model:
    """Return a copy of the model, with these weights, to be asked."""
    assert isinstance(weights, dict)
    judged = copy.deepcopy(model).eval()
    judged.load_state_dict(weights)
    return judged
