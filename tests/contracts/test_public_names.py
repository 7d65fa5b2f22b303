"""What `import calibadv_env` gives: names, ids, and nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest

import calibadv_env

ROOT = Path(__file__).parents[2]

PUBLIC = {
    "STOP_STRINGS",
    "CalibadvEnvError",
    "DataError",
    "Dataset",
    "MissingDependencyError",
    "ResetInfo",
    "RetrieverError",
    "StepInfo",
    "get_dataset",
    "list_datasets",
    "register_dataset",
    "register_envs",
}
IDS = {
    "DeepSearch-v1": {},
    "DeepSearch-Atlas-v1": {"dataset": "atlas"},
    "DeepSearch-AtlasWiki-v1": {"dataset": "atlas-wiki"},
    "DeepSearch-AtlasFair-v1": {"dataset": "atlas-fair"},
    "DeepSearch-AtlasNoisy-v1": {"dataset": "atlas-noisy"},
    "DeepSearch-AtlasHomonyms-v1": {"dataset": "atlas-homonyms"},
    "DeepSearch-AtlasReworded-v1": {"dataset": "atlas-reworded"},
    "DeepSearch-AtlasLong-v1": {"dataset": "atlas-long", "max_turns": 8},
    "DeepSearch-AtlasOpen-v1": {"dataset": "atlas-open", "reward": "abstain"},
    "DeepSearch-Toy-v1": {"dataset": "toy"},
}
PAGES_ID = "DeepSearch-Pages-v0"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT
    )


def test_public_names_are_these_and_exist() -> None:
    assert set(calibadv_env.__all__) == PUBLIC
    assert len(calibadv_env.__all__) == len(PUBLIC)
    for name in PUBLIC:
        assert getattr(calibadv_env, name) is not None
    namespace: dict[str, object] = {}
    exec("from calibadv_env import *", namespace)
    assert set(namespace) - {"__builtins__"} == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_documented(name: str) -> None:
    value = getattr(calibadv_env, name)
    assert isinstance(value, tuple) or (value.__doc__ or "").strip()


def test_importing_registers_the_ids() -> None:
    done = run(
        "import calibadv_env, gymnasium\n"
        f"for env_id in {list(IDS)!r}:\n"
        "    spec = gymnasium.spec(env_id)\n"
        "    print(spec.entry_point, spec.vector_entry_point, spec.kwargs)"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"calibadv_env.env:DeepSearchEnv calibadv_env.vector:DeepSearchVectorEnv {kwargs}"
        for kwargs in IDS.values()
    ]


def test_importing_registers_the_environment_of_pages() -> None:
    done = run(
        "import calibadv_env, gymnasium\n"
        f"spec = gymnasium.spec({PAGES_ID!r})\n"
        "print(spec.entry_point, spec.vector_entry_point, spec.kwargs)"
    )
    assert done.stdout.split() == [
        "calibadv_env.pages.env:DeepSearchPagesEnv",
        "calibadv_env.pages.vector:DeepSearchPagesVectorEnv",
        "{}",
    ]


@pytest.mark.parametrize(
    "lines",
    [
        "import calibadv_env\nenv = gymnasium.make('DeepSearch-Toy-v1')",
        "env = gymnasium.make('calibadv_env:DeepSearch-v1', dataset='toy')",
        "import calibadv_env\nenv = gymnasium.make('DeepSearch-v1', dataset='toy', split='dev')",
    ],
)
def test_making_an_environment_takes_an_import_and_no_more(lines: str) -> None:
    done = run(f"import gymnasium, sys\n{lines}\nprint(env.reset(seed=0)[0])\nenv.close()")
    assert (done.returncode, done.stderr) == (0, "")
    assert "<think>" in done.stdout
    assert "Question: " in done.stdout


def test_a_vector_environment_can_be_made_from_the_module_alone() -> None:
    done = run(
        "import gymnasium\n"
        "env = gymnasium.make_vec('calibadv_env:DeepSearch-v1', num_envs=2, dataset='toy',\n"
        "                         vectorization_mode='vector_entry_point')\n"
        "print(len(env.reset(seed=0)[0]), type(env).__name__)"
    )
    assert (done.stdout.split(), done.stderr) == (["2", "DeepSearchVectorEnv"], "")


def test_registering_again_changes_nothing() -> None:
    before = {env_id: gymnasium.spec(env_id) for env_id in IDS}
    calibadv_env.register_envs()
    assert all(gymnasium.spec(env_id) is spec for env_id, spec in before.items())


def test_every_built_in_dataset_has_an_id() -> None:
    assert {"atlas", "atlas-wiki", "pages", "toy"} <= set(calibadv_env.list_datasets())
    for options in IDS.values():
        assert options.get("dataset", "atlas") in calibadv_env.list_datasets()
