"""What is held against the rules of homestead: all that was in view, and nothing that came from farther away."""

from dataclasses import replace

import numpy as np
import pytest

from tests.model_cases import NUM_VALUES, CountingEnv, counting_ticker, counting_world
from world.envs.grounded import Int32Array
from world.envs.homestead.tiles import AGENT_CODE, GROUND_CODE
from world.evaluation.codes import CodeTable
from world.evaluation.foretell import Foretold
from world.evaluation.homestead_limits import rule_scores
from world.evaluation.one_step import Answers
from world.field import NOW
from world.trajectory import Transitions

NO_BODIES = CodeTable(np.full(NUM_VALUES + 1, GROUND_CODE, np.int32), np.zeros(AGENT_CODE + 1, np.uint16))
"""Every token shows ground."""


def _answers(bits: float) -> Answers:
    env = CountingEnv()
    world, ticker = counting_world(env), counting_ticker(env)
    rows = [ticked.row for _ in range(9) for ticked in ticker.tick([world])]
    ticks = Transitions.stack([row for row in rows if row is not None])
    ages = np.zeros_like(ticks.ages)
    # In view are three rows and three columns of each window.
    ages[:, :, 1:4, 1:4, -1] = NOW
    shape = ticks.next_tokens.shape
    told = Foretold(
        tokens=ticks.next_tokens,
        status=ticks.next_status,
        displacement=ticks.displacement.astype(np.int32),
        bits=np.full(len(ticks), 0.5 + bits * np.prod(shape[1:])),
        cell_bits=np.full(shape, bits, np.float32),
        asked=np.zeros(shape, np.float32),
        rewards=ticks.rewards,
        reward_event=ticks.rewards,
        ending=ticks.rewards,
    )
    observed = np.ones(shape, np.bool_)
    return Answers(replace(ticks, ages=ages), observed, observed, dict.fromkeys(("ours", "no_memory", "oracle"), told))


def _lying(answers: Answers) -> Int32Array:
    """The ground that every token shows."""
    return np.full(answers.observed.shape, GROUND_CODE, np.int32)


def test_only_cells_that_were_in_view_with_all_beside_them_count() -> None:
    answers = _answers(2.0)
    rules = np.full(answers.observed.shape, 100.0, np.float32)
    rules[:, :, 2, 2] = 1.0
    agents = answers.ticks.num_agents
    row = rule_scores(answers, rules, _lying(answers), NO_BODIES).metrics["nll_of_rules"]
    assert row.value == pytest.approx((0.5 + 2.0 * agents) / agents)
    assert row.oracle == row.value and row.ceiling == 1.0


def test_every_baseline_is_there_or_explained() -> None:
    answers = _answers(1.0)
    scores = rule_scores(answers, answers.foretold["ours"].cell_bits, _lying(answers), NO_BODIES)
    assert not scores.unexplained()


def test_what_lies_under_somebody_counts_as_long_as_the_field_holds_it() -> None:
    answers = _answers(2.0)
    agents, rules = answers.ticks.num_agents, np.ones(answers.observed.shape, np.float32)
    body = NUM_VALUES - 1
    table = replace(NO_BODIES, code_of=np.where(np.arange(NUM_VALUES + 1) == body, AGENT_CODE, NO_BODIES.code_of))
    cleaned = GROUND_CODE + 1
    cases = (
        ([body, body, 3, 0], GROUND_CODE, True),
        ([body] * 4, GROUND_CODE, False),
        ([body, 0, 0, 0], GROUND_CODE, False),
        ([body, 3, 0, 0], cleaned, False),
    )
    for last, lies, counts in cases:
        tokens, lying = answers.ticks.tokens.copy(), _lying(answers)
        tokens[:, :, 2, 2], lying[:, :, 2, 2] = last, lies
        told = replace(answers, ticks=replace(answers.ticks, tokens=tokens))
        scores = rule_scores(told, rules, lying, table)
        if counts:
            assert scores.metrics["nll_of_rules"].value == pytest.approx((0.5 + 2.0 * agents) / agents)
        else:
            assert "nll_of_rules" in scores.reasons
