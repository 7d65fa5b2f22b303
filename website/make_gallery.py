"""Pages of the gallery: reports that `make gallery` left in build/gallery, and an index of them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import mkdocs_gen_files

BUILT: Final = Path(__file__).parents[1] / "build" / "gallery"
REPORTS: Final = {
    "comparison/report.html": (
        "A comparison of GRPO with CalibAdv, as `make compare` writes it",
        "calibadv compare --preset smoke --output-dir runs/comparison",
    ),
    "credit/credit.html": (
        "Measured credit: the truth beside the estimates, turn by turn",
        "calibadv credit atlas-tiny --questions 4 --group-size 4 --continuations 8",
    ),
}
"""Report below the folder: its title, and the command that writes it."""

lines = []
for path, (title, command) in REPORTS.items():
    with mkdocs_gen_files.open(f"gallery/{path}", "w") as page:
        page.write((BUILT / path).read_text(encoding="utf-8", errors="replace"))
    for other in sorted((BUILT / path).parent.glob("report_groups/*/*.html")):
        with mkdocs_gen_files.open(f"gallery/{other.relative_to(BUILT)}", "w") as page:
            page.write(other.read_text(encoding="utf-8", errors="replace"))
    lines.append(f"## {title}\n\n[Open it]({path})\n\n```bash\n{command}\n```\n\n")
with mkdocs_gen_files.open("gallery/index.md", "w") as index:
    index.write(
        "# Gallery\n\nReports as the commands write them, each one self-contained page. They were "
        "made when this site was built, at the size of a trial: look at their form, and read "
        "results in [Results](../results.md) and [Ground truth for credit](../credit/README.md)."
        "\n\n" + "".join(lines)
    )
