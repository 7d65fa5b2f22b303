"""Experiment trackers of others behind the interface of ``tracking.py``, each imported on use."""

from __future__ import annotations

import importlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal

from packaging.version import Version

from calibadv_algo.training.tracked_episodes import (
    EPISODE_COLUMNS,
    EpisodeRow,
    markdown_rows,
)
from calibadv_algo.training.tracking import Metrics, TensorBoardTracker, Tracker
from calibadv_env.common.proxies import spare_loopback

TrackerName = Literal["tensorboard", "wandb", "trackio", "mlflow"]
"""Trackers that a run can be given; ``metrics.jsonl`` is written in any case."""

PROJECT: Final = "calibadv"
"""Project, or experiment, that runs are put under."""

_STEP: Final = "update"
_EPISODES: Final = "episodes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """An optional package and the versions that it is known to work in.

    Attributes:
        module: Name of the module and of the extra that brings it.
        at_least: Lowest version that works.
        below: Lowest version that is not known to work.
        tested: Versions that the tests were run with.
    """

    module: str
    at_least: str
    below: str
    tested: str

    def load(self) -> ModuleType:
        """Imports the package.

        Raises:
            ImportError: if it is missing, too old or too new; the message names the extra and the
                versions tested.
        """
        remedy = f"pip install 'calibadv[{self.module}]' (tested with {self.tested})"
        try:
            module = importlib.import_module(self.module)
        except ImportError as error:
            raise ImportError(
                f"the tracker {self.module} could not be imported ({error}): {remedy}"
            ) from error
        version = str(getattr(module, "__version__", "0"))
        if not Version(self.at_least) <= Version(version) < Version(self.below):
            raise ImportError(
                f"the tracker {self.module} needs a version from {self.at_least} to below "
                f"{self.below}, got {version}: {remedy}"
            )
        return module


PEERS: Final = {
    "wandb": Peer(module="wandb", at_least="0.31", below="1", tested="0.31.0"),
    "trackio": Peer(module="trackio", at_least="0.43", below="1", tested="0.43.0"),
    "mlflow": Peer(module="mlflow", at_least="3.1", below="4", tested="3.1.0, 3.17.2"),
}
"""The packages; other versions are refused, since their files and calls differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """Facts about a run for trackers.

    Attributes:
        output_dir: Folder of the run; its name is the name of the run.
        config: The settings as plain JSON values.
        after_update: Last update that counts when a run goes on from a checkpoint, else None.
        files: Where trackers that write files put them; None means the folder of the run.
    """

    output_dir: Path
    config: Mapping[str, Any]
    after_update: int | None = None
    files: Path | None = None

    @property
    def files_dir(self) -> Path:
        """Where trackers that write files put them."""
        return self.output_dir if self.files is None else self.files

    @property
    def name(self) -> str:
        """Name of the run: its folder and the folder above it, which together are telling."""
        return "/".join(self.output_dir.absolute().parts[-2:])


class WandbTracker:
    """Logs to Weights & Biases.

    What ``WANDB_MODE``, ``WANDB_PROJECT`` and the other variables of wandb say, holds. Without a
    key and without ``WANDB_MODE`` the run is kept offline in the run's folder, where
    ``wandb sync`` finds it. The horizontal axis is the update.
    """

    def __init__(self, run: RunFacts) -> None:
        """Starts a run.

        Raises:
            ImportError: if wandb is missing or of another version.
        """
        wandb = PEERS["wandb"].load()
        run.files_dir.mkdir(parents=True, exist_ok=True)
        is_known = bool(os.environ.get("WANDB_MODE") or os.environ.get("WANDB_API_KEY"))
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            dir=str(run.files_dir),
            config=dict(run.config),
            mode=None if is_known or _has_netrc_key() else "offline",
            settings=wandb.Settings(silent=True),
        )
        self._run.define_metric("*", step_metric=_STEP)
        self._table = wandb.Table
        self._is_open = True

    def log(self, update: int, metrics: Metrics) -> None:
        """Logs every finite number."""
        self._run.log({_STEP: update, **_finite(metrics)})

    def log_episodes(self, update: int, rows: Sequence[EpisodeRow]) -> None:
        """Logs a table of sampled episodes."""
        table = self._table(columns=list(EPISODE_COLUMNS), data=[list(row) for row in rows])
        self._run.log({_STEP: update, _EPISODES: table})

    def close(self) -> None:
        """Finishes the run; a second call does nothing."""
        if self._is_open:
            self._is_open = False
            self._run.finish()


