"""What a world is: its token field, its ticks, the model that advances it, the store that keeps it."""
