"""What the one-step evaluation promises: each cell once, the knowing score one, and baselines know what they should."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.model_cases import (
    CountingEnv,
    counting_ticker,
    counting_world,
    homestead_rows,
    silence,
    small_config,
    stirred_model,
)
from world.errors import CheckpointError
from world.evaluation.foretell import foretell
from world.evaluation.metrics import wilson
from world.evaluation.one_step import HeldOut, _through_pixels, _with_truth, evaluate, merged_once, without_memory
from world.field import NEVER, UNSEEN, age_buckets
from world.model.dynamics import Outcome
from world.model.heads import RewardHead
from world.model.query import Answer, Query
from world.model.slots import Slots
from world.model.tokenizer import DiscreteTokenizer
from world.model.world_model import WorldModel
from world.trajectory import STAY, Transitions, displacement_of
from world.warmup import load_held_out, save_held_out
from world.window import views_after

VOCAB = 65
SURE = 40.0


def _counting(ticks: int = 24, *, map_rows: int = 3) -> tuple[CountingEnv, Transitions]:
    env = CountingEnv(map_rows=map_rows)
    world, ticker = counting_world(env), counting_ticker(env)
    rows = [ticked.row for _ in range(ticks + 1) for ticked in ticker.tick([world])]
    return env, Transitions.stack([row for row in rows if row is not None])


class Seer:
    """A world model in shape only, that answers as it is told: with certainty, from what it is shown."""

    def __init__(self, ticks: Transitions, rule: str) -> None:
        self.mask, self.dynamics, self.has_pose = VOCAB, self, True
        self.device, self.unknown_action = torch.device("cpu"), 0
        self._ticks, self._rule, self._at = ticks, rule, -1
        self.reward = RewardHead(1, 15)

    def answer(self, query: Query) -> Answer:
        """Be asked."""
        assert query.tokens is None and query.status is None
        return Answer(self, query)  # type: ignore[arg-type]

    def encode(self, slots: Slots, given: Tensor) -> Slots:
        """Be shown the next rows, in the order of their ticks. No cell may be given."""
        assert (given == self.mask).all()
        self._at += 1
        return slots

    def act(self, encoded: Slots, actions: Tensor) -> Slots:
        """Nothing."""
        return encoded

    def outcome(self, acted: Slots, displacement: Tensor, status: Tensor) -> Outcome:
        """Nothing of its own."""
        return Outcome(acted, acted.tokens, torch.zeros(acted.tokens.shape[:2].numel(), 1))

    def continuation(self, agents: Tensor) -> Tensor:
        """No opinion."""
        return agents[:, 0]

    def displacement_logits(self, acted: Slots) -> Tensor:
        """The truth, or stay."""
        moved = torch.from_numpy(self._now("displacement"))
        return _certain(moved if self._rule == "truth" else torch.full_like(moved, 4), 10)

    def token_logits(self, outcome: Outcome, asked: Tensor | None = None) -> Tensor:
        """By the rule."""
        newest, before = outcome.slots.tokens[..., 0], outcome.slots.tokens[..., 1]
        answers = {
            "truth": torch.from_numpy(self._now("next_tokens")),
            "copy": newest,
            "back": torch.where(before > 0, before, newest),
        }[self._rule]
        return _certain(answers.clamp(min=1), VOCAB).flatten(2, 3).flatten(0, 1)

    def status_logits(self, acted: Slots, displacement: Tensor) -> Tensor:
        """The truth, or as it was."""
        answers = torch.from_numpy(self._now("next_status")) if self._rule == "truth" else acted.status
        return _certain(answers, VOCAB).flatten(0, 1)

    def _now(self, name: str) -> Any:
        column = self._ticks.columns()[name].astype(np.int64)
        starts = range(0, len(column), 16)
        first = starts[self._at % len(starts)]
        return column[first : first + 16]


def _certain(answers: Tensor, size: int) -> Tensor:
    return torch.nn.functional.one_hot(answers, size).float() * SURE


def _evaluate(model: object, held_out: HeldOut, layout: Any, **options: bool) -> Any:
    return evaluate(model, DiscreteTokenizer(layout), held_out, **options)  # type: ignore[arg-type]


def test_who_knows_everything_scores_one_and_needs_no_bits() -> None:
    env, ticks = _counting()
    rows = _evaluate(Seer(ticks, "truth"), HeldOut(ticks, None), env.spec.layout)
    f1s = {"changed_f1_known", "changed_f1_all", "changed_f1_status"}
    assert set(rows) == {*f1s, "displacement", "nll_bits", "nll_bits_known"}
    for name in (*f1s, "displacement"):
        row = rows[name]
        assert row.value == row.high == row.ceiling == row.no_memory == 1.0 and row.oracle is None
        # So many ticks, each of a world of its own, leave room for a share that is not 1.
        assert row.low == (1.0 if name in f1s else wilson(len(ticks), len(ticks))[1])
    assert rows["nll_bits"].value == pytest.approx(0, abs=1e-6)
    assert rows["changed_f1_known"].copy_last == 0.0 and rows["changed_f1_status"].copy_last == 0.0
    assert 0 < rows["displacement"].copy_last < 1


def test_who_copies_scores_as_the_copying_baseline() -> None:
    env, ticks = _counting()
    rows = _evaluate(Seer(ticks, "copy"), HeldOut(ticks, None), env.spec.layout)
    assert rows["changed_f1_known"].value == 0.0
    assert rows["displacement"].value == pytest.approx(rows["displacement"].copy_last)
    assert rows["changed_f1_status"].value == 0.0
    assert rows["nll_bits"].value > rows["nll_bits"].copy_last


def test_baselines_are_ordered_by_what_they_know() -> None:
    """Cells flip to and fro, and some were last seen a flip ago: who remembers can tell, who also sees knows all."""
    env, ticks = _counting()
    rng = np.random.default_rng(0)
    shape = ticks.next_tokens.shape
    now, then = np.uint16(3), np.uint16(8)
    stale = rng.random(shape) < 0.3
    tokens = np.zeros((*shape, 4), np.uint16)
    tokens[..., 0], tokens[..., 1] = np.where(stale, then, now), np.where(stale, now, then)
    ages = np.ones((*shape, 5), np.uint8)
    ages[..., -1] = np.where(stale, 2, 1)
    everywhere = np.full(shape, then)
    ticks = replace(ticks, tokens=tokens, ages=ages, next_tokens=everywhere, by_chance=np.zeros(shape, np.bool_))
    rows = _evaluate(Seer(ticks, "back"), HeldOut(ticks, np.full(shape, now)), env.spec.layout)
    row = rows["changed_f1_known"]
    assert row.copy_last == row.no_memory == 0.0
    assert 0 < row.no_memory + 0.5 < row.value < row.oracle == row.ceiling == 1.0
    assert row.low <= row.value <= row.high


def test_each_cell_that_was_observed_is_counted_once() -> None:
    """A model without opinions pays log2(V - 1) for every place, however many windows hold it."""
    env, ticks = _counting()
    ticks = replace(ticks, poses=ticks.poses % 4 + 4)
    model = stirred_model(env.spec, VOCAB)
    silence(model.dynamics.cell_head, model.dynamics.status_head)
    with torch.no_grad():
        for parameter in (model.dynamics.appearance.weight, *model.dynamics.displacement_head[-1].parameters()):
            parameter.zero_()
    places = 0
    for t in range(len(ticks)):
        seen = set()
        for agent, (y, x) in enumerate(ticks.poses[t].tolist()):
            for (row, col), token in np.ndenumerate(np.ones(ticks.next_tokens.shape[2:])):
                assert token
                seen.add((y + row - 2, x + col - 2))
            assert agent < 2
        places += len(seen)
    ticks = replace(ticks, next_tokens=np.full_like(ticks.next_tokens, 5))
    rows = _evaluate(model, HeldOut(ticks, None), env.spec.layout, baselines=False)
    row, known = rows["nll_bits"], rows["nll_bits_known"]
    per_tick = 2 * np.log2(10) + 2 * 3 * np.log2(VOCAB - 1)
    wanted = (places * np.log2(VOCAB - 1) + len(ticks) * per_tick) / ticks.actions.size
    assert row.value == pytest.approx(wanted, rel=1e-6)
    assert row.no_memory is None and row.oracle is None and row.copy_last is not None
    new = (merged_once(model, ticks) & (ticks.tokens[..., 0] == 0)).sum()
    assert new and known.value == pytest.approx(wanted - new * np.log2(VOCAB - 1) / ticks.actions.size, rel=1e-6)


def test_changes_by_chance_and_cells_never_seen_before_are_left_out() -> None:
    env, ticks = _counting()
    last, changed = ticks.tokens[..., 0], ticks.tokens[..., 0] != ticks.next_tokens
    seer = Seer(ticks, "copy")
    assert _evaluate(seer, HeldOut(ticks, None), env.spec.layout)["changed_f1_known"].value == 0.0
    lucky = replace(ticks, by_chance=changed)
    rows = _evaluate(Seer(lucky, "copy"), HeldOut(lucky, None), env.spec.layout)
    assert rows["changed_f1_known"].value == 1.0 and rows["changed_f1_all"].value == 0.0
    new = (last == UNSEEN) & (ticks.next_tokens != UNSEEN)
    assert new.any()
    found = replace(ticks, next_tokens=np.where(ticks.next_tokens > 0, np.where(last > 0, last, ticks.next_tokens), 0))
    rows = _evaluate(Seer(found, "copy"), HeldOut(found, None), env.spec.layout)
    assert rows["changed_f1_known"].value == rows["changed_f1_all"].value == 1.0


def test_who_foretells_all_but_chance_scores_one_of_what_is_known_and_less_of_all() -> None:
    env, ticks = _counting()
    last, truth = ticks.tokens[..., 0], ticks.next_tokens
    seen = (last != UNSEEN) & (truth != UNSEEN) & (last != truth)
    edited = seen & merged_once(Seer(ticks, "truth"), ticks)  # type: ignore[arg-type]
    chance = edited & (np.cumsum(edited).reshape(edited.shape) % 3 == 0)
    without_chance = replace(ticks, next_tokens=np.where(chance, last, truth))
    held_out = HeldOut(replace(ticks, by_chance=chance), None)
    rows = _evaluate(Seer(without_chance, "truth"), held_out, env.spec.layout)
    hits, misses = int((edited & ~chance).sum()), int(chance.sum())
    assert hits and misses
    assert rows["changed_f1_known"].value == 1.0
    assert rows["changed_f1_all"].value == pytest.approx(2 * hits / (2 * hits + misses))
    assert rows["changed_f1_all"].ceiling == 1.0 and rows["changed_f1_all"].copy_last == 0.0


def test_scores_do_not_depend_on_how_many_rows_are_asked_at_once() -> None:
    env, ticks = _counting(40)
    model, observed = stirred_model(env.spec, VOCAB), ticks.next_tokens != UNSEEN
    whole = foretell(model, ticks, observed)
    for t in (0, 15, 16, 39):
        alone = foretell(model, ticks[t : t + 1], observed[t : t + 1])
        np.testing.assert_array_equal(alone.displacement[0], whole.displacement[t])
        np.testing.assert_array_equal(alone.tokens[0], whole.tokens[t])
        np.testing.assert_allclose(alone.bits[0], whole.bits[t], rtol=1e-5)


def test_no_answer_depends_on_what_followed() -> None:
    env, ticks = _counting()
    model, observed = stirred_model(env.spec, VOCAB), ticks.next_tokens != UNSEEN
    mine = foretell(model, ticks, observed)
    other = replace(
        ticks,
        next_tokens=ticks.next_tokens % 60 + 1,
        next_status=ticks.next_status % 60 + 1,
        displacement=(ticks.displacement + 1) % 9,
        rewards=ticks.rewards + 1,
        terminated=~ticks.terminated,
    )
    its = foretell(model, other, observed)
    for name in ("tokens", "status", "displacement"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(its, name))


def testwithout_memory_nothing_of_the_past_is_known() -> None:
    _, ticks = _counting()
    blind = without_memory(ticks)
    now = ticks.ages[..., -1] == 1
    assert now.any() and (~now & (ticks.tokens[..., 0] > 0)).any()
    np.testing.assert_array_equal(blind.tokens[..., 0], np.where(now, ticks.tokens[..., 0], 0))
    assert not blind.tokens[..., 1:].any() and not blind.memory.any()
    assert set(np.unique(blind.ages)) == {0, 1}
    rewritten = replace(
        ticks,
        tokens=np.where(now[..., None] & (np.arange(4) == 0), ticks.tokens, ticks.tokens % 60 + 1).astype(np.uint16),
        ages=np.concatenate([ticks.ages[..., :-1] // 2, ticks.ages[..., -1:]], axis=-1),
        memory=ticks.memory + np.float16(1),
    )
    for name, column in without_memory(rewritten).columns().items():
        np.testing.assert_array_equal(column, blind.columns()[name])


def test_the_oracle_sees_every_cell_as_it_is_and_pushes_what_it_remembered_down() -> None:
    _, ticks = _counting(1)
    tokens = np.zeros_like(ticks.tokens)
    tokens[..., 0, :], tokens[..., 1, :] = [5, 4, 3, 2], [7, 6, UNSEEN, UNSEEN]
    set_at = np.where(tokens > 0, np.arange(4)[::-1] * 10, NEVER).astype(np.int32)
    ages = np.concatenate([age_buckets(set_at, 60), np.full((*tokens.shape[:-1], 1), 9, np.uint8)], axis=-1)
    oracle = np.full(tokens.shape[:-1], 7, np.uint16)
    told = _with_truth(replace(ticks, tokens=tokens, ages=ages), oracle)
    stale, fresh = (0, 0, 0, 0), (0, 0, 0, 1)
    assert told.tokens[stale].tolist() == [7, 5, 4, 3] and told.tokens[fresh].tolist() == [7, 6, 0, 0]
    assert told.ages[stale].tolist() == [1, *ages[stale][:3].tolist(), 1]
    assert told.ages[fresh].tolist() == [*ages[fresh][:4].tolist(), 1]
    assert (told.tokens[..., 0] == 7).all() and (tokens[..., 0] != 7).any(), "and what was recorded stays as it was"


@pytest.mark.parametrize("map_rows", [0, 4])
def test_screens_and_views_of_even_size_are_judged(map_rows: int) -> None:
    env, ticks = _counting(map_rows=map_rows)
    model = WorldModel(small_config(), env.spec, VOCAB).eval()
    rows = _evaluate(model, HeldOut(ticks, None), env.spec.layout)
    assert ("changed_f1_status" in rows) is bool(map_rows)
    assert all(np.isfinite(row.value) for row in rows.values())


def test_held_out_ticks_come_back_from_disk_as_they_were_and_can_be_judged(tmp_path: Path) -> None:
    spec, tokenizer, rows = homestead_rows()
    held_out = HeldOut(rows[:20], rows.tokens[:20, ..., 0].copy())
    save_held_out(held_out, tmp_path / "held_out.safetensors")
    again = load_held_out(tmp_path / "held_out.safetensors")
    for name, column in held_out.ticks.columns().items():
        np.testing.assert_array_equal(again.ticks.columns()[name], column)
    model = stirred_model(spec, tokenizer.vocab_size)
    assert evaluate(model, tokenizer, again) == evaluate(model, tokenizer, held_out)


def test_damaged_held_out_ticks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "held_out.safetensors"
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_held_out(path)
    save_held_out(HeldOut(homestead_rows()[2][:3], None), path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="recorded anew"):
        load_held_out(path)


class _Faithful(DiscreteTokenizer):
    """Draws and reads every token as it is, and says that it might not."""

    noise = 0.1

    def decode(self, tokens: Any) -> Any:
        """The tokens themselves."""
        return tokens

    def encode(self, frames: Any) -> Any:
        """The tokens themselves."""
        return frames


def test_what_is_drawn_and_read_again_is_what_is_in_view_after_the_tick() -> None:
    spec, _, rows = homestead_rows()
    back, margin = _through_pixels(_Faithful(spec.layout), rows), 1
    assert (rows.displacement != STAY).any()
    for read, truth, moved in zip(back, rows.next_tokens, displacement_of(rows.displacement), strict=True):
        np.testing.assert_array_equal(views_after(read, moved, margin), views_after(truth, moved, margin))
