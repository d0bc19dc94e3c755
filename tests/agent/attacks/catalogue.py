"""Every attack: name -> function of a count and a seed, how often a test tries it, and how often a benchmark does."""

from __future__ import annotations

from collections.abc import Callable

from agent.attacks import documents, hosts, injection, policies, schemas, starter_files, tokens
from agent.attacks.tally import Tally

#: Name -> (attack, tries of a test, tries of a benchmark).
ATTACKS: dict[str, tuple[Callable[..., Tally], int, int]] = {
    "injection": (injection.behaviour, 300, 10_000),
    "tokens": (tokens.tokens, 8, 2_000),
    "lookalike ids": (documents.near_names, 110, 1_100),
    "lookalike ids by code": (documents.near_names_by_code, 8, 400),
    "take over": (documents.take_over, 8, 800),
    "rug pull": (documents.rug_pull, 72, 7_200),
    "rug pull by MCP": (hosts.mcp_rug_pull, 5, 200),
    "schema bombs": (schemas.bombs, 20, 560),
    "fuzz": (schemas.fuzz, 6, 2_000),
    "paths": (starter_files.traversal, 200, 10_000),
    "requests": (hosts.requests, 60, 2_000),
    "addresses": (hosts.addresses, 22, 220),
    "redirecting MCP": (hosts.redirecting_mcp, 1, 50),
    "functions": (hosts.functions, 26, 520),
    "functions in processes": (hosts.in_processes, 4, 60),
    "MCP servers": (hosts.servers, 4, 150),
    "races": (policies.races, 6, 300),
    "audit": (policies.audit_that_fails, 10, 500),
    "secrets": (policies.secrets, 90, 2_700),
    "crosstalk": (policies.crosstalk, 200, 200),
}
