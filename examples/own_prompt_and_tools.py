"""Messages and tool calls in place of tags, with a prompt of your own.

    python own_prompt_and_tools.py

prints

    ['search', 'answer']
    Answer in one word. Use the tools.

    Question: Name the city served by Dekalb-Peachtree Airport.
    ['system', 'user', 'assistant', 'tool', 'assistant'] 1.0 True
"""

import gymnasium

import calibadv  # registers the ids
from calibadv_env.protocol.toolcalls import TOOLS
from calibadv_env.wrappers import ChatObservation, ToolCalls

PROMPT = "Answer in one word. Use the tools.\n\nQuestion: {question}"

env = gymnasium.make("DeepSearch-v1", split="train", prompt=PROMPT)
env = ChatObservation(ToolCalls(env), system="You are terse.")


def call(name: str, **arguments: str) -> dict:
    """An assistant's message with one tool call, as an OpenAI-compatible server gives it."""
    function = {"name": name, "arguments": arguments}
    tool_call = {"id": "call_1", "type": "function", "function": function}
    return {"role": "assistant", "content": "I go on.", "tool_calls": [tool_call]}


messages, info = env.reset(options={"task_index": 3})  # pass messages and TOOLS to your model
print([tool["function"]["name"] for tool in TOOLS])
print(messages[-1]["content"])
messages, *_ = env.step(call("search", query=info["gold_queries"][0][0]))
messages, reward, terminated, *_ = env.step(call("answer", answer=info["golden_answers"][0]))
print([message["role"] for message in messages], reward, terminated)
