"""Grounded environments: ours, and adapters to those of others."""
