"""Parts by name: found in their packages or in anybody's module, put into settings, listed."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from calibadv_algo import advantages
from calibadv_algo.advantages.base import AdvantageEstimator, spread
from calibadv_algo.advantages.calibadv import CalibAdv
from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.advantages.rloo import Rloo
from calibadv_algo.advantages.template import TemplateBalanced
from calibadv_algo.cli.compare import compare
from calibadv_algo.cli.main import main, parse
from calibadv_algo.credit.base import CreditRule
from calibadv_algo.credit.judges import JudgeCredit, LlmJudge
from calibadv_algo.credit.labels import GoldCredit, InvertedCredit, NoCredit
from calibadv_algo.credit.relevance import CrossEncoder
from calibadv_algo.credit.roles import LlmRoles, RoleCredit
from calibadv_algo.credit.silver import SilverCredit
from calibadv_algo.experiments.arms import ARMS, Arm
from calibadv_algo.experiments.baseline import baseline_names
from calibadv_algo.experiments.compare import (
    CompareConfig,
    as_algorithm,
    check_output_dir,
    plan_jobs,
    write_comparison,
)
from calibadv_algo.experiments.jobs import ComparisonError, check_importable
from calibadv_algo.losses.base import MismatchCorrection, PolicyObjective
from calibadv_algo.losses.clipped import ClippedSurrogate
from calibadv_algo.losses.gspo import Gspo
from calibadv_algo.losses.llds import Llds
from calibadv_algo.losses.mismatch import TokenTis
from calibadv_algo.rollout.tree_config import TreeSearch
from calibadv_algo.shaping.base import GroupFilter, LossMask, RewardShaping
from calibadv_algo.shaping.filters import DynamicSampling, OverlongMask, RewardStdFilter
from calibadv_algo.shaping.relevance import RelevanceReward
from calibadv_algo.shaping.turns import MalformedPenalty
from calibadv_algo.training.config import TrainConfig, config_to_dict
from calibadv_algo.training.parts import KINDS, describe_parts, find_part, find_parts, part_name
from calibadv_algo.training.presets import ATLAS_TINY
from calibadv_algo.types import Group, group_rewards, token_counts

ROOT = Path(__file__).parents[2]

BASES = {
    "advantage": AdvantageEstimator,
    "credit": CreditRule,
    "objective": PolicyObjective,
    "mismatch": MismatchCorrection,
    "filter": GroupFilter,
    "shaping": RewardShaping,
    "loss-mask": LossMask,
}

OWN = """
    from dataclasses import dataclass
    from calibadv_algo.advantages.base import AdvantageEstimator, outcomes

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Scaled(AdvantageEstimator):
        '''Rewards times a factor.'''

        factor: float
        shift: float = 0.0

        def __call__(self, group, correctness):
            return self.factor * (outcomes(group, correctness) - self.shift)

    class NotOne:
        pass
"""


class Doubled(AdvantageEstimator):
    """Twice the reward."""

    def __call__(self, group: Group, correctness: np.ndarray) -> np.ndarray:
        return spread(2 * group_rewards(group), token_counts(group))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module in the working directory, which is not on the path."""
    name = f"own_parts_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(OWN), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def config_of(*arguments: str) -> TrainConfig:
    config: TrainConfig = parse("train", arguments).config
    return config


# Names


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_is_found_by_its_name_and_described(kind: str) -> None:
    rows = describe_parts(kind)
    assert len({name for name, _, _ in rows}) == len(rows) >= 2
    for name, line, module in rows:
        assert len(line) > 10, name
        assert "`" not in line
        for spelling in (name, name.replace("-", "_")):
            assert find_part(BASES[kind], spelling).__module__ == module


def test_names_are_those_of_arms_and_baselines_where_there_are_such() -> None:
    estimators = find_parts(AdvantageEstimator)
    assert estimators["calibadv"] is CalibAdv
    known = {*ARMS, *baseline_names()}
    assert {"grpo", "calibadv", "soft-penalty", "rebalance", "rloo", "gigpo"} <= known & {
        *estimators
    }
    assert part_name(SilverCredit) == "silver"
    assert part_name(NoCredit) == "none"
    assert "group-relative" not in estimators


def test_a_new_file_in_the_room_is_all_that_a_new_part_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fresh.py").write_text(
        textwrap.dedent(OWN).replace("Scaled", "FreshIdea"), encoding="utf-8"
    )
    monkeypatch.setattr(advantages, "__path__", [*advantages.__path__, str(tmp_path)])
    assert find_part(AdvantageEstimator, "fresh-idea").__name__ == "FreshIdea"
    monkeypatch.delitem(sys.modules, "calibadv_algo.advantages.fresh")


