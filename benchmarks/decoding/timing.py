"""Clocks, alternation of what is compared, and the machine's name."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers


def seconds_of(action: Callable[[], Any], device: str = "cpu") -> tuple[float, Any]:
    """Time one call: CPU time of this thread on a CPU, time until the device is done otherwise.

    Returns:
        The seconds, and what the call gave: letting go of it is not timed.
    """
    if device == "cpu":
        start = time.thread_time()
        result = action()
        return time.thread_time() - start, result
    torch.cuda.synchronize()
    start = time.perf_counter()
    result = action()
    torch.cuda.synchronize()
    return time.perf_counter() - start, result


def median_seconds(action: Callable[[], Any], repeats: int) -> float:
    """Give the median after one call that does not count."""
    action()
    return statistics.median(seconds_of(action)[0] for _ in range(repeats))


def alternate(actions: Mapping[str, Callable[[int], Any]], rounds: Mapping[str, int], device: str) -> dict[str, float]:
    """Time several things in turn, each round beginning with another, so that a busy machine is busy for all.

    Args:
        actions: Name -> what is called with the number of the round.
        rounds: Name -> timed calls.
        device: Where they run.

    Returns:
        Name -> median seconds.
    """
    taken: dict[str, list[float]] = {name: [] for name in actions}
    names = list(actions)
    for number in range(max(rounds.values())):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            if number < rounds[name]:
                taken[name].append(seconds_of(partial(actions[name], number), device)[0])
    return {name: statistics.median(values) for name, values in taken.items()}


def machine(device: str = "cpu") -> dict[str, Any]:
    """Name processor, threads and versions."""
    return {
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "clock": "CPU time of the thread" if device == "cpu" else "wall time, synchronised",
        "load_average": list(os.getloadavg()),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        if lines:
            return lines[0]
    return platform.processor() or platform.machine()


def resident_bytes() -> int:
    """Give the memory of this process, 0 where the system does not say."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.exists() else 0
