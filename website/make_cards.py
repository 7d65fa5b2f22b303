"""Cards of the environments and of the algorithms, made from the code when the site is built."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import mkdocs_gen_files

mpl.use("svg")

from matplotlib.figure import Figure

from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import (
    ENTRY_POINT_GROUP,
    Baseline,
    baseline_names,
    find_baseline,
)
from calibadv_algo.experiments.truth.candidates import HEADLINE
from calibadv_algo.training.config import TrainConfig, config_to_dict
from calibadv_algo.training.parts import part_name
from calibadv_algo.training.presets import ATLAS_TINY
from calibadv_algo.training.resumption import flat_settings, shown_value
from calibadv_env import get_dataset
from calibadv_env.data.names import PAGES
from calibadv_env.data.registry import env_id_of

ROOT: Final = Path(__file__).parents[1]
KIND_TITLES: Final = {
    "published": "Published methods",
    "switch": "Switches of CalibAdv's own code",
    "variant": "Published methods with one thing changed",
}
ROLE: Final = re.compile(r":\w+:(?=`)")
"""Roles of cross-references, which Markdown does not know."""
LINK: Final = re.compile(r"\[([^\]]+)\]\([^)]*\)")
"""Links of pages to other pages, which lead nowhere on the site."""
BUILT_IN: Final = {
    "atlas": ("Atlas", "../atlas.md"),
    "atlas-wiki": ("AtlasWiki", "../atlas.md"),
    "atlas-fair": ("AtlasFair", "../worlds.md"),
    "atlas-noisy": ("AtlasNoisy", "../worlds.md"),
    "atlas-homonyms": ("AtlasHomonyms", "../worlds.md"),
    "atlas-reworded": ("AtlasReworded", "../worlds.md"),
    "atlas-long": ("AtlasLong", "../worlds.md"),
    "atlas-open": ("AtlasOpen", "../worlds.md"),
    "pages": ("Pages: search, open, find", "../pages.md"),
    "toy": ("Toy", "../environment.md"),
}
"""Datasets that need nothing but the package, with their names in ids and their pages."""


_REWARDS: Final = {"typed": "by the kind of the answer: numbers, names, lists, unanswerable"}


def write(path: str, text: str) -> None:
    """Writes a page of the site."""
    with mkdocs_gen_files.open(path, "w") as page:
        page.write(text)


# Algorithms


def settings_that_differ(config: TrainConfig, other: TrainConfig) -> Iterator[str]:
    """Rows of a table of the settings in which one configuration differs from another."""
    ours = dict(flat_settings(config_to_dict(config)))
    theirs = dict(flat_settings(config_to_dict(other)))
    for name, value in ours.items():
        if not name.endswith("type") and value != theirs.get(name):
            before = shown_value(theirs[name]) if name in theirs else "–"
            yield f"| `{name}` | {shown_value(value)} | {before} |"


def standings() -> dict[str, dict[str, Any]]:
    """Every estimator on the credit leaderboard, best first."""
    record = json.loads((ROOT / "docs/credit/warm.json").read_text(encoding="utf-8"))
    rows = record["searches"].items()
    known = [each for each in rows if each[1]["scores"]["corrected"]["estimate"] is not None]
    return dict(sorted(known, key=lambda row: -row[1]["scores"]["corrected"]["estimate"]))


def leaderboard_name(baseline: Baseline, known: dict[str, dict[str, Any]]) -> str | None:
    """The name under which the advantages of a method were measured, if they were."""
    config = baseline.apply(ATLAS_TINY)
    advantage, credit = part_name(type(config.advantage)), part_name(type(config.credit))
    is_default = config.advantage == type(config.advantage)() if _has_defaults(config) else False
    names = [baseline.name]
    if is_default and not config.shaping:
        names += [f"{advantage}/{credit}", advantage]
    return next((name for name in names if name in known), None)


def place_picture(card: str, name: str, known: dict[str, dict[str, Any]]) -> str:
    """Writes the place of a method among all that were measured; the name of the file."""
    figure = Figure(figsize=(6, 1.9), layout="constrained")
    axes = figure.subplots()
    scores = [one["scores"]["corrected"] for one in known.values()]
    axes.plot([one["estimate"] for one in scores], ".", color="#9ca3af", markersize=4)
    place = list(known).index(name)
    own = scores[place]
    axes.errorbar(
        [place],
        [own["estimate"]],
        [[own["estimate"] - own["low"]], [own["high"] - own["estimate"]]],
        fmt="o",
        color="#009e73",
        capsize=3,
    )
    axes.set_xlabel("methods and labels, best first")
    axes.set_ylabel("correlation")
    axes.set_xticks([])
    file = f"algorithms/{card}-place.svg"
    with mkdocs_gen_files.open(file, "wb") as picture:
        figure.savefig(picture, format="svg")
    return Path(file).name


def curve_section(baseline: Baseline) -> str:
    """The learning curves that are recorded of a method, beside GRPO's; else how to make some."""
    results = json.loads((ROOT / "docs/falsify/first/results.json").read_text(encoding="utf-8"))
    runs = {one["arm"]: one for one in results["survival"] if one["part"] == "labels"}
    if baseline.name not in runs:
        return (
            "No run of this method is recorded in the documentation. Make one, with its curve "
            f"beside GRPO's:\n\n```bash\ncalibadv compare --arms grpo,{baseline.name}\n```\n"
        )
    figure = Figure(figsize=(6, 2.6), layout="constrained")
    axes = figure.subplots()
    for name, colour in {"grpo": "#6b7280", baseline.name: "#009e73"}.items():
        curve = runs[name]["f1_curve"]
        if name == "grpo" == baseline.name:
            colour = "#009e73"
        for seed in curve["by_seed"]:
            axes.plot(curve["updates"], seed, color=colour, linewidth=0.8, alpha=0.5)
        means = [sum(values) / len(values) for values in zip(*curve["by_seed"], strict=True)]
        axes.plot(curve["updates"], means, color=colour, linewidth=2, label=name)
    axes.set_xlabel("update")
    axes.set_ylabel("F1 on dev")
    axes.legend(frameon=False, fontsize=8)
    file = f"algorithms/{baseline.name}-curve.svg"
    with mkdocs_gen_files.open(file, "wb") as picture:
        figure.savefig(picture, format="svg")
    seeds = len(runs[baseline.name]["f1_curve"]["by_seed"])
    return (
        f"![F1 over updates]({Path(file).name})\n\n"
        f"The shipped policy on the atlas, {seeds} seeds (thin) and their mean; version 0 of the "
        "environments ([the experiment](../falsify/first_edition.md)).\n"
    )


