"""The command line: quick to answer, plain about what is wrong, and JSON where JSON is asked for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import cli
from cluster.presets import preset
from cluster.run_folder import RunFolder


def invoke(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["worlds", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; sys.argv = ['worlds', 'run', '--help']\n"
        "from cluster import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print({'ray', 'torch', 'numpy', 'redis', 'matplotlib'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "--preset" in done.stdout
    assert done.stderr.strip() == "set()"


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("run", "--preset", "homstead"), "homestead-tiny"),
        (("run", "--minutes", "0"), "--minutes"),
        (("run", "--preset", "smoke", "--env", "NoSuchWorld-v0"), "NoSuchWorld-v0"),
        (("run", "--preset", "smoke", "--redis-url", "redis://127.0.0.1:1"), "127.0.0.1:1"),
        (("run", "--run-dir", __file__), "--run-dir"),
        (("list",), "--run-dir"),
        (("list", "--run-dir", __file__), "--run-dir"),
        (("show", "w1"), "--run-dir"),
        (("bench", "speed"), "commit"),
        (("eval", "no/such/run"), "shipped weights: homestead-tiny"),
    ],
)
def test_what_a_person_can_mend_is_told_in_a_sentence_with_exit_code_2_and_no_traceback(
    arguments: tuple[str, ...],
    advice: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("worlds: ")
    assert advice in printed.err
    assert "Traceback" not in printed.err
    assert not (tmp_path / "runs" / "demo" / "run.json").exists(), "a run that could not begin was begun"


def test_a_folder_that_another_run_holds_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held = RunFolder.open(tmp_path)
    assert invoke(monkeypatch, "run", "--preset", "smoke", "--run-dir", str(tmp_path)) == 2
    assert "another run" in capsys.readouterr().err
    held.close()


def test_a_flag_that_contradicts_the_stored_run_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder.open(tmp_path)
    folder.begin(preset("smoke"))
    folder.close()
    assert invoke(monkeypatch, "run", "--preset", "crafter", "--run-dir", str(tmp_path)) == 2
    assert "begun with preset 'smoke'" in capsys.readouterr().err


def test_a_corrupt_checkpoint_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder.open(tmp_path)
    folder.begin(preset("smoke"))
    damaged = folder.checkpoints / "step-00000010"
    damaged.mkdir(parents=True)
    (damaged / "manifest.json").write_text('{"schema_version": 1, "step"')
    folder.close()
    assert invoke(monkeypatch, "run", "--run-dir", str(tmp_path)) == 2
    assert str(damaged) in capsys.readouterr().err


def test_doctor_prints_json_alone_and_says_which_server_and_devices_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(monkeypatch, "doctor", "--json", "--run-dir", str(tmp_path)) == 0
    findings = json.loads(capsys.readouterr().out)
    assert findings["server"]["kind"] == "embedded"
    assert findings["devices"]["cpus"] >= 1
    assert findings["packages"]["ray"] == "2.60.0"
    assert findings["problems"] == []


def test_doctor_says_what_is_wrong_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("doctor", "--json", "--run-dir", str(tmp_path), "--redis-url", "redis://127.0.0.1:1")
    assert invoke(monkeypatch, *arguments) == 1
    findings = json.loads(capsys.readouterr().out)
    assert len(findings["problems"]) == 1
    assert "127.0.0.1:1" in findings["problems"][0]


def test_a_bench_prints_what_was_measured_and_on_which_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(monkeypatch, "bench", "env", "--env", "homestead:16x16x2", "--seconds", "0.05", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {"bench", "value", "unit", "baseline", "ratio", "details", "machine"} <= set(found)
    assert found["machine"]["cores"] >= 1
