"""What asking promises: one door, each slot given or asked for, nothing computed twice, nothing known too early."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.model_cases import CountingEnv, random_slots, stirred_model
from world.envs.grounded import EnvSpec
from world.model.query import Query
from world.model.slots import UNKNOWN_DISPLACEMENT
from world.trajectory import NUM_DISPLACEMENTS, STAY

VOCAB = 20


def _spec(*, map_rows: int = 3, agents: int = 2, events: tuple[str, ...] = ()) -> EnvSpec:
    return replace(CountingEnv(map_rows=map_rows, num_agents=agents).spec, events=events)


@pytest.mark.parametrize(("map_rows", "agents"), [(0, 1), (0, 3), (3, 1), (4, 3)])
def test_every_question_has_an_answer_of_its_shape(map_rows: int, agents: int) -> None:
    spec = _spec(map_rows=map_rows, agents=agents, events=("rain",))
    model, slots = stirred_model(spec, VOCAB), random_slots(spec, VOCAB)
    answer = model.answer(Query(slots))
    assert answer.log_policy().shape == answer.action_logits().shape == (2, agents, 5)
    assert answer.value_logits().shape == answer.reward_logits().shape == (2, agents, 15)
    assert answer.displacement_logits().shape == (2, agents, NUM_DISPLACEMENTS)
    assert answer.token_logits().shape == (*slots.tokens.shape[:4], VOCAB)
    assert answer.token_logits(torch.tensor([0, 3])).shape == (2, VOCAB)
    assert answer.status_logits().shape == (*slots.status.shape, VOCAB)
    assert answer.continuation_logits().shape == (2, agents)


def test_nothing_given_is_the_same_as_masks_everywhere() -> None:
    spec = _spec()
    model, slots = stirred_model(spec, VOCAB), random_slots(spec, VOCAB)
    masked = Query(
        slots,
        actions=torch.full((2, 2), model.dynamics.unknown_action),
        displacement=torch.full((2, 2), UNKNOWN_DISPLACEMENT),
        tokens=torch.full(slots.tokens.shape[:4], model.mask),
        status=torch.full(slots.status.shape, model.mask),
    )
    assert torch.equal(model.answer(Query(slots)).token_logits(), model.answer(masked).token_logits())


@torch.no_grad()
def test_being_told_more_is_asking_anew_but_computes_only_what_depends_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = _spec()
    model, slots = stirred_model(spec, VOCAB), random_slots(spec, VOCAB)
    calls: list[str] = []

    def listen(name: str) -> None:
        stage = getattr(model.dynamics, name)

        def heard(*told: object) -> object:
            calls.append(name)
            return stage(*told)

        monkeypatch.setattr(model.dynamics, name, heard)

    for name in ("encode", "act", "outcome"):
        listen(name)
    actions, moved = torch.ones(2, 2, dtype=torch.int64), torch.full((2, 2), STAY)
    answer = model.answer(Query(slots))
    answer.log_policy()
    answer = answer.given(actions=actions)
    answer.displacement_logits()
    answer = answer.given(displacement=moved)
    stepwise = [answer.token_logits(), answer.status_logits(), answer.reward_logits()]
    assert calls == ["encode", "act", "outcome"]
    at_once = model.answer(Query(slots, actions=actions, displacement=moved))
    for mine, its in zip(
        stepwise, [at_once.token_logits(), at_once.status_logits(), at_once.reward_logits()], strict=True
    ):
        assert torch.equal(mine, its)
    tokens = torch.full(slots.tokens.shape[:4], 5)
    changed = answer.given(status=slots.status.roll(1, dims=-1))
    assert not torch.equal(changed.token_logits(), answer.token_logits())
    assert calls[3:] == ["encode", "act", "outcome", "outcome"], "status is given where outcomes begin"
    told = answer.given(tokens=tokens)
    assert not torch.equal(told.token_logits(), answer.token_logits())
    assert calls[7:] == ["encode", "act", "outcome"], "cells that follow were given: all is read anew"


@torch.no_grad()
def test_some_worlds_alone_get_the_same_answers() -> None:
    spec = _spec(events=("rain",))
    model, slots = stirred_model(spec, VOCAB), random_slots(spec, VOCAB, batch=5)
    rows = torch.tensor([3, 1])
    actions = torch.arange(10).view(5, 2) % 5
    whole = model.answer(Query(slots, actions=actions))
    fresh, after = whole.of_worlds(rows), None
    whole.displacement_logits()
    after = whole.of_worlds(rows)
    for part in (fresh, after):
        torch.testing.assert_close(part.displacement_logits(), whole.displacement_logits()[rows])
        torch.testing.assert_close(part.token_logits(), whole.token_logits()[rows])


@torch.no_grad()
def test_an_asked_action_is_not_told_and_what_followed_is_felt() -> None:
    spec = _spec()
    model, slots = stirred_model(spec, VOCAB), random_slots(spec, VOCAB)
    before = model.answer(Query(slots)).action_logits()
    tokens = torch.full(slots.tokens.shape[:4], model.mask)
    tokens[:, :, 2, 2] = 7
    assert (model.answer(Query(slots, tokens=tokens)).action_logits() != before).any(-1).all()
    for other in (0, 3):
        acted = torch.full((2, 2), other)
        acted[:, 0] = model.dynamics.unknown_action
        told = model.answer(Query(slots, actions=acted)).displacement_logits()
        assert told.isfinite().all()


def _events(slots_events: Tensor, kind: int, y: int, x: int) -> Tensor:
    events = torch.zeros_like(slots_events)
    events[:, 0] = torch.tensor([kind, y, x])
    return events


@torch.no_grad()
def test_an_event_is_felt_around_its_place_in_every_window_and_by_its_kind() -> None:
    spec = _spec(events=("rain", "wall"))
    model, slots = stirred_model(spec, VOCAB), random_slots(spec, VOCAB, batch=1)
    slots = replace(slots, poses=torch.tensor([[[10, 10], [10, 11]]]))
    actions, moved = torch.zeros(1, 2, dtype=torch.int64), torch.full((1, 2), STAY)

    def cells(events: Tensor) -> Tensor:
        told = replace(slots, events=events)
        return model.answer(Query(told, actions, moved)).token_logits()[..., 1:]

    nothing, rain, wall = (cells(_events(slots.events, kind, 9, 10)) for kind in (0, 1, 2))
    elsewhere = cells(_events(slots.events, 0, 500, 500))
    assert torch.equal(nothing, elsewhere), "an empty slot has no place"
    for window, x in ((0, 2), (1, 1)):
        assert (rain[0, window, 1, x] != nothing[0, window, 1, x]).any()
    assert not torch.equal(rain, wall)
