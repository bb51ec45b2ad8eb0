"""`wff train`: one cell of a table, a data set, a recipe, a pair, a method and a seed, trained to its end.

The training is that of configs/DATASET/METHOD.yaml, by fairseq-hydra-train; here it meets the data that `wff prepare`
made, the machine, and the runs that it starts from. A run folder records where its scores come from. Called again after
a kill or a requeue, the training resumes. Left out on purpose: the steps of a training (`training.py`), and what
differs between language pairs and labelled tasks (`translation.py`, `sentences/task.py`).
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import prepared, read_manifest
from ..errors import UserError
from ..workspace.configs import CONFIGS, config_path, open_settings
from ..workspace.locks import lock_folder
from ..workspace.machine import Machine
from ..workspace.provenance import relocate
from ..workspace.runs import Run
from ..workspace.steps import OPEN, state_of
from .tasks import StudyTask, task_of
from .training import files_in, found_in, merged, refuse_invalid_settings, stamp_of, train, training_settings

# The run of the same seed in which a method finds what its YAML leaves open, if that is not standard.
_PARENT = {"self_distillation_twice": "self_distillation"}


@dataclass(frozen=True)
class Study:
    """What the cells of one matrix share: the task, the prepared data, the YAMLs, the runs' folder, changed settings.

    A pair is a language pair, or the key of a labelled task.
    """

    task: StudyTask
    recipe: str
    data: Path
    configs: Path
    runs: Path
    changed: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        dataset: str,
        *,
        recipe: str | None = None,
        encoder: Path | None = None,
        data: Path | None = None,
        configs: Path | None = None,
        runs: Path | None = None,
        changed: Sequence[str] = (),
    ) -> "Study":
        """The study of a data set by its name, with the defaults of `wff train`."""
        task = task_of(dataset, encoder)
        recipe = recipe or task.default_recipe
        if recipe not in task.dataset.recipes:
            raise UserError(f"{dataset} has no recipe {recipe!r}; type --recipe {' or '.join(task.dataset.recipes)}")
        data = (data or Path("data") / dataset).resolve()
        configs = (configs or CONFIGS / dataset).resolve()
        return cls(task, recipe, data, configs, (runs or Path("runs") / configs.name).resolve(), tuple(changed))

    def run(self, pair: str, method: str, seed: int) -> Run:
        """The run of one cell."""
        return Run(method, seed, self.runs / self.recipe / pair / f"{method}-{seed}")

    def data_of(self, pair: str) -> Path:
        """The folder of the prepared data of a pair."""
        return prepared(self.data, self.recipe, pair)

    def parent(self, pair: str, run: Run) -> Run | None:
        """The run that this one starts from, if its YAML leaves something open that another run has."""
        if not self.task.starts_from_a_run(config_path(run.method, self.configs)):
            return None
        return self.run(pair, _PARENT.get(run.method, "standard"), run.seed)

    def refuse_invalid(self, method: str) -> None:
        """The YAML of a method, with what the user changed in it, must be one that fairseq can train with."""
        refuse_invalid_settings(config_path(method, self.configs), changed=merged({}, self.changed))

    def train(self, pair: str, run: Run, machine: Machine) -> None:
        """Train one cell to its end."""
        if not run.trained:
            self.refuse_invalid(run.method)  # now, and not after hours of what it starts from
        folder, config, parent = self.data_of(pair), config_path(run.method, self.configs), self.parent(pair, run)
        manifest = read_manifest(folder)
        files: dict[str, Path] = {}
        if parent is not None:
            if not parent.trained:
                raise UserError(
                    f"{run.method} starts from {parent.folder}, which is not trained; type: "
                    + self.command(pair, parent)
                )
            files = found_in(parent, "best", config, folder / "bin", machine)
        more = self.task.settings(config, files, manifest, self.changed)
        for section, key in open_settings(config):
            if key not in more.get(section, {}):
                raise UserError(f"{config} leaves {section}.{key} open; add --set {section}.{key}=VALUE")
        about = self.provenance(pair, run)
        with lock_folder(run.folder):
            train(run, config, folder / "bin", self.task.languages(pair), machine, about, more)
            relocate(run, about)

    def state(self, pair: str, run: Run) -> str:
        """DONE, OPEN or OTHER, as `train` will find the training; nothing is measured or written for it."""
        if state_of(run.folder, "training", {}) == OPEN:  # not begun: its data and its parent may be missing
            return OPEN
        return state_of(run.folder, "training", self.stamp(pair, run))

    def stamp(self, pair: str, run: Run) -> Mapping[str, Any]:
        """What the stamp of a training holds; nothing is measured for it."""
        folder, config, parent = self.data_of(pair), config_path(run.method, self.configs), self.parent(pair, run)
        files = {} if parent is None else files_in(parent, "best", config)
        more = self.task.settings(config, files, read_manifest(folder), self.changed)
        return stamp_of(training_settings(run, config, folder / "bin", self.task.languages(pair), more))

    def command(self, pair: str, run: Run) -> str:
        """What a user types to train this cell alone."""
        words = ["wff", "train", self.task.dataset.name, "--recipe", self.recipe, "--pair", pair]
        words += ["--method", run.method, "--seed", run.seed]
        words += ["--data", self.data, "--configs", self.configs, "--out", self.runs]
        words += [word for setting in self.changed for word in ("--set", setting)]
        return shlex.join(map(str, [*words, *self.task.options]))

    def provenance(self, pair: str, run: Run) -> dict[str, Any]:
        """What provenance.json of a run records about its study."""
        return {
            "dataset": self.task.dataset.name, "recipe": self.recipe, "pair": pair, "data": str(self.data_of(pair)),
            "changed": list(self.changed), "command": self.command(pair, run),
        }  # fmt: skip
