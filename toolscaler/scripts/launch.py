"""Launch a stage's script under accelerate with a packaged configuration."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources
from pathlib import Path

from toolscaler.errors import ConfigError, TrainingError


def config_names() -> list[str]:
    """Give the names of the packaged accelerate configurations."""
    folder = resources.files("toolscaler") / "accelerate_configs"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def launch(module: str, config: str, argv: list[str]) -> None:
    """Run ``accelerate launch --config_file CONFIG -m module argv``.

    Args:
        module: Dotted name of the script.
        config: Name of a packaged configuration, or the path of a file.
        argv: Arguments of the script.

    Raises:
        ConfigError: There is no such configuration.
        TrainingError: The launched processes failed; their output says why.
    """
    if config in config_names():
        file = str(resources.files("toolscaler") / "accelerate_configs" / f"{config}.yaml")
    elif Path(config).is_file():
        file = config
    else:
        raise ConfigError("--accelerate_config", config, f"a file or one of {', '.join(config_names())}")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", file, "-m", module, *argv]
    status = subprocess.run(command, check=False).returncode  # noqa: S603  (our own command line)
    if status:
        raise TrainingError(f"{module} failed under accelerate with status {status}")
