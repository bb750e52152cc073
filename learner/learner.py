"""The learner: sampled sequences in, better weights out. One process, one device; no Ray, no Redis.

Axes: B sequences, L ticks, A agents.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.batches import Batch, MaskingConfig, make_batch
from learner.error_bank import ErrorBank
from learner.losses import LossConfig, cells_asked, world_model_loss
from learner.optimizer import BLOCKS, Optimizer
from learner.schedule import Endless, ToZero
from learner.weights import WeightSet, flatten
from world.envs.grounded import EnvSpec
from world.errors import CheckpointError, ConfigError
from world.evaluation.metrics import MetricRow
from world.evaluation.one_step import HeldOut, evaluate
from world.model.precision import Precision, computing
from world.model.tokenizer import Tokenizer
from world.model.world_model import WorldModel, WorldModelConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerConfig:
    """How weights improve."""

    batch_sequences: int = 8
    """B: sequences in one step."""
    sequence_ticks: int = 2
    """L: consecutive ticks of a sequence, all of which is asked for."""
    past_ticks: int = 0
    """C: ticks before a sequence, of which nothing is asked. Recurrent memory is run over them and learned through
    them, at a small part of what they would cost the network."""
    learning_rate: float = 3e-3
    """Peak."""
    schedule: Endless | ToZero = field(default_factory=Endless)
    """How the learning rate comes to its peak and leaves it."""
    muon: bool = True
    """Whether the matrices of blocks are improved by Muon (`learner.optimizer`)."""
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    averaging: float = 0.99
    """Decay of the average of weights that is published and judged; 0: the newest weights themselves."""
    own_errors: float = 0.0
    """Largest share of agents that look as in one of the model's own errors (`learner.error_bank`); on maps alone."""
    precision: Precision = "auto"
    """What is computed in, with parameters of float32. `auto`: bfloat16 on a GPU, and on a CPU that multiplies it."""
    compiled: bool = False
    """Compile the loss, on a GPU into CUDA graphs. The first steps, and each new number of sequences, take minutes."""
    gate_f1: float = 0.6
    """Changed-token F1 on known cells of held-out worlds from which on worlds may be dreamed."""
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        for name in ("batch_sequences", "sequence_ticks"):
            if getattr(self, name) < 1:
                raise ConfigError(f"learner.{name} must be >= 1, got {getattr(self, name)}")
        if self.past_ticks < 0:
            raise ConfigError(f"learner.past_ticks must be >= 0, got {self.past_ticks}")
        if not 0.0 < self.learning_rate < math.inf or not 0.0 <= self.weight_decay < math.inf:
            raise ConfigError(
                "learner.learning_rate must be positive and learner.weight_decay >= 0, both finite, got"
                f" {self.learning_rate} and {self.weight_decay}"
            )
        if not self.max_grad_norm > 0.0:
            raise ConfigError(f"learner.max_grad_norm must be positive, got {self.max_grad_norm}")
        if self.precision not in get_args(Precision):
            raise ConfigError(f"learner.precision must be one of {get_args(Precision)}, got {self.precision!r}")
        if not 0.0 <= self.own_errors <= 0.5:
            raise ConfigError(f"learner.own_errors must lie in [0, 0.5], got {self.own_errors}")
        if not 0.0 <= self.averaging < 1.0 or not 0.0 <= self.gate_f1 <= 1.0:
            raise ConfigError("learner.averaging must lie in [0, 1), learner.gate_f1 in [0, 1]")

    @property
    def sampled_ticks(self) -> int:
        """Ticks that are drawn for each sequence: C + L."""
        return self.past_ticks + self.sequence_ticks


@dataclass(frozen=True, kw_only=True, slots=True)
class StepMetrics:
    """What one step was like."""

    step: int
    losses: dict[str, float]
    grad_norm: float
    step_s: float
    nonfinite: bool
    """The step was left out, because a gradient was no number."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How the averaged weights do on held-out worlds."""

    step: int
    metrics: dict[str, MetricRow]
    passed_gate: bool


