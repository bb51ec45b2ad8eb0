"""Labelled sentences as the task of a study: what depends on a labelled task in training and in scoring.

A YAML leaves open (`???`) what differs between tasks: classes, regression, updates, alpha, the reduction of the
divergence, and the measure that chooses the best checkpoint. Fine-tuning starts by fairseq's `finetune_from_model`,
which loads weights alone and is ignored once the run has a last checkpoint; `restore_file` would restart each time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from ...data import prepared, read_manifest
from ...data.encoders import Encoder
from ...data.sentences import OWN_SENTENCES, SentenceData, Task
from ...errors import UserError
from ...scoring.sentences.evaluate import refuse_without_packages, score_labels
from ...workspace.doctor import installed_versions, release
from ...workspace.machine import Machine, cores
from ...workspace.progress import say
from ...workspace.runs import Run
from ...workspace.steps import once
from ..scorings import ScoringOptions, ScoringStep, TrainingData
from ..training import fill_open_settings, merge_assignments, needs_parent
from .prepare import prepare_tasks, task_jobs, tasks_of

_CHOICES = ("best", "last")
_START = "finetune_from_model"
# The options by which fairseq's `sentence_prediction` logs a measure; it always logs accuracy and loss.
_REPORTS = {"mcc": "report_mcc", "f1": "report_acc_and_f1", "pearson": "report_pearson_and_spearman"}


@dataclass(frozen=True)
class SentenceTask:
    """The tasks of one set of labelled sentences; a task is what a language pair is in translation.

    encoder: the folder of the pretrained model that training starts from.
    """

    dataset: SentenceData
    encoder: Path | None = None

    # Sung et al. 2021 measure their mask of 0.5 % before training, with the new classifier of the fine-tuned model.
    parent_methods: ClassVar[Mapping[str, str]] = MappingProxyType({"fish_mask": "untrained"})
    mask_density: ClassVar[float] = 0.005

    # Training --------------------------------------------------------------------------------------------------------

    @property
    def default_recipe(self) -> str:
        """The kind of the encoder, or the first recipe of the data set."""
        return self.dataset.recipes[0] if self.encoder is None else Encoder.of(self.encoder).kind

    @property
    def train_options(self) -> tuple[str, ...]:
        """Options of `wff train` that only this task has."""
        return () if self.encoder is None else ("--encoder", str(self.encoder))

    def pair(self, word: str | None) -> str:
        """The key of the task that a user typed, in any case (default: the first); of one's own tables, the name."""
        return tasks_of(self.dataset, word and word.split(","))[0]

    def languages(self, pair: str) -> str | None:
        """None: fairseq's task has no languages."""
        return None

    def prepare(self, pairs: Sequence[str], recipe: str, out: Path, archives: Sequence[Path]) -> list[str]:
        """Prepare these tasks as `wff prepare` does; returns a line about each. One's own must be there."""
        if self.dataset is OWN_SENTENCES:
            return [f"{pair}: {read_manifest(prepared(out, recipe, pair))['what']}" for pair in pairs]
        return prepare_tasks(task_jobs(self.dataset, self.encoder, pairs, out, recipe), archives, cores())

    def needs_parent(self, config: Path, assignments: Sequence[str]) -> bool:
        """Whether a YAML and `assignments` leave open a teacher or Fisher information; weights are the encoder's."""
        return needs_parent(config, assignments, provided=(_START,))

    def settings(
        self, config: Path, files: Mapping[str, Any], manifest: Mapping[str, Any], assignments: Sequence[str]
    ) -> dict[str, Any]:
        """The settings in place of the YAML's: `files` of the parent, facts of the task, the user's `assignments`."""
        from omegaconf import OmegaConf

        filled = fill_open_settings(config, {key: value for key, value in files.items() if key != _START})
        settings: Any = OmegaConf.merge(OmegaConf.load(config), merge_assignments(filled, assignments))
        task = self.dataset.task_of(manifest)
        facts: dict[str, dict[str, Any]] = {
            section: {key: value for key, value in values.items() if OmegaConf.is_missing(settings[section], key)}
            for section, values in _facts(task, manifest, settings).items()
        }
        facts["checkpoint"] = {}
        if OmegaConf.is_missing(settings.checkpoint, "best_checkpoint_metric"):
            measure = _best_by(task)
            facts["checkpoint"] = {
                "best_checkpoint_metric": measure,
                "maximize_best_checkpoint_metric": measure != "loss",
            }
            facts["criterion"] |= {_REPORTS[measure]: True} if measure in _REPORTS else {}
        if OmegaConf.is_missing(settings.checkpoint, _START):
            facts["checkpoint"][_START] = str(self._weights(config, manifest))
        return merge_assignments(OmegaConf.merge(filled, facts), assignments)

    def _weights(self, config: Path, manifest: Mapping[str, Any]) -> Path:
        """The weights of the encoder, which must be the one that the data was prepared with."""
        if self.encoder is None:
            raise UserError(f"{config} starts from a pretrained model; give its folder: --encoder DIR")
        encoder = Encoder.of(self.encoder)
        for name, digest in encoder.sums.items():
            if manifest["encoder"].get(name) != digest:
                raise UserError(
                    f"{encoder.folder / name} is not the one that the data was prepared with; "
                    "give --encoder that encoder, or prepare the data with this one"
                )
        return encoder.weights

    # Scoring ---------------------------------------------------------------------------------------------------------

    def scoring_steps(self, run: Run, options: ScoringOptions, manifest: Mapping[str, Any]) -> list[ScoringStep]:
        """A step for each checkpoint, which scores every set that has labels; the test sets of GLUE have none."""
        subsets = tuple(name for name in manifest["subsets"] if f"labels/{name}.txt" in manifest["sha256"])
        return [ScoringStep(choice, choice, subsets, {"choice": choice}) for choice in options.choices or _CHOICES]

    def checked_data(self, run: Run, options: ScoringOptions) -> TrainingData:
        """The data of a run, after checking the packages that score labels and the choices of checkpoints."""
        refuse_without_packages()
        if "average" in (options.choices or ()):
            raise UserError(f"{run.folder} is not translated: there is no average; type --choices {','.join(_CHOICES)}")
        return TrainingData.of(run)

    def score(
        self, run: Run, data: TrainingData, machine: Machine, options: ScoringOptions, remedy: str
    ) -> list[ScoringStep]:
        """Do every step that is not done; returns all steps. `remedy`: what to type where one has other settings."""
        steps = self.scoring_steps(run, options, data.manifest)
        for step in steps:
            work = partial(score_labels, run, machine, data.folder, data.manifest, step.choice)
            once(run.folder, f"scoring-{step.name}", dict(step.settings), work, remedy)
        return steps


