"""Plays: what is acted out in truth and in dreams side by side, to be scored by the pure functions beside them."""
