"""How a world is judged: pure functions over recorded ticks, and the baselines that stand beside every number."""
