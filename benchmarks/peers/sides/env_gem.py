"""GEM's question environment with its search tool, whose call of the server is answered at once."""

from __future__ import annotations

import sys
import types
from typing import Any

# The environment imports the package `datasets` for its rows alone; a list of rows will do here.
stand_in: Any = types.ModuleType("datasets")


class _Rows(list[dict[str, str]]):
    def map(self, function: Any, **_: Any) -> _Rows:
        return _Rows(function(dict(row)) for row in self)

    def shuffle(self, **_: Any) -> _Rows:
        return self


stand_in.Dataset, stand_in.DatasetDict = _Rows, type("DatasetDict", (dict,), {})
stand_in.load_dataset = None
sys.modules["datasets"] = stand_in

from gem.envs.qa_env import QaEnv  # noqa: E402
from gem.tools.search_tool import SearchTool  # noqa: E402
from gem.tools.tool_env_wrapper import ToolEnvWrapper  # noqa: E402

from benchmarks.peers.sides.actions import (  # noqa: E402
    NUM_QUESTIONS,
    answer,
    episode,
    found,
    question,
)
from benchmarks.peers.worker import Turns  # noqa: E402


class _Tool(SearchTool):  # type: ignore[misc]
    calls = 0

    def _search(self, query: str) -> str:
        del query
        self.calls += 1
        documents = [{"document": {"contents": f"{t}\n{x}"}} for t, x in found(self.calls)]
        return str(self._passages2string(documents))


def run(options: dict[str, Any], turns: Turns) -> None:
    """Plays episodes one by one."""
    rows = _Rows({"question": question(n), "answer": answer(n)} for n in range(NUM_QUESTIONS))
    env = ToolEnvWrapper(QaEnv(dataset=rows), [_Tool(search_url="-")], max_tool_uses=99)
    episodes = [episode(n, options["searches"]) for n in range(options["episodes"])]

    def work() -> int:
        steps = 0
        for actions in episodes:
            env.reset()
            for action in actions:
                done = env.step(action)[2]
                steps += 1
            assert done
        return steps

    turns.repeat({"": work})
