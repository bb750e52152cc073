"""What a dream promises: the same tick twice is the same tick, in one truth, drawn as the model believes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model_cases import CountingEnv, random_slots, silence, stirred_model
from world.dream import DreamConfig, Dreamer, Dreamt, reveal_order
from world.errors import ConfigError
from world.model.dynamics import Dynamics, Encoded, Outcome
from world.model.slots import Slots
from world.sampling import draws_for, sample, together_in_worlds
from world.sight import places_of
from world.trajectory import ELSEWHERE, STAY, displacement_of
from world.window import views_after

VOCAB = 20
few = settings(deadline=None, max_examples=20)


def _dreamer(env: CountingEnv, *, passes: int = 1, temperature: float = 1.0) -> Dreamer:
    return Dreamer(stirred_model(env.spec, VOCAB), DreamConfig(passes=passes, temperature=temperature), margin=1)


def _assert_same(mine: Dreamt, its: Dreamt, *, but: tuple[str, ...] = ()) -> None:
    for name in Dreamt.__dataclass_fields__:
        if name not in but:
            np.testing.assert_array_equal(getattr(mine, name), getattr(its, name), err_msg=name)


@pytest.mark.parametrize("map_rows", [0, 3, 4])
@pytest.mark.parametrize("passes", [1, 3])
def test_equal_seeds_and_ticks_dream_equally_and_others_do_not(map_rows: int, passes: int) -> None:
    env = CountingEnv(map_rows=map_rows)
    slots, dreamer = random_slots(env.spec, VOCAB), _dreamer(env, passes=passes)
    dreamt = dreamer.tick(slots, [1, 2], [7, 7])
    rows, cols = slots.tokens.shape[2:4]
    assert dreamt.actions.shape == dreamt.displacement.shape == dreamt.rewards.shape == (2, 2)
    assert dreamt.tokens.shape == (2, 2, rows, cols) and dreamt.status.shape == slots.status.shape
    assert dreamt.terminated.shape == (2, 2) and dreamt.terminated.dtype == np.bool_
    _assert_same(dreamer.tick(slots, [1, 2], [7, 7]), dreamt)
    assert (dreamer.tick(slots, [1, 2], [8, 7]).tokens[0] != dreamt.tokens[0]).any()
    assert (dreamer.tick(slots, [3, 2], [7, 7]).tokens[0] != dreamt.tokens[0]).any()


def test_in_float32_a_world_dreams_the_same_alone_as_beside_others() -> None:
    env = CountingEnv()
    slots = random_slots(env.spec, VOCAB, batch=3)
    dreamer = Dreamer(stirred_model(env.spec, VOCAB), DreamConfig(passes=2, precision="float32"), margin=1)
    together = dreamer.tick(slots, [1, 2, 3], [7, 8, 9])
    for i in range(3):
        alone = dreamer.tick(
            type(slots)(**{name: getattr(slots, name)[i : i + 1] for name in slots.__dataclass_fields__}),
            [i + 1],
            [i + 7],
        )
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[i])
        np.testing.assert_array_equal(alone.actions[0], together.actions[i])
        np.testing.assert_allclose(alone.rewards[0], together.rewards[i], rtol=1e-4, atol=1e-5)


@few
@given(st.integers(0, 2**32), st.sampled_from([1, 2, 5]), st.sampled_from([2, 3, 4]))
def test_windows_that_overlap_agree_in_one_truth_and_nothing_is_left_unsaid(
    seed: int, passes: int, map_rows: int
) -> None:
    env = CountingEnv(num_agents=3, map_rows=map_rows)
    slots = random_slots(env.spec, VOCAB, seed=seed)
    dreamt = _dreamer(env, passes=passes).tick(slots, [seed, seed + 1], [4, 5])
    assert dreamt.tokens.max() < VOCAB, "never MASK"
    for world in range(2):
        seen = views_after(dreamt.tokens[world], displacement_of(dreamt.displacement[world]), 1)
        assert (seen > 0).all(), "never UNSEEN where somebody looks afterwards"
    assert 1 <= dreamt.status.min() <= dreamt.status.max() < VOCAB
    assert (dreamt.displacement != ELSEWHERE).all()
    height, width = dreamt.tokens.shape[2:]
    for world in range(2):
        truth: dict[tuple[int, int], int] = {}
        for agent, (y, x) in enumerate(slots.poses[world].tolist()):
            for (row, col), token in np.ndenumerate(dreamt.tokens[world, agent]):
                place = (y + row - height // 2, x + col - width // 2)
                assert truth.setdefault(place, int(token)) == token


def test_on_a_screen_nobody_moves() -> None:
    env = CountingEnv(map_rows=0)
    slots, dreamer = random_slots(env.spec, VOCAB), _dreamer(env)
    for tick in range(10):
        assert (dreamer.tick(slots, [1, 2], [tick, tick]).displacement == STAY).all()


def test_a_cell_keeps_the_token_of_the_pass_that_revealed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    env = CountingEnv()
    slots, model = random_slots(env.spec, VOCAB), stirred_model(env.spec, VOCAB)
    told: list[torch.Tensor] = []
    encode, answer = Dynamics.encode, Dynamics.token_logits

    def listen(self: Dynamics, slots: Slots, given: torch.Tensor) -> Encoded:
        told.append(given)
        return encode(self, slots, given)

    def number_of_the_pass(self: Dynamics, outcome: Outcome, asked: torch.Tensor | None) -> torch.Tensor:
        shape = answer(self, outcome, asked).shape[:-1]
        return torch.nn.functional.one_hot(torch.full(shape, len(told)), VOCAB) * 99.0

    monkeypatch.setattr(Dynamics, "encode", listen)
    monkeypatch.setattr(Dynamics, "token_logits", number_of_the_pass)
    dreamt = Dreamer(model, DreamConfig(passes=3), margin=1).tick(slots, [1, 2], [7, 7])
    assert len(told) == 3 and (told[0] == model.mask).all()
    assert set(np.unique(dreamt.tokens)) == {0, 1, 2, 3}
    for number in (1, 2):
        revealed = (dreamt.tokens <= number) & (dreamt.tokens > 0)
        np.testing.assert_array_equal(told[number].numpy(), np.where(revealed, dreamt.tokens, model.mask))


def test_of_a_world_in_which_nearly_all_is_in_doubt_cells_are_drawn_each_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[list[int]] = []

    def listen(worlds: torch.Tensor, *of_cells: torch.Tensor) -> torch.Tensor:
        drawn.append(sorted(set(worlds.tolist())))
        return together_in_worlds(worlds, *of_cells)

    monkeypatch.setattr("world.dream.together_in_worlds", listen)
    env = CountingEnv(map_rows=7, cols=7)
    slots, model = random_slots(env.spec, VOCAB, batch=2), stirred_model(env.spec, VOCAB)
    silence(model.dynamics.cell_head)
    # In the second world both agents stand on one cell, and half as many cells are seen.
    apart = torch.tensor([[[0, 0], [30, 30]], [[5, 5], [5, 5]]])
    Dreamer(model, DreamConfig(), margin=1).tick(replace(slots, poses=apart), [1, 2], [7, 7])
    assert drawn == [[1]]


@pytest.mark.parametrize("passes", [1, 2, 3, 4, 7])
def test_neighbours_are_never_drawn_blindly_of_each_other(passes: int) -> None:
    poses = torch.tensor([[[0, 0], [-3, 2]], [[7, 7], [8, 7]]])
    seen = set()
    for draw in (0.0, 0.3, 0.6, 0.9):
        order = reveal_order(places_of(poses, 5, 5), passes, torch.tensor([draw, draw])).view(2, 2, 5, 5)
        assert set(order.unique().tolist()) == set(range(passes))
        if passes > 1:
            assert (order[..., 1:, :] != order[..., :-1, :]).all() and (order[..., 1:] != order[..., :-1]).all()
        # Two windows that are 1 apart in rows show the same cells in the same pass.
        assert torch.equal(order[1, 0, 1:], order[1, 1, :-1])
        seen.add(int(order[0, 0, 2, 2]))
    assert len(seen) == min(passes, 4), "which come first is drawn anew"


def test_what_is_too_unlikely_is_never_drawn_and_the_likeliest_always_can_be() -> None:
    draws = torch.linspace(0, 0.999, 500)
    logits = torch.tensor([0.6, 0.04, 0.3, 0.06]).log().expand(500, -1)
    assert set(sample(logits, draws).tolist()) == {0, 1, 2, 3}
    held = sample(logits, draws, least_chance=0.05)
    shares = torch.bincount(held, minlength=4) / 500
    torch.testing.assert_close(shares, torch.tensor([0.6, 0.0, 0.3, 0.06]) / 0.96, rtol=0.05, atol=0.01)
    even = torch.full((500, 40), 0.025).log()
    assert len(set(sample(even, draws, least_chance=0.5).tolist())) == 40, "nothing is left out where all are rare"


def test_stories_end_as_often_as_the_model_believes() -> None:
    env = CountingEnv()
    slots, model = random_slots(env.spec, VOCAB, batch=200), stirred_model(env.spec, VOCAB)
    ends = []
    for bias in (-50.0, -1.0, 50.0):
        with torch.no_grad():
            model.continuation.logit.weight.zero_()
            model.continuation.logit.bias.fill_(bias)
        ends.append(Dreamer(model, DreamConfig()).tick(slots, list(range(200)), [3] * 200).terminated.mean())
    assert ends[0] == 1 and ends[2] == 0
    assert ends[1] == pytest.approx(1 - 1 / (1 + np.e), abs=0.08)


def test_given_actions_are_taken_and_matter() -> None:
    env = CountingEnv()
    slots, dreamer = random_slots(env.spec, VOCAB), _dreamer(env)
    actions = np.array([[0, 1], [2, 3]], np.int32)
    dreamt = dreamer.tick(slots, [1, 2], [7, 7], actions)
    np.testing.assert_array_equal(dreamt.actions, actions)
    others = dreamer.tick(slots, [1, 2], [7, 7], (actions + 1) % 5)
    assert (others.rewards != dreamt.rewards).all()


def test_at_temperature_zero_only_actions_and_endings_are_drawn() -> None:
    env = CountingEnv()
    slots, dreamer = random_slots(env.spec, VOCAB), _dreamer(env, temperature=0.0)
    actions = np.zeros((2, 2), np.int32)
    mine, its = (dreamer.tick(slots, [seed, seed], [7, 7], actions) for seed in (1, 99))
    _assert_same(mine, its, but=("terminated",))


def test_samples_are_as_frequent_as_the_model_believes() -> None:
    logits = torch.tensor([float("-inf"), 0.0, 1.0, -1.0, float("-inf"), 2.0, float("-inf")])
    draws = torch.from_numpy(draws_for([5], [1], 40_000))[0]
    for temperature in (1.0, 0.5):
        counts = torch.bincount(sample(logits.expand(40_000, -1), draws, temperature=temperature), minlength=7) / 40_000
        wanted = torch.softmax(logits / temperature, -1)
        torch.testing.assert_close(counts, wanted, rtol=0, atol=0.01)
        assert (counts[wanted == 0] == 0).all()
    assert (sample(logits.expand(9, -1), draws[:9], temperature=0.0) == 5).all()


@few
@given(st.integers(0, 2**31), st.integers(1, 4))
def test_no_draw_picks_what_is_impossible(seed: int, num_possible: int) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.full((300,), float("-inf"))
    possible = rng.permutation(300)[:num_possible]
    logits[possible] = torch.from_numpy(rng.normal(0, 20, num_possible).astype(np.float32))
    draws = torch.tensor([0.0, 2**-24, 0.5, 1 - 2**-23, 1 - 2**-24])
    assert set(sample(logits.expand(5, -1), draws).tolist()) <= set(possible.tolist())


def test_draws_are_uniform_and_of_their_seed_and_tick_alone() -> None:
    draws = draws_for([3, 3, 4, 3], [1, 2, 1, 1], 5000)
    assert draws.shape == (4, 5000) and draws.dtype == np.float32
    assert draws.min() >= 0 and draws.max() < 1 and abs(draws.mean() - 0.5) < 0.01
    np.testing.assert_array_equal(draws[0], draws[3])
    assert (draws[0] != draws[1]).mean() > 0.99 and (draws[0] != draws[2]).mean() > 0.99
    np.testing.assert_array_equal(draws_for([3], [1], 8)[0], draws[0, :8])


@pytest.mark.parametrize("seed", [-1, -2, 2**63, 2**63 + 1, 2**64 - 1, 2**62])
def test_neighbouring_seeds_never_draw_the_same(seed: int) -> None:
    first, second = draws_for([seed, seed - 3], [1, 1], 4)
    assert (first != second).all()


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="passes"):
        DreamConfig(passes=0)
    with pytest.raises(ConfigError, match="temperature"):
        DreamConfig(temperature=-1.0)


def test_solid_agents_never_come_to_a_cell_that_another_is_on() -> None:
    env = CountingEnv(num_agents=4)
    rng = np.random.default_rng(0)
    places = [rng.permutation(9)[:4] for _ in range(64)]
    poses = torch.from_numpy(np.stack([np.stack([p // 3, p % 3], -1) for p in places]).astype(np.int64))
    turns = torch.from_numpy(np.stack([rng.permutation(4) for _ in places]))
    slots = replace(random_slots(env.spec, VOCAB, batch=64), poses=poses, turns=turns)
    trespasses = []
    for solid in (False, True):
        dreamer = Dreamer(stirred_model(env.spec, VOCAB), DreamConfig(), margin=1, solid=solid)
        moved = displacement_of(dreamer.tick(slots, range(64), [3] * 64).displacement)
        trespasses.append(sum(_trespasses(*each) for each in zip(poses.numpy(), moved, turns.numpy(), strict=True)))
    assert trespasses[0] > 20 and trespasses[1] == 0


def _trespasses(poses: np.ndarray, moved: np.ndarray, turns: np.ndarray) -> int:
    at, count = [tuple(pose) for pose in poses], 0
    for agent in np.argsort(turns):
        place = tuple(poses[agent] + moved[agent])
        count += moved[agent].any() and place in at[:agent] + at[agent + 1 :]
        at[agent] = place
    return count


def test_who_is_in_nobodys_way_moves_as_if_alone() -> None:
    env = CountingEnv(num_agents=2)
    slots = replace(random_slots(env.spec, VOCAB, batch=8), poses=torch.tensor([[0, 0], [9, 9]]).expand(8, -1, -1))
    dreamt = [
        Dreamer(stirred_model(env.spec, VOCAB), DreamConfig(), margin=1, solid=solid).tick(slots, range(8), [3] * 8)
        for solid in (False, True)
    ]
    _assert_same(*dreamt)


def test_the_second_draw_is_of_what_is_left() -> None:
    """Among 4,000 worlds in which the cell to the east is taken, what is left keeps its odds."""
    env, count = CountingEnv(num_agents=2), 4_000
    slots = random_slots(env.spec, VOCAB, batch=1)
    slots = replace(slots, poses=torch.tensor([[[0, 0], [0, 1]]]), turns=torch.tensor([[0, 1]])).of_worlds(
        torch.zeros(count, dtype=torch.int64)
    )
    dreamer = Dreamer(stirred_model(env.spec, VOCAB), DreamConfig(), margin=1, solid=True)
    moves = torch.full((count, 2, 10), float("-inf"))
    moves[:, 1, STAY] = 0.0
    for step, odds in {5: 6.0, STAY: 1.0, 1: 3.0}.items():
        moves[:, 0, step] = np.log(odds)
    draws = torch.rand(2, count, 2, generator=torch.Generator().manual_seed(0))
    drawn = dreamer._moved(moves, slots, *draws)[:, 0]
    assert not (drawn == 5).any()
    assert abs((drawn == 1).float().mean() - 0.75) < 4 * (0.75 * 0.25 / count) ** 0.5
