"""What is promised of batches over several shards: whoever holds more gives more, and whoever was away comes back."""

from actors.shares import Shares
from tests.host_cases import Clock


def _asked(shares: Shares, draws: int = 200) -> dict[str, int]:
    total: dict[str, int] = {}
    for _ in range(draws):
        asked = shares.of(10)
        assert all(asked.values()) and (not asked or sum(asked.values()) == 10)
        for name, count in asked.items():
            total[name] = total.get(name, 0) + count
    return total


def test_shards_give_by_what_they_hold_and_one_that_holds_nothing_is_still_asked() -> None:
    shares = Shares(["a", "b"])
    even = _asked(shares)
    assert 800 < even["a"] < 1200
    shares.answered("a", 3000)
    shares.answered("b", 1000)
    held = _asked(shares)
    assert 1300 < held["a"] < 1700
    shares.answered("a", 9)
    shares.answered("b", 0)
    assert 100 < _asked(shares)["b"] < 300


def test_a_shard_that_was_away_is_asked_again_even_where_the_others_hold_nothing() -> None:
    clock = Clock(look_s=0.0)
    shares = Shares(["a", "b"], clock=clock)
    shares.answered("a", 3000)
    shares.answered("b", 0)
    shares.lost("a")
    assert _asked(shares).keys() == {"b"}
    clock.sleep(1.5)
    assert _asked(shares)["a"] > 1900, "it comes back with what it held"
    shares.lost("a")
    shares.lost("b")
    assert _asked(shares) == {}
