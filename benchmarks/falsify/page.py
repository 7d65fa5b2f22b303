"""The page of a study in Markdown, with its pictures; every sentence follows from the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.falsify.figures import write_figures
from calibadv_algo.experiments.statistics import Interval
from calibadv_algo.report.shares import NOTHING
from calibadv_algo.report.tables import Table, format_interval, markdown_table

PAGE_FILE: Final = "README.md"

Results = Mapping[str, Any]

PUBLISHED_GAIN: Final = 0.0755
"""What CalibAdv gains over GRPO in its paper."""

OUTSIDE: Final = f" and leaves out the paper's gain of {PUBLISHED_GAIN:+g}"


def write_page(results: Results, directory: Path) -> list[Path]:
    """Writes the page and its pictures.

    Args:
        results: What :func:`~benchmarks.falsify.numbers.measure_study` gave, or the same
            read from its file.
        directory: Where to; made if it is not there.

    Returns:
        The files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    pictures = write_figures(results, directory)
    page = directory / PAGE_FILE
    names = frozenset(path.name for path in pictures)
    page.write_text(render_page(results, names), encoding="utf-8")
    return [page, *pictures]


def render_page(results: Results, pictures: frozenset[str] = frozenset()) -> str:
    """Renders the page.

    Args:
        results: The numbers.
        pictures: Names of the pictures that stand beside the page.

    Returns:
        Markdown.
    """
    sections = [
        _introduction(results),
        _arms_section(results, pictures),
        _contrasts_section(results, pictures),
        _labels_section(results, pictures),
        _collapse_section(results, pictures),
        _coefficient_section(results),
        _limits(results),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def verdict(row: Results) -> str:
    """The verdict on a difference; of records without clusters what the interval allows."""
    if "word" in row:
        return f"{row['word']}; {row['reason']}"
    interval = row["f1"]
    gain = "" if interval["low"] <= PUBLISHED_GAIN <= interval["high"] else OUTSIDE
    if interval["low"] > 0:
        return f"higher; the interval lies above 0{gain}"
    if interval["high"] < 0:
        return f"lower; the interval lies below 0{gain}"
    return f"not resolvable; the interval holds 0{gain}"


def _commits(part: Results) -> str:
    """The commit that a comparison began with, and those that went on with it."""
    known = [part.get("git_commit"), *part.get("later_commits", [])]
    return ", then ".join(commit[:12] for commit in known if commit) or NOTHING


def _introduction(results: Results) -> str:
    rows, seconds, num_runs = [], 0.0, 0
    for part in results["parts"]:
        finished = len(part["seeds"])
        wall = part.get("wall_time_s")
        runs = finished * len(part["arms"])
        num_runs += runs
        seconds += runs * (part.get("run_s") or 0.0)
        rows.append(
            (
                part["name"],
                part["label"],
                f"{len(part['arms'])}",
                f"{finished} of {len(part['planned_seeds'])}",
                NOTHING if wall is None else f"{wall / 60:.0f}",
                _commits(part),
            )
        )
    first = next(part for part in results["parts"] if part["seeds"])
    table = Table(
        title="What was run",
        header=("Comparison", "Condition", "Arms", "Seeds finished", "Minutes", "Commit"),
        rows=tuple(rows),
        note=(
            "Minutes are wall time with two runs at a time on two CPU cores that other work "
            "shared. Only seeds that every arm of a comparison has finished count."
        ),
    )
    optim, rollout = first["optim"], first["rollout"]
    return "\n\n".join(
        [
            "# Does CalibAdv do what it says? An experiment on the atlas",
            f"Made by `python -m benchmarks.{results['study']}`; this page, its tables and its "
            "pictures are written by the command from `results.json`. Nothing on it was typed by "
            "hand.",
            f"{num_runs} runs of the policy `{first['model']}`, {optim.get('num_updates')} updates "
            f"of {rollout.get('num_questions')} questions × {rollout.get('group_size')} episodes "
            f"each, one CPU thread a run; their durations add up to {seconds / 3600:.1f} h. Scores "
            f"are token F1 on {first['num_questions']} questions of `{first['split']}`, greedy, "
            "after the last update.",
            markdown_table(table).rstrip(),
            f"In brackets: 95 % intervals of a bootstrap over seeds and questions, the questions "
            f"stratified by hops, the same resamples for all arms ({results['num_resamples']}).",
        ]
    )


def _arms_section(results: Results, pictures: frozenset[str]) -> str:
    if "arms" not in results:
        return ""
    rows = []
    for row in results["arms"]:
        survived = row.get("survived")
        rows.append(
            (
                row["name"],
                _level(row["f1"]),
                _level(row["em"]),
                _level(row["num_searches"]),
                NOTHING if survived is None else _count(survived),
            )
        )
    table = Table(
        title="Final scores",
        header=("Arm", "F1", "EM", "Searches", "Runs that survived"),
        rows=tuple(rows),
        note=(
            "S: soft penalty, R: rebalanced answers, T: opening tag given. soft-penalty is S, "
            "rebalance R, think-tag T, soft-penalty-rebalance S + R, calibadv S + R + T. "
            "grpo-equal-mass is GRPO with T whose advantages are scaled, group by group, to the "
            "total mass of CalibAdv's. A run survives if no collapse alarm was raised and its "
            "last F1 is at least 0.8 of its best."
        ),
    )
    return _join("## Every arm", markdown_table(table), _picture("arms.png", pictures))


def _contrasts_section(results: Results, pictures: frozenset[str]) -> str:
    if not results.get("contrasts"):
        return ""
    rows = []
    for row in results["contrasts"]:
        rows.append(
            (
                f"{row['ahead']} − {row['behind']}",
                _level(row["f1"], signed=True),
                _level(row["probability_of_improvement"]),
                f"{sum(d > 0 for d in row['by_seed'])} of {len(row['by_seed'])}",
                NOTHING if row.get("detectable") is None else f"{row['detectable']:.3f}",
            )
        )
    table = Table(
        title="Paired differences of F1",
        header=("Difference", "F1", "Probability of improvement", "Seeds ahead", "Can show"),
        rows=tuple(rows),
        note=(
            "Probability of improvement: that the first arm scores higher on a question with the "
            "same seed, a tie counting one half. Can show: smallest true difference that such a "
            "design finds in 80 % of cases; a dash where the records lack what it needs."
        ),
    )
    sentences = [
        f"- {row['ahead']} against {row['behind']}: {verdict(row)}." for row in results["contrasts"]
    ]
    return _join(
        "## Which part does the work, and do the labels matter?",
        markdown_table(table),
        _picture("contrasts.png", pictures),
        "\n".join(sentences),
        _family_note(results["contrasts"]),
    )


def _family_note(rows: Sequence[Results]) -> str:
    """How the verdicts take the number of differences into account."""
    if all("word" in row for row in rows):
        return f"Verdicts are adjusted for {len(rows)} differences (Holm)."
    return (
        f"With {len(rows)} differences, about one in twenty would leave 0 out of its interval by "
        "chance alone. Intervals of these records take questions as independent; questions of "
        "one country are not, which makes those of differences about a quarter too narrow."
    )


def _labels_section(results: Results, pictures: frozenset[str]) -> str:
    quality = results.get("label_quality")
    if not quality:
        return ""
    blocks = [
        "## Are the step labels right?",
        "Searches of training, each with its gold label (it found a gold passage that its "
        "trajectory had not seen) and the label that was made without gold. *Scored*: share that "
        "has a label at all; silver labels need a good enough trajectory in the group. "
        "*Agreement*: of the scored ones. *Precision*: good by gold among those called good. "
        "*Recall*: called good among the good ones, those without a label missed. *Punished*: "
        "searches of trajectories whose GRPO advantage is negative, the only ones that the soft "
        "penalty touches.",
    ]
    rows = []
    for arm, by_label in quality.items():
        for label, tables in by_label.items():
            rows.append((f"{arm}: {label}", *_quality_cells(tables["all"])))
            rows.append((f"{arm}: {label}, punished", *_quality_cells(tables["punished"])))
    blocks.append(markdown_table(_quality_table("All searches of training", "Labels", rows)))
    for arm, by_label in quality.items():
        tables = by_label["silver"]
        for key, heading in (("by_hops", "hops"), ("by_place", "search number")):
            rows = [
                (f"{row[key.removeprefix('by_')]}", *_quality_cells(row)) for row in tables[key]
            ]
            title = f"Silver labels of {arm} by {heading}"
            blocks.append(markdown_table(_quality_table(title, heading.capitalize(), rows)))
    return _join(*blocks, _picture("labels.png", pictures))


def _collapse_section(results: Results, pictures: frozenset[str]) -> str:
    if not results.get("survival"):
        return ""
    rows = [
        (
            f"{row['label']}: {row['arm']}",
            _count(row["survived"]),
            f"{row['first_f1']:.3f}",
            f"{row['best_f1']:.3f}",
            f"{row['final_f1']:.3f}",
            _last(row["curves"]["entropy"]),
            _last(row["curves"]["mean_perplexity"]),
        )
        for row in results["survival"]
    ]
    table = Table(
        title="How the runs went",
        header=(
            "Condition: arm",
            "Survived",
            "F1 at the start",
            "Best F1",
            "Last F1",
            "Last entropy",
            "Last perplexity",
        ),
        rows=tuple(rows),
        note=(
            "Means over seeds; survived: with the Wilson interval of the share. Entropy in nats a "
            "token and perplexity of sampled turns at the last update."
        ),
    )
    return _join(
        "## When does training collapse?",
        markdown_table(table),
        "\n".join(_survival_sentences(results["survival"])),
        _picture("collapse.png", pictures),
    )


def _survival_sentences(rows: Sequence[Results]) -> list[str]:
    """One sentence a condition: who survived more often, and who ended higher."""
    sentences = []
    for label in dict.fromkeys(row["label"] for row in rows):
        both = {row["arm"]: row for row in rows if row["label"] == label}
        if {"grpo", "calibadv"} <= set(both):
            grpo, ours = both["grpo"], both["calibadv"]
            sentences.append(
                f"- {label}: GRPO survived {grpo['survived']['num']:.0f} of "
                f"{grpo['survived']['of']:.0f} and ended at {grpo['final_f1']:.3f}, CalibAdv "
                f"{ours['survived']['num']:.0f} of {ours['survived']['of']:.0f} at "
                f"{ours['final_f1']:.3f}."
            )
    return sentences


def _coefficient_section(results: Results) -> str:
    if not results.get("coefficient"):
        return ""
    rows = [
        (
            f"{row['lambda']:g}",
            _level(row["f1"]),
            NOTHING if row["lambda"] == 1.0 else _level(row["difference"], signed=True),
            _count(row["survived"]),
        )
        for row in results["coefficient"]
    ]
    seeds = len(results["coefficient"][0]["seeds"])
    table = Table(
        title=f"CalibAdv by rebalancing coefficient, {seeds} seeds",
        header=("λ", "F1", "Difference from λ = 1", "Survived"),
        rows=tuple(rows),
        note="λ is the positive over the negative mass of the answer turns after rebalancing.",
    )
    return _join("## The rebalancing coefficient", markdown_table(table))


def _limits(results: Results) -> str:
    seeds = max(len(part["seeds"]) for part in results["parts"])
    missing = [part["name"] for part in results["parts"] if not part["seeds"]]
    short = [
        part["name"]
        for part in results["parts"]
        if part["seeds"] and len(part["seeds"]) < len(part["planned_seeds"])
    ]
    lines = [
        "## What this does not show",
        "- A policy of one million parameters on made-up questions about real facts is not a "
        "model of three billion parameters on HotpotQA. What holds here need not hold there, and "
        "the other way round.",
        f"- At most {seeds} seeds: an interval of five seeds that differ much covers about 91 %, "
        "of three about 84 %, not 95 % (`docs/report.md`).",
    ]
    if missing:
        lines.append(f"- Not run: {', '.join(missing)}.")
    if short:
        lines.append(f"- Not run with all planned seeds: {', '.join(short)}.")
    return "\n".join([lines[0], "", *lines[1:]])


def _quality_table(title: str, heading: str, rows: Sequence[tuple[str, ...]]) -> Table:
    return Table(
        title=title,
        header=(heading, "Searches", "Good by gold", "Scored", "Agreement", "Precision", "Recall"),
        rows=tuple(rows),
    )


def _quality_cells(row: Results) -> tuple[str, ...]:
    names = ("base_rate", "scored", "agreement", "precision", "recall")
    shares = [NOTHING if row[name] is None else f"{row[name]:.3f}" for name in names]
    return (f"{row['num_searches']:.0f}", *shares)


def _level(value: Mapping[str, float], *, signed: bool = False) -> str:
    return format_interval(Interval(**value), signed=signed)


def _count(survived: Mapping[str, float]) -> str:
    return (
        f"{survived['num']:.0f} of {survived['of']:.0f} "
        f"[{survived['low']:.2f}, {survived['high']:.2f}]"
    )


def _last(curve: Results) -> str:
    """Mean of the last known values of a metric's curves."""
    known = [[v for v in line if v is not None] for line in curve["by_seed"]]
    last = [line[-1] for line in known if line]
    return f"{sum(last) / len(last):.3f}" if last else NOTHING


def _picture(name: str, pictures: frozenset[str]) -> str:
    titles = {
        "arms.png": "Final F1 of every arm with intervals; small dots are seeds.",
        "contrasts.png": "Paired differences of F1 with intervals.",
        "labels.png": "Agreement, precision and recall of silver labels over training.",
        "collapse.png": "F1, entropy and perplexity over updates under each condition.",
    }
    return f"![{titles[name]}]({name})" if name in pictures else ""


def _join(*blocks: str) -> str:
    return "\n\n".join(block.strip() for block in blocks if block.strip())
