"""How weights improve: replay, rate limiter, batches, losses, learner, weights and checkpoints. Knows no Ray."""
