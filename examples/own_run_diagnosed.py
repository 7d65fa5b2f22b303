"""How many correct searches did a run punish? A log of verl, read and counted.

    python own_run_diagnosed.py

ends with

    1 of 2 correct searches are punished
"""

import json
import tempfile
from pathlib import Path

from calibadv_algo.cli.diagnose import Diagnose


def rollout(query: str, titles: tuple[str, str], answer: str, score: float) -> dict:
    """One line as verl dumps it."""
    passages = "\n".join(f"Doc {i}(Title: {t}) Of {t}." for i, t in enumerate(titles, 1))
    output = (
        f"<think>I look for {query}.</think>\n<search>{query}</search>\n\n"
        f"<information>{passages}</information>\n\n<think>So {answer}.</think>\n"
        f"<answer>{answer}</answer>"
    )
    question = "Question: What is the capital of Morocco?"
    truth = {"target": ["Rabat"]}
    return {"input": question, "output": output, "gts": truth, "score": score, "step": 1}


lines = [
    rollout("capital of Morocco", ("Rabat", "Morocco"), "Rabat", 1.0),
    rollout("capital city Morocco", ("Rabat", "Morocco"), "Casablanca", 0.0),
    rollout("weather", ("Rain", "Snow"), "Tangier", 0.0),
]
with tempfile.TemporaryDirectory() as folder:
    log, counts = Path(folder, "1.jsonl"), Path(folder, "counts.json")
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    Diagnose(traces=(log,), output=Path(folder, "page.html"), json=counts).run()
    total = json.loads(counts.read_text())["total"]
print(f"{total['num_punished']} of {total['num_correct']} correct searches are punished")
