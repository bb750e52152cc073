"""What the shipped weights promise: in worlds they never met, every question is answered better than its baseline."""

import json
from typing import Any

import pytest

from cluster.evaluation import EvaluationRequest, judge
from learner.start import start_path


def _judged(protocol: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    request = EvaluationRequest(
        source=start_path("homestead-tiny"),
        protocol=protocol,
        world="homestead",
        seeds="200-203",
        ticks=None,
        tokenizer=None,
        quick=True,
        out=None,
    )
    assert judge(request, as_json=True) is False
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["metrics"]
    return found


def test_what_follows_on_an_action_is_foretold_better_than_by_copying(capsys: pytest.CaptureFixture[str]) -> None:
    found = _judged("one-step", capsys)
    for name in ("changed_f1_known", "changed_f1_all", "displacement"):
        assert found[name]["low"] > found[name]["copy_last"], name


def test_the_other_questions_are_answered_better_than_by_who_is_not_asked(capsys: pytest.CaptureFixture[str]) -> None:
    found = _judged("questions", capsys)
    assert found["inverse_accuracy"]["low"] > found["inverse_accuracy"]["copy_last"]
    assert found["fill_bits"]["high"] < found["fill_bits"]["copy_last"]
    assert found["filter_gain_bits"]["value"] > 0
