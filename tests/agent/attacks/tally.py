"""Counts of an attack: how often it was tried, and what got through."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass
class Tally:
    """The count of one attack. The goal is that nothing gets through."""

    name: str
    tried: int = 0
    through: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def saw(self, safe: bool, what: object) -> None:
        """Count one try; ``what`` describes it where it got through."""
        with self._lock:
            self.tried += 1
            if not safe:
                self.through.append(str(what)[:400])
