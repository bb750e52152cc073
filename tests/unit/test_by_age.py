"""What single ticks promise: rewards, endings and chances are scored as events, absence costs what it costs."""

from dataclasses import replace

import numpy as np
import pytest

from tests.evaluation_cases import ScriptedDreamer, counting_stage, every_look, homestead_stage
from tests.model_cases import homestead_rows, stirred_model
from world.envs.homestead.tiles import ANIMAL_CODE
from world.evaluation.by_age import AGE_BINS, Ages, bin_name, chance_gaps, homestead_chances, nll_by_age
from world.evaluation.codes import BARE, RIPE, CodeTable
from world.evaluation.events import event_counts, event_scores
from world.evaluation.foretell import Foretold, foretell
from world.evaluation.metrics import wilson
from world.evaluation.one_step import Answers
from world.evaluation.plays.recording import Recording, record_ticks
from world.field import NEVER, UNSEEN
from world.trajectory import Transitions
from world.warmup import spec_of


def _ticks(count: int = 4) -> Transitions:
    return homestead_rows()[2][:count]


def _foretold(ticks: Transitions, **more: np.ndarray) -> Foretold:
    nothing = np.zeros(ticks.actions.shape, np.float32)
    columns = {
        "tokens": ticks.next_tokens,
        "status": ticks.next_status,
        "displacement": ticks.displacement.astype(np.int32),
        "bits": np.zeros(len(ticks)),
        "cell_bits": np.zeros(ticks.next_tokens.shape, np.float32),
        "asked": np.zeros(ticks.next_tokens.shape, np.float32),
        "rewards": nothing,
        "reward_event": nothing,
        "ending": nothing,
    }
    return Foretold(**(columns | more))  # type: ignore[arg-type]


def _answers(ticks: Transitions, **foretold: Foretold) -> Answers:
    everywhere = np.ones(ticks.next_tokens.shape, np.bool_)
    return Answers(ticks, everywhere, everywhere, foretold)


def test_an_event_of_another_kind_is_a_false_alarm_and_a_miss() -> None:
    happened = np.array([[True, True, False, False]])
    foretold, right = np.array([[True, True, True, False]]), np.array([[True, False, False, False]])
    assert event_counts(foretold, happened, right).tolist() == [[1, 2, 1]]


def test_rewards_are_events_and_beliefs_in_them_are_calibrated() -> None:
    ticks = _ticks(4)
    rewards = np.zeros(ticks.actions.shape, np.float32)
    rewards[0, 0], rewards[1, 1] = 1.0, 2.0
    ticks = replace(ticks, rewards=rewards)
    believed, expected = np.zeros_like(rewards), np.zeros_like(rewards)
    believed[0, 0], expected[0, 0] = 0.9, 0.9
    believed[1, 1], expected[1, 1] = 0.8, 0.3
    believed[2, 0], expected[2, 0] = 0.6, 1.0
    ours = _foretold(ticks, reward_event=believed, rewards=expected)
    knowing = _foretold(ticks, reward_event=(rewards > 0).astype(np.float32), rewards=rewards)
    scores = event_scores(_answers(ticks, ours=ours, no_memory=_foretold(ticks), oracle=knowing))
    row = scores.metrics["reward_f1"]
    assert row.value == pytest.approx(2 / (2 + 2 + 1)), "one found, one of another size, one invented"
    assert row.oracle == 1.0 and row.no_memory == row.copy_last == 0.0
    squares = 0.1**2 + 0.2**2 + 0.6**2
    assert scores.metrics["reward_brier"].value == pytest.approx(squares / rewards.size)
    assert scores.metrics["reward_brier"].copy_last == pytest.approx(2 / rewards.size)
    assert scores.metrics["reward_brier"].oracle == 0.0
    # Nothing ended, so what ends cannot be found or missed; the beliefs are scored all the same.
    assert "termination_f1" not in scores.metrics and "termination" in scores.reasons["termination_f1"]
    assert scores.metrics["termination_brier"].value == 0.0 and not scores.unexplained()


