"""Tokens of a homestead read back as what they show: a codebook's patches are those of the game, exactly.

Axes: V tokens, K codes of `world.envs.homestead.tiles`.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from world.envs.grounded import BoolArray, Int32Array
from world.envs.homestead.render import patch_table
from world.envs.homestead.tiles import AGENT_CODE, ANIMAL_CODE, LANDMARK, THING_CODE, Thing
from world.field import UNSEEN, Uint16Array
from world.model.tokenizer import PatchTokenizer, Tokenizer

NO_CODE = -1
"""Of tokens that show nothing of homestead, UNSEEN among them."""
STUMP, TREE = THING_CODE + Thing.STUMP, THING_CODE + Thing.TREE
BARE, RIPE = THING_CODE + Thing.BUSH_BARE, THING_CODE + Thing.BUSH_RIPE
SAPLING, YOUNG_TREE = THING_CODE + Thing.SAPLING, THING_CODE + Thing.YOUNG_TREE
COMMONS_BARE, COMMONS_RIPE = THING_CODE + Thing.COMMONS_BARE, THING_CODE + Thing.COMMONS_RIPE
FIRST_LANDMARK = THING_CODE + LANDMARK
GROWS = {STUMP: TREE, BARE: RIPE, SAPLING: YOUNG_TREE, COMMONS_BARE: COMMONS_RIPE}
"""What a thing becomes by itself."""


@dataclass(frozen=True, slots=True)
class CodeTable:
    """Which token shows which code."""

    code_of: Int32Array
    """(V,) code of each token, or `NO_CODE`."""
    token_of: Uint16Array
    """(K,) token of each code, or UNSEEN where the codebook lacks it."""

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self | None:
        """Return the table of a codebook made of homestead's patches; None for any other tokenizer."""
        table = patch_table()
        if not isinstance(tokenizer, PatchTokenizer) or tokenizer.codebook.shape[1:] != table.shape[1:]:
            return None
        codes = {patch.tobytes(): code for code, patch in reversed(list(enumerate(table)))}
        code_of = np.full(tokenizer.vocab_size, NO_CODE, np.int32)
        found = [codes.get(patch.tobytes(), NO_CODE) for patch in tokenizer.codebook]
        code_of[1 : 1 + len(found)] = found
        if not (code_of != NO_CODE).any():
            return None
        token_of = np.full(len(table), UNSEEN, np.uint16)
        known = np.flatnonzero(code_of != NO_CODE)
        token_of[code_of[known]] = known
        return cls(code_of, token_of)

    def codes(self, tokens: Uint16Array) -> Int32Array:
        """Return the codes (…) of tokens (…)."""
        codes: Int32Array = self.code_of[tokens]
        return codes


def is_agent(codes: Int32Array) -> BoolArray:
    """Whether codes (…) show an agent."""
    return (codes >= AGENT_CODE) & (codes < ANIMAL_CODE)


def is_body(codes: Int32Array) -> BoolArray:
    """Whether codes (…) show an agent or an animal: what hides the cell it is in."""
    return (codes >= AGENT_CODE) & (codes <= ANIMAL_CODE)


def is_thing(codes: Int32Array) -> BoolArray:
    """Whether codes (…) show a thing that lies or stands there, landmarks included."""
    return (codes >= THING_CODE) & (codes < AGENT_CODE)


def is_landmark(codes: Int32Array) -> BoolArray:
    """Whether codes (…) show a landmark."""
    return (codes >= FIRST_LANDMARK) & (codes < AGENT_CODE)
