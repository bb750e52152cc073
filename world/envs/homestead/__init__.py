"""Homestead: our reference world, a shared map that agents change for good and that is known exactly."""