def test_bits_are_told_apart_by_how_long_a_cell_was_out_of_sight() -> None:
    ticks = _ticks(2)
    shape = ticks.next_tokens.shape
    unseen_for = np.zeros(shape, np.int32)
    unseen_for[:, :, 0], unseen_for[:, :, 1] = 250, NEVER
    bits = np.where(unseen_for == 250, 2.0, np.where(unseen_for == NEVER, 7.0, 0.5)).astype(np.float32)
    answers = _answers(ticks, ours=_foretold(ticks, cell_bits=bits))
    scores = nll_by_age(answers, Ages(unseen_for, unseen_for), 256)
    values = {name: row.value for name, row in scores.metrics.items()}
    assert values == {"nll_bits@0": 0.5, "nll_bits@201+": 2.0, "nll_bits@never": 7.0}
    assert [bin_name(b) for b in AGE_BINS] == ["0", "1-3", "4-8", "9-20", "21-45", "46-90", "91-200", "201+"]


def test_chances_are_calibrated_where_belief_and_frequency_agree() -> None:
    spec = spec_of("homestead:16x16x2")
    table = CodeTable.of(every_look(spec.layout))
    assert table is not None
    ticks = _ticks(2)
    shape = ticks.next_tokens.shape
    tokens, after = np.zeros_like(ticks.tokens), np.full_like(ticks.next_tokens, table.token_of[BARE])
    tokens[..., 0] = table.token_of[BARE]
    after[:, 0] = table.token_of[RIPE]
    tokens[:, :, 0, 0, 0] = after[:, :, 0, 0] = table.token_of[ANIMAL_CODE]
    ages = Ages(np.full(shape, 100, np.int32), np.zeros(shape, np.int32))
    ticks = replace(ticks, tokens=tokens, next_tokens=after)
    chances = homestead_chances(ticks, table, ages)
    believed = np.full(shape, 0.5, np.float32)
    scores = chance_gaps(_answers(ticks, ours=_foretold(ticks, asked=believed)), chances)
    assert set(scores.metrics) == {"gap_regrowth@91-200", "gap_animal_stays"}
    row, total = scores.metrics["gap_regrowth@91-200"], 2 * 2 * (11 * 11 - 1)
    assert row.value == pytest.approx(0.0) and row.copy_last == -0.5 and row.ceiling == 0.0
    assert (row.low, row.high) == pytest.approx(
        (0.5 - wilson(total // 2, total)[2], 0.5 - wilson(total // 2, total)[1])
    )
    animal = scores.metrics["gap_animal_stays"]
    assert animal.value == pytest.approx(-0.5) and animal.copy_last == 0.0
    # Four times in two worlds is no more than in each of them once.
    assert animal.high == pytest.approx(0.5 - wilson(2, 2)[1])


def test_belief_in_what_is_asked_is_the_probability_of_the_answer() -> None:
    spec, tokenizer, ticks = homestead_rows()
    model, ticks = stirred_model(spec, tokenizer.vocab_size), ticks[:3]
    observed = ticks.next_tokens != UNSEEN
    asked = np.where(observed, ticks.next_tokens, np.uint16(0))
    found = foretell(model, ticks, observed, asked)
    np.testing.assert_allclose(found.asked[observed], np.exp2(-found.cell_bits[observed]), rtol=1e-4)
    assert not found.asked[~observed].any() and not found.cell_bits[~observed].any()
    assert ((found.reward_event >= 0) & (found.reward_event <= 1)).all() and np.isfinite(found.rewards).all()
    assert ((found.ending > 0) & (found.ending < 1)).all()


def test_what_is_recorded_knows_exact_ages_and_the_truth_of_all_it_might_see() -> None:
    record, told = Recording(), []
    record_ticks(
        homestead_stage("homestead:20x20x2"),
        record,
        seeds=[0, 1],
        history=30,
        ticks=9,
        stride=4,
        progress=lambda what, done: told.append(what),
    )
    held_out, ages = record.held_out()
    assert len(held_out.ticks) == 2 * 3 and held_out.oracle is not None
    known = held_out.ticks.tokens[..., 0] != UNSEEN
    assert ((ages.of_token >= 0) == known).all() and ((ages.unseen_for >= 0) == known).all()
    assert (ages.of_token[known] >= ages.unseen_for[known]).all(), "a token is at least as old as the last look at it"
    now = ages.unseen_for == 0
    np.testing.assert_array_equal(held_out.oracle[now], held_out.ticks.tokens[..., 0][now])
    assert set(told) == {"living through a history", "recording single ticks"}


def test_worlds_whose_truth_cannot_be_asked_have_no_oracle() -> None:
    stage, record = counting_stage(ScriptedDreamer(remembers_ticks=9)), Recording()
    record_ticks(stage, record, seeds=[0], history=3, ticks=2, stride=1, progress=lambda *_: None)
    record.truths.clear()
    assert record.held_out()[0].oracle is None