def _has_defaults(config: TrainConfig) -> bool:
    parameters = inspect.signature(type(config.advantage)).parameters.values()
    return all(each.default is not inspect.Parameter.empty for each in parameters)


def credit_line(baseline: Baseline, known: dict[str, dict[str, Any]]) -> str:
    """A sentence on the place of a method among all that were measured."""
    name = leaderboard_name(baseline, known)
    if name is None:
        return (
            "Not on the [leaderboard](../credit/README.md): it needs a critic or a judge, its "
            "advantages are those of another method, or it came after the last measurement."
        )
    place = list(known).index(name) + 1
    score = known[name]["scores"]["corrected"]
    verdict = ((known[name]["against"] or {}).get("correlation") or {}).get("verdict", "")
    against = f"; against GRPO: {verdict}" if verdict else ""
    return (
        f"Place {place} of {len(known)} as `{name}`: correlation with the true advantages of "
        f"searches {score['estimate']:.2f} [{score['low']:.2f}, {score['high']:.2f}], corrected "
        f"for noise{against}. [The leaderboard](../credit/README.md) says what that means."
    )


def algorithm_card(baseline: Baseline, known: dict[str, dict[str, Any]]) -> str:
    """Page of a method: source, parts, formula, command, settings, place on the leaderboard."""
    config = baseline.apply(ATLAS_TINY)
    advantage = type(config.advantage)
    (entry,) = entry_points(group=ENTRY_POINT_GROUP, name=baseline.name)
    about = inspect.getdoc(importlib.import_module(entry.module)) or ""
    departures = "".join(f"- {each}.\n" for each in baseline.departures) or "None known.\n"
    changes = "\n".join(settings_that_differ(config, find_arm("grpo").apply(ATLAS_TINY)))
    table = (
        f"| setting | {baseline.name} | GRPO |\n| --- | --- | --- |\n{changes}\n"
        if changes
        else "None: these are GRPO's settings.\n"
    )
    ranked = leaderboard_name(baseline, known)
    picture = ""
    if ranked is not None:
        file = place_picture(baseline.name, ranked, known)
        picture = f"![Its correlation among those of all methods]({file})\n\n"
    estimator = ROLE.sub("", inspect.getdoc(advantage) or "").replace("\n    ", "\n")
    return (
        f"# {baseline.name}\n\n{baseline.description[:1].upper()}{baseline.description[1:]}.\n\n"
        f"Source: {baseline.source}\n\n"
        "```bash\n"
        f"calibadv train --baseline {baseline.name} --output-dir runs/{baseline.name}\n"
        f"calibadv compare --arms grpo,{baseline.name}\n"
        "```\n\n"
        f"```text\n{about}\n```\n\n"
        f"## Estimator\n\n`{advantage.__module__}.{advantage.__name__}`\n\n{estimator}\n\n"
        f"## Settings that differ from GRPO's on the atlas\n\n{table}\n"
        f"## Departures from the publication\n\n{departures}\n"
        f"## Learning curve\n\n{curve_section(baseline)}\n"
        f"## Measured credit\n\n{picture}{credit_line(baseline, known)}\n"
    )


