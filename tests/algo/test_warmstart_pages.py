"""The warm start on pages: its tokenizer, its demonstrations, a few steps of cloning."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from calibadv_algo.cli.main import main
from calibadv_algo.cli.warmstart_pages import READER, page_episodes, pages_env, phrases
from calibadv_algo.learner.warmstart import train_tokenizer
from calibadv_env import get_dataset
from calibadv_env.protocol.page_actions import PAGE_TAG


def test_tags_and_sections_are_one_token_and_episodes_are_short() -> None:
    data = get_dataset("pages-linked")
    episodes = page_episodes(data, pages_env("pages-linked", "train", 2, 7, 160), READER, seed=0)
    played = list(islice(episodes(None), 40))
    texts = [PAGE_TAG.sub("", segment.text) for each in played for segment in each]
    tokenizer = train_tokenizer(texts, 2048, phrases(data.tasks("train")))
    for piece in ("<open>", "</find>", "#land-boundaries", "\nLinks: "):
        assert len(tokenizer.encode(piece)) == 1
    lengths = [sum(len(tokenizer.encode(s.text)) for s in each) for each in played]
    assert max(lengths) < 1024
    again = page_episodes(data, pages_env("pages-linked", "train", 2, 7, 160), READER, seed=0)
    assert list(islice(again(None), 5)) == played[:5]
    short = list(islice(episodes(1), 20))
    assert max(sum(s.kind == "action" for s in each) for each in short) <= 6


@pytest.mark.slow
def test_a_few_steps_write_a_policy_and_its_recipe(tmp_path: Path) -> None:
    flags = ["--dataset", "pages-linked", "--top-k", "2", "--max-turns", "7"]
    small = ["--shape.vocab-size", "1024", "--shape.num-layers", "1", "--shape.hidden-size", "32"]
    steps = ["--cloning.num-steps", "2", "--cloning.short-steps", "1", "--cloning.batch-size", "2"]
    folder = tmp_path / "policy"
    assert main(["warmstart", *flags, *small, *steps, "--output-dir", str(folder)]) == 0
    recipe = json.loads((folder / "recipe.json").read_text())
    assert recipe["reader"]["rename"] == READER.rename
    assert recipe["max_observation_chars"] == 160
    assert "searcher" not in recipe
    assert set(recipe["scores"]) == {"greedy", "sampled"}
