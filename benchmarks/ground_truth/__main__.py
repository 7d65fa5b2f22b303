"""Everything that docs/credit says, measured anew: trains, measures, writes the page.

    python -m benchmarks.ground_truth --output-dir runs/ground_truth

Takes about an hour of a core. What is finished is not done again. `--timing` measures how long the
command takes; `--page-only` writes the page from the records beside it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import tyro
from rich.console import Console

from benchmarks.ground_truth.page import PAGE_FILE, render_page
from benchmarks.ground_truth.records import read_records, record_of, write_record
from benchmarks.ground_truth.study import PARTS, TRAININGS, Part, Training
from benchmarks.ground_truth.timing import measure_speed
from calibadv_algo.cli.main import main
from calibadv_algo.cli.provenance import PROVENANCE_FILE, commit_of_start
from calibadv_algo.experiments.truth.log import LOG_FILE, RESULT_FILE
from calibadv_algo.learner.pretrained import policy_path
from calibadv_env.common.files import write_text

DOCS: Final = Path(__file__).parents[2] / "docs" / "credit"
PICTURES_OF: Final = "warm"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundTruth:
    """Train and measure what docs/credit speaks of, one after the other, then write its page."""

    output_dir: Path = Path("runs/ground_truth")
    """Folder of the runs and measurements."""
    only: tuple[str, ...] = ()
    """Names of the measurements to make; default: all."""
    timing: bool = False
    """If true, only times are measured, three minutes of a core that should be quiet."""
    page_only: bool = False
    """If true, only the page is written, from the records beside it."""
    docs: Path = DOCS
    """Folder of the page and its records."""

    def run(self) -> None:
        """Does what is not finished."""
        console = Console(highlight=False)
        if self.timing:
            write_record(measure_speed(), self.docs)
        for part in () if self.page_only or self.timing else PARTS:
            if self.only and part.name not in self.only:
                continue
            for training in TRAININGS:
                if training.name == part.training:
                    self._train(training)
            console.print(f"wrote {self._measure(part)}", markup=False, soft_wrap=True)
        if self.only:
            console.print("only some were measured: --page-only writes the page", markup=False)
            return
        write_text(self.docs / PAGE_FILE, render_page(read_records(self.docs)))
        console.print(f"wrote {self.docs / PAGE_FILE}", markup=False, soft_wrap=True)

    def _train(self, training: Training) -> None:
        """Trains, or goes on with, a run; two checkpoints of it stay."""
        folder = self.output_dir / "runs" / training.name
        words = ["train", "--preset", "atlas-tiny", *training.flags, "--keep-checkpoints", "2"]
        if not any(folder.glob("checkpoints/*/policy")) or _is_unfinished(folder):
            _command([*words, "--output-dir", str(folder), "--quiet"])
        for policy in folder.glob("checkpoints/*/policy") if training.keeps_policy else ():
            if not policy.is_symlink():
                shutil.rmtree(policy)
                policy.symlink_to(policy_path("atlas-tiny"))

    def _measure(self, part: Part) -> Path:
        """Measures, or goes on with, a part, and writes its record."""
        folder = self.output_dir / part.name
        if part.log_of and not (folder / LOG_FILE).exists():
            folder.mkdir(parents=True, exist_ok=True)
            for name in (LOG_FILE, PROVENANCE_FILE):
                shutil.copy(self.output_dir / part.log_of / name, folder / name)
        arguments = part.arguments(str(self.output_dir / "runs"))
        _command(["credit", *arguments, "--output", str(folder)])
        [result] = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
        if part.name == PICTURES_OF:
            for picture in folder.glob("*.png"):
                shutil.copy(picture, self.docs / picture.name)
        shown = " ".join(["calibadv credit", *part.arguments()])
        record = record_of(result, part.name, shown)
        if part.training:
            record["trained_at"] = commit_of_start(self.output_dir / "runs" / part.training)
        return write_record(record, self.docs)


def _is_unfinished(folder: Path) -> bool:
    """True for a run whose last update has no checkpoint."""
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))["config"]
    last = int(settings["optim"]["num_updates"])
    return not (folder / "checkpoints" / f"update_{last:06d}" / "policy").exists()


def _command(words: list[str]) -> None:
    """Runs a command of ours in this process.

    Raises:
        RuntimeError: if it failed.
    """
    if main(words) != 0:
        raise RuntimeError(f"calibadv {' '.join(words)} failed")


if __name__ == "__main__":
    tyro.cli(GroundTruth, config=(tyro.conf.AvoidSubcommands,)).run()
