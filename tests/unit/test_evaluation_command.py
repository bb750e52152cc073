"""What `worlds eval` promises: it takes runs and checkpoints, refuses what is neither, and prints one shape of JSON."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from cluster.cli import app
from cluster.config import RunConfig
from cluster.evaluation import EvaluationRequest, as_result, config_of, judge, numbers
from cluster.run_folder import RunFolder
from learner.checkpoint import Manifest, save_checkpoint
from learner.limiter import LimiterState
from learner.restored import Restored, restore
from tests.evaluation_cases import every_look
from tests.model_cases import small_config, stirred_model
from world.errors import CheckpointError, ConfigError, EnvironmentUnusable, StoreError, StoreUnavailable
from world.evaluation.metrics import MetricRow, Scores
from world.evaluation.protocols import PROTOCOLS, Evaluation, EvaluationConfig, Report
from world.model.tokenizer_files import save_tokenizer
from world.warmup import TOKENIZER_FILE, spec_of

ENV = "homestead:20x20x2"
REQUEST = EvaluationRequest(
    source=Path(),
    protocol="one-step",
    world=None,
    seeds="1",
    ticks="1,2",
    tokenizer=None,
    quick=True,
    out=None,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with one checkpoint of a small untrained model."""
    path = tmp_path_factory.mktemp("runs") / "run"
    folder = RunFolder.open(path)
    folder.begin(RunConfig(preset="smoke", env=ENV, model=small_config()))
    spec = spec_of(ENV)
    tokenizer = every_look(spec.layout)
    folder.warmup.mkdir()
    save_tokenizer(tokenizer, folder.warmup / TOKENIZER_FILE)
    average = stirred_model(spec, tokenizer.vocab_size).state_dict()
    for step in (7, 40):
        save_checkpoint(folder.checkpoints, {"average": average}, _manifest(step, tokenizer.digest))
    folder.close()
    return path


def _manifest(step: int, digest: str) -> Manifest:
    return Manifest(
        step=step,
        weights_epoch=1,
        weights_version=step,
        limiter=LimiterState(inserts=0, samples=0),
        replay={},
        random={},
        model_config=asdict(small_config()),
        tokenizer_digest=digest,
    )


def test_a_run_folder_gives_its_newest_checkpoint_and_the_world_it_hosts(run: Path) -> None:
    found = restore(run)
    assert (found.step, found.version, found.env_name, found.num_agents) == (40, 40, ENV, None)
    assert found.model_config == small_config() and found.path == run / "checkpoints" / "step-00000040"
    older = restore(run / "checkpoints" / "step-00000007")
    assert older.step == 7 and older.env_name == ENV and older.tokenizer.digest == found.tokenizer.digest
    assert set(found.weights) == set(older.weights)


def test_a_checkpoint_alone_needs_a_tokenizer_and_says_no_world(run: Path, tmp_path: Path) -> None:
    lone = save_checkpoint(tmp_path, {"average": restore(run).weights}, _manifest(3, restore(run).tokenizer.digest))
    with pytest.raises(CheckpointError, match=f"put the right one at {lone / TOKENIZER_FILE}, or .* --tokenizer"):
        restore(lone)
    found = restore(lone, run / "warmup" / TOKENIZER_FILE)
    assert found.env_name is None and found.num_agents is None and found.tick.margin == 1
    with pytest.raises(ConfigError, match="--world"):
        judge(replace(REQUEST, source=lone, tokenizer=run / "warmup" / TOKENIZER_FILE), as_json=False)


def test_what_is_no_checkpoint_of_ours_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a checkpoint nor a run"):
        restore(tmp_path)
    other = save_checkpoint(tmp_path, {"average": restore(run).weights}, _manifest(3, "another"))
    with pytest.raises(CheckpointError, match=r"was trained with tokenizer another, got \w+; put the right one at"):
        restore(other, run / "warmup" / TOKENIZER_FILE)
    digest = restore(run).tokenizer.digest
    bare = save_checkpoint(tmp_path / "bare", {"model": restore(run).weights}, _manifest(3, digest))
    with pytest.raises(CheckpointError, match="no averaged weights"):
        restore(bare, run / "warmup" / TOKENIZER_FILE)
    strange = replace(_manifest(3, digest), model_config={"memory_size": "many"})
    built = save_checkpoint(tmp_path / "strange", {"average": restore(run).weights}, strange)
    with pytest.raises(CheckpointError, match="none that this program builds"):
        restore(built, run / "warmup" / TOKENIZER_FILE)


def test_a_world_that_the_tokenizer_cannot_read_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="tokenizer reads"):
        judge(replace(REQUEST, source=run, world="homestead-turned:20x20x2"), as_json=False)


