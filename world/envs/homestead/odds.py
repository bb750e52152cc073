"""What chance may do in one tick: the odds of whoever knows the rules, the state and the joint action.

Nobody who is asked for each cell by itself can believe in what follows with fewer bits, on average.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from world.envs.grounded import Float32Array, Int32Array
from world.envs.homestead.live_map import ANIMAL
from world.envs.homestead.rules import Simulation
from world.envs.homestead.tiles import Thing

_WAITING = (Thing.SAPLING, Thing.COMMONS_BARE)


@dataclass(frozen=True, slots=True)
class Odds:
    """Of one tick without world events."""

    animals: dict[int, float]
    """Cells on which an animal may stand after the tick, and with which chance."""
    growth: dict[int, float]
    """Cells whose sapling or bare plant of the commons may have grown, and with which chance."""

    @classmethod
    def of(cls, simulation: Simulation, actions: Sequence[int]) -> Self:
        """Return the odds of what follows a joint action."""
        acted, config = simulation.after_actions(actions), simulation.config
        # One that is planted at this tick waits for one more.
        saplings = (cell for cell in simulation.state.due if simulation.thing_at[cell] == Thing.SAPLING)
        growth = {cell: config.sapling_rate for cell in saplings if acted.thing_at[cell] == Thing.SAPLING}
        animals: dict[int, float] = {}
        for chance, places in _wanderings(acted):
            for cell in places:
                animals[cell] = animals.get(cell, 0.0) + chance
        return cls(animals, growth | {cell: chance for cell, chance in acted.commons().items() if chance})

    def bits(self, after: Simulation, y: Int32Array, x: Int32Array) -> Float32Array:
        """Return −log2 of the chance (…) of what is in cells y, x (…) after the tick."""
        paid = np.zeros(len(after.thing_at), np.float32)
        with np.errstate(divide="ignore"):
            for cell, chance in self.animals.items():
                paid[cell] -= np.log2(chance if after.occupant[cell] == ANIMAL else 1.0 - chance)
            for cell, chance in self.growth.items():
                paid[cell] -= np.log2(1.0 - chance if after.thing_at[cell] in _WAITING else chance)
        return after.read(paid, y, x, outside=0.0)


def _wanderings(simulation: Simulation) -> list[tuple[float, tuple[int, ...]]]:
    """Return where all animals may stand after they wandered, one after the other, and with which chance."""
    rate, found = simulation.config.animal_rate, [(1.0, tuple(simulation.state.animals))]
    for index in range(len(simulation.state.animals)):
        wandered: dict[tuple[int, ...], float] = {}
        for chance, places in found:
            wandered[places] = wandered.get(places, 0.0) + chance * (1.0 - rate)
            for step in simulation.steps:
                target = places[index] + step
                moved = (*places[:index], target, *places[index + 1 :])
                after = moved if target not in places and simulation.lets_animals_in(target) else places
                wandered[after] = wandered.get(after, 0.0) + chance * rate / len(simulation.steps)
        found = [(chance, places) for places, chance in wandered.items()]
    return found