def test_a_base_class_of_ones_own_has_the_parts_of_its_module(own: str, tmp_path: Path) -> None:
    source = (tmp_path / f"{own}.py").read_text(encoding="utf-8") + textwrap.dedent("""
        from abc import ABC, abstractmethod
        from dataclasses import field
        from calibadv_env.common.checks import Checked

        class Rule(Checked, ABC):
            @abstractmethod
            def __call__(self): ...

        @dataclass(frozen=True, slots=True, kw_only=True)
        class Mild(Rule):
            def __call__(self): ...

        @dataclass(frozen=True, slots=True, kw_only=True)
        class Harsh(Rule):
            level: int = 1
            def __call__(self): ...

        @dataclass(frozen=True, slots=True, kw_only=True)
        class Ruled(Scaled):
            rule: Rule = field(default_factory=Mild)
    """)
    (tmp_path / f"{own}.py").write_text(source, encoding="utf-8")
    config = config_of(
        *("--advantage", f"{own}:Ruled", "--advantage.factor", "1"),
        *("--part", "advantage.rule=harsh", "--advantage.rule.level", "3"),
    )
    assert config_to_dict(config.advantage)["rule"] == {"type": "Harsh", "level": 3}


@pytest.mark.parametrize("name", ["SilverCredit", "silver-credit", "silver", "Silver"])
def test_a_class_name_will_do(name: str) -> None:
    assert find_part(CreditRule, name) is SilverCredit


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--advantage", "grpp"], "'grpp' is no AdvantageEstimator (did you mean grpo?); there"),
        (["--credit", "platinum"], "answer-match, gold, inverted"),
        (["--filter", "dynamic-samplin"], "did you mean dynamic-sampling?"),
        (["--part", "credit"], "part must be PLACE=NAME, got 'credit'"),
        (["--part", "credit.base=gold"], "credit.base names no part: SilverCredit has none"),
        (["--part", "env.top_k=gold"], "is no int"),
        (["--part", "filter.0=reward-std"], "filter.0 names no part of the 0 that are chosen"),
        (["--advantage", "no_such_module:Mine"], "no_such_module"),
        (["--advantage", "json:Mine"], "json:Mine must be a concrete subclass of Advantage"),
        (["--advantage", "json:JSONDecoder"], "must be a concrete subclass of AdvantageEstim"),
        (
            ["--advantage", "calibadv_algo.advantages.grpo:GroupRelative"],
            "must be a concrete subclass",
        ),
    ],
)
def test_what_is_no_part_is_refused_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *arguments]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


# The command line


def test_each_part_brings_its_own_flags() -> None:
    config = config_of(
        *("--advantage", "rloo", "--advantage.singleton", "zero"),
        *("--credit=gold", "--objective=gspo", "--optim.objective.clip-high", "0.28"),
        *("--mismatch", "token-tis", "--optim.mismatch.cap", "3"),
        *("--optim.old-logprobs", "recomputed"),
        *("--filter", "dynamic-sampling", "--filter", "reward-std"),
        *("--filter.0.max-batches", "4", "--filter.1.min-std", "0.1"),
        *("--shaping", "malformed-penalty", "--shaping.0.penalty", "-0.5"),
        *("--loss_mask", "overlong", "--loss-mask.0.overlong", "budget"),
    )
    assert config.advantage == Rloo(singleton="zero")
    assert config.credit == GoldCredit()
    assert config.optim.objective == Gspo(clip_high=0.28)
    assert config.optim.mismatch == TokenTis(cap=3)
    assert config.filters == (DynamicSampling(max_batches=4), RewardStdFilter(min_std=0.1))
    assert config.shaping == (MalformedPenalty(penalty=-0.5),)
    assert config.loss_masks == (OverlongMask(overlong="budget"),)


def test_what_is_not_named_stays() -> None:
    plain = config_of()
    assert plain == ARMS["calibadv"].apply(ATLAS_TINY)
    assert config_of("--advantage", "calibadv") == plain
    dapo = config_of("--baseline", "dapo")
    changed = config_of("--baseline", "dapo", "--advantage", "rloo", "--filter", "none")
    assert changed == replace(dapo, advantage=Rloo(), filters=())
    assert dapo.filters
    more = config_of("--baseline", "dapo", "--filter.0.max-batches", "3")
    assert more.filters == (replace(dapo.filters[0], max_batches=3), *dapo.filters[1:])


