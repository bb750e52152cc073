"""Starts, places, supervises and watches everything: command line, run configuration, presets, launch, pictures."""