def _best_by(task: Task) -> str:
    """The measure of the papers' tables, or a standard one where the installed fairseq does not log it."""
    if task.ranked:
        return "accuracy"  # fairseq does not know the queries
    measure, version = task.metrics[0], installed_versions().get("fairseq", "")
    if measure not in _REPORTS or release(version) != (0, 12, 2):
        return measure
    logged = "loss" if task.regression else "accuracy"
    say(f"fairseq {version} does not log {measure}: the best checkpoint is chosen by {logged}; later ones log it")
    return logged


def _facts(task: Task, manifest: Mapping[str, Any], settings: Any) -> dict[str, dict[str, Any]]:
    """The values of what a YAML may leave open for the task, by section."""
    from omegaconf import OmegaConf

    if OmegaConf.is_missing(settings.optimization, "max_update"):
        batch = settings.dataset.batch_size * settings.optimization.get("update_freq", [1])[0]
        updates = settings.optimization.max_epoch * -(-manifest["rows"]["train"] // batch)
    else:
        updates = settings.optimization.max_update
    return {
        "task": {"num_classes": max(1, len(task.labels))},
        "criterion": {
            "regression_target": task.regression,
            "alpha": task.alpha,
            "divergence_reduction": "mean" if task.regression else "sum",  # as the code of Xu et al. 2022
        },
        "optimization": {"max_update": updates},
    }
