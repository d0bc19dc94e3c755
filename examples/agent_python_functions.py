"""An agent that calls Python functions, under a policy and with an audit log.

python examples/agent_python_functions.py "how many days are there between 2024-02-01 and 2024-03-01"
"""

from __future__ import annotations

import datetime
import tempfile
from pathlib import Path

from agent_model import make_parser, planner_for, show
from toolscaler.agent import AgentConfig, AuditLog, PythonExecutor, ToolAgent, ToolPolicy, read_audit


def days_between(start: datetime.date, end: datetime.date) -> int:
    """Count the days from one date to another.

    Args:
        start: First date.
        end: Second date.
    """
    return (end - start).days


def add_days(date: datetime.date, days: int) -> datetime.date:
    """Give the date some days later.

    Args:
        date: The date to begin with.
        days: Number of days.
    """
    return date + datetime.timedelta(days=days)


def delete_calendar(name: str) -> str:
    """Delete a calendar with all its entries.

    Args:
        name: Name of the calendar.
    """
    raise RuntimeError(f"{name}: the policy should have kept this from running")


def main() -> None:
    query = "how many days are there between 2024-02-01 and 2024-03-01"
    arguments = make_parser(__doc__ or "", query).parse_args()
    with (
        PythonExecutor([days_between, add_days, delete_calendar]) as executor,
        tempfile.TemporaryDirectory() as folder,
    ):
        log = Path(folder) / "audit.jsonl"
        agent = ToolAgent(
            planner_for(executor.documents(), arguments.model),
            executor,
            policy=ToolPolicy(deny=["delete_calendar"]),  # its code cannot be written, and it would not run
            config=AgentConfig(max_steps=3),
            audit=AuditLog(log),
        )
        show(agent.run(arguments.query, caller="example"))
        for record in read_audit(log):
            print(f"audit: {record.tool_id}: {record.outcome}")


if __name__ == "__main__":
    main()
