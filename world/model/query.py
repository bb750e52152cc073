"""Every question to a world is a mask: a `Query` says which slots of an update are given, and the rest is asked for.

Axes: B worlds, A agents, H × W cells of a window, S status cells, V tokens, U actions, Z bins, M cells asked for.

The same weights answer
- dynamics: actions given, what follows asked for; displacements first, then status given those, then cells given both;
- inverse dynamics: what follows given, actions asked for;
- filling: cells that nobody has seen yet, asked for among the cells that follow;
- filtering: a part of what follows given, as in a partial view, and the other cells asked for.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from world.model.dynamics import Encoded, Outcome
from world.model.slots import UNKNOWN_DISPLACEMENT, Slots

if TYPE_CHECKING:
    from world.model.world_model import WorldModel


@dataclass(frozen=True, slots=True)
class Query:
    """What is given of one update. None asks for all of a kind; within a tensor, its mask asks for one slot."""

    slots: Slots
    """What was known before: always given."""
    actions: Tensor | None = None
    """(B, A); the number of actions stands for one that is asked for."""
    displacement: Tensor | None = None
    """(B, A) classes; `UNKNOWN_DISPLACEMENT` asks."""
    tokens: Tensor | None = None
    """(B, A, H, W) that follow; the model's `mask` asks."""
    status: Tensor | None = None
    """(B, A, S) that follow; the model's `mask` asks."""


class Answer:
    """What a model believes of what is asked for. Computed when it is read, and once."""

    def __init__(self, model: "WorldModel", query: Query) -> None:
        self._model, self.query = model, query
        self._encoded_before: Encoded | None = None
        self._acted_before: Encoded | None = None
        self._outcome_before: Outcome | None = None

    def given(
        self,
        *,
        actions: Tensor | None = None,
        displacement: Tensor | None = None,
        tokens: Tensor | None = None,
        status: Tensor | None = None,
    ) -> "Answer":
        """Return the answer once more of these is known; what does not depend on them is not computed again."""
        told = {"actions": actions, "displacement": displacement, "tokens": tokens, "status": status}
        known = {name: tensor for name, tensor in told.items() if tensor is not None}
        answer = Answer(self._model, replace(self.query, **known))  # type: ignore[arg-type]
        if "tokens" not in known:
            answer._encoded_before = self._encoded_before
            answer._acted_before = None if "actions" in known else self._acted_before
        return answer

    def of_worlds(self, rows: Tensor) -> "Answer":
        """Return the answer for some worlds (rows,) alone."""
        query = self.query
        fields = ("actions", "displacement", "tokens", "status")
        chosen = {name: None if (held := getattr(query, name)) is None else held[rows] for name in fields}
        answer = Answer(self._model, Query(query.slots.of_worlds(rows), **chosen))
        answer._encoded_before = self._encoded_before and self._encoded_before.of_worlds(rows)
        answer._acted_before = self._acted_before and self._acted_before.of_worlds(rows)
        return answer

    def log_policy(self) -> Tensor:
        """Return log π(a | z, h) (B, A, U), which knows nothing of actions or of what follows, unless it was given."""
        return self._by_agent(self._model.policy(self._model.read(self._encoded)))

    def value_logits(self) -> Tensor:
        """Return v(z, h) (B, A, Z) as logits over bins of return."""
        return self._by_agent(self._model.value(self._model.read(self._encoded)))

    def displacement_logits(self) -> Tensor:
        """Return (B, A, 10) over displacement classes, before they, the status or the cells are known."""
        return self._model.dynamics.displacement_logits(self._acted)

    def token_logits(self, asked: Tensor | None = None) -> Tensor:
        """Return (B, A, H, W, V) of the tokens that follow; with flat indices `asked` (M,), only of those: (M, V)."""
        logits = self._model.dynamics.token_logits(self._outcome, asked)
        return logits if asked is not None else logits.view(*self.query.slots.tokens.shape[:4], -1)

    def status_logits(self) -> Tensor:
        """Return (B, A, S, V) of the status that follows, given displacements, before the cells are known."""
        return self._by_agent(self._model.dynamics.status_logits(self._acted, self._moved))

    def action_logits(self) -> Tensor:
        """Return (B, A, U) of the actions that led to what is given."""
        return self._by_agent(self._model.dynamics.action_logits(self._outcome))

    def reward_logits(self) -> Tensor:
        """Return (B, A, Z) over bins of reward."""
        return self._by_agent(self._model.reward(self._outcome.agents))

    def continuation_logits(self) -> Tensor:
        """Return (B, A); positive: the agent's story goes on."""
        return self._by_agent(self._model.continuation(self._outcome.agents))

    @property
    def _encoded(self) -> Encoded:
        if self._encoded_before is None:
            slots = self.query.slots
            tokens = _or_all(self.query.tokens, slots.tokens[..., 0], self._model.mask)
            self._encoded_before = self._model.dynamics.encode(slots, tokens)
        return self._encoded_before

    @property
    def _acted(self) -> Encoded:
        if self._acted_before is None:
            actions = _or_all(self.query.actions, self.query.slots.turns, self._model.dynamics.unknown_action)
            self._acted_before = self._model.dynamics.act(self._encoded, actions)
        return self._acted_before

    @property
    def _outcome(self) -> Outcome:
        if self._outcome_before is None:
            status = _or_all(self.query.status, self.query.slots.status, self._model.mask)
            self._outcome_before = self._model.dynamics.outcome(self._acted, self._moved, status)
        return self._outcome_before

    @property
    def _moved(self) -> Tensor:
        return _or_all(self.query.displacement, self.query.slots.turns, UNKNOWN_DISPLACEMENT)

    def _by_agent(self, x: Tensor) -> Tensor:
        return x.view(*self.query.slots.poses.shape[:2], *x.shape[1:])


def _or_all(given: Tensor | None, like: Tensor, mask: int) -> Tensor:
    return torch.full_like(like, mask) if given is None else given
