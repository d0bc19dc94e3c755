"""A source that changes by itself goes in, one sync for each of its changes comes out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Literal

from toolscaler.catalogue.catalogue import Confirm, ToolCatalogue
from toolscaler.catalogue.difference import DocumentSource
from toolscaler.catalogue.log import LogEntry
from toolscaler.errors import ToolscalerError

logger = logging.getLogger(__name__)


class CatalogueFollower:
    """Keeps a catalogue in step with a source that says when it has changed, such as an MCP server.

    Give :meth:`notify` to the source as its callback (``MCPExecutor(..., on_change=follower.notify)``), then call
    :meth:`run`. Notifications that come while a sync runs lead to one more sync, however many they are.

    Args:
        catalogue: The catalogue.
        confirm: See :meth:`ToolCatalogue.sync <toolscaler.catalogue.ToolCatalogue.sync>`; ``True`` takes over whatever
            the source says.
        on_entry: Called with the entry of each sync that changed something.
        **options: More arguments of :meth:`ToolCatalogue.sync <toolscaler.catalogue.ToolCatalogue.sync>`.
    """

    def __init__(
        self,
        catalogue: ToolCatalogue,
        *,
        confirm: Confirm | Literal[True],
        on_entry: Callable[[LogEntry], None] | None = None,
        **options: Any,
    ) -> None:
        self.catalogue = catalogue
        self._confirm: Confirm | Literal[True] = confirm
        self._on_entry, self._options = on_entry, options
        self._wake = threading.Event()
        self._stopped = threading.Event()

    def notify(self) -> None:
        """Say that the source has changed. May be called from any thread."""
        self._wake.set()

    def stop(self) -> None:
        """Let :meth:`run` return after the sync that is running."""
        self._stopped.set()
        self._wake.set()

    def run(self, source: DocumentSource, *, every: float | None = None) -> None:
        """Sync now, and again after each notification, until :meth:`stop`.

        A sync that fails (the server is gone, the code space is full) is logged; the next one is tried all the same.

        Args:
            source: What to list.
            every: Seconds after which to sync without a notification too, for servers that do not send any.
        """
        while not self._stopped.is_set():
            self._wake.clear()
            try:
                entry = self.catalogue.sync(source, confirm=self._confirm, **self._options)
            except ToolscalerError as error:
                logger.warning("the catalogue stays as it is: %s", error)
            else:
                if entry is not None and self._on_entry is not None:
                    self._on_entry(entry)
            if not self._stopped.is_set():
                self._wake.wait(every)
