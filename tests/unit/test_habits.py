"""What habits promise: they count truth as it was, bar what never happened in many cases, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.evaluation_cases import every_look
from tests.model_cases import CountingEnv, random_slots, silence, small_config, stirred_model
from world.dream import DreamConfig, Dreamer
from world.envs.homestead.tiles import ANIMAL_CODE
from world.evaluation.codes import CodeTable, is_agent
from world.field import NOW
from world.live import begin
from world.model.habits import Habits, kinds_of, tokens_beside
from world.snapshot import WorldId
from world.tick import TickConfig, Ticker
from world.trajectory import ELSEWHERE, STAY, Transitions, displacement_of
from world.warmup import spec_of

ENV, GRASS, DEER, AGENT = "homestead:20x20x3", 1, 2, 3
VOCAB = 8
OLD = NOW + 5


def recorded(before: np.ndarray, after: np.ndarray, *, moves: int = STAY, age: int = NOW) -> dict[str, np.ndarray]:
    """Return columns of one row, in which one agent in the middle of a window (H, W) moves."""
    return {
        "tokens": before[None, None, ..., None],
        "ages": np.full((1, 1, *before.shape, 2), age),
        "next_tokens": after[None, None],
        "poses": np.array([[[40, -7]]]),
        "displacement": np.array([[moves]]),
    }


def meadow(*animals: tuple[int, int], agent: tuple[int, int] = (2, 2)) -> np.ndarray:
    """Return a window (5, 5) of grass."""
    cells = np.full((5, 5), GRASS)
    cells[agent] = AGENT
    for place in animals:
        cells[place] = DEER
    return cells


def many(*columns: dict[str, np.ndarray], times: int = 300) -> Habits:
    """Return habits that have met these rows so often."""
    habits = Habits(VOCAB)
    for each in columns:
        habits.note({name: np.repeat(column, times, axis=0) for name, column in each.items()})
    return habits


def possible(habits: Habits, kinds: Tensor, beside: Tensor, num_tokens: int = VOCAB) -> Tensor:
    """Return whether each token (…, V) may be in cells."""
    return habits.barred(torch.zeros(*kinds.shape, num_tokens), kinds, beside).isfinite()


def asked(cells: np.ndarray, *, moves: int = STAY, age: int = NOW) -> tuple[Tensor, Tensor]:
    """Return kinds (5, 5) and what is beside (5, 5, 5) for one window."""
    tokens = torch.from_numpy(cells)[None, None]
    ages = torch.full_like(tokens, age)
    kinds = kinds_of(tokens, ages, torch.tensor([[[40, -7]]]), torch.tensor([[moves]]))
    return kinds[0, 0], tokens_beside(tokens)[0, 0]


def test_agents_are_seen_where_they_are_and_nowhere_else() -> None:
    east = 5
    habits = many(recorded(meadow(), meadow(agent=(2, 3)), moves=east))
    told = possible(habits, *asked(meadow(), moves=east))
    stood = torch.zeros(5, 5, dtype=torch.bool)
    stood[2, 3] = True
    assert torch.equal(told[..., AGENT], stood), "not where it was, either"
    assert torch.equal(told[..., GRASS], ~stood)
    assert told[..., DEER].all() and told[..., 4:].all(), "of what was never met nothing is barred"


def test_what_only_ever_came_from_beside_comes_from_nowhere_else() -> None:
    habits = many(recorded(meadow((1, 1)), meadow((1, 2))))
    told = possible(habits, *asked(meadow((1, 1))))[..., DEER]
    assert told[0, 1] and told[1, 0] and told[1, 1] and told[1, 2] and told[2, 1]
    assert not told[3, 3] and not told[1, 3]
    assert told[0].all() and told[:, 4].all(), "at the edge it may come from out of sight"
    assert possible(habits, *asked(meadow((1, 1)), age=OLD))[..., DEER].all(), "what is there by now nobody knows"


def test_ground_that_shows_again_beside_more_of_it_does_not_walk() -> None:
    habits = many(recorded(meadow((1, 1)), meadow()), recorded(meadow((3, 3)), meadow()))
    assert possible(habits, *asked(np.where(meadow() == GRASS, 0, AGENT), moves=5))[2, 2, GRASS]
    assert habits.counts[3, GRASS] == 600 and not habits._bars(VOCAB)[1].any()


def test_one_case_is_enough_to_doubt_and_few_are_not_enough_to_be_sure() -> None:
    stepped, appeared = recorded(meadow((1, 1)), meadow((1, 2))), recorded(meadow(), meadow((3, 3)))
    doubtful = many(stepped)
    doubtful.note(appeared)
    for habits in (doubtful, many(stepped, times=299)):
        assert possible(habits, *asked(meadow()))[1:4, 1, DEER].all()


def test_what_the_network_is_sure_of_is_not_barred() -> None:
    habits = many(recorded(meadow(), meadow()))
    kinds, beside = asked(meadow())
    for lead, is_barred in ((4.0, True), (5.0, False)):
        logits = torch.zeros(5, 5, VOCAB)
        logits[..., AGENT] = lead
        assert habits.barred(logits, kinds, beside)[0, 0, AGENT].isinf() == is_barred
    nothing_else = torch.full((5, 5, VOCAB), float("-inf"))
    nothing_else[..., AGENT] = 0.0
    assert torch.equal(habits.barred(nothing_else, kinds, beside), nothing_else)


def test_ground_that_nobody_sees_an_agent_on_is_not_barred_before_anybody_has_been_there() -> None:
    rng = np.random.default_rng(0)
    land = rng.integers(1, 61, (20, 20)).repeat(4, axis=0).repeat(4, axis=1)
    habits, pose, barred = Habits(64), np.array([40, 40]), 0
    for _ in range(600):
        move = int(rng.choice([1, 3, 5, 7]))
        moved = displacement_of(np.array([move], np.uint8))[0]
        if not ((pose + moved >= 6) & (pose + moved < 74)).all():
            continue
        window = land[pose[0] - 3 : pose[0] + 4, pose[1] - 3 : pose[1] + 4]
        row = recorded(window, window, moves=move)
        kinds, beside = asked(window, moves=move)
        truth = torch.from_numpy(window)[..., None]
        barred += int((~possible(habits, kinds, beside, 64).gather(-1, truth)).sum())
        habits.note(row)
        pose = pose + moved
    assert barred == 0 and (habits.counts[0] == 0).any()


def test_nothing_is_counted_of_agents_that_went_elsewhere_and_of_cells_that_nobody_sees() -> None:
    habits = many(recorded(meadow(), meadow(agent=(4, 4)), moves=ELSEWHERE))
    assert not habits.counts.any()
    habits = many(recorded(meadow(), np.zeros((5, 5), np.int64)))
    assert not habits.counts.any()


def test_those_who_answer_may_know_fewer_tokens_or_more() -> None:
    habits = many(recorded(meadow(), meadow()))
    kinds, beside = asked(meadow())
    for num_tokens in (4, VOCAB, 11):
        told = possible(habits, kinds, beside, num_tokens)
        assert told.shape == (5, 5, num_tokens)
        assert not told[0, 0, AGENT] and not told[2, 2, GRASS] and told[..., 4:].all()


def homestead_rows(policy_seed: int) -> Transitions:
    """Return what was recorded in one homestead, with events."""
    world = begin(WorldId("w"), env_name=ENV, seed=policy_seed, memory_size=4)
    assert world.env is not None
    ticker = Ticker(world.env.spec, every_look(spec_of(ENV).layout), TickConfig(event_rate=0.2), small_config())
    rows = [ticker.tick([world])[0].row for _ in range(150)]
    return Transitions.stack([row for row in rows if row is not None])


def test_of_homesteads_it_finds_who_the_agents_are_and_what_walks() -> None:
    tokenizer = every_look(spec_of(ENV).layout)
    table, habits = CodeTable.of(tokenizer), Habits(tokenizer.vocab_size)
    assert table is not None
    for rows in [homestead_rows(seed) for seed in (1, 2)] * 20:
        habits.note(rows.columns())
    bars, carried = habits._bars(tokenizer.vocab_size)
    codes = table.codes(np.arange(tokenizer.vocab_size))
    assert set(codes[carried.numpy()]) == {ANIMAL_CODE}
    worn = torch.isinf(bars[1]).numpy()
    assert worn.sum() > 12 and is_agent(codes[worn]).all()
    assert _barred_in_truth(habits, homestead_rows(4)) == 0, "in a world that was not counted"


def _barred_in_truth(habits: Habits, rows: Transitions) -> int:
    """Return of how many cells it is barred what is truly in them."""
    tokens = torch.from_numpy(rows.tokens[..., 0].astype(np.int64))
    told = (torch.from_numpy(np.array(of, np.int64)) for of in (rows.ages[..., -1], rows.poses, rows.displacement))
    free = possible(habits, kinds_of(tokens, *told), tokens_beside(tokens), habits.counts.shape[1])
    truth = torch.from_numpy(rows.next_tokens.astype(np.int64))
    return int((~free.gather(-1, truth[..., None])[..., 0] & (truth > 0)).sum())


@pytest.mark.parametrize("passes", [1, 3])
def test_dreams_draw_nothing_that_is_barred(passes: int) -> None:
    env, worn = CountingEnv(num_agents=3), [7, 11, 12]
    model = stirred_model(env.spec, 20)
    silence(model.dynamics.cell_head)
    slots = replace(random_slots(env.spec, 20, batch=16), ages=torch.full((16, 3, 5, 5, 5), int(NOW)))
    dreams = []
    for counted in (False, True):
        if counted:
            is_worn = torch.isin(torch.arange(20), torch.tensor(worn))
            model.habits.counts[:2] = 3000.0 * torch.stack([is_worn, ~is_worn])
        dreamt = Dreamer(model, DreamConfig(passes=passes), margin=1).tick(slots, range(16), [3] * 16)
        poses, moved = slots.poses.numpy(), displacement_of(dreamt.displacement)
        grid = np.moveaxis(np.indices((5, 5)), 0, -1) - 2 + poses[:, :, None, None]
        stood = (grid[..., None, :] == (poses + moved)[:, None, None, None]).all(-1).any(-1)
        seen = dreamt.tokens > 0
        dreams.append([np.isin(dreamt.tokens[seen & at], worn).mean() for at in (stood, ~stood)])
    assert 0 < dreams[0][0] < 1 and 0 < dreams[0][1] < 1
    assert dreams[1] == [1, 0]