def test_seeds_and_ticks_are_read_as_numbers_and_ranges() -> None:
    assert numbers("0,3,5-7") == [0, 3, 5, 6, 7] and numbers("9") == [9]
    for text in ("", "a", "3-", "5-2", "1.5"):
        with pytest.raises(ConfigError, match="whole numbers"):
            numbers(text)
    config = config_of(replace(REQUEST, seeds="3", ticks="64,1,8", quick=False))
    assert config.seeds == (0, 1, 2) and config.ticks == (1, 8, 64) and config.visit_ticks == (8, 64)
    assert config_of(replace(REQUEST, seeds="4,9")).seeds == (4, 9)
    assert config_of(replace(REQUEST, seeds=None, ticks=None)) == EvaluationConfig.quick()
    for wrong in ({"protocol": "two-step"}, {"seeds": "0"}, {"ticks": "0"}):
        with pytest.raises(ConfigError):
            config_of(replace(REQUEST, **wrong))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [("seeds", ()), ("ticks", (0,)), ("visit_ticks", (4,)), ("law_ticks", 1), ("num_pairs", 0), ("history", -1)],
)
def test_impossible_sizes_are_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match="evaluation"):
        EvaluationConfig(**{field: value})  # type: ignore[arg-type]


def test_a_report_has_one_shape_and_every_gap_in_it_a_reason(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = replace(REQUEST, source=run, out=tmp_path / "out")
    assert judge(request, as_json=True) is False
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["protocol"] == "one-step" and found["seeds"] == [0] and found["checkpoint"]["step"] == 40
    for row in found["metrics"].values():
        assert set(row) == {"value", "low", "high", "copy_last", "no_memory", "oracle", "ceiling"}
        assert row["low"] <= row["value"] <= row["high"]
    assert "changed_f1_known" in found["metrics"] and "not measured" not in printed.err
    assert json.loads((tmp_path / "out" / "one-step.json").read_text()) == found
    assert (tmp_path / "out" / "one-step.png").stat().st_size > 1000


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_played(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="cannot be made"):
            judge(replace(REQUEST, source=run, out=out), as_json=True)


def test_the_worst_episodes_are_filmed(run: Path, tmp_path: Path) -> None:
    judge(replace(REQUEST, source=run, protocol="rollout", out=tmp_path), as_json=False)
    assert len(list(tmp_path.glob("rollout-seed-*.gif"))) == 1 and (tmp_path / "rollout.png").exists()


def test_what_was_reached_is_told_where_somebody_interrupts(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Evaluation, protocol: str) -> Report:
        row = MetricRow(value=1.0, low=1.0, high=1.0, copy_last=0.0, no_memory=0.0, oracle=1.0, ceiling=1.0)
        return Report(protocol=protocol, scores=Scores({"f1": row}, {}), seeds=(0,), episodes=1, interrupted=True)

    monkeypatch.setattr(Evaluation, "run", interrupted)
    result = CliRunner().invoke(app, ["eval", str(run), "--protocol", "all", "--quick", "--json"])
    assert result.exit_code == 130
    found = json.loads(result.stdout)
    assert [report["protocol"] for report in found] == [PROTOCOLS[0]] and found[0]["interrupted"]


def test_of_all_protocols_those_that_cannot_be_played_are_left_out_aloud(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(self: Evaluation, protocol: str) -> Report:
        raise EnvironmentUnusable("it has no bushes")

    monkeypatch.setattr(Evaluation, "run", refused)
    assert judge(replace(REQUEST, source=run, protocol="all"), as_json=False) is False
    assert capsys.readouterr().out.count("left out, for it has no bushes") == len(PROTOCOLS)
    with pytest.raises(EnvironmentUnusable):
        judge(replace(REQUEST, source=run), as_json=False)


def test_a_protocol_that_fails_takes_nothing_of_the_others_with_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def played(self: Evaluation, protocol: str) -> Report:
        if protocol == "rollout":
            raise StoreUnavailable("the server is gone")
        row = MetricRow(value=1.0, low=1.0, high=1.0, copy_last=0.0, no_memory=0.0, oracle=1.0, ceiling=1.0)
        failure = StoreError("the host is late") if protocol == "cross-agent" else None
        scores = Scores({"f1": row}, {})
        return Report(protocol=protocol, scores=scores, seeds=(0,), episodes=1, interrupted=False, failure=failure)

    monkeypatch.setattr(Evaluation, "run", played)
    found = [protocol for protocol in PROTOCOLS if protocol != "rollout"]
    with pytest.raises(StoreUnavailable, match="is gone"):
        judge(replace(REQUEST, source=run, protocol="all", out=tmp_path / "out"), as_json=False)
    assert {path.stem for path in (tmp_path / "out").glob("*.json")} == set(found)
    result = CliRunner().invoke(app, ["eval", str(run), "--protocol", "all", "--quick", "--json"])
    assert isinstance(result.exception, StoreUnavailable)
    assert [report["protocol"] for report in json.loads(result.stdout)] == found
    assert "rollout: failed, for the server is gone" in result.stderr
    assert "cross-agent: failed, for the host is late" in result.stderr


def test_numbers_are_plain_in_json() -> None:
    row = MetricRow(value=np.float64(0.5), low=0.0, high=1.0)  # type: ignore[arg-type]
    report = Report(protocol="p", scores=Scores({"m": row}, {}), seeds=(1,), episodes=2, interrupted=False)
    restored = SimpleNamespace(path=Path("c"), step=1, version=2, tokenizer=SimpleNamespace(digest="d"))
    found = as_result(report, restored)  # type: ignore[arg-type]
    assert json.loads(json.dumps(found))["metrics"]["m"]["value"] == 0.5 and Restored
