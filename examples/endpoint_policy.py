"""A model behind an OpenAI-compatible endpoint plays an episode with tool calls.

    MODEL_URL=http://127.0.0.1:8000/v1 MODEL=my-model python endpoint_policy.py

prints the tool calls and the reward, such as

    search {'query': 'Dekalb-Peachtree Airport'}
    answer {'answer': 'Atlanta'}
    reward 1.0
"""

import json
import os

import gymnasium
import httpx

import calibadv  # registers the ids
from calibadv_env.protocol.toolcalls import TOOL_PROMPT, TOOLS
from calibadv_env.wrappers import ChatObservation, ToolCalls

client = httpx.Client(
    base_url=os.environ["MODEL_URL"].rstrip("/") + "/",
    headers={"Authorization": f"Bearer {os.environ.get('MODEL_KEY', 'none')}"},
    timeout=120,
)
env = ChatObservation(ToolCalls(gymnasium.make("DeepSearch-v1", prompt=TOOL_PROMPT)))
messages, info = env.reset(options={"task_index": 3})
is_done = False
while not is_done:
    request = {"model": os.environ["MODEL"], "messages": messages, "tools": TOOLS}
    reply = client.post("chat/completions", json=request).raise_for_status().json()
    message = reply["choices"][0]["message"]
    for call in message.get("tool_calls") or ():
        function = call["function"]
        print(function["name"], json.loads(function["arguments"]))
    messages, reward, terminated, truncated, info = env.step(message)
    is_done = terminated or truncated
print("reward", reward)