def write_algorithms() -> None:
    """Every card, and the table of all methods."""
    known = standings()
    assert set(HEADLINE) <= set(known), "the leaderboard must hold the methods of the headline"
    parts = ["# Algorithms\n\nEvery method of the library, each on one page.\n"]
    found = [find_baseline(name) for name in baseline_names()]
    for kind, title in KIND_TITLES.items():
        rows = []
        for each in (one for one in found if one.kind == kind):
            write(f"algorithms/{each.name}.md", algorithm_card(each, known))
            name = leaderboard_name(each, known)
            score = "–" if name is None else f"{known[name]['scores']['corrected']['estimate']:.2f}"
            rows.append(
                f"| [{each.name}]({each.name}.md) | {each.description} | {each.source} | {score} |"
            )
        parts.append(
            f"\n## {title}\n\n| method | what it is | source | measured credit |\n"
            "| --- | --- | --- | ---: |\n" + "\n".join(rows) + "\n"
        )
    parts.append(
        "\nMeasured credit: correlation of the method's advantages of searches with the true ones, "
        "corrected for noise ([how](../credit/README.md)).\n"
    )
    write("algorithms/index.md", "".join(parts))


# Environments


def hops_picture(name: str) -> str:
    """Writes a bar chart of the questions by split and hops; its file name."""
    dataset = get_dataset(name)
    figure = Figure(figsize=(5, 2.2), layout="constrained")
    axes = figure.subplots()
    splits = {split: Counter(t.hops for t in dataset.tasks(split)) for split in dataset.splits}
    hops = sorted({hop for counts in splits.values() for hop in counts})
    width = 0.8 / len(splits)
    for index, (split, counts) in enumerate(splits.items()):
        places = [place + index * width for place in range(len(hops))]
        axes.bar(places, [counts[hop] for hop in hops], width, label=split)
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(hops))], map(str, hops))
    axes.set_xlabel("hops")
    axes.set_ylabel("questions")
    axes.legend(frameon=False, fontsize=8)
    file = f"environments/{name}-hops.svg"
    with mkdocs_gen_files.open(file, "wb") as picture:
        figure.savefig(picture, format="svg")
    return Path(file).name


def without_links(text: str) -> str:
    """A text with the words of its links in their place."""
    return LINK.sub(r"\1", text)


def environment_card(name: str, page: str) -> str:
    """Page of a built-in environment: ids, sizes, a picture, an example."""
    dataset = get_dataset(name)
    env_id = env_id_of(name)
    actions = page if name in PAGES else "../environment.md"
    sizes = ", ".join(f"{split} {len(dataset.tasks(split)):,}" for split in dataset.splits)
    task = dataset.tasks(dataset.splits[0])[0]
    gold = {passage.id: passage for passage in dataset.corpus()}
    evidence = "\n".join(
        f"{hop}. {gold[ids[0]].title}: {without_links(gold[ids[0]].text)}"
        for hop, ids in enumerate(task.gold_passages, 1)
        if ids and ids[0] in gold
    )
    arguments = ", max_turns=6" if name == "atlas-long" else ""
    return (
        f"# {env_id}\n\n"
        f"| | |\n| --- | --- |\n"
        f"| dataset | `{name}` |\n| questions | {sizes} |\n| passages | {len(gold):,} |\n"
        f"| actions and observations | text, [as here]({actions}) |\n"
        f"| reward | {_REWARDS.get(dataset.reward or 'f1', 'F1 of the answer')}, 0 for an "
        f"ill-formed response; [others](../environment.md#rewards-beyond-strings) |\n"
        f"| more | [about the data]({page}) |\n\n"
        f"![Questions by hops]({hops_picture(name)})\n\n"
        "```python\nimport gymnasium\n\n"
        f'env = gymnasium.make("calibadv_env:{env_id}"{arguments})\n'
        "text, info = env.reset(seed=0)\n```\n\n"
        f"## A question\n\n> {task.question}\n\nAnswer: **{task.golden_answers[0]}**\n\n"
        f"Its evidence, by hop:\n\n{evidence}\n"
    )


def write_environments() -> None:
    """Cards of the environments that need nothing but the package, and the table of all."""
    rows = []
    for name, (title, page) in BUILT_IN.items():
        try:
            card = environment_card(name, page)
        except ImportError:
            card = f"# {env_id_of(name)}\n\nNeeds an extra; see [the data]({page}).\n"
        write(f"environments/{name}.md", card)
        rows.append(f"| [{env_id_of(name)}]({name}.md) | {title} |")
    write(
        "environments/index.md",
        "# Environments\n\nBuilt in:\n\n| id | data |\n| --- | --- |\n"
        + "\n".join(rows)
        + "\n\n[The seven benchmarks](../benchmarks.md) follow once they are prepared, and "
        "[any dataset of yours](../your_dataset.md).\n",
    )


write_algorithms()
write_environments()
