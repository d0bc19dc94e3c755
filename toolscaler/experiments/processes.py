"""A job in a process of its own: started, watched for its memory, and ended with all its children."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from toolscaler.experiments.worker import LOG_FILE

_PACKAGE_PARENT = Path(__file__).resolve().parents[2]


class JobProcess:
    """A running job.

    Args:
        root: The experiment's folder; the process's current one.
        name: Name of the job.
        threads: Threads of its computations; default: the environment's.

    Attributes:
        peak_rss_bytes: Largest sum of resident memory over the process and its children so far. Sampled, so a peak
            shorter than a sample may be missed; pages that processes share count in each.
    """

    def __init__(self, root: Path, name: str, threads: int | None = None) -> None:
        environment = dict(os.environ)
        # Jobs run in another folder: what was imported from the current one must be found there too.
        paths = [str(_PACKAGE_PARENT), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        environment.setdefault("TOKENIZERS_PARALLELISM", "false")
        if threads is not None:
            environment.update({key: str(threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")})
        self.peak_rss_bytes, self.started = 0, time.monotonic()
        self._tree: Any = None
        with (root / "jobs" / name / LOG_FILE).open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "toolscaler.experiments.worker", f"jobs/{name}"],
                cwd=root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """Measure memory; give the exit status, or ``None`` while it runs."""
        code = self.process.poll()
        if code is None:
            self.peak_rss_bytes = max(self.peak_rss_bytes, self._resident())
        return code

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def end(self) -> None:
        """End the process and its children."""
        if self.process.poll() is None:
            with contextlib.suppress(OSError):
                if hasattr(os, "killpg"):
                    os.killpg(self.process.pid, signal.SIGKILL)
                else:
                    self.process.kill()
            self.process.wait()

    def _resident(self) -> int:
        try:
            import psutil
        except ModuleNotFoundError:
            return 0
        total = 0
        with contextlib.suppress(psutil.Error):
            if self._tree is None:
                self._tree = psutil.Process(self.process.pid)
            for process in (self._tree, *self._tree.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    total += process.memory_info().rss
        return total