def test_parts_inside_parts_have_places() -> None:
    config = config_of(
        *("--credit", "inverted", "--part", "credit.base=gold"),
        *("--objective", "llds", "--part=objective.base=gspo"),
        *("--optim.objective.base.clip-high", "0.3", "--optim.objective.coef", "0.4"),
        *("--shaping", "relevance", "--part", "shaping.0.relevance.scorer=cross-encoder"),
        *("--shaping.0.relevance.scorer.model", "some/model"),
        *("--part", "rollout.trees=tree-search"),
        *("--rollout.group-size", str(TreeSearch().group_size)),
    )
    assert config.credit == InvertedCredit(base=GoldCredit())
    assert config.optim.objective == Llds(base=Gspo(clip_high=0.3), coef=0.4)
    (shaping,) = config.shaping
    assert isinstance(shaping, RelevanceReward)
    assert shaping.relevance.scorer == CrossEncoder(model="some/model")
    assert config.rollout.trees == TreeSearch()
    without = config_of("--baseline", "tree-grpo", "--part", "rollout.trees=none")
    assert without.rollout.trees is None
    judged = config_of(
        *("--credit", "judge", "--part", "credit.judge=llm", "--credit.judge.model", "m")
    )
    assert judged.credit == JudgeCredit(judge=LlmJudge(model="m"))
    roles = config_of(
        *("--credit", "role", "--part", "credit.judge=llm-roles"),
        *("--credit.judge.server.model", "m"),
    )
    assert roles.credit == RoleCredit(judge=LlmRoles(server=LlmJudge(model="m")))
    shared = parse("compare", ["--part", "train.optim.objective=gspo", "--num-workers", "3"])
    assert shared.config.train.optim.objective == Gspo()
    assert shared.config.num_workers == 3


def test_the_last_of_a_flag_given_twice_counts_everywhere() -> None:
    config = config_of("--arm", "calibadv", "--arm=grpo", "--advantage=grpo", "--advantage", "rloo")
    assert config == replace(ARMS["grpo"].apply(ATLAS_TINY), advantage=Rloo())
    assert parse("compare", ["--preset", "full", "--preset", "quick"]).config == CompareConfig()


