"""What the other questions promise: scored on what was asked alone, and better answered by who knows more."""

from dataclasses import replace

import numpy as np
import pytest

from tests.evaluation_cases import homestead_stage
from tests.model_cases import homestead_rows, silence, stirred_model
from world.evaluation.one_step import HeldOut, without_memory
from world.evaluation.protocols import Evaluation, EvaluationConfig
from world.evaluation.questions import _asked, _bits_by_frequency, question_scores
from world.field import UNSEEN
from world.warmup import spec_of


def test_scores_are_of_actions_unseen_cells_and_half_views() -> None:
    spec, tokenizer, rows = homestead_rows()
    model = stirred_model(spec, tokenizer.vocab_size)
    scores = question_scores(model, HeldOut(rows[:40], None))
    assert set(scores.metrics) == {"inverse_accuracy", "fill_bits", "filter_gain_bits"} and not scores.unexplained()
    actions = rows[:40].actions
    assert scores.metrics["inverse_accuracy"].copy_last == np.bincount(actions.ravel()).max() / actions.size
    assert scores.metrics["filter_gain_bits"].copy_last == 0.0
    fill = scores.metrics["fill_bits"]
    assert fill.copy_last is not None and 0 < fill.copy_last < np.log2(tokenizer.vocab_size)


def test_a_model_without_opinions_needs_all_bits_and_gains_none() -> None:
    spec, tokenizer, rows = homestead_rows()
    model = stirred_model(spec, tokenizer.vocab_size)
    silence(model.dynamics.cell_head)
    scores = question_scores(model, HeldOut(rows[:20], None)).metrics
    np.testing.assert_allclose(scores["fill_bits"].value, np.log2(tokenizer.vocab_size - 1), rtol=1e-5)
    np.testing.assert_allclose(scores["filter_gain_bits"].value, 0.0, atol=1e-9)


def test_whoever_is_told_less_is_asked_of_the_same_cells() -> None:
    spec, tokenizer, rows = homestead_rows()
    model, ticks = stirred_model(spec, tokenizer.vocab_size), rows[:20]
    observed, known = ticks.next_tokens != UNSEEN, ticks.tokens[..., 0] != UNSEEN
    ours, forgetful = (_asked(model, told, observed, known) for told in (ticks, without_memory(ticks)))
    assert (ours.fill[:, 1] == (observed & ~known).sum(axis=(1, 2, 3))).all()
    np.testing.assert_array_equal(forgetful.fill[:, 1], ours.fill[:, 1])
    silence(model.dynamics.cell_head)
    for told in (ticks, without_memory(ticks)):
        np.testing.assert_allclose(_asked(model, told, observed, known).gain[:, 0], 0.0, atol=1e-6)


def test_worlds_that_were_seen_whole_have_nothing_to_fill() -> None:
    spec, tokenizer, rows = homestead_rows()
    known = rows[80:100]
    known.tokens[..., 0] = np.where(known.tokens[..., 0] == UNSEEN, 1, known.tokens[..., 0])
    scores = question_scores(stirred_model(spec, tokenizer.vocab_size), HeldOut(known, None))
    assert "fill_bits" not in scores.metrics and "fill_bits" in scores.reasons


def test_frequencies_are_those_of_cells_first_seen_in_the_other_worlds() -> None:
    a, b, known, vocab = 5, 6, 7, 8
    tokens = np.array([[a, a, known], [a, b, known], [b, b, b]], np.uint16).reshape(3, 1, 1, 3)
    unseen, worlds = tokens != known, np.array([4, 4, 9])
    bits = _bits_by_frequency(tokens, unseen, worlds, vocab)
    assert bits[:, 1].tolist() == [2, 2, 3]
    # World 9 has shown b three times, and world 4 b once and a thrice; each is told all tokens once, in equal parts.
    rare, common, shared = np.log2(4 / (1 / 8)), np.log2(4 / (3 + 1 / 8)), np.log2(5 / (1 + 1 / 8))
    np.testing.assert_allclose(bits[:, 0], [2 * rare, rare + common, 3 * shared])


def test_of_one_world_alone_there_are_no_frequencies() -> None:
    spec, tokenizer, rows = homestead_rows()
    ticks = rows[:20]
    scores = question_scores(stirred_model(spec, tokenizer.vocab_size), HeldOut(ticks, None, np.zeros(20, np.intp)))
    assert scores.metrics["fill_bits"].copy_last is None and not scores.unexplained()


@pytest.mark.parametrize("history", [0, 400])
def test_questions_are_asked_where_land_comes_into_view_for_the_first_time(history: int) -> None:
    stage, config = homestead_stage("homestead:16x16x2"), EvaluationConfig.quick()
    model = stirred_model(spec_of("homestead:16x16x2"), stage.tokenizer.vocab_size)
    config = replace(config, seeds=(0, 1), history=history, recorded_ticks=16)
    report = Evaluation(stage, model, config, reviver=None, progress=lambda *_: None).run("questions")
    fill = report.scores.metrics["fill_bits"]
    assert fill.copy_last is not None and fill.no_memory is not None and fill.copy_last < fill.value
    assert report.episodes == 2 and not report.scores.unexplained()
