"""Stores with a known mistake, one each. A harness that does not find them finds nothing."""

import contextlib
from collections.abc import Iterator
from typing import Final, Literal, get_args

from world.store import link

Variant = Literal["naive_everysec_ack", "epoch_without_nonce", "increment_calls"]
VARIANTS: Final[tuple[Variant, ...]] = get_args(Variant)

_MISTAKES: Final[dict[Variant, list[tuple[str, str]]]] = {
    # The server's own setting: what is acknowledged is synced up to a second later.
    "naive_everysec_ack": [],
    "epoch_without_nonce": [("stored_epoch ~= epoch or stored_nonce ~= nonce or nonce == ''", "stored_epoch ~= epoch")],
    # "Advance by so many ticks" instead of "advance from this tick to that": a repeated call advances again.
    "increment_calls": [
        (
            "local previous, tick, committed = tonumber(args[at + 3]), tonumber(args[at + 4]), tonumber(stored[3])",
            "local committed = tonumber(stored[3])\n"
            "  local previous, tick = committed, committed + args[at + 4] - args[at + 3]\n"
            "  args[at + 4] = whole(tick)",
        ),
    ],
}


def broken_code(variant: Variant) -> str:
    """Return the function library with a mistake in it, under its own name."""
    code = link.LIBRARY_CODE
    for right, wrong in _MISTAKES[variant]:
        assert code.count(right) == 1, f"the functions have changed: {right!r} is there {code.count(right)} times"
        code = code.replace(right, wrong)
    return code


@contextlib.contextmanager
def functions_are(code: str) -> Iterator[None]:
    """Let every connection that this process makes meanwhile load and expect this code."""
    right, link.LIBRARY_CODE = link.LIBRARY_CODE, code  # type: ignore[misc]
    try:
        yield
    finally:
        link.LIBRARY_CODE = right  # type: ignore[misc]
