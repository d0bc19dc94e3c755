"""Launch a stage's script under accelerate with a packaged configuration."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from toolscaler._optional import require
from toolscaler.errors import ConfigError, TrainingError

#: Options beside ``--accelerate_config`` that go to ``accelerate launch`` and not to the script.
LAUNCH_OPTIONS = ("num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port")

_NUMBERS = {"num_processes", "num_machines", "machine_rank", "main_process_port"}
_FLAG = "--accelerate_config"


def config_names() -> list[str]:
    """Give the names of the packaged accelerate configurations."""
    folder = resources.files("toolscaler") / "accelerate_configs"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def config_file(config: str) -> Path:
    """Give the file of a configuration.

    Args:
        config: Name of a packaged configuration, or the path of a file.

    Raises:
        ConfigError: There is no such configuration.
    """
    if config in config_names():
        return Path(str(resources.files("toolscaler") / "accelerate_configs" / f"{config}.yaml"))
    if not Path(config).is_file():
        raise ConfigError(_FLAG, config, f"a file or one of {', '.join(config_names())}")
    return Path(config)


def split_arguments(argv: Sequence[str]) -> tuple[str | None, dict[str, str], list[str]]:
    """Take what belongs to the launcher out of a command line.

    Args:
        argv: Arguments of a verb; ``--name value`` and ``--name=value`` are the same.

    Returns:
        The configuration (``None``: not to be launched), the launcher's options by name, and the script's arguments.
        Without a configuration every argument is the script's.

    Raises:
        ConfigError: An option has no value.
    """
    found: dict[str, str] = {}
    rest: list[str] = []
    names = {_FLAG, *(f"--{name}" for name in LAUNCH_OPTIONS)}
    words = iter(argv)
    for word in words:
        name, separator, value = word.partition("=")
        if name not in names:
            rest.append(word)
            continue
        given = value if separator else next(words, None)
        if given is None:
            expected = "the name of a packaged config or a file" if name == _FLAG else "a value"
            raise ConfigError(name, None, expected)
        if name.removeprefix("--") in _NUMBERS and not given.isdecimal():
            raise ConfigError(name, given, "a whole number")
        found[name.removeprefix("--")] = given
    config = found.pop(_FLAG.removeprefix("--"), None)
    return (None, {}, list(argv)) if config is None else (config, found, rest)


def launch(module: str, config: str, argv: Sequence[str], options: Mapping[str, str] | None = None) -> None:
    """Run ``accelerate launch --config_file CONFIG [options] -m module argv``.

    A launch on one machine takes a free port, so that several may run at once.

    Args:
        module: Dotted name of the script.
        config: Name of a packaged configuration, or the path of a file.
        argv: Arguments of the script.
        options: Changes to the configuration, by the names in :data:`LAUNCH_OPTIONS`.

    Raises:
        ConfigError: There is no such configuration, or it cannot be read.
        MissingDependencyError: It needs DeepSpeed, which is not installed.
        TrainingError: It needs a GPU that is not there, or the launched processes failed; their output says why.
    """
    file = config_file(config)
    settings = _read(file)
    _check_machine(config, settings)
    changes = dict(options or {})
    if int(changes.get("num_machines", settings.get("num_machines", 1))) == 1:
        changes.setdefault("main_process_port", "0")
    flags = [word for name, value in changes.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file), *flags, "-m", module]
    status = subprocess.run([*command, *argv], check=False).returncode  # noqa: S603  (our own command line)
    if status:
        raise TrainingError(f"{module} failed under accelerate with status {status}; its output above says why")


def _read(file: Path) -> dict[str, Any]:
    import yaml

    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(_FLAG, str(file), f"a YAML file: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(_FLAG, str(file), "a YAML file with settings of accelerate by name")
    return settings


def _check_machine(config: str, settings: Mapping[str, Any]) -> None:
    """Say at once what a launch would end in, or worse: FSDP on a CPU trains copies that never meet."""
    kind = settings.get("distributed_type")
    if kind == "DEEPSPEED" and find_spec("deepspeed") is None:
        require("deepspeed", extra="deepspeed", purpose=f"the configuration {config}")
    if kind == "FSDP":
        import torch

        if not torch.cuda.is_available():
            raise TrainingError(
                f"{_FLAG} {config}: FSDP needs GPUs, there are none; on a CPU accelerate would train copies that never "
                "exchange gradients. Use cpu or zero3"
            )
