"""A loop of OpenAI messages: the agent only says what to call, the loop runs it. A drop-in for a chat model.

python examples/agent_messages_loop.py "what is 17 times 23"
"""

from __future__ import annotations

import json

from agent_model import make_parser, planner_for
from toolscaler.agent import PythonExecutor, ToolAgent

MAX_STEPS = 3


def multiply(a: int, b: int) -> int:
    """Multiply two whole numbers."""
    return a * b


def largest(numbers: list[int]) -> int:
    """Give the largest of some whole numbers."""
    return max(numbers)


def main() -> None:
    arguments = make_parser(__doc__ or "", "what is 17 times 23").parse_args()
    functions = {"multiply": multiply, "largest": largest}
    with PythonExecutor(functions.values()) as executor:
        agent = ToolAgent(planner_for(executor.documents(), arguments.model), executor)
        tools = {name: tool for tool, name in agent.function_names().items()}  # names in messages are the API's
        messages: list[dict] = [{"role": "user", "content": arguments.query}]
        for _ in range(MAX_STEPS):
            message = agent.chat(messages)  # where a client of a chat model would be asked
            messages.append(message)
            for call in message.get("tool_calls", ()):
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": run(functions, tools, call)})
            if not message.get("tool_calls"):
                break
    for message in messages:
        print(json.dumps(message))


def run(functions: dict, tools: dict, call: dict) -> str:
    """Run one call, as such loops do; the arguments are sure to fit the function's schema."""
    try:
        return str(functions[tools[call["function"]["name"]]](**json.loads(call["function"]["arguments"])))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
