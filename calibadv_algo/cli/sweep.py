"""`calibadv sweep`: one or two settings varied, with the machinery of `calibadv compare`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console

from calibadv_algo.cli.compare import Compare, run_comparison
from calibadv_algo.experiments.sweeping import parse_varied, swept


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep(Compare):
    """Train every arm with every value of one or two settings, compare, and draw the picture."""

    vary: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="SETTING=VALUE,…")
    ] = ()
    """A setting of the runs and its values: optim.lr=1e-4,3e-4. Give it once or twice."""

    def run(self) -> int:
        """Trains, writes the report of the comparison, and the picture."""
        varied = parse_varied(self.vary)
        config, points = swept(self.config, varied)
        console = Console(highlight=False)
        summary = run_comparison(config, console)
        from calibadv_algo.report.sweep_picture import write_sweep

        path = write_sweep(config.output_dir, summary, varied, points)
        console.print(f"wrote {path}", markup=False, soft_wrap=True)
        return 0
