"""What is drawn together: nothing is lost or doubled between neighbours, and every cell keeps its chances."""

import torch
from torch import Tensor

from world.sampling import in_doubt, inverted, sample, together, together_in_worlds

GRASS, FLOOR, SAPLING, TREE, ANIMAL = range(5)
DRAWS = 20_000


def stands_at(y: int, x: int, *, stays: float = 0.75, ground: tuple[int, ...] = (GRASS,) * 5) -> tuple[Tensor, Tensor]:
    """Return the places (5, 2) to which an animal may have gone, and chances (5, V) of what is there afterwards."""
    places = torch.tensor([(y, x), (y - 1, x), (y, x - 1), (y, x + 1), (y + 1, x)])
    chances = torch.zeros(5, 5)
    chances[:, ANIMAL] = torch.tensor([stays, *[(1 - stays) / 4] * 4])
    chances[torch.arange(5), list(ground)] += 1.0 - chances[:, ANIMAL]
    return places, chances


def drawn(cells: list[tuple[Tensor, Tensor]], seed: int = 0, *, watched: bool = True) -> tuple[Tensor, Tensor]:
    """Return what was drawn (DRAWS, C) in as many worlds, and the chances (C, V). In the first cell of each five, and
    of nothing else, there is an animal now.
    """
    places, chances = (torch.cat(each) for each in zip(*cells, strict=True))
    draws = torch.rand((DRAWS, len(places)), generator=torch.Generator().manual_seed(seed))
    counted = torch.ones_like(draws, dtype=torch.bool)
    now = torch.cat([torch.tensor([ANIMAL, *[GRASS] * 4]) if len(at) == 5 else torch.zeros(len(at)) for at, _ in cells])
    found = together(
        chances.expand(DRAWS, -1, -1),
        places.expand(DRAWS, -1, -1),
        draws,
        counted,
        now.long().expand(DRAWS, -1),
        counted & watched,
    )
    return found, chances


def test_an_animal_is_in_one_of_the_cells_to_which_it_may_have_gone_whatever_the_ground() -> None:
    cells = [
        stands_at(5, 5),
        stands_at(5, 8, ground=(FLOOR, GRASS, FLOOR, GRASS, SAPLING)),
        stands_at(20, 20, stays=0.4),
        stands_at(22, 21),
    ]
    found, chances = drawn(cells)
    for first in (0, 5):
        assert ((found[:, first : first + 5] == ANIMAL).sum(1) == 1).all()
    assert ((found[:, 10:] == ANIMAL).sum(1) == 2).all(), "of two whose ways cross there are two"
    shares = torch.nn.functional.one_hot(found, 5).float().mean(0)
    torch.testing.assert_close(shares, chances, rtol=0.0, atol=0.01)


def test_what_is_far_from_each_other_is_drawn_apart() -> None:
    found, _ = drawn([stands_at(5, 5), stands_at(5, 9)])
    stays = (found[:, [0, 5]] == ANIMAL).float()
    assert abs(float(torch.corrcoef(stays.T)[0, 1])) < 0.02


def test_what_nothing_could_have_become_of_is_still_there() -> None:
    places, chances = stands_at(5, 5)
    less = chances.clone()
    less[0, ANIMAL], less[0, GRASS] = 0.6, 0.4
    assert ((drawn([(places, less)])[0] == ANIMAL).sum(1) == 1).all()
    number = (drawn([(places, less)], watched=False)[0] == ANIMAL).sum(1)
    assert set(number.tolist()) == {0, 1} and abs(float(number.float().mean()) - 0.85) < 0.01, "it may have left"


def test_what_may_come_from_out_of_sight_takes_nothing_from_what_is_there() -> None:
    chance = {(5, 5): 0.75, **dict.fromkeys([(4, 5), (5, 4), (5, 6), (6, 5)], 0.0625)}
    comes = dict.fromkeys([(y, 7) for y in range(3, 8)], 0.06)
    found, places = drawn_in_rows(chance | comes, {(5, 5)})
    its = torch.tensor([place in chance for place in places])
    assert (found[:, its].sum(1) == 1).all()
    torch.testing.assert_close(found[:, ~its].float().mean(0), torch.full((5,), 0.06), rtol=0.0, atol=0.01)


def test_two_that_may_go_to_one_cell_are_two_each_in_one_of_its_own() -> None:
    first, second = [(4, 5), (5, 4), (6, 5)], [(4, 7), (5, 8), (6, 7)]
    chance = {(5, 5): 0.75, (5, 7): 0.75, (5, 6): 0.125, **dict.fromkeys(first + second, 0.0625)}
    found, places = drawn_in_rows(chance, {(5, 5), (5, 7)})
    assert (found.sum(1) == 2).all()
    for own in ([(5, 5), *first], [(5, 7), *second]):
        assert (found[:, torch.tensor([place in own for place in places])].sum(1) <= 1).all()


