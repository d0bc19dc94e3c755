"""Content keys in, stored answers out: what a paid or slow model said once is not asked again."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from toolscaler.errors import ArtifactError

#: Version of the layout of a cache file that this library writes and reads.
FORMAT_VERSION = 1
# Seconds to wait for another process that writes.
_WAIT = 30.0


def content_key(*parts: object) -> str:
    """Give the SHA-256 (hex) of plain JSON data: equal parts, equal key.

    Raises:
        TypeError: A part is no JSON data.
    """
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class ContentCache:
    """A table of keys and bytes, in one SQLite file or in memory; any number of threads and processes may share it.

    Writes are transactions: a kill at any moment leaves all of a :meth:`put`, or nothing of it.

    Args:
        path: The file; made where there is none. ``None``: in memory, for as long as this object lives.

    Raises:
        ArtifactError: The file is no cache of this library, of a newer version, or cannot be opened.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._lock = threading.Lock()
        try:
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._table = sqlite3.connect(
                ":memory:" if self.path is None else self.path, timeout=_WAIT, check_same_thread=False
            )
            version = self._table.execute("PRAGMA user_version").fetchone()[0]
            tables = {row[0] for row in self._table.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            self._check(version, tables)
            if not tables:  # another process may be making it too
                with self._table:
                    self._table.execute(
                        "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value BLOB NOT NULL)"
                    )
                    self._table.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        except (sqlite3.Error, OSError) as error:
            raise ArtifactError(f"expected a cache of answers or a place for one, got: {error}", path=path) from error

    def _check(self, version: int, tables: set[str]) -> None:
        if version > FORMAT_VERSION:
            raise ArtifactError(
                f"expected a cache of version {FORMAT_VERSION} at most, got {version}; update toolscaler, or name "
                "another file",
                path=self.path,
            )
        if tables - {"answers"} or (tables and not version):
            raise ArtifactError("expected a cache of answers, got another SQLite file; name another", path=self.path)

    def get(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Give what is stored of some keys.

        Raises:
            ArtifactError: The file is damaged.
        """
        found = {}
        try:
            with self._lock:
                for key in dict.fromkeys(keys):
                    row = self._table.execute("SELECT value FROM answers WHERE key = ?", (key,)).fetchone()
                    if row is not None:
                        found[key] = bytes(row[0])
        except sqlite3.Error as error:
            raise self._damaged(error) from error
        return found

    def put(self, answers: Mapping[str, bytes]) -> None:
        """Store answers; of a key that is there already the new one counts.

        Raises:
            ArtifactError: The file cannot be written.
        """
        try:
            with self._lock, self._table:
                self._table.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", answers.items())
        except sqlite3.Error as error:
            raise self._damaged(error) from error

    def __len__(self) -> int:
        with self._lock:
            return int(self._table.execute("SELECT COUNT(*) FROM answers").fetchone()[0])

    def close(self) -> None:
        """Close the file. May be called twice."""
        with self._lock:
            self._table.close()

    def _damaged(self, error: Exception) -> ArtifactError:
        return ArtifactError(f"the cache cannot be read or written ({error}); delete it to begin anew", path=self.path)
