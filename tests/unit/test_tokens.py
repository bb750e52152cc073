"""What the vocabulary promises: ages are told exactly where that decides, and broadly where little was met."""

import numpy as np
import pytest
import torch
from torch import Tensor

from world.field import DEPTH, NUM_AGE_BUCKETS, age_buckets
from world.model.tokens import CellEmbedding, TokenHead, TokenTable


def _embedding() -> CellEmbedding:
    torch.manual_seed(0)
    return CellEmbedding(TokenTable(20, 8), 16)


def _told(embedding: CellEmbedding, age: int, part: int) -> Tensor:
    """Return a cell (16,) whose tokens are equal, one of which has an age."""
    ages = torch.zeros(1, 1, 1, DEPTH + 1, dtype=torch.int64)
    ages[..., part] = int(age_buckets(np.array([10_000 - age], np.int32), 10_000)[0])
    tokens = torch.ones(1, 1, 1, DEPTH, dtype=torch.int64)
    return embedding(tokens, ages, tokens[..., 0]).flatten()  # type: ignore[no-any-return]


def test_the_age_of_the_newest_token_is_told_to_the_tick_once_that_is_learned() -> None:
    embedding = _embedding()
    torch.testing.assert_close(_told(embedding, 199, 0), _told(embedding, 200, 0), rtol=0, atol=0)
    with torch.no_grad():
        embedding.exact_age.normal_()
    assert not torch.allclose(_told(embedding, 199, 0), _told(embedding, 200, 0))
    torch.testing.assert_close(_told(embedding, 199, 1), _told(embedding, 200, 1), rtol=0, atol=0)


def test_an_age_that_was_never_met_is_told_as_the_oldest_that_was() -> None:
    embedding = _embedding()
    oldest = int(age_buckets(np.array([10_000 - 512], np.int32), 10_000)[0])
    with torch.no_grad():
        embedding.aging.zero_()
    for part in range(DEPTH + 1):
        seen = torch.zeros(1, 1, 1, DEPTH + 1, dtype=torch.int64)
        seen[..., part] = oldest
        tokens = torch.ones(1, 1, 1, DEPTH, dtype=torch.int64)
        optimizer = torch.optim.SGD([embedding.aging], lr=1.0)
        embedding(tokens, seen, tokens[..., 0]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert not torch.allclose(_told(embedding, 512, part), _told(embedding, 100, part))
        torch.testing.assert_close(_told(embedding, 4_000, part), _told(embedding, 512, part))


@pytest.mark.parametrize("part", range(DEPTH + 1))
def test_never_is_an_age_of_its_own(part: int) -> None:
    embedding = _embedding()
    rows = embedding.summed()[-(DEPTH + 1) * NUM_AGE_BUCKETS :].unflatten(0, (DEPTH + 1, NUM_AGE_BUCKETS))[part]
    assert not torch.allclose(rows[0], rows[1]), "a token that was set now, and one that there never was"


def test_only_tokens_that_stand_for_something_are_answered() -> None:
    torch.manual_seed(0)
    table, few = TokenTable(20, 8), TokenTable(20, 8, num_tokens=6)
    few.load_state_dict(table.state_dict())
    heads = [TokenHead(each, 16, num_candidates=2) for each in (table, few)]
    heads[1].load_state_dict(heads[0].state_dict())
    x, candidates = torch.randn(5, 16), torch.randint(1, 6, (5, 2))
    every, known = (head(x, candidates) for head in heads)
    assert every.shape == (5, 20) and known.shape == (5, 6)
    torch.testing.assert_close(known, every[:, :6])
