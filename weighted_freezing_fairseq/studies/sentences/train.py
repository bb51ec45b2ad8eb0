"""`wff train glue` and `wff train xnli`: what a task decides of a training, and the weights that it starts from.

A YAML leaves open (`???`) what differs between tasks: classes, regression, updates, alpha and how its divergence is
reduced, and the measure that chooses the best checkpoint. Training starts by fairseq's `finetune_from_model`, which
takes weights alone and gives way to the run's own last checkpoint when it goes on; `restore_file` would begin anew each
time.
"""

import argparse
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...data import SENTENCES
from ...data.encoders import Encoder
from ...data.sentences import SentenceData, Task
from ...errors import UserError
from ...workspace.doctor import installed_versions, release
from ...workspace.progress import say
from ...workspace.runs import Run
from ..train import Study, merged
from ..training import filled_in, needs_another_run
from .prepare import tasks_of

_START = "finetune_from_model"
# What makes fairseq's `sentence_prediction` log a measure; it always has accuracy and loss.
_REPORTS = {"mcc": "report_mcc", "f1": "report_acc_and_f1", "pearson": "report_pearson_and_spearman"}


@dataclass(frozen=True)
class SentenceStudy(Study):
    """A study whose pairs are tasks, and whose runs start from an encoder."""

    encoder: Path | None = None

    @classmethod
    def of(cls, args: argparse.Namespace) -> "SentenceStudy":
        if args.recipe is None and args.encoder is not None:
            args.recipe = Encoder.of(args.encoder).kind
        return replace(super().of(args), encoder=args.encoder and args.encoder.resolve())  # type: ignore[return-value]

    @property
    def _tasks(self) -> SentenceData:
        return SENTENCES[self.dataset.name]

    def pair(self, word: str | None) -> str:
        """A task, which may be typed in any case of letters."""
        return tasks_of(self._tasks, word)[0]

    def parent(self, pair: str, run: Run) -> Run | None:
        """The run of a teacher or of Fisher information; the weights to start from are the encoder's."""
        return super().parent(pair, run) if needs_another_run(self._config(run), but=(_START,)) else None

    def _settings(self, config: Path, found: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
        from omegaconf import OmegaConf

        filled = filled_in(config, {key: value for key, value in found.items() if key != _START})
        given: Any = OmegaConf.merge(OmegaConf.load(config), merged(filled, self.changed))
        task = next(task for task in self._tasks.tasks.values() if task.name == manifest["task"])
        own: dict[str, dict[str, Any]] = {
            section: {key: value for key, value in values.items() if OmegaConf.is_missing(given[section], key)}
            for section, values in _facts(task, manifest, given).items()
        }
        own["checkpoint"] = {}
        if OmegaConf.is_missing(given.checkpoint, "best_checkpoint_metric"):
            measure = _best_by(task)
            own["checkpoint"] = {
                "best_checkpoint_metric": measure,
                "maximize_best_checkpoint_metric": measure != "loss",
            }
            own["criterion"] |= {_REPORTS[measure]: True} if measure in _REPORTS else {}
        if OmegaConf.is_missing(given.checkpoint, _START):
            own["checkpoint"][_START] = str(self._weights(config, manifest))
        return merged(OmegaConf.merge(filled, own), self.changed)

    def _weights(self, config: Path, manifest: Mapping[str, Any]) -> Path:
        """The encoder's, if the data is in its subwords."""
        if self.encoder is None:
            raise UserError(f"{config} starts from a pretrained model; give its folder: --encoder DIR")
        encoder = Encoder.of(self.encoder)
        for name, found in encoder.sums.items():
            if manifest["encoder"].get(name) != found:
                raise UserError(
                    f"{encoder.folder / name} is not the one that the data was prepared with; "
                    "give --encoder that encoder, or prepare the data with this one"
                )
        return encoder.weights

    def _languages(self, pair: str) -> str | None:
        return None

    def command(self, pair: str, run: Run) -> str:
        """What a user types for this cell alone."""
        encoder = f" --encoder {shlex.quote(str(self.encoder))}" if self.encoder else ""
        return super().command(pair, run) + encoder


def _best_by(task: Task) -> str:
    """The measure of the papers' tables, where the installed fairseq logs it."""
    wanted, version = task.metrics[0], installed_versions().get("fairseq", "")
    if wanted not in _REPORTS or release(version) != (0, 12, 2):
        return wanted
    found = "loss" if task.regression else "accuracy"
    say(f"fairseq {version} does not log {wanted}: the best checkpoint is chosen by {found}; later ones log it")
    return found


def _facts(task: Task, manifest: Mapping[str, Any], given: Any) -> dict[str, dict[str, Any]]:
    """What a YAML may leave to the task, by section."""
    from omegaconf import OmegaConf

    batch = given.dataset.batch_size * given.optimization.get("update_freq", [1])[0]
    updates = given.optimization.max_epoch * -(-manifest["rows"]["train"] // batch)
    if not OmegaConf.is_missing(given.optimization, "max_update"):
        updates = given.optimization.max_update
    return {
        "task": {"num_classes": max(1, len(task.labels))},
        "criterion": {
            "regression_target": task.regression,
            "alpha": task.alpha,
            "divergence_reduction": "mean" if task.regression else "sum",  # as the code of Xu et al. 2022
        },
        "optimization": {"max_update": updates},
    }
