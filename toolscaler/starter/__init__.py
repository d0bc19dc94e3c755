"""The embedded default: a catalogue of callable tools with the queries that people ask them."""

from __future__ import annotations

from toolscaler.starter.queries import load_starter_queries
from toolscaler.starter.registry import PROVIDER, call_starter_tool, load_starter_documents, starter_function

__all__ = ["PROVIDER", "call_starter_tool", "load_starter_documents", "load_starter_queries", "starter_function"]
