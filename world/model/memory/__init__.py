"""Memory: what the model can be told of the past, beyond the present cells.

The token field (`world.field`) is the first memory. Others stand beside it and reach the model as memory slots.
"""
