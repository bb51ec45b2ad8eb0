"""GLUE and XNLI as the task of a study: what a labelled task decides of a training, and how its runs are scored.

A YAML leaves open (`???`) what differs between tasks: classes, regression, updates, alpha and how its divergence is
reduced, and the measure that chooses the best checkpoint. Training starts by fairseq's `finetune_from_model`, which
takes weights alone and gives way to the run's own last checkpoint when it goes on; `restore_file` would start again
each time. Left out on purpose: an average of checkpoints, which nobody reports for fine-tuning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...data.encoders import Encoder
from ...data.sentences import SentenceData, Task
from ...errors import UserError
from ...scoring.sentences.evaluate import refuse_without_packages, score_labels
from ...workspace.doctor import installed_versions, release
from ...workspace.machine import Machine, cores
from ...workspace.progress import say
from ...workspace.runs import Run
from ...workspace.steps import once
from ..scorings import Scoring, Wanted, data_of, manifest_of
from ..training import filled_in, merged, needs_another_run
from .prepare import prepare_tasks, task_jobs, tasks_of

_CHOICES = ("best", "last")
_START = "finetune_from_model"
# What makes fairseq's `sentence_prediction` log a measure; it always has accuracy and loss.
_REPORTS = {"mcc": "report_mcc", "f1": "report_acc_and_f1", "pearson": "report_pearson_and_spearman"}


@dataclass(frozen=True)
class SentenceTask:
    """The tasks of one set of labelled sentences, which stand where a translation has its pairs."""

    dataset: SentenceData
    encoder: Path | None = None  # the folder whose weights training starts from

    # Training --------------------------------------------------------------------------------------------------------

    @property
    def default_recipe(self) -> str:
        """The kind of the encoder, or the first of the data set."""
        return self.dataset.recipes[0] if self.encoder is None else Encoder.of(self.encoder).kind

    @property
    def options(self) -> tuple[str, ...]:
        """What `wff train` is given for this task alone."""
        return () if self.encoder is None else ("--encoder", str(self.encoder))

    def pair(self, word: str | None) -> str:
        """The key of the task that a user typed, in any case of letters (default: the first)."""
        return tasks_of(self.dataset, word and word.split(","))[0]

    def languages(self, pair: str) -> str | None:
        """None: fairseq's task has no languages."""
        return None

    def prepare(self, pairs: Sequence[str], recipe: str, out: Path, archives: Sequence[Path]) -> list[str]:
        """`wff prepare` of these tasks; returns a line about each."""
        return prepare_tasks(task_jobs(self.dataset, self.encoder, pairs, out, recipe), archives, cores())

    def starts_from_a_run(self, config: Path) -> bool:
        """Whether a YAML leaves open a teacher or Fisher information; the weights to start from are the encoder's."""
        return needs_another_run(config, but=(_START,))

    def settings(
        self, config: Path, files: Mapping[str, Any], manifest: Mapping[str, Any], changed: Sequence[str]
    ) -> dict[str, Any]:
        """The settings beside the YAML: `files` of another run, what the task decides, what the user changed."""
        from omegaconf import OmegaConf

        filled = filled_in(config, {key: value for key, value in files.items() if key != _START})
        settings: Any = OmegaConf.merge(OmegaConf.load(config), merged(filled, changed))
        task = next(task for task in self.dataset.tasks.values() if task.name == manifest["task"])
        decided: dict[str, dict[str, Any]] = {
            section: {key: value for key, value in values.items() if OmegaConf.is_missing(settings[section], key)}
            for section, values in _facts(task, manifest, settings).items()
        }
        decided["checkpoint"] = {}
        if OmegaConf.is_missing(settings.checkpoint, "best_checkpoint_metric"):
            measure = _best_by(task)
            decided["checkpoint"] = {
                "best_checkpoint_metric": measure,
                "maximize_best_checkpoint_metric": measure != "loss",
            }
            decided["criterion"] |= {_REPORTS[measure]: True} if measure in _REPORTS else {}
        if OmegaConf.is_missing(settings.checkpoint, _START):
            decided["checkpoint"][_START] = str(self._weights(config, manifest))
        return merged(OmegaConf.merge(filled, decided), changed)

    def _weights(self, config: Path, manifest: Mapping[str, Any]) -> Path:
        """The encoder's, if the data is in its subwords."""
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

    def scorings(self, run: Run, wanted: Wanted, manifest: Mapping[str, Any]) -> list[Scoring]:
        """A step for each checkpoint, which scores every set with labels; GLUE keeps those of its test sets."""
        subsets = tuple(name for name in manifest["subsets"] if f"labels/{name}.txt" in manifest["sha256"])
        return [Scoring(choice, choice, subsets, {"choice": choice}) for choice in wanted.choices or _CHOICES]

    def refuse_early(self, run: Run, wanted: Wanted) -> None:
        """Packages, checkpoints that can be meant and the data must be there before anything is predicted."""
        refuse_without_packages()
        if "average" in (wanted.choices or ()):
            raise UserError(f"{run.folder} is not translated: there is no average; type --choices {','.join(_CHOICES)}")
        data_of(run)

    def score(self, run: Run, machine: Machine, wanted: Wanted, remedy: str) -> list[Scoring]:
        """Do every step that is not done yet; returns all of them."""
        folder, manifest = data_of(run), manifest_of(run)
        scorings = self.scorings(run, wanted, manifest)
        for step in scorings:
            work = partial(score_labels, run, machine, folder, manifest, step.choice)
            once(run.folder, f"scoring-{step.name}", dict(step.settings), work, remedy)
        return scorings


def _best_by(task: Task) -> str:
    """The measure of the papers' tables, where the installed fairseq logs it."""
    measure, version = task.metrics[0], installed_versions().get("fairseq", "")
    if measure not in _REPORTS or release(version) != (0, 12, 2):
        return measure
    logged = "loss" if task.regression else "accuracy"
    say(f"fairseq {version} does not log {measure}: the best checkpoint is chosen by {logged}; later ones log it")
    return logged


def _facts(task: Task, manifest: Mapping[str, Any], settings: Any) -> dict[str, dict[str, Any]]:
    """What a YAML may leave to the task, by section."""
    from omegaconf import OmegaConf

    batch = settings.dataset.batch_size * settings.optimization.get("update_freq", [1])[0]
    updates = settings.optimization.max_epoch * -(-manifest["rows"]["train"] // batch)
    if not OmegaConf.is_missing(settings.optimization, "max_update"):
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
