"""The doctor looks at what a run would use: the folder's own server and devices, where a run has begun there."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cluster import doctor
from cluster.config import RunConfig
from cluster.doctor import examine
from cluster.presets import preset
from cluster.run_folder import RunFolder


class AnsweringLink:
    """A link to a server that is there and is as it should be."""

    def __init__(self, url: str, **settings: object) -> None:
        pass

    def one(self, *command: str) -> str:
        """Answer."""
        return "PONG"

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def begin(tmp_path: Path) -> Callable[[RunConfig], None]:
    """Begin a run in the folder."""

    def begin(config: RunConfig) -> None:
        folder = RunFolder.open(tmp_path)
        folder.begin(config)
        folder.close()

    return begin


def test_the_server_that_the_folder_names_is_asked(tmp_path: Path, begin: Callable[[RunConfig], None]) -> None:
    begin(replace(preset("smoke"), redis_url="redis://worlds:secret@127.0.0.1:1"))
    found = examine(tmp_path, None)
    assert found["server"] == {"kind": "none"}
    assert "127.0.0.1:1" in found["problems"][0]
    assert "secret" not in str(found)


def test_a_password_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "Link", AnsweringLink)
    found = examine(tmp_path, "redis://worlds:secret@host:6379")
    assert found["server"] == {"kind": "external", "url": "redis://worlds:***@host:6379"}


def test_devices_are_those_of_the_run_in_the_folder(tmp_path: Path, begin: Callable[[RunConfig], None]) -> None:
    config = preset("homestead-base")
    begin(config)
    devices = examine(tmp_path, None)["devices"]
    assert devices["learner"] != "cpu"
    assert devices["hosts"] == config.tick.dream.device != "cpu"


def test_a_gpu_that_the_run_does_not_use_is_not_said_to_be_used(
    tmp_path: Path, begin: Callable[[RunConfig], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(preset("smoke"))
    for name, answer in {"is_available": True, "get_device_name": "H200", "device_count": 1}.items():
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)
    devices = examine(tmp_path, None)["devices"]
    assert (devices["learner"], devices["hosts"], devices["gpus"]) == ("cpu", "cpu", 1)


def test_a_folder_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    assert "--run-dir" in examine(tmp_path, None)["problems"][0]


@pytest.mark.parametrize(
    ("version", "supported"), [((3, 10), False), ((3, 11), True), ((3, 13), True), ((3, 14), False)]
)
def test_the_supported_versions_of_python_are_those_of_the_package(
    version: tuple[int, int], supported: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "sys", SimpleNamespace(version_info=(*version, 0)))
    assert any("Python" in problem for problem in examine(tmp_path, None)["problems"]) != supported
