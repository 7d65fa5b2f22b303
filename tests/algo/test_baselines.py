"""Every baseline: a sound description, valid settings, and two updates on the atlas."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import torch

from calibadv_algo.credit.labels import NoCredit
from calibadv_algo.experiments.baseline import Baseline, Kind
from calibadv_algo.learner.pretrained import load_policy
from calibadv_algo.rollout.tree_config import TreeSearch
from calibadv_algo.training.config import EvalConfig, TrainConfig, config_hash
from calibadv_algo.training.presets import ATLAS_TINY, PRESETS

FOLDER = Path(__file__).parents[2] / "baselines" / "calibadv_baselines"
SYSTEMS = {
    "a2tgpo",
    "calibadv",
    "cispo",
    "critic-search",
    "cw-grpo",
    "dapo",
    "dppo",
    "dr-grpo",
    "e-grpo",
    "fp16",
    "gagpo",
    "gdpo",
    "gigpo",
    "grpo",
    "grpo-dual-clip",
    "grpo-kl",
    "grpo-kl-reward",
    "grpo-sequence-mean",
    "grpo-tis",
    "grpo-turn-ratio",
    "gspo",
    "hcapo",
    "hgpo",
    "igpo",
    "llds",
    "llds-ma",
    "luspo",
    "max-rl",
    "mt-grpo",
    "mt-ppo",
    "optimal-token-baseline",
    "pica",
    "r1-searcher",
    "ragen-bilevel",
    "reinforce-pp",
    "reinforce-pp-baseline",
    "remax",
    "rloo",
    "search-r1-format",
    "search-r1-grpo",
    "search-r1-ppo",
    "search-sapo",
    "simpletir",
    "stamp",
    "starpo-s",
    "stepsearch",
    "tips",
    "tree-grpo",
    "triage",
    "turn-optimal-token-baseline",
    "vespo",
    "zerosearch",
}
"""What must be there besides CalibAdv's own ablations."""


def load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"baselines_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FILES = sorted(file for file in FOLDER.glob("*.py") if file.stem not in ("__init__", "no_training"))
MODULES = {file: load(file) for file in FILES}
BASELINES: dict[str, tuple[Path, Baseline]] = {
    baseline.name: (file, baseline)
    for file, module in MODULES.items()
    for baseline in vars(module).values()
    if isinstance(baseline, Baseline)
}

TINY = replace(
    ATLAS_TINY,
    rollout=replace(ATLAS_TINY.rollout, num_questions=4, group_size=4, num_slots=16),
    optim=replace(ATLAS_TINY.optim, num_updates=2),
    evaluation=EvalConfig(every=0),
    checkpoint_every=0,
    save_trajectories=False,
    quiet=True,
)


def test_every_system_is_there_under_one_name() -> None:
    assert set(BASELINES) >= SYSTEMS
    assert all(name.startswith("calibadv-") for name in set(BASELINES) - SYSTEMS)
    assert len([name for name in BASELINES if name.startswith("calibadv-")]) >= 10
    objects = [
        each
        for module in MODULES.values()
        for each in {id(v): v for v in vars(module).values() if isinstance(v, Baseline)}.values()
    ]
    assert len(objects) == len(BASELINES), "two systems share a name"


def test_a_baseline_says_whether_it_is_published() -> None:
    """Switches of CalibAdv's code and variants of GRPO are not passed off as published systems."""
    by_kind = {
        kind: {name for name, (_, each) in BASELINES.items() if each.kind == kind}
        for kind in get_args(Kind)
    }
    assert by_kind["switch"] == {name for name in BASELINES if name.startswith("calibadv-")}
    assert by_kind["variant"] == {"fp16"} | {n for n in BASELINES if n.startswith("grpo-")}
    assert len(by_kind["published"]) == len(BASELINES) - 17 - 7


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_a_system_describes_itself(name: str) -> None:
    file, baseline = BASELINES[name]
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert len(baseline.description) <= 90
    assert not baseline.description.endswith(".")
    assert re.search(r"arXiv \d{4}\.\d{5}\b", baseline.source)
    assert baseline.departures, "no code is a published system without a difference"
    for each in baseline.departures:
        assert len(each) > 20
        assert "\n" not in each
        assert not each.endswith(".")
    document = MODULES[file].__doc__ or ""
    for part in (
        "Source",
        "Made of",
        "Published settings",
        f"python -m calibadv_baselines.{file.stem}",
    ):
        if name not in ("calibadv", "grpo"):
            assert part in document, part
    assert MODULES[file].BASELINE.name in BASELINES


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_published_settings_are_those_of_large_runs(name: str) -> None:
    published = BASELINES[name][1].published
    assert isinstance(published, TrainConfig)
    assert published.model != "atlas-tiny"
    assert published.optim.lr <= 1e-5
    assert published.env.prompt in ("search_r1", "r1_searcher")


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_a_system_goes_on_any_settings(name: str) -> None:
    """Model, sizes and rates stay; twice is the same as once; the settings can be written."""
    baseline = BASELINES[name][1]
    for given in (*PRESETS.values(), TINY, replace(ATLAS_TINY, model="Qwen/other", seed=7)):
        if name == "calibadv-template" and given.model == "runs/warmstart-pages":
            with pytest.raises(ValueError, match="whose pieces of the tags are known"):
                baseline.apply(given)
            continue
        config = baseline.apply(given)
        assert baseline.apply(config) == config
        assert (config.model, config.seed) == (given.model, given.seed)
        assert config.optim.lr == given.optim.lr
        assert config.optim.num_updates == given.optim.num_updates
        assert config.rollout.num_questions == given.rollout.num_questions
        assert config.rollout.group_size == given.rollout.group_size
        assert (config.env.dataset, config.env.retriever) == (
            given.env.dataset,
            given.env.retriever,
        )
        assert config.env.prompt == given.env.prompt
        assert config.evaluation == given.evaluation
        assert len(config_hash(config)) == 16