class Learner:
    """Owns the model, the optimizer and the average of weights."""

    def __init__(
        self,
        config: LearnerConfig,
        model_config: WorldModelConfig,
        spec: EnvSpec,
        tokenizer: Tokenizer,
        held_out: HeldOut,
        *,
        seed: int,
        device: str = "cpu",
    ) -> None:
        torch.manual_seed(seed)
        self.config, self.step = config, 0
        self._tokenizer, self._held_out = tokenizer, held_out
        self._device = torch.device(device)
        model = WorldModel(model_config, spec, tokenizer.vocab_size, num_tokens=tokenizer.num_tokens)
        self.model = model.to(self._device)
        self._judged = copy.deepcopy(self.model).eval()
        self._average = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self._optimizer = Optimizer(
            self.model,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            blocks=BLOCKS if config.muon else (),
        )
        self._rng = np.random.default_rng(seed)
        on_map = self.model.dynamics.has_pose
        self._errors = ErrorBank(tokenizer.vocab_size) if config.own_errors and on_map else None
        self._loss: Callable[..., dict[str, Tensor]] = world_model_loss
        if config.compiled:
            mode = "reduce-overhead" if self._device.type == "cuda" else "default"
            self._loss = torch.compile(world_model_loss, mode=mode, dynamic=False)

    def train_step(self, columns: Mapping[str, NDArray[np.generic]], *, done: float = 0.0) -> StepMetrics:
        """Improve the weights by one batch of columns (B, C + L, A, …) of `Transitions`.

        `done` is the share of the training's budget that is behind it, where there is a budget.
        """
        began = time.perf_counter()
        batch = self.batch(columns)
        # Before the loss: a CUDA graph that runs again writes over the gradients that it left.
        self._optimizer.forget_gradients()
        asked = cells_asked(self.model, batch)
        with computing(self.config.precision, self._device):
            parts = self._loss(self.model, batch, self.config.loss, self._errors, asked)
        parts["total"].backward()  # type: ignore[no-untyped-call]
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm))
        finite = math.isfinite(norm)
        if finite:
            self._optimizer.step(self.config.schedule.share(self.step + 1, done))
            if self.model.dynamics.has_pose:
                self.model.habits.note({name: column[:, self.config.past_ticks :] for name, column in columns.items()})
        self.step += 1
        self._update_average()
        return StepMetrics(
            step=self.step,
            losses={name: float(part.detach()) for name, part in parts.items()},
            grad_norm=norm if finite else 0.0,
            step_s=time.perf_counter() - began,
            nonfinite=not finite,
        )

    def batch(self, columns: Mapping[str, NDArray[np.generic]]) -> Batch:
        """Return columns as a step takes them: corrupted by own errors, with masks drawn, on the learner's device."""
        if self._errors is not None:
            columns = self._errors.corrupt(columns, self.config.own_errors, self._rng)
        return make_batch(
            columns,
            mask=self.model.mask,
            unknown_action=self.model.dynamics.unknown_action,
            config=self.config.masking,
            rng=self._rng,
            past_ticks=self.config.past_ticks,
            num_recalled=self.model.config.dynamics.num_recalled,
            has_pose=self.model.dynamics.has_pose,
        ).to(self._device)

    def evaluate(self, *, baselines: bool = True) -> Evaluation:
        """Judge the averaged weights on the held-out worlds, beside all baselines or, in a third of the time, one."""
        metrics = evaluate(self.judged(), self._tokenizer, self._held_out, baselines=baselines)
        return Evaluation(self.step, metrics, metrics["changed_f1_known"].value >= self.config.gate_f1)

    def judged(self) -> WorldModel:
        """Return the model with the averaged weights, which the next call overwrites."""
        self._judged.load_state_dict(self._average)
        return self._judged

    def weights(self, *, epoch: int, version: int) -> WeightSet:
        """Return the averaged weights, to be published."""
        return flatten(self._average, epoch=epoch, version=version)

    def state_parts(self) -> dict[str, object]:
        """Return what a checkpoint saves, by part."""
        parts: dict[str, object] = {
            "model": self.model.state_dict(),
            "average": self._average,
            "optimizer": self._optimizer.state_dict(),
        }
        return parts if self._errors is None else {**parts, "errors": self._errors.state()}

    def random_state(self) -> dict[str, object]:
        """Return the state of the generator that draws masks."""
        return dict(self._rng.bit_generator.state)

    def load_parts(self, parts: Mapping[str, object], *, step: int, random_state: Mapping[str, object]) -> None:
        """Go on from a checkpoint. Raises `CheckpointError` if it is of another model."""
        try:
            weights = _tensors(parts["model"])
            if misfit := self.model.misfit(weights):
                raise ValueError(misfit)
            self.model.load_state_dict(weights)
            average = _tensors(parts["average"])
            self._average = {name: average[name].to(self._device, copy=True) for name in self.model.state_dict()}
            self._optimizer.load_state_dict(parts["optimizer"])  # type: ignore[arg-type]
            if self._errors is not None and "errors" in parts:
                self._errors.load(_tensors(parts["errors"]))
            self._rng.bit_generator.state = dict(random_state)
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"checkpoint of step {step} does not fit this model ({error}); use the preset it was made with"
            ) from error
        self.step = step

    def begin_from(self, weights: Mapping[str, Tensor], *, step: int) -> None:
        """Begin with averaged weights of another training, after `step` steps. Raises `CheckpointError`."""
        if misfit := self.model.misfit(weights):
            raise CheckpointError(
                f"the weights of step {step} do not fit this model ({misfit}); begin with others, or with nothing"
            )
        self.model.load_state_dict(dict(weights))
        for name, tensor in self.model.state_dict().items():
            self._average[name].copy_(tensor)
        self.step = step

    def _update_average(self) -> None:
        # Shorter at first, so that the average does not remember the beginning.
        decay = min(self.config.averaging, self.step / (self.step + 10))
        own = list(self.model.state_dict().values())
        torch._foreach_lerp_(list(self._average.values()), own, 1 - decay)


def _tensors(part: object) -> dict[str, Tensor]:
    if not isinstance(part, dict) or not all(isinstance(value, Tensor) for value in part.values()):
        raise TypeError("expected tensors by name")
    return part
