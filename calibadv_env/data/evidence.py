"""What a dataset knows about the way to an answer: queries, entities and texts of the evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from calibadv_env.data.base import QATask
from calibadv_env.data.preparing.audit import chain_queries
from calibadv_env.data.preparing.gold import EVIDENCE
from calibadv_env.protocol.passages import Passage

SEARCH_KEYS: Final = "search_keys"
"""Key of a task's metadata: for each hop a query, or a list of wordings of one (StepSearch)."""

ENTITIES: Final = "entities"
"""Key of a task's metadata: names that a correct chain of reasoning comes past (E-GRPO)."""


def gold_queries(task: QATask) -> tuple[tuple[str, ...], ...]:
    """For each hop the wordings of a query that finds its evidence.

    Args:
        task: Any task.

    Returns:
        What stands under ``metadata["search_keys"]``; else one query a hop where the task has a
        chain, see :func:`calibadv_env.data.preparing.audit.chain_queries`; else nothing.
    """
    keys = task.metadata.get(SEARCH_KEYS)
    if keys:
        return tuple(
            (key,) if isinstance(key, str) else tuple(str(each) for each in key) for key in keys
        )
    return tuple((query,) for query in chain_queries(task))


def gold_entities(task: QATask) -> tuple[str, ...]:
    """Names that a correct chain of reasoning comes past, each once.

    Args:
        task: Any task.

    Returns:
        What stands under ``metadata["entities"]``; else what each fact of ``metadata["chain"]``
        leads to (what it starts from stands in the question or is led to before); else the
        titles of the evidence; else nothing.
    """
    metadata = task.metadata
    names: Iterable[str] = ()
    if metadata.get(ENTITIES):
        names = metadata[ENTITIES]
    elif metadata.get("chain"):
        names = [hop["object"] for hop in metadata["chain"]]
    elif metadata.get(EVIDENCE):
        names = [piece["title"] for piece in metadata[EVIDENCE]]
    return tuple(dict.fromkeys(str(name) for name in names))


def gold_texts(task: QATask, passage: Callable[[str], Passage]) -> tuple[str, ...]:
    """The texts of a task's gold evidence.

    Args:
        task: Any task.
        passage: Gives the passage of an id.

    Returns:
        For each hop with gold passages the title and the text of the first of them; for a hop
        without any the title and the sentences of its evidence, where the dataset names these.
    """
    evidence = task.metadata.get(EVIDENCE) or ()
    texts = []
    for hop, golds in enumerate(task.gold_passages or ((),) * len(evidence)):
        if golds:
            found = passage(golds[0])
            texts.append(f"{found.title} {found.text}")
        elif hop < len(evidence):
            sentences = evidence[hop].get("sentences") or ()
            texts.append(" ".join((evidence[hop]["title"], *sentences)))
    return tuple(texts)
