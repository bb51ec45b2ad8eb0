"""`wff train`: one training of a study, named by language pair or labelled task, method and seed.

A study combines a data set, a recipe and the YAMLs of the methods (configs/DATASET/METHOD.yaml). A training uses the
data of `wff prepare` and, where its method needs one, the run that it starts from. Called again after a kill or a
requeue, it resumes.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import prepared, read_manifest
from ..data.recipe import OWN
from ..data.sentences import OWN_SENTENCES
from ..errors import UserError
from ..workspace.configs import CONFIGS, config_path, open_settings
from ..workspace.locks import lock_folder
from ..workspace.machine import Machine
from ..workspace.provenance import relocate
from ..workspace.runs import Run
from ..workspace.steps import OPEN, state_of
from .sizes import configs_for, refuse_other_configs, size_of
from .tasks import StudyTask, task_of
from .training import (
    has_setting,
    measured_parent_files,
    merge_assignments,
    parent_files,
    refuse_invalid_settings,
    stamp_of,
    train,
    training_settings,
)


@dataclass(frozen=True)
class Study:
    """What the trainings of one matrix share.

    Args:
        task: translation or labelled sentences. A `pair` below is a language pair, or the key of a labelled task.
        recipe: of the data.
        data: folder of the prepared data.
        configs: folder of METHOD.yaml.
        runs: folder of the runs.
        assignments: settings of the YAMLs that the user changed, each as section.key=value.
        methods: those that are trained, besides the runs that these start from.
    """

    task: StudyTask
    recipe: str
    data: Path
    configs: Path
    runs: Path
    assignments: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        dataset: str,
        *,
        recipe: str | None = None,
        encoder: Path | None = None,
        data: Path | None = None,
        configs: Path | None = None,
        size: str | None = None,
        pairs: Sequence[str | None] = (),
        runs: Path | None = None,
        assignments: Sequence[str] = (),
        methods: Sequence[str] = (),
    ) -> "Study":
        """The study of a data set by its name, with the defaults of `wff train`.

        Args:
            size: of own files without `configs` (default: by the number of training pairs).
            pairs: what is trained; only the size depends on it.
        """
        task = task_of(dataset, encoder)
        recipe = recipe or task.default_recipe
        if task.dataset.recipes and recipe not in task.dataset.recipes:
            raise UserError(f"{dataset} has no recipe {recipe!r}; type --recipe {' or '.join(task.dataset.recipes)}")
        data = (data or Path("data") / dataset).resolve()
        if size and (dataset != OWN or configs):
            raise UserError("--size chooses the YAMLs of own files; leave it out with other data, and with --configs")
        if dataset == OWN:
            pairs, runs = [task.pair(pair) for pair in pairs], runs or Path("runs") / OWN
            configs = configs or configs_for(size, [prepared(data, recipe, pair) for pair in pairs])
        if dataset == OWN_SENTENCES.name:
            configs, runs = configs or CONFIGS / "glue", runs or Path("runs") / dataset
        configs = (configs or CONFIGS / dataset).resolve()
        runs = (runs or Path("runs") / configs.name).resolve()
        study = cls(task, recipe, data, configs, runs, tuple(assignments), tuple(methods))
        if dataset == OWN:
            for pair in pairs:
                refuse_other_configs(study.configs, study.runs / recipe / str(pair))
        return study

    @property
    def size(self) -> str | None:
        """Whose YAMLs own files are trained with; None: other YAMLs."""
        return size_of(self.configs)

    def run(self, pair: str, method: str, seed: int) -> Run:
        """The run of a pair, a method and a seed."""
        return Run(method, seed, self.runs / self.recipe / pair / f"{method}-{seed}")

    def data_of(self, pair: str) -> Path:
        """The folder of the prepared data of a pair."""
        return prepared(self.data, self.recipe, pair)

    def assignments_of(self, method: str) -> tuple[str, ...]:
        """The user's settings for a method: a setting that only some of the methods have is theirs alone."""

        others = [named for named in self.methods if named != method]
        if not others:  # then all are its own, and whether it has them is seen when it is trained
            return self.assignments

        def has(method: str, assignment: str) -> bool:
            config = config_path(method, self.configs)
            return has_setting(config, self.assignments, assignment.partition("=")[0])

        return tuple(
            assignment
            for assignment in self.assignments
            if has(method, assignment) or not any(has(other, assignment) for other in others)
        )

    def parent(self, pair: str, run: Run) -> Run | None:
        """The run that another one starts from, if the YAML leaves open what only a run provides."""
        if not self.task.needs_parent(config_path(run.method, self.configs), self.assignments_of(run.method)):
            return None
        return self.run(pair, self.task.parent_methods.get(run.method, "standard"), run.seed)

    def refuse_invalid(self, method: str) -> None:
        """Raise UserError unless fairseq can train with the YAML of a method and the user's settings."""
        overrides = merge_assignments({}, self.assignments_of(method))
        refuse_invalid_settings(config_path(method, self.configs), overrides=overrides)

    def train(self, pair: str, run: Run, machine: Machine) -> None:
        """Train one run to its end."""
        if not run.trained:
            self.refuse_invalid(run.method)  # before the parent's Fisher information is measured
        folder, config, parent = self.data_of(pair), config_path(run.method, self.configs), self.parent(pair, run)
        manifest = read_manifest(folder)
        files: dict[str, Path] = {}
        if parent is not None:
            if not parent.trained:
                raise UserError(
                    f"{run.method} starts from {parent.folder}, which is not trained; type: "
                    + self.command(pair, parent)
                )
            density = self.task.mask_density
            files = measured_parent_files(parent, "best", config, folder / "bin", machine, density)
        overrides = self.task.settings(config, files, manifest, self.assignments_of(run.method))
        for section, key in open_settings(config):
            if key not in overrides.get(section, {}):
                raise UserError(f"{config} leaves {section}.{key} open; add --set {section}.{key}=VALUE")
        provenance = self.provenance(pair, run)
        with lock_folder(run.folder):
            train(run, config, folder / "bin", self.task.languages(pair), machine, provenance, overrides)
            relocate(run, provenance)

    def state(self, pair: str, run: Run) -> str:
        """DONE, OPEN or OTHER: the state in which `train` will find the training; measures and writes nothing."""
        if state_of(run.folder, "training", {}) == OPEN:  # not started: its data and its parent may be missing
            return OPEN
        return state_of(run.folder, "training", self.stamp(pair, run))

    def stamp(self, pair: str, run: Run) -> Mapping[str, Any]:
        """What the stamp of a training records; measures nothing."""
        folder, config, parent = self.data_of(pair), config_path(run.method, self.configs), self.parent(pair, run)
        files = {} if parent is None else parent_files(parent, "best", config)
        overrides = self.task.settings(config, files, read_manifest(folder), self.assignments_of(run.method))
        return stamp_of(training_settings(run, config, folder / "bin", self.task.languages(pair), overrides))

    def command(self, pair: str, run: Run) -> str:
        """The command that trains one run of the study."""
        words = ["wff", "train", self.task.dataset.name, "--recipe", self.recipe, "--pair", pair]
        words += ["--method", run.method, "--seed", run.seed]
        words += ["--data", self.data, "--configs", self.configs, "--out", self.runs]
        words += [word for assignment in self.assignments_of(run.method) for word in ("--set", assignment)]
        return shlex.join(map(str, [*words, *self.task.train_options]))

    def provenance(self, pair: str, run: Run) -> dict[str, Any]:
        """What provenance.json of a run records about its study."""
        return {
            "dataset": self.task.dataset.name, "recipe": self.recipe, "pair": pair, "data": str(self.data_of(pair)),
            "changed": list(self.assignments_of(run.method)), "command": self.command(pair, run),
            **({"size": self.size} if self.size else {}),
        }  # fmt: skip