class TrackioTracker:
    """Logs to trackio: to its local database, or to where ``TRACKIO_SPACE_ID`` says.

    The database lies in ``TRACKIO_DIR``, by default in the cache of Hugging Face; see it with
    ``trackio show``. A run that goes on from a checkpoint goes on under its name.
    """

    def __init__(self, run: RunFacts) -> None:
        """Starts a run, or goes on with it.

        Raises:
            ImportError: if trackio is missing or of another version.
        """
        trackio = PEERS["trackio"].load()
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=run.name,
            config=dict(run.config),
            resume="never" if run.after_update is None else "allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self._finish = trackio.finish
        self._table = trackio.Table
        self._is_open = True

    def log(self, update: int, metrics: Metrics) -> None:
        """Logs every finite number at the update's step."""
        self._run.log(_finite(metrics), step=update)

    def log_episodes(self, update: int, rows: Sequence[EpisodeRow]) -> None:
        """Logs a table of sampled episodes at the update's step."""
        table = self._table(columns=list(EPISODE_COLUMNS), data=[list(row) for row in rows])
        self._run.log({_EPISODES: table}, step=update)

    def close(self) -> None:
        """Sends what is left and finishes; a second call does nothing."""
        if self._is_open:
            self._is_open = False
            self._finish()


class MlflowTracker:
    """Logs to MLflow: to ``MLFLOW_TRACKING_URI``, else to files in the run's folder.

    MLflow 3 takes its store of files only on demand (``MLFLOW_ALLOW_FILE_STORE``); the tracker
    makes that demand for this process where no other store is named.
    """

    def __init__(self, run: RunFacts) -> None:
        """Starts a run.

        Raises:
            ImportError: if mlflow is missing or of another version.
        """
        mlflow = PEERS["mlflow"].load()
        self._metric = importlib.import_module("mlflow.entities").Metric
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = (run.files_dir.absolute() / "mlruns").as_uri()
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(PROJECT)
        experiment = self._client.create_experiment(PROJECT) if found is None else None
        self._id = self._client.create_run(
            experiment or found.experiment_id, run_name=run.name
        ).info.run_id
        for name, value in _flat(run.config):
            self._client.log_param(self._id, name, value)
        self._is_open = True

    def log(self, update: int, metrics: Metrics) -> None:
        """Logs every finite number at the update's step."""
        now = int(time.time() * 1000)
        rows = [self._metric(name, value, now, update) for name, value in _finite(metrics).items()]
        if rows:
            self._client.log_batch(self._id, metrics=rows)

    def log_episodes(self, update: int, rows: Sequence[EpisodeRow]) -> None:
        """Keeps a table of sampled episodes as an artifact in Markdown."""
        file = f"{_EPISODES}/update_{update:06d}.md"
        self._client.log_text(self._id, markdown_rows(rows), file)

    def close(self) -> None:
        """Marks the run as finished; a second call does nothing."""
        if self._is_open:
            self._is_open = False
            self._client.set_terminated(self._id)


def open_trackers(names: Sequence[TrackerName], run: RunFacts) -> list[Tracker]:
    """Opens trackers by name; if one cannot be opened, those before it are closed again.

    A tracker's server on this machine is reached past the proxies that the environment names.

    Args:
        names: Which ones, in order.
        run: What they are told.

    Returns:
        The trackers.

    Raises:
        ImportError: if a package is missing or of another version.
        ValueError: if a name is unknown or stands twice.
    """
    if len(set(names)) != len(names):
        raise ValueError(f"trackers must be distinct, got {', '.join(names)}")
    spare_loopback()
    opened: list[Tracker] = []
    try:
        for name in names:
            opened.append(_open(name, run))
    except BaseException:
        for tracker in opened:
            tracker.close()
        raise
    return opened


def _open(name: TrackerName, run: RunFacts) -> Tracker:
    if name == "tensorboard":
        return TensorBoardTracker(run.files_dir / "tensorboard", after_update=run.after_update)
    kinds: dict[str, Callable[[RunFacts], Tracker]]
    kinds = {"wandb": WandbTracker, "trackio": TrackioTracker, "mlflow": MlflowTracker}
    if name not in kinds:
        raise ValueError(f"trackers must be of tensorboard, {', '.join(kinds)}; got {name!r}")
    return kinds[name](run)


def _finite(metrics: Metrics) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Settings as pairs of a dotted name and a text, of at most 500 characters."""
    if isinstance(value, Mapping) and (value or not name):
        pairs = [_flat(item, f"{name}.{key}" if name else str(key)) for key, item in value.items()]
        return [pair for each in pairs for pair in each]
    return [(name, str(value)[:500])]


def _has_netrc_key() -> bool:
    """Tells whether a login to wandb was stored."""
    import netrc

    try:
        hosts = netrc.netrc().hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return any("wandb" in host for host in hosts)