def test_of_many_none_is_lost() -> None:
    chance: dict[tuple[int, int], float] = {}
    holds = [(4 * y, 4 * x) for y in range(8) for x in range(8)]
    for y, x in holds:
        chance |= {(y, x): 0.75, **dict.fromkeys([(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)], 0.0625)}
    found, places = drawn_in_rows(chance, set(holds), num_draws=50)
    for y, x in holds:
        its = torch.tensor([abs(at[0] - y) + abs(at[1] - x) <= 1 for at in places])
        assert (found[:, its].sum(1) == 1).all()


def drawn_in_rows(
    chance: dict[tuple[int, int], float], holds: set[tuple[int, int]], *, num_draws: int = DRAWS
) -> tuple[Tensor, list[tuple[int, int]]]:
    """Return in which cells (draws, C) an animal was drawn, by its chance at each place, and the places row by row."""
    places = sorted(chance)
    is_animal = torch.tensor([chance[place] for place in places])
    chances = torch.zeros(len(places), 5)
    chances[:, ANIMAL], chances[:, GRASS] = is_animal, 1.0 - is_animal
    now = torch.tensor([ANIMAL if place in holds else GRASS for place in places])
    draws = torch.rand((num_draws, len(places)), generator=torch.Generator().manual_seed(2))
    counted = torch.ones_like(draws, dtype=torch.bool)
    told = (each.expand(num_draws, *each.shape) for each in (chances, torch.tensor(places)))
    return together(*told, draws, counted, now.expand(num_draws, -1), counted) == ANIMAL, places


def test_what_is_not_there_yet_comes_as_often_as_it_is_expected() -> None:
    places = torch.stack([torch.zeros(6, dtype=torch.int64), torch.arange(6)], dim=-1)
    chances = torch.tensor([0.0, 0.0, 0.84, 0.16, 0.0]).expand(6, -1)
    grown = (drawn([(places, chances)])[0] == TREE).sum(1)
    assert set(grown.tolist()) == {0, 1} and abs(float(grown.float().mean()) - 0.96) < 0.01


def test_a_cell_that_shares_its_doubt_with_none_is_drawn_by_itself() -> None:
    alone = torch.tensor([[0.0, 0.0, 0.9, 0.1, 0.0]])
    places, chances = stands_at(5, 5)
    found, _ = drawn([(places, chances), (torch.tensor([[4, 4]]), alone)])
    draws = torch.rand((DRAWS, 6), generator=torch.Generator().manual_seed(0))[:, 5]
    assert torch.equal(found[:, 5], inverted(alone.expand(DRAWS, -1), draws))
    assert ((found[:, :5] == ANIMAL).sum(1) == 1).all()


def test_what_is_not_counted_changes_nothing_and_neither_do_other_worlds() -> None:
    cells = [stands_at(5, 5), stands_at(6, 7, stays=0.5)]
    places, chances = (torch.cat(each) for each in zip(*cells, strict=True))
    draws = torch.rand((2, 10), generator=torch.Generator().manual_seed(1))
    counted = torch.tensor([[True] * 10, [True] * 5 + [False] * 5])
    now = torch.where(torch.arange(10) % 5 == 0, ANIMAL, GRASS).expand(2, -1)
    told = (chances.expand(2, -1, -1), places.expand(2, -1, -1), draws, now, torch.ones_like(counted))
    both = together(*told[:3], counted, *told[3:])
    alone = [each[1:, :5] for each in told]
    assert torch.equal(both[1, :5], together(*alone[:3], counted[1:, :5], *alone[3:])[0])
    assert torch.equal(together_in_worlds(counted.nonzero()[:, 0], *(each[counted] for each in told)), both[counted])
    nobody = torch.zeros_like(counted)
    assert not len(together_in_worlds(nobody.nonzero()[:, 0], *(each[nobody] for each in told)))


def test_what_is_not_shared_is_drawn_by_each_cell_itself() -> None:
    places = torch.stack([torch.zeros(6, dtype=torch.int64), torch.arange(6)], dim=-1)
    chances = torch.tensor([0.4, 0.3, 0.1, 0.1, 0.1]).expand(6, -1)
    found, _ = drawn([(places, chances)])
    shares = torch.nn.functional.one_hot(found, 5).float().mean(0)
    torch.testing.assert_close(shares, chances, rtol=0.0, atol=0.01)
    like = torch.corrcoef((found == SAPLING).float().T)
    assert float((like - torch.eye(6)).abs().max()) < 0.2, "one draw for all would make all alike"


def test_in_doubt_is_what_nothing_is_nearly_sure_of() -> None:
    chances = torch.tensor([[0.5, 0.5], [0.99, 0.01], [0.9999, 0.0001], [0.49, 0.0], [0.0, 1.0]])
    assert in_doubt(chances).tolist() == [True, True, False, False, False]


def test_without_warmth_the_likeliest_is_sure() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 1.0]])
    assert sample(logits, torch.tensor([0.0, 0.999]), temperature=0.0).tolist() == [1, 0]
