"""Find the checkpoint to resume from, whatever a kill left behind."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open

logger = logging.getLogger(__name__)

_NAME = re.compile(r"^checkpoint-(\d+)$")


def last_whole_checkpoint(folder: str | Path) -> str | None:
    """Give the newest checkpoint that was written to its end, and delete newer ones that were not.

    The Trainer writes ``trainer_state.json`` last; a checkpoint without it, with unreadable JSON in it, or with a
    damaged weights file is half written.

    Args:
        folder: The Trainer's output folder.

    Returns:
        Path of the checkpoint, or ``None`` where there is none to resume from.
    """
    root = Path(folder)
    if not root.is_dir():
        return None
    found = sorted((int(match[1]), path) for path in root.iterdir() if (match := _NAME.match(path.name)))
    for _, path in reversed(found):
        if _is_whole(path):
            return str(path)
        logger.warning("%s is half written; it is deleted and the one before it is used", path.name)
        shutil.rmtree(path)
    return None


def _is_whole(checkpoint: Path) -> bool:
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        for file in checkpoint.glob("*.safetensors"):
            with safe_open(file, framework="pt"):
                pass
    except (OSError, ValueError, SafetensorError):
        return False
    return isinstance(state, dict) and all(
        (checkpoint / name).is_file() for name in ("optimizer.pt", "scheduler.pt", "training_args.bin")
    )
