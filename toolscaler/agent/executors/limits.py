"""Limits of one executor: time, sizes, schema checks and retries."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, fields

from toolscaler.errors import ConfigError


@dataclass(frozen=True)
class RetryPolicy:
    """When a failed call is tried again. Only idempotent calls are: others may have had their effect already.

    The wait before try n + 1 is drawn evenly from 0 to ``min(max_delay, base_delay * 2 ** (n - 1))`` (full jitter), so
    that many agents do not return at the same moment. A server's Retry-After is the least wait, up to ``max_delay``.

    Attributes:
        max_attempts: Tries in all, at least 1.
        base_delay: First upper bound of the wait, in seconds.
        max_delay: Highest upper bound of the wait, in seconds.

    Raises:
        ConfigError: A value is out of range.
    """

    max_attempts: int = 3
    base_delay: float = 0.2
    max_delay: float = 5.0

    def __post_init__(self) -> None:
        if not _is_whole(self.max_attempts) or self.max_attempts < 1:
            raise ConfigError("retry.max_attempts", self.max_attempts, "a whole number of at least 1")
        for name in ("base_delay", "max_delay"):
            value = getattr(self, name)
            if not _is_number(value) or value < 0:
                raise ConfigError(f"retry.{name}", value, "seconds, at least 0")

    def delay(self, attempts: int, least: float = 0.0) -> float:
        """Give the seconds to wait after ``attempts`` failed tries, at least ``least`` (but at most ``max_delay``)."""
        bound = min(self.max_delay, self.base_delay * 2.0 ** min(attempts - 1, 60))
        return max(random.uniform(0.0, bound), min(least, self.max_delay))


@dataclass(frozen=True)
class ExecutorLimits:
    """What a call may cost. The defaults suit tools whose results a model shall read.

    Attributes:
        timeout: Time limit of a call in seconds, retries included, where the call names none.
        max_argument_bytes: Longest arguments, as JSON in UTF-8 bytes.
        max_result_bytes: Longest result, in UTF-8 bytes (HTTP: after unpacking).
        max_depth: Deepest nesting of arguments and schemas.
        max_schema_bytes: Longest schema of a tool's arguments, as JSON in UTF-8 bytes.
        max_check_steps: Most keyword evaluations when arguments are checked against the schema.
        max_check_seconds: Longest time for that check, in seconds; each regular expression may take a tenth of it.
        retry: When a failed idempotent call is tried again.

    Raises:
        ConfigError: A value is out of range.
    """

    timeout: float = 30.0
    max_argument_bytes: int = 1_000_000
    max_result_bytes: int = 1_000_000
    max_depth: int = 64
    max_schema_bytes: int = 1_000_000
    max_check_steps: int = 100_000
    max_check_seconds: float = 2.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    def __post_init__(self) -> None:
        check_timeout(self.timeout, "limits.timeout")
        check_timeout(self.max_check_seconds, "limits.max_check_seconds")
        for item in fields(self):
            value = getattr(self, item.name)
            if item.type == "int" and (not _is_whole(value) or value < 1):
                raise ConfigError(f"limits.{item.name}", value, "a whole number of at least 1")
        if self.max_depth > 200:  # deeper, Python's own recursion limit could speak first
            raise ConfigError("limits.max_depth", self.max_depth, "at most 200")
        if not isinstance(self.retry, RetryPolicy):
            raise ConfigError("limits.retry", self.retry, "a RetryPolicy")


def check_timeout(value: object, key: str = "timeout") -> float:
    """Give a time limit in seconds, or refuse it.

    Raises:
        ConfigError: It is not a finite number above 0.
    """
    if not _is_number(value) or value <= 0:  # type: ignore[operator]
        raise ConfigError(key, value, "seconds, more than 0")
    return float(value)  # type: ignore[arg-type]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
