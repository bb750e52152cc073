"""`metrics.jsonl`: a run's moments, one line each, over all commands that continued it."""

import json
from pathlib import Path

from cluster.status import RunStatus
from world.durable import disk_full_told


class MetricsFile:
    """Appends to the file, and carries the run's own time on from where it ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before_s = _last_run_s(path)

    def append(self, status: RunStatus) -> None:
        """Write one line. Raises `DiskFull`."""
        line = json.dumps({"run_s": round(self._before_s + status.elapsed_s, 3), **status.as_json()}, allow_nan=False)
        with disk_full_told(self._path, len(line)), self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def read_metrics(path: Path) -> list[dict[str, object]]:
    """Return the lines; one that a killed command left half written is passed over."""
    lines: list[dict[str, object]] = []
    if path.exists():
        for line in path.read_text("utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue
    return lines


def _last_run_s(path: Path) -> float:
    lines = read_metrics(path)
    last = lines[-1].get("run_s", 0.0) if lines else 0.0
    return float(last) if isinstance(last, int | float) else 0.0
