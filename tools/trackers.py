"""The training curves for a tracker of experiments: `python train.py --track wandb` or `--track trackio`.

Weights & Biases and Trackio have the same three calls, so one sink serves both: a run for each trial with every point
of its curves, and one for the activation with PD along training and the means over its trials. They are written when
an activation is finished, once for each of its results: what was logged is remembered in a small file beside them.
Like TensorBoard's log this only listens; the package that is named is needed for this alone, and where it writes to is
for its own settings to say (WANDB_MODE=offline, TRACKIO_DIR, …).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

import storage
from config import Config, UserError
from tools.tensorboard_log import CURVES, FINAL, PD_CURVE

PACKAGES = ("wandb", "trackio")
PROJECT = "activation-reproducibility"


class Tracker:
    """Has the calls of tensorboard_log.Board. A tracker that fails stops no training: it is told at once."""

    def __init__(self, package: str, config: Config, tell: Callable[[str], None]):
        """
        Raises:
            UserError: an unknown tracker, or its package is not installed.
        """
        if package not in PACKAGES:
            raise UserError(f"track={package!r}: must be one of {', '.join(PACKAGES)}")
        try:
            self.package = importlib.import_module(package)
        except ImportError as error:
            raise UserError(
                f"track={package!r}: needs that package ({error}); install it (pip install {package}), or leave the "
                f"option out"
            ) from error
        self.config, self.tell = config, tell
        self.remembered = Path(config.results_dir) / f".{package}.json"
        self.problem: storage.StorageError | None = None

    def begin(self, tasks: Iterable[tuple[str, int]]) -> None:
        """What is about to be trained."""

    def event(self, event: Mapping) -> None:
        """A report of a trial."""

    def finished(self, results: dict) -> None:
        """Log the results of an activation, unless these very ones were logged before."""
        if self.problem is not None:
            return
        name, sha = results["activation"], storage.sha256_json([t.get("weights_sha256") for t in results["trials"]])
        try:
            logged = storage.read_json(self.remembered) if self.remembered.exists() else {}
            if logged.get(name) == sha:
                return
            for trial in results["trials"]:
                curves = {tag: dict(zip(trial["steps"], trial[key], strict=True)) for key, tag in CURVES.values()}
                self._run(name, f"{name}/trial_{trial['trial_id']}", curves, {"seed": trial["seed"]})
            self._run(name, name, self._of_all(results), {"fingerprint": results.get("fingerprint")})
            storage.write_json(self.remembered, {**logged, name: sha})
        except Exception as error:  # whatever the package, its server or the network has to say
            reason = " ".join(str(error).split()) or type(error).__name__
            self.problem = storage.StorageError(f"{self.package.__name__}: {reason}")
            self.tell(f"{self.problem}; going on without it")

    def _of_all(self, results: dict) -> dict[str, dict[int, float]]:
        steps = results["divergence"]["steps"]
        pds = [pair["relative_pd"] for pair in results["divergence"]["pairs"].values()]
        curves = {PD_CURVE: dict(zip(steps, np.mean(pds, 0).tolist(), strict=True))} if pds else {}
        last = steps[-1] if steps else 0
        return curves | {f"final/{key}": {last: results[key]} for key in FINAL if results[key] is not None}

    def _run(self, group: str, name: str, curves: dict[str, dict[int, float]], more: dict) -> None:
        """One run of the tracker: every curve, step by step."""
        project = f"{PROJECT}-{self.config.study}" if self.config.study else PROJECT
        run = self.package.init(project=project, group=group, name=name, config={**self.config.to_dict(), **more})
        try:
            for step in sorted({step for curve in curves.values() for step in curve}):
                run.log({tag: curve[step] for tag, curve in curves.items() if curve.get(step) is not None}, step=step)
        finally:
            run.finish()
