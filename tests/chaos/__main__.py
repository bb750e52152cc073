"""All faults, each at every call where that makes sense, then a random mix, then stores with known mistakes.

    python -m tests.chaos [--seed N] [--minutes ABOUT] [--report FILE]

The mix goes on for as long as is left of the time, but for its least and its most.

Prints a JSON report; ends with 1 where a promise was broken, a known mistake was not found, or too little was struck.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from cluster.machine import machine
from tests.chaos.acts import ACTS
from tests.chaos.enumerated import (
    fail_in_every_redis_call,
    kill_host_at_every_call,
    kill_server_at_every_call,
    strike_act_at_every_call,
)
from tests.chaos.fuzz import fuzz
from tests.chaos.log_damage import cut_log_at_many_bytes, flip_bits
from tests.chaos.scenarios import all_scenarios, reissued_epoch
from tests.chaos.server import ChaosServer
from tests.chaos.store_chaos import run_chaos
from tests.chaos.variants import VARIANTS, Variant

LEAST_ACKS: Final = 10_000
LEAST_FAULTS: Final = 200
"""Of the random mix, for its result to mean anything."""
_MIX_S: Final = (180.0, 300.0)
"""The shortest that strikes enough, and the longest that is of use."""
_MISTAKES_S: Final = 60.0
"""What stores with known mistakes take."""


def all_parts(directory: Path, *, seed: int, ends_at: float) -> Iterator[dict[str, Any]]:
    """Yield one report after the other, the mix until about a moment of the monotonic clock."""
    with ChaosServer(directory / "calls") as server:
        yield _timed(kill_host_at_every_call, server, directory)
        yield _timed(kill_server_at_every_call, server, directory)
        yield _timed(fail_in_every_redis_call, server, directory)
        for act in ACTS:
            yield _timed(strike_act_at_every_call, act(), server, directory / act.__name__)
        yield from all_scenarios(server, directory)
    yield _timed(cut_log_at_many_bytes, directory / "cuts", num=300, seed=seed)
    yield _timed(flip_bits, directory / "flips", num=500, seed=seed)
    yield _timed(fuzz, 100_000, seed=seed)
    least, most = _MIX_S
    seconds = min(max(ends_at - time.monotonic(), least), most)
    yield run_chaos(_new(directory / "mix"), seed=seed, seconds=seconds)


def find_mistake(
    directory: Path, variant: Variant, *, seed: int, seconds: float, only: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the report on a store with a known mistake: by the same mix, or by the stage that the mistake needs."""
    if variant == "epoch_without_nonce":
        # Only a disk that lied gives an epoch out twice; the mix keeps to disks that do not.
        with ChaosServer(_new(directory / variant) / "store") as server:
            return {"variant": variant, **reissued_epoch(server, directory / variant, variant)}
    return run_chaos(_new(directory / variant), seed=seed, seconds=seconds, variant=variant, only=only)


def main() -> int:
    """Run everything, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=15.0, help="for all of it, about")
    parser.add_argument("--report", type=Path, help="file for the JSON report")
    asked = parser.parse_args()
    began = time.monotonic()
    parts, mistakes = [], []
    with tempfile.TemporaryDirectory(prefix="worlds-chaos-") as temporary:
        directory = Path(temporary)
        for part in all_parts(directory, seed=asked.seed, ends_at=began + 60 * asked.minutes - _MISTAKES_S):
            parts.append(part)
            print(f"{part['chaos']}: {part['num_faults']} faults, {part['violations']} violations", file=sys.stderr)
        for variant in VARIANTS:
            mistakes.append(find_mistake(directory, variant, seed=asked.seed, seconds=20.0))
            print(f"known mistake {variant}: {mistakes[-1]['violations']} violations found", file=sys.stderr)
    mix = parts[-1]
    report = {
        "seed": asked.seed,
        "seconds": round(time.monotonic() - began, 1),
        "machine": machine(),
        "num_faults": sum(part["num_faults"] for part in parts),
        "acks": sum(part.get("acks", 0) for part in parts),
        "violations": sum(part["violations"] for part in parts),
        "known_mistakes_found": [mistake["variant"] for mistake in mistakes if mistake["violations"]],
        "parts": parts,
        "known_mistakes": mistakes,
    }
    report["passed"] = (
        not report["violations"]
        and not mix["crashed"]
        and report["known_mistakes_found"] == list(VARIANTS)
        and (mix["acks"] >= LEAST_ACKS and mix["num_faults"] >= LEAST_FAULTS)
    )
    text = json.dumps(report, indent=2)
    print(text)
    if asked.report is not None:
        asked.report.parent.mkdir(parents=True, exist_ok=True)
        asked.report.write_text(text + "\n")
    return 0 if report["passed"] else 1


def _timed(work: Callable[..., dict[str, Any]], *arguments: Any, **settings: Any) -> dict[str, Any]:
    began = time.monotonic()
    report = work(*arguments, **settings)
    return {**report, "seconds": round(time.monotonic() - began, 1)}


def _new(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory


if __name__ == "__main__":
    sys.exit(main())
