"""Plans of large runs: arithmetic by hand, published updates, the command and its page."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from calibadv_algo.cli.main import main
from calibadv_algo.experiments.planning.devices import DEVICES, GIB, Device, Pace
from calibadv_algo.experiments.planning.memory import engine_cache_tokens, trainer_memory
from calibadv_algo.experiments.planning.plan import make_plan
from calibadv_algo.experiments.planning.published import CASES, Case
from calibadv_algo.experiments.planning.shapes import SHAPES, ModelShape, find_shape
from calibadv_algo.experiments.planning.times import Layout, update_times
from calibadv_algo.experiments.planning.workload import Workload

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
MODEL = ModelShape(
    name="toy",
    num_layers=4,
    hidden_size=8,
    intermediate_size=16,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    vocab_size=16,
    is_tied=True,
)
DEVICE = Device(name="toy", memory_gib=10.0, flops=1e12, bandwidth=1e12, link=1e11, host_link=1e10)
WORK = Workload(
    questions=2,
    group_size=4,
    searches=2.0,
    max_searches=3.0,
    prompt_tokens=20,
    observation_tokens=30,
    action_tokens=10,
    max_action_tokens=15,
    search_s=0.5,
    minibatches=3,
    reference=True,
)
PACE = Pace(
    train_mfu=0.5,
    forward_mfu=0.25,
    prefill=0.5,
    bandwidth=0.5,
    step_overhead_s=0.01,
    link=0.5,
    hiding=0.0,
    tail=1.5,
    always_moves=True,
    pause_s=2.0,
    host=0.1,
)
LAYOUT = Layout(
    device=DEVICE,
    num_devices=2,
    link=1e11,
    tensor_parallel=1,
    cache_tokens=10**9,
    micro_batch_tokens=110,
    fits_together=True,
)
WEIGHTS = 4 * (2 * 8 * 4 * 3 + 3 * 8 * 16) + 16 * 8


# Shapes


def test_parameters_by_hand() -> None:
    assert MODEL.num_parameters == WEIGHTS
    assert replace(MODEL, is_tied=False).num_parameters == WEIGHTS + 16 * 8
    assert MODEL.kv_bytes_per_token == 2 * 4 * 1 * 4 * 2
    assert MODEL.forward_flops(100) == 2 * WEIGHTS + 4 * 100 * 4 * 2 * 4


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen/Qwen2.5-0.5B", 0.494),
        ("Qwen/Qwen2.5-1.5B", 1.544),
        ("Qwen/Qwen2.5-3B", 3.086),
        ("Qwen/Qwen2.5-7B", 7.616),
        ("Qwen/Qwen2.5-32B", 32.764),
        ("Qwen/Qwen3-8B", 8.191),
        ("meta-llama/Llama-3.1-8B", 8.030),
        ("meta-llama/Llama-3.2-3B", 3.213),
    ],
)
def test_the_table_has_the_published_sizes(name: str, billions: float) -> None:
    assert SHAPES[name].num_parameters == pytest.approx(billions * 1e9, rel=1e-3)


def test_a_shape_comes_from_a_name_or_a_folder(tmp_path: Path) -> None:
    assert find_shape("qwen2.5-3b-Instruct") == SHAPES["Qwen/Qwen2.5-3B"]
    config = {
        "num_hidden_layers": 4,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 16,
        "tie_word_embeddings": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert replace(find_shape(str(tmp_path)), name="toy") == MODEL
    (tmp_path / "config.json").write_text(json.dumps({"text_config": config}), encoding="utf-8")
    assert replace(find_shape(str(tmp_path / "config.json")), name="toy") == MODEL


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_size": 8}, "must have a number num_attention_heads, got None"),
        ({"num_local_experts": 8}, "mixture of experts"),
        ([], "must hold an object, got list"),
    ],
)
def test_a_config_that_does_not_say_is_refused(
    config: object, message: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        find_shape(str(tmp_path))


def test_an_unknown_name_is_refused_and_a_close_one_named() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'Qwen/Qwen2.5-7B'\? Nothing is downloaded"):
        find_shape("Qwen2.5-7BB")


# Memory and time


def test_sharded_states_take_sixteen_bytes_a_parameter() -> None:
    memory = trainer_memory(MODEL, num_devices=4, micro_batch_tokens=1)
    shards = memory.weights + memory.gradients + memory.optimizer
    assert shards == pytest.approx(16 * WEIGHTS / 4 / GIB)
    assert memory.states == pytest.approx(12 * WEIGHTS / 4 / GIB)
    beside = trainer_memory(MODEL, num_devices=4, micro_batch_tokens=1, has_reference=True)
    assert beside.total - memory.total == pytest.approx(2 * WEIGHTS / 4 / GIB)


def test_an_engine_holds_what_weights_and_trainer_leave() -> None:
    tokens = engine_cache_tokens(MODEL, DEVICE, tensor_parallel=2, resident_gib=8.5)
    assert tokens == (2 * 0.5 * GIB - 2 * WEIGHTS) // 64
    assert engine_cache_tokens(MODEL, DEVICE, tensor_parallel=1, resident_gib=9.5) == 0


def test_the_phases_of_an_update() -> None:
    times = update_times(MODEL, LAYOUT, WORK, PACE)
    length = 20 + 2 * 30 + 3 * 10
    forward = 2 * WEIGHTS + 4 * (length / 2) * 4 * 2 * 4
    passes = forward * 8 * length / 2e12
    assert times.train == pytest.approx(3 * passes / 0.5)
    assert times.old_logprobs == times.ref_logprobs == pytest.approx(passes / 0.25)
    assert times.prefill == pytest.approx(forward * 8 * (20 / 4 + 60) / 1e12)
    # 4 episodes an engine, 30 steps: computing takes longer than reading
    assert times.decode == pytest.approx(30 * (4 * forward / 0.5e12 + 0.01), rel=1e-12)
    quick = replace(LAYOUT, device=replace(DEVICE, flops=1e15))
    reading = (2 * WEIGHTS + 4 * 55 * 64) / 0.5e12
    decode = update_times(MODEL, quick, WORK, PACE).decode
    assert decode == pytest.approx(30 * (reading + 0.01), rel=1e-12)
    # the longest episode samples 45 tokens, 15 more than the mean, and searches three times
    assert times.tail == pytest.approx(15 * (2 * WEIGHTS / 0.5e12 + 0.01) + 3 * 0.5)
    # 4 micro-batches a rank; three passes of training, one of each kind of log-probabilities
    assert times.gathers == pytest.approx(4 * 5 * 2 * WEIGHTS / 0.5e11)
    assert times.optimizer == pytest.approx(3 * 28 * WEIGHTS / 2 / 0.5e12)
    assert times.sync == pytest.approx(2 * WEIGHTS / 0.5e11)
    assert times.moves == pytest.approx(2.0 + 24 * WEIGHTS / 2 / 0.5e10)
    assert times.total == pytest.approx(11 * times.host)


def test_what_changes_a_phase() -> None:
    whole = update_times(MODEL, LAYOUT, WORK, PACE)
    lean = replace(WORK, old_logprobs=False, reference=False)
    without = update_times(MODEL, LAYOUT, lean, PACE)
    assert without.old_logprobs == without.ref_logprobs == 0.0
    assert without.gathers == pytest.approx(whole.gathers * 3 / 5)
    assert update_times(MODEL, LAYOUT, WORK, replace(PACE, tail=9.0)).tail > whole.tail
    capped = update_times(MODEL, LAYOUT, WORK, replace(PACE, tail=99.0)).tail
    assert capped == pytest.approx(30 * (2 * WEIGHTS / 0.5e12 + 0.01) + 3 * 0.5)
    assert update_times(MODEL, replace(LAYOUT, num_devices=1), WORK, PACE).gathers == 0.0
    assert update_times(MODEL, LAYOUT, WORK, replace(PACE, hiding=1e9)).gathers == 0.0
    stays = update_times(MODEL, LAYOUT, WORK, replace(PACE, always_moves=False))
    assert stays.moves == 2.0
    halves = update_times(MODEL, replace(LAYOUT, cache_tokens=220), WORK, PACE)
    assert halves.decode > 1.9 * whole.decode
    with pytest.raises(ValueError, match="an episode of 110 tokens, but its cache has room for 9"):
        update_times(MODEL, replace(LAYOUT, cache_tokens=9), WORK, PACE)


def test_limits_below_means_are_refused() -> None:
    with pytest.raises(ValueError, match="max_searches must be at least searches"):
        Workload(searches=5.0)


def test_what_does_not_fit_says_from_where_on_it_does() -> None:
    with pytest.raises(ValueError, match=r"does not fit on 1 x RTX 4090 .* it fits from 4 on"):
        make_plan(find_shape("Qwen2.5-3B"), DEVICES["rtx4090"], Workload(), num_devices=1)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.system} {case.model}")
def test_measured_updates_lie_within_the_range(case: Case) -> None:
    fast, slow = case.planned()
    assert fast <= case.seconds[0] <= case.seconds[1] <= slow


def test_what_overlap_saves_holds_what_nemo_measured() -> None:
    plan = CASES[0].plan()
    saved = [
        1 - one / all_
        for one, all_ in zip(plan.overlapped, (plan.fast.total, plan.slow.total), strict=True)
    ]
    assert min(saved) < 1 - 74.6 / 97.7 < max(saved)


# The command and its page


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["plan", *arguments]) == 0
    return capsys.readouterr().out


def test_the_command_writes_what_it_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.json"
    arguments = ["--model", "Qwen2.5-3B", "--gpus", "8", "--json", str(file)]
    text = printed(arguments, capsys)
    plan = json.loads(file.read_text(encoding="utf-8"))
    total = plan["seconds"]["fast"]["total"], plan["seconds"]["slow"]["total"]
    assert f"| **total** | **{total[0]:.0f} to {total[1]:.0f}** |" in text
    assert plan["model"]["num_parameters"] == SHAPES["Qwen/Qwen2.5-3B"].num_parameters


def test_the_command_needs_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan"]) == 1
    assert "model must be given" in capsys.readouterr().err


def test_the_page_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    commands = re.findall(r"^calibadv plan ((?!.*#|.*\./).*)$", page, flags=re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        assert printed(shlex.split(command, comments=True), capsys).strip() in page, command
