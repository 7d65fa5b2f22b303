"""Scripted readers of pages: led by what they are shown, and renamed for cloning."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from calibadv_env import get_dataset
from calibadv_env.demonstrations import Segment
from calibadv_env.page_demonstrations import (
    ORACLE,
    PageDemonstrator,
    ReaderConfig,
    play_readers,
    renamed,
)
from calibadv_env.pages.vector import DeepSearchPagesVectorEnv

NAMES = {"Norway": "norway", "Guinea": "guinea", "Guinea-Bissau": "guinea-bissau", "Chad": "chad"}


@pytest.fixture(scope="module")
def env() -> DeepSearchPagesVectorEnv:
    options = {"prompt": "question", "top_k": 2, "max_turns": 7, "max_observation_chars": 160}
    return DeepSearchPagesVectorEnv(16, dataset="pages-linked", split="dev", **options)


def test_the_oracle_is_led_and_reads_on_where_a_section_is_cut(env) -> None:
    data = get_dataset("pages-linked")
    tasks = data.tasks("dev")
    played = play_readers(env, tasks, data.corpus(), range(48), ORACLE)
    led = [each for each in played if each.is_led]
    assert len(led) > 36
    assert {each.reward for each in played} == {1.0}
    for task, each in zip(tasks, played, strict=False):
        shown = "".join(s.text for s in each.demonstration if s.kind == "observation")
        if each.is_led and task.metadata["kind"] == "linked":
            assert task.golden_answers[-1] in shown
    texts = [segment.text for each in played for segment in each.demonstration]
    assert any(text.startswith("<think> read on</think>") for text in texts)


def test_demonstrations_leave_out_what_nothing_led_to(env) -> None:
    data = get_dataset("pages-linked")
    demonstrator = PageDemonstrator(
        env,
        data.tasks("dev"),
        data.corpus(),
        config=ReaderConfig(),
        rng=np.random.default_rng(0),
    )
    episodes = list(islice(demonstrator.stream(max_hops=2), 40))
    assert demonstrator.num_left_out > 0
    assert all(episode[-1].text.startswith("<think> found") for episode in episodes)
    assert all(sum(segment.kind == "action" for segment in each) <= 8 for each in episodes)


def test_pages_are_renamed_throughout() -> None:
    episode = (
        Segment("What is the area of Guinea-Bissau, beside Guinea?", "prompt"),
        Segment("<open> guinea-bissau#area</open>", "action"),
        Segment("guinea-bissau#area\n1 km; Guinea 2 km\nLinks: guinea", "observation"),
    )
    found = renamed(episode, NAMES, 1.0, np.random.default_rng(0))
    text = "".join(segment.text for segment in found)
    assert "uinea" not in text
    new = "Norway" if "of Norway" in text else "Chad"
    other = {"Norway": "Chad", "Chad": "Norway"}[new]
    assert found[1].text == f"<open> {new.lower()}#area</open>"
    assert found[2].text == f"{new.lower()}#area\n1 km; {other} 2 km\nLinks: {other.lower()}"
    assert renamed(episode, NAMES, 0.0, np.random.default_rng(0)) == episode
