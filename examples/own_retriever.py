"""A retriever of your own: any object with `search(queries, top_k)`.

    python own_retriever.py

prints

    <information>Doc 1(Title: Oslo) Oslo is the capital of Norway.
    Doc 2(Title: Stockholm) Stockholm is the capital of Sweden.</information>
"""

import gymnasium

import calibadv  # registers the ids
from calibadv_env.protocol.passages import Passage, ScoredPassage

PASSAGES = [
    Passage(id="1", title="Oslo", text="Oslo is the capital of Norway."),
    Passage(id="2", title="Bergen", text="Bergen is a harbour city in Norway."),
    Passage(id="3", title="Stockholm", text="Stockholm is the capital of Sweden."),
]


class Overlap:
    """Ranks passages by the number of words that they share with the query."""

    def search(self, queries: list[str], top_k: int) -> list[list[ScoredPassage]]:
        """The best passages of each query, best first; passages without a common word never."""
        found = []
        for query in queries:
            words = set(query.lower().split())
            scored = [
                ScoredPassage(each, float(len(words & set(each.text.lower().rstrip(".").split()))))
                for each in PASSAGES
            ]
            hits = sorted((each for each in scored if each.score), key=lambda each: -each.score)
            found.append(hits[:top_k])
        return found


task = {"question": "What is the capital of Norway?", "golden_answers": ["Oslo"]}
calibadv.register_dataset("north", [task], corpus=PASSAGES)
env = gymnasium.make("DeepSearch-North-v1", retriever=Overlap(), top_k=2)
env.reset(seed=0)
text, *_ = env.step("<think>I look it up.</think><search>capital of norway</search>")
print(text.strip())
