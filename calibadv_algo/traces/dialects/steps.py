"""Steps of agents: a thought, a call and its result in one object.

So log smolagents (memory steps), BrowseComp-Plus (``tool_call`` with ``output``), LangChain's
``intermediate_steps`` and many agents of their own make.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final

from calibadv_algo.traces.base import Call
from calibadv_algo.traces.calls import calls_in_code, read_call
from calibadv_algo.traces.conversation import Dialect, Message, text_of_parts

_THOUGHTS: Final = ("thought", "reasoning", "think", "thinking", "log", "model_output", "plan")
_TOOLS: Final = ("tool_name", "tool", "action", "function_name", "function")
_RESULTS: Final = ("observation", "observations", "output", "tool_output", "tool_result", "result",
                   "tool_response", "response", "results")  # fmt: skip
_INPUTS: Final = ("arguments", "args", "tool_input", "action_input", "input", "parameters", "query")


class Steps(Dialect):
    """Objects with the name of a tool, what it was given and what came back."""

    name: ClassVar[str] = "steps"
    rank: ClassVar[int] = 5

    def speaks(self, message: Mapping[str, Any]) -> bool:
        """True for a step, or a text or a thought between steps."""
        if "role" in message or "from" in message:
            return False
        if message.get("type") in ("output_text", "reasoning", "text", "thought") and any(
            key in message for key in ("output", "text", "content")
        ):
            return True
        has_tool = any(isinstance(message.get(key), str | Mapping) for key in _TOOLS)
        has_result = any(message.get(key) is not None for key in _RESULTS)
        return (has_tool and (has_result or any(key in message for key in _INPUTS))) or _is_memory(
            message
        )

    def read(self, message: Mapping[str, Any]) -> Iterator[Message]:
        """What the assistant said or called, and what came back."""
        kind = message.get("type")
        if _is_memory(message):
            yield from _memory(message)
        elif kind in ("output_text", "text"):
            yield Message(
                role="assistant",
                text=_shown(message, ("output", "text", "content")),
                continues=True,
            )
        elif kind in ("reasoning", "thought"):
            text = _shown(message, ("output", "text", "content"))
            yield Message(role="assistant", reasoning=text, continues=True)
        else:
            yield Message(
                role="assistant",
                reasoning=_shown(message, _THOUGHTS),
                calls=(_call(message),),
                continues=True,
            )
            result = _shown(message, _RESULTS)
            if result:
                yield Message(role="tool", text=result)


def _call(message: Mapping[str, Any]) -> Call:
    tool = next(message[key] for key in _TOOLS if isinstance(message.get(key), str | Mapping))
    if isinstance(tool, Mapping):
        return read_call(tool)
    given: Any = next((message[key] for key in _INPUTS if message.get(key) is not None), {})
    return read_call({"name": tool, "arguments": given})


def _is_memory(message: Mapping[str, Any]) -> bool:
    """True for a memory step of smolagents."""
    if "system_prompt" in message:
        return len(message) <= 2
    if "task" in message and set(message) <= {"task", "task_images", "type"}:
        return True
    is_step = any(key in message for key in ("step_number", "step", "model_output"))
    return is_step and any(
        key in message for key in ("model_output", "observations", "action_output")
    )


def _memory(message: Mapping[str, Any]) -> Iterator[Message]:
    if "system_prompt" in message:
        yield Message(role="system", text=text_of_parts(message["system_prompt"]))
        return
    if "task" in message and "model_output" not in message:
        yield Message(role="user", text=text_of_parts(message["task"]))
        return
    said = text_of_parts(message.get("model_output"))
    calls = [
        read_call(call) for call in message.get("tool_calls") or () if isinstance(call, Mapping)
    ]
    written = calls_in_code(said) or calls_in_code(
        f"<code>{message.get('code_action') or ''}</code>"
    )
    is_code = not calls or all(call.name == "python_interpreter" for call in calls)
    chosen = written if is_code and written else tuple(calls)
    yield Message(role="assistant", text=said, calls=chosen)
    result = _shown(message, ("observations", "observation", "action_output", "error"))
    if result:
        yield Message(role="tool", text=result)


def _shown(message: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """The first of several fields as text."""
    value = next((message[key] for key in keys if message.get(key) not in (None, "")), None)
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        return "\n".join(value)
    parts = text_of_parts(value) if isinstance(value, list) else ""
    return parts or json.dumps(value, ensure_ascii=False, default=str)


DIALECTS = (Steps(),)
