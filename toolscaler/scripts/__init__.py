"""Launchable stages: each module has ``main`` and ``make_parser`` and runs under ``accelerate launch -m`` too."""
