"""Find the checkpoint to resume from, whatever a kill left behind, and however many processes wrote it."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from toolscaler._files import write_text
from toolscaler.errors import TrainingError

logger = logging.getLogger(__name__)

_NAME = re.compile(r"^checkpoint-(\d+)$")
_PART = re.compile(r"zero_pp_rank_(\d+)_mp_rank_\d+_optim_states\.pt$")
# What an optimizer leaves: plain, gathered by FSDP, in FSDP's pieces, in DeepSpeed's pieces.
_OPTIMIZERS = ("optimizer.pt", "optimizer.bin", "optimizer_0/.metadata", "latest")


def last_whole_checkpoint(folder: str | Path) -> str | None:
    """Give the newest checkpoint that was written to its end, and delete newer ones that were not.

    The Trainer writes ``trainer_state.json`` last; a checkpoint without it, with unreadable JSON in it, or with a
    damaged weights file is half written. Of several launched processes only the first deletes.

    Args:
        folder: The Trainer's output folder.

    Returns:
        Path of the checkpoint, or ``None`` where there is none to resume from.
    """
    root = Path(folder)
    if not root.is_dir():
        return None
    deletes = os.environ.get("RANK", "0") == "0"
    found = sorted((int(match[1]), path) for path in root.iterdir() if (match := _NAME.match(path.name)))
    for _, path in reversed(found):
        if _is_whole(path):
            return str(path)
        if deletes:
            logger.warning("%s is half written; it is deleted and the one before it is used", path.name)
            shutil.rmtree(path)
    return None


def resume_checkpoint(trainer: Any) -> str | None:
    """Give the checkpoint that a trainer goes on from, the same in every process.

    The number of processes may differ from the one that wrote the checkpoint, as long as rows a step (rows a device ×
    accumulation × processes) stay the same: then the rows of each step do too. DeepSpeed cuts an optimizer into one
    piece a process, so its pieces are first put together and cut anew, in DeepSpeed's universal format; that takes disk
    space of the checkpoint's size.

    Args:
        trainer: A ``transformers.Trainer``, before ``train()``. Every process must call this.

    Returns:
        Path of the checkpoint, or ``None`` where there is none.

    Raises:
        TrainingError: DeepSpeed's pieces could not be put together.
    """
    accelerator, found = trainer.accelerator, last_whole_checkpoint(trainer.args.output_dir)
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        # One process's view of a shared file system counts, and it may just have deleted something.
        found = broadcast_object_list([found])[0]
    if found is None or not trainer.is_deepspeed_enabled:
        return found
    pieces = deepspeed_pieces(found)
    if pieces in (0, accelerator.num_processes):
        return found
    if accelerator.is_main_process:
        _make_universal(Path(found), pieces)
    accelerator.wait_for_everyone()
    if not (Path(found) / "latest_universal").is_file():
        raise TrainingError(
            f"{found}: its optimizer is in {pieces} pieces that DeepSpeed could not put together, as it does for Adam "
            f"alone; go on with {pieces} processes, or with another output_dir"
        )
    settings = accelerator.state.deepspeed_plugin.deepspeed_config
    settings["checkpoint"] = {**settings.get("checkpoint", {}), "load_universal": True}
    return found


def deepspeed_pieces(checkpoint: str | Path) -> int:
    """Count the pieces of a DeepSpeed optimizer in a checkpoint: the processes that wrote it; 0 where it has none."""
    folder = _deepspeed_folder(Path(checkpoint))
    names = [] if folder is None else [match[1] for path in folder.iterdir() if (match := _PART.search(path.name))]
    return len(names)


def _deepspeed_folder(checkpoint: Path) -> Path | None:
    """Give the folder that DeepSpeed's ``latest`` names, if it is there and inside the checkpoint."""
    try:
        name = (checkpoint / "latest").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    folder = checkpoint / name
    return folder if name and Path(name).name == name and folder.is_dir() else None


def _make_universal(checkpoint: Path, pieces: int) -> None:
    """Write ``<folder>_universal`` beside DeepSpeed's folder, and its name into ``latest_universal``, last."""
    folder = _deepspeed_folder(checkpoint)
    if folder is None or (checkpoint / "latest_universal").is_file():
        return
    logger.warning("%s was written by %d processes; its optimizer is cut anew", checkpoint.name, pieces)
    target = checkpoint / f"{folder.name}_universal"
    shutil.rmtree(target, ignore_errors=True)
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    paths = ["--input_folder", str(folder), "--output_folder", str(target)]
    # The launch's variables would make the child wait for the others.
    ours = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    done = subprocess.run([*command, *paths], capture_output=True, text=True, env=ours, check=False)  # noqa: S603
    if done.returncode:
        logger.error("DeepSpeed's ds_to_universal failed: %s", done.stderr[-2000:])
        return
    write_text(checkpoint / "latest_universal", target.name)


def _is_whole(checkpoint: Path) -> bool:
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        for file in checkpoint.glob("*.safetensors"):
            with safe_open(file, framework="pt"):
                pass
    except (OSError, ValueError, SafetensorError):
        return False
    optimizer = next((name for name in _OPTIMIZERS if (checkpoint / name).is_file()), None)
    if optimizer is None or (optimizer == "latest" and deepspeed_pieces(checkpoint) == 0):
        return False
    return isinstance(state, dict) and all(
        (checkpoint / name).is_file() for name in ("scheduler.pt", "training_args.bin")
    )
