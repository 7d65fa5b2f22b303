"""A folder of notes and a table of questions as an environment.

    python own_documents.py

prints

    What is the blue glaze made of?
    <information>Doc 1(Title: glaze) The blue glaze is made of cobalt and ash.</information>
    F1 1.0
"""

import tempfile
from pathlib import Path

import gymnasium

import calibadv

with tempfile.TemporaryDirectory() as folder:
    notes = Path(folder, "notes")
    notes.mkdir()
    (notes / "kiln.md").write_text("# Kiln\n\nThe kiln reaches 1,240 degrees on Tuesdays.\n")
    (notes / "glaze.txt").write_text("The blue glaze is made of cobalt and ash.\n")
    questions = Path(folder, "questions.csv")
    questions.write_text("question,answer\nWhat is the blue glaze made of?,cobalt and ash\n")

    calibadv.register_dataset("pottery", questions, corpus=notes)
    env = gymnasium.make("DeepSearch-Pottery-v1")
    _, info = env.reset(seed=0)
    print(info["question"])
    text, *_ = env.step("<think>I read my notes.</think><search>blue glaze</search>")
    print(text.strip())
    *_, info = env.step("<think>There.</think><answer>cobalt and ash</answer>")
    print("F1", info["f1"])
