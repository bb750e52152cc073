"""Laws that no play may break: what is conserved, and where things can be."""

from collections.abc import Iterator

import numpy as np

from world.envs.homestead.rules import Simulation
from world.envs.homestead.tiles import DOOR_WOOD, LANDMARK, MAX_HELD, PAINT_SHIFT, Item, Terrain, Thing

_GROWING = (Thing.STUMP, Thing.BUSH_BARE, Thing.SAPLING)


def broken_invariants(simulation: Simulation) -> tuple[str, ...]:
    """Return one line for each law that the present state breaks."""
    return (*_conservation(simulation), *_placement(simulation), *_growth(simulation))


def _conservation(simulation: Simulation) -> Iterator[str]:
    state, ledger = simulation.state, simulation.state.ledger
    held = np.array(state.inventory, np.int64)
    if held.min() < 0 or held.max() > MAX_HELD:
        yield f"inventory: somebody holds fewer than 0 or more than {MAX_HELD} of a kind"
    in_hands = held.sum(axis=0)
    doors = int(np.isin(state.thing, (Thing.DOOR_CLOSED, Thing.DOOR_OPEN)).sum() + in_hands[Item.DOOR])
    accounts = {
        "stone": (int((state.thing == Thing.STONE).sum() + in_hands[Item.STONE]), ledger.stones),
        "doors": (doors, ledger.first_doors + ledger.doors_made),
        "wood": (int(in_hands[Item.WOOD]), ledger.wood_cut - DOOR_WOOD * ledger.doors_made),
        "fruit": (int(in_hands[Item.FRUIT]), ledger.fruit_picked - ledger.fruit_eaten - ledger.fruit_planted),
    }
    for name, (found, owed) in accounts.items():
        if found != owed:
            yield f"{name}: there are {found}, by the ledger there should be {owed}"


def _placement(simulation: Simulation) -> Iterator[str]:
    state, config = simulation.state, simulation.config
    terrain = (state.ground & 15).reshape(config.height, config.width)
    for edge in (terrain[0], terrain[-1], terrain[:, 0], terrain[:, -1]):
        if not (edge == Terrain.WALL).all():
            yield "border: the wall around the map has a hole"
    standing = [*state.cells, *state.animals]
    if len(set(standing)) != len(standing):
        yield "bodies: two stand in one cell"
    if not all(simulation.walkable(cell) for cell in standing):
        yield "bodies: somebody stands where nobody can walk"
    if ((state.ground >> PAINT_SHIFT > 0) & ((state.thing > 0) | (state.ground & 15 > Terrain.FLOOR))).any():
        yield "paint: it lies under a thing or on ground that takes none"
    if (state.thing[state.ground & 15 >= Terrain.WALL] != Thing.NONE).any():
        yield "things: one stands on a wall or a plate"
    landmarks = state.thing[state.thing >= LANDMARK]
    if len(np.unique(landmarks)) != len(landmarks):
        yield "landmarks: a texture is there twice"


def _growth(simulation: Simulation) -> Iterator[str]:
    state = simulation.state
    growing = {int(cell) for cell in np.flatnonzero(np.isin(state.thing, _GROWING))}
    if growing != set(state.due):
        yield "growth: what grows and what is waited for are not the same cells"
    if any(at <= state.tick for at in state.due.values()):
        yield "growth: something should have grown by now"