def test_systems_differ_from_one_another() -> None:
    hashes: dict[str, str] = {}
    for name, (_, baseline) in sorted(BASELINES.items()):
        key = config_hash(baseline.apply(ATLAS_TINY))
        assert key not in hashes, f"{name} is {hashes[key]}"
        hashes[key] = name


def test_the_trees_have_as_many_leaves_as_a_group() -> None:
    trees_of = MODULES[FOLDER / "tree_grpo.py"].trees_of
    for size in range(2, 17):
        assert trees_of(size).group_size == size
    published = BASELINES["tree-grpo"][1].published.rollout.trees
    assert published == TreeSearch(num_trees=2, num_expansions=2, num_rounds=1, num_leaves=3)


def test_pieces_of_tags_belong_to_a_vocabulary() -> None:
    baseline = BASELINES["calibadv-template"][1]
    with pytest.raises(ValueError, match="model must have one of atlas, llama, qwen in its name"):
        baseline.apply(replace(ATLAS_TINY, model="my/model"))
    tokenizer = load_policy("atlas-tiny")[1]
    ids = baseline.apply(ATLAS_TINY).advantage.token_ids
    pieces = tokenizer.convert_ids_to_tokens(list(ids))
    assert pieces == [f"<{s}{t}>" for t in ("think", "search", "answer") for s in ("", "/")]


def test_what_needs_labels_has_a_judge() -> None:
    for name, (_, baseline) in BASELINES.items():
        config = baseline.apply(ATLAS_TINY)
        if config.advantage.needs_correctness:
            assert not isinstance(config.credit, NoCredit), name


@pytest.mark.parametrize("file", ["gigpo", "calibadv_ablations", "no_training"])
def test_a_file_is_a_command(file: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"calibadv_baselines.{file}", "--help"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    text = " ".join(done.stdout.split())
    if file != "no_training":
        assert MODULES[FOLDER / f"{file}.py"].BASELINE.description in text
        assert "--optim.num-updates" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BASELINES))
def test_a_system_trains_the_atlas_policy(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from calibadv_algo.cli.train import run_training
    from calibadv_algo.learner.pretrained import policy_path

    config = replace(BASELINES[name][1].apply(TINY), output_dir=tmp_path)
    result = run_training(config)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert result.num_updates == 2
    _check_metrics(rows)
    before = load_file(Path(policy_path("atlas-tiny")) / "model.safetensors")
    after = load_file(result.policy_dir / "model.safetensors")
    assert any(not torch.equal(before[key], after[key]) for key in before)
    assert all(torch.isfinite(value).all() for value in after.values())


@pytest.mark.slow
def test_zerosearch_trains_on_simulated_search(tmp_path: Path) -> None:
    """A script plays the language model that plays the search engine; it lies more and more."""
    from calibadv_algo.rollout.engines.hf.engine import HfEngine
    from calibadv_algo.rollout.slots import make_slots
    from calibadv_algo.training.collection import make_player
    from calibadv_algo.training.trainer import Trainer
    from calibadv_env.data.registry import get_dataset
    from calibadv_env.retrieval.remote.simulated import ScriptedWriter, SimulatedRetriever

    bm25 = get_dataset("atlas").retriever("bm25")
    shares: list[float] = []

    def write(prompt: str) -> str:
        query = prompt.split("Query: ")[1].split("\n")[0]
        found = bm25.search([query if "useful passages" in prompt else "river"], 3)[0]
        return "".join(f"Doc {k}: {hit.passage.text}\n" for k, hit in enumerate(found, start=1))

    retriever = SimulatedRetriever(writer=ScriptedWriter(write), num_steps=2, start=0.1, end=0.9)

    def before_update(done: int, num_updates: int) -> None:
        retriever.step = done
        shares.append(retriever.noise_probability())

    config = replace(BASELINES["zerosearch"][1].apply(TINY), output_dir=tmp_path)
    model, tokenizer = load_policy(config.model)
    slots = make_slots(config.env.env_id, 16, config.env.kwargs() | {"retriever": retriever})
    engine = HfEngine(model, tokenizer, max_slots=16, max_context=config.rollout.max_context)
    player = make_player(config, slots, engine, tokenizer)
    Trainer(config, model=model, player=player, before_update=before_update).train()
    slots.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    _check_metrics(rows)
    assert shares[0] == pytest.approx(0.1)
    assert shares[0] < shares[1] < 0.9


def _check_metrics(rows: list[dict[str, Any]]) -> None:
    updates = [row for row in rows if row["update"] > 0]
    assert len(updates) == 2
    for row in updates:
        for key, value in row.items():
            assert value is not None, key
            assert math.isfinite(value), key
    assert sum(row.get("trained_tokens", 0) for row in updates) > 0
    assert any(row.get("grad_norm", 0) > 0 for row in updates)
