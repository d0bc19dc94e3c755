"""Run several stages one after the other in each launched process: ``-m launch.stages JOBS.json``.

Starting Python, torch and the process group takes longer than tiny models do; one start serves all stages.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path


def main() -> None:
    """Run the jobs of a file, a list of [module, arguments]; with ``--launched CONFIG`` under accelerate."""
    if sys.argv[1] == "--launched":
        from toolscaler.scripts.launch import launch, split_arguments

        config, options, rest = split_arguments(["--accelerate_config", *sys.argv[2:]])
        launch("launch.stages", str(config), rest, options)
        return
    for module, argv in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        importlib.import_module(module).main(argv)


if __name__ == "__main__":
    main()