@pytest.mark.parametrize("flag", ["--adv", "--advant", "--cred", "--pres"])
def test_no_flag_is_abbreviated(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", flag, "grpo"])
    assert caught.value.code == 2
    assert flag in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arm", "grpo", "--advantage", "calibadv"], "credit must score turns"),
        (["--mismatch", "token-tis"], "unless old_logprobs is recomputed"),
        (["--advantage", "template-balanced"], "--advantage.token-ids"),
        (["--advantage.target-ratio", "0"], "target_ratio must be positive, got 0"),
        (["--filter", "variance", "--filter.0.share", "2"], "share must be in (0, 1], got 2"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        sys.exit(main(["train", *arguments]))
    assert caught.value.code in (1, 2)
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_required_settings_of_a_part_are_flags() -> None:
    config = config_of("--advantage", "template-balanced", "--advantage.token-ids", "3", "4")
    assert config.advantage == TemplateBalanced(token_ids=(3, 4))


def test_the_help_shows_the_flags_of_the_chosen_parts(
    own: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--advantage", f"{own}:Scaled", "--filter", "variance", "--help"])
    out = capsys.readouterr().out
    assert "--advantage.factor FLOAT" in out
    assert "--filter.0.share FLOAT" in out
    assert "--mismatch NAME" in out
    assert "--advantage.target-ratio" not in out


def test_a_part_of_ones_own_is_chosen_by_its_module(own: str) -> None:
    config = config_of("--advantage", f"{own}:Scaled", "--advantage.factor", "3")
    assert config_to_dict(config.advantage) == {"type": "Scaled", "factor": 3.0, "shift": 0.0}
    with pytest.raises(ValueError, match="must be a concrete subclass of AdvantageEstimator"):
        config_of("--advantage", f"{own}:NotOne")


@pytest.mark.parametrize("kind", ["advantages", "credits", "objectives", "mismatches", "filters"])
def test_the_list_names_parts_with_a_line_and_a_module(
    kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", kind]) == 0
    out = "".join(capfd.readouterr().out.split())
    singular = {"mismatches": "mismatch"}.get(kind, kind[:-1])
    for name, line, module in describe_parts(singular):
        assert name in out
        assert module[:20] in out
        assert line.split()[0] in out


# Comparisons


def test_anything_that_changes_settings_is_an_arm(tmp_path: Path) -> None:
    def shorter(config: TrainConfig) -> TrainConfig:
        """Fewer updates."""
        return replace(config, optim=replace(config.optim, num_updates=3))

    arms = {"doubled": Doubled(), "usual": "grpo", "short": shorter, "rl": ARMS["rebalance"]}
    config = CompareConfig(
        arms=tuple(arms),
        seeds=(1,),
        output_dir=tmp_path,
        own={name: as_algorithm(arm) for name, arm in arms.items()},
    )
    jobs = {job.arm: job.config for job in plan_jobs(config)}
    assert list(jobs) == list(arms)
    assert jobs["doubled"].advantage == Doubled()
    assert jobs["doubled"].credit == ATLAS_TINY.credit
    assert jobs["usual"].advantage == Grpo()
    assert jobs["short"].optim.num_updates == 3
    write_comparison(config, {}, None)
    record = json.loads((tmp_path / "comparison.json").read_text())
    assert record["arms"] == list(arms)
    assert record["arm_descriptions"]["doubled"] == "Twice the reward."
    assert record["arm_descriptions"]["short"] == "Fewer updates."
    assert record["arm_changes"]["doubled"] == {"advantage": {"type": "Doubled"}}
    assert record["arm_changes"]["short"] == {"optim": {"num_updates": 3}}
    check_output_dir(config)
    check_importable(plan_jobs(config))
    fewer = replace(config, arms=("usual",))
    check_output_dir(fewer)
    other = replace(config, own={**config.own, "doubled": as_algorithm(Rloo())})
    with pytest.raises(ComparisonError, match=r"doubled.advantage.*'Doubled' there, 'Rloo' here"):
        check_output_dir(other)


def test_an_arm_may_be_an_estimator_under_a_name() -> None:
    config = CompareConfig(arms=("grpo", "loo=rloo"))
    assert list(config.algorithms) == ["grpo", "loo"]
    assert config.algorithms["loo"].apply(ATLAS_TINY).advantage == Rloo()
    for arms, message in (
        (("a/b=rloo",), "an arm's name must be made of letters"),
        (("grpo", "grpo=rloo"), "arms must be distinct"),
        (("x=rlo",), "is no AdvantageEstimator"),
        (("x=template-balanced",), "settings of template-balanced must have defaults"),
    ):
        with pytest.raises(ValueError, match=message):
            CompareConfig(arms=arms)


def test_an_arm_that_no_other_process_could_import_is_refused(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Local(Doubled):
        """Of this function."""

    with pytest.raises(ComparisonError, match="Local of arm mine must be defined at the top"):
        compare({"mine": Local()}, output_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    arm = Arm(description="", advantage=Local())
    with pytest.raises(ComparisonError, match="Local of arm mine"):
        compare({"mine": arm}, output_dir=tmp_path / "runs")


def run_python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=folder)


def test_a_script_without_a_guard_is_told_of_it(tmp_path: Path) -> None:
    script = (
        "from calibadv_algo.cli.compare import compare\n"
        "compare(['grpo'], seeds=[0], output_dir='runs')\n"
    )
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    done = run_python(tmp_path, "script.py")
    assert done.returncode == 1
    assert 'under `if __name__ == "__main__":`' in done.stderr


def test_the_example_compares_an_algorithm_of_its_own(tmp_path: Path) -> None:
    script = ROOT / "examples" / "own_algorithm.py"
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 45
    done = run_python(tmp_path, str(script))
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "own-algorithm"
    record = json.loads((folder / "comparison.json").read_text())
    assert record["arms"] == ["grpo", "near-best"]
    rows = (folder / "runs" / "near-best-seed0" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["update"] == 2
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "NearBest" in page
    assert "near-best" in (folder / "table.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_any_subclass_satisfies_the_type_checker() -> None:
    """An estimator that no list names is an advantage of the settings and an arm, to mypy too."""
    done = run_python(ROOT, "-m", "mypy", "--strict", "examples/own_algorithm.py")
    assert done.returncode == 0, done.stdout


def test_the_command_trains_an_estimator_of_the_working_directory(own: str, tmp_path: Path) -> None:
    done = run_python(
        tmp_path,
        *("-m", "calibadv_algo.cli.main", "train", "--advantage", f"{own}:Scaled"),
        *("--advantage.factor", "2", "--optim.num-updates", "1", "--rollout.num-questions", "2"),
        *("--rollout.group-size", "2", "--evaluation.episodes", "2", "--output-dir", "out"),
    )
    assert done.returncode == 0, done.stderr
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    text = json.dumps(settings)
    assert '"type": "Scaled"' in text
    assert '"factor": 2.0' in text
    assert ClippedSurrogate.__name__ in text
