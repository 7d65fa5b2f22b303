"""The page of a study, in Markdown: nothing on it but what the numbers say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.falsify.figures import write_figures
from calibadv_algo.report.shares import NOTHING
from calibadv_algo.report.tables import Table, markdown_table

PAGE_FILE: Final = "README.md"

Results = Mapping[str, Any]


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
    finished = [part for part in results["parts"] if part["seeds"]]
    sections = [
        _introduction(results),
        _plan(results),
        _answer(finished, pictures),
        *(_part_section(part, pictures) for part in finished),
        _labels_section(results, pictures),
        _courses_section(finished, pictures) if finished else "",
        _limits(results),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _introduction(results: Results) -> str:
    rows = []
    for part in results["parts"]:
        finished = len(part["seeds"])
        rows.append(
            (
                part["name"],
                part["label"],
                f"{len(part['arms'])}",
                f"{finished} of {len(part['planned_seeds'])}",
                f"{part['run_s'] / 60:.1f}" if finished else NOTHING,
                _commits(part),
            )
        )
    table = Table(
        title="What was planned, and what is finished",
        header=("Comparison", "Condition", "Methods", "Seeds", "Minutes a run", "Commit"),
        rows=tuple(rows),
        note=(
            "Only seeds that every method of a comparison has finished count. Minutes are wall "
            "time on cores that other work shared. Runs of two comparisons with the same settings "
            "are one run."
        ),
    )
    first = results["parts"][0]
    optim, rollout = first["optim"], first["rollout"]
    return "\n\n".join(
        [
            "# Does CalibAdv do what it says? Second edition",
            f"Made by `python -m benchmarks.{results['study']}` from the records of the runs "
            f"(`benchmarks/{results['study']}/records`); nothing on this page was typed by hand. "
            "The plan was written before the first run. The command adds what is missing when it "
            "is started again, so the page grows. [First edition](first_edition.md): 99 runs on "
            "the first atlas.",
            f"{results['num_runs']} runs are finished: policy `{first['model']}`, "
            f"{optim.get('num_updates')} updates of {rollout.get('num_questions')} questions × "
            f"{rollout.get('group_size')} episodes unless said otherwise, one CPU thread a run. "
            f"Final scores: at most {first['plan']['questions']} questions of "
            f"`{first['plan']['split']}`, greedily, once, after the last update.",
            markdown_table(table).rstrip(),
        ]
    )


def _plan(results: Results) -> str:
    """What was expected before the runs, by comparison."""
    lines = [
        f"- {part['name']}: {' '.join(part['plan']['hypotheses'])} Judged: "
        f"{', '.join([*part['plan']['contrasts'], *part['plan']['controls']])}."
        for part in results["parts"]
    ]
    design = results["parts"][0]["plan"]
    return _join(
        "## What was expected",
        f"Written down before the first run. Score: {design['metric']}; differences below "
        f"{design['margin']:g} count as equal; error rate {design['alpha']:g} over the differences "
        "of a comparison.",
        "\n".join(lines),
    )


def _commits(part: Results) -> str:
    """The commit that a comparison began with, and those that went on with it."""
    known = [part.get("git_commit"), *part.get("later_commits", [])]
    return ", then ".join(commit[:12] for commit in known if commit) or NOTHING


def _answer(parts: Sequence[Results], pictures: frozenset[str]) -> str:
    """What came out, in one line a judged difference."""
    if not parts:
        return "## What came out\n\nNothing yet: no seed is finished with every method."
    lines = []
    for part in parts:
        planned, seeds = len(part["planned_seeds"]), len(part["seeds"])
        lines += [
            f"- {part['label']}, {seeds} seeds: {_judged(row)}" for row in part["differences"]
        ]
        if seeds < planned:
            lines.append(
                f"- {part['label']}: provisional until all {planned} planned seeds are there. "
                "Whoever stops earlier because of what stands here errs more often than 5 % of "
                "the time."
            )
    return _join("## What came out", "\n".join(lines), _picture("differences.png", pictures))


def _judged(row: Results) -> str:
    value = row["f1"]
    text = f"{row['name']} is {_signed(value['estimate'])}"
    if value["low"] is not None:
        text += f" [{_signed(value['low'])}, {_signed(value['high'])}]"
    text += f", **{row['word']}**"
    if row["detectable"] is not None:
        text += f" (this design shows differences from {row['detectable']:.3f})"
    if row["expected"] is None:
        return text + "."
    must = "neither higher nor lower" if row["expected"] == "same" else row["expected"]
    return f"{text}; a control that must be {must}: {'passed' if row['passed'] else 'failed'}."


def _part_section(part: Results, pictures: frozenset[str]) -> str:
    tables = [
        markdown_table(
            Table(
                **{
                    **table,
                    "header": tuple(table["header"]),
                    "rows": tuple(map(tuple, table["rows"])),
                    "emphasised": frozenset(table["emphasised"]),
                }
            )
        )
        for table in part["tables"]
    ]
    return _join(
        f"## {part['question']}",
        "\n".join(f"- {text}" for text in part["statements"]),
        *tables,
        _picture(f"{part['name']}-scores.png", pictures),
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


def _courses_section(parts: Sequence[Results], pictures: frozenset[str]) -> str:
    rows = [
        (
            f"{part['label']}: {row['arm']}",
            _count(row["survived"]),
            *(f"{row[name]:.3f}" for name in ("first_f1", "best_f1", "final_f1")),
            *(_last(row["curves"][name]) for name in _LAST),
            _mass_ratio(row["curves"]),
        )
        for part in parts
        for row in part["courses"]
    ]
    table = Table(
        title="How the runs went",
        header=(
            "Condition: method",
            "Survived",
            "F1 at the start",
            "Best F1",
            "Last F1",
            "Last entropy",
            "Last perplexity",
            "Repeated tokens",
            "Negative / positive mass",
        ),
        rows=tuple(rows),
        note=(
            "F1 on the questions of the learning curve; means over seeds. A run survives if no "
            "collapse alarm was raised and its last F1 is at least 0.8 of its best; with the "
            "Wilson interval of the share. Entropy in nats a token, perplexity of sampled turns, "
            "share of repeated tokens: at the last update. Mass: of the advantages over all "
            "updates."
        ),
    )
    return _join(
        "## When does training collapse?",
        markdown_table(table),
        _picture("courses.png", pictures),
    )


_LAST: Final = ("entropy", "mean_perplexity", "repeated_token_share")


def _limits(results: Results) -> str:
    missing = [part["name"] for part in results["parts"] if not part["seeds"]]
    short = [
        f"{part['name']} ({len(part['seeds'])} of {len(part['planned_seeds'])} seeds)"
        for part in results["parts"]
        if part["seeds"] and len(part["seeds"]) < len(part["planned_seeds"])
    ]
    lines = [
        "- A policy of one million parameters on made-up questions about real facts is not a "
        "model of three billion parameters on HotpotQA. What holds here need not hold there, and "
        "the other way round.",
        "- All runs begin with one warm start: intervals say nothing of another one.",
    ]
    if missing:
        lines.append(f"- Not begun: {', '.join(missing)}.")
    if short:
        lines.append(f"- Not finished: {', '.join(short)}.")
    return _join("## What this does not show", "\n".join(lines))


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


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


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


def _mass_ratio(curves: Results) -> str:
    """Negative over positive mass of the advantages, over all updates and seeds."""
    negative, positive = (
        sum(v for line in curves[name]["by_seed"] for v in line if v is not None)
        for name in ("negative_mass", "positive_mass")
    )
    return f"{negative / positive:.2f}" if positive else NOTHING


def _picture(name: str, pictures: frozenset[str]) -> str:
    if name not in pictures:
        return ""
    titles = {
        "differences.png": "Judged differences of F1 with intervals; hollow ones are controls.",
        "labels.png": "Agreement, precision and recall of silver labels over training.",
        "courses.png": "F1, entropy, perplexity and repeated text over updates.",
    }
    return f"![{titles.get(name, 'Final F1 of every method; small dots are seeds.')}]({name})"


def _join(*blocks: str) -> str:
    return "\n\n".join(block.strip() for block in blocks if block.strip())
