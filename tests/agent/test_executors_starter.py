"""Contract: the starter's executor shows exactly what the starter's trajectories show."""

from __future__ import annotations

import pytest

from toolscaler.agent.executors.starter import StarterExecutor
from toolscaler.errors import UnknownToolError
from toolscaler.starter import load_starter_documents, load_starter_tasks


def test_results_are_those_of_the_trajectories():
    with StarterExecutor() as executor:
        assert [document.id for document in executor.documents()] == [d.id for d in load_starter_documents()]
        seen = 0
        for task in load_starter_tasks("test")[::4]:
            if task.breaks_schema:
                continue
            with task.workspace():
                for call in task.calls:
                    result = executor.call(call.tool, call.arguments)
                    assert (result.content, result.is_error) == (call.feedback, call.is_error)
                    seen += call.is_error
        assert seen  # refusals were among them


def test_some_tools_only():
    with StarterExecutor(["starter/add_days", "starter/add_days"]) as executor:
        assert [document.id for document in executor.documents()] == ["starter/add_days"]
        assert executor.call("starter/morse_code", {"text": "a"}).error_type == "unknown_tool"
    with pytest.raises(UnknownToolError, match="add_days"):
        StarterExecutor(["starter/add_day"])
