"""`--log-importance N`: at every N-th update, how much each part of the model contributes, for any training method.

Computes the statistics of `core/contribution.py` from the gradient that the optimizer uses next. Writes them to
importance.csv in the save folder and to TensorBoard if that is enabled, and three of the whole model to the progress
bar. Only the first process measures, since all processes have the same weights and gradients.
"""

import csv
import dataclasses
import io
import logging
from collections import ChainMap
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from fairseq.dataclass.configs import CommonConfig
from fairseq.dataclass.initialize import hydra_init
from fairseq.distributed.utils import is_master
from fairseq.logging import metrics, progress_bar
from fairseq.trainer import Trainer
from torch import Tensor

from ..core import contribution
from ..core.contribution import Contribution
from ..core.parameter_groups import Group
from ..core.wrapped import WrappedOptimizer
from ..errors import UserError
from ..files import write_atomically
from . import parameters
from .mends.checkpoints import COPIES_OF_0_12_2
from .trainer_events import TrainerListener

logger = logging.getLogger(__name__)

FILE = "importance.csv"
COLUMNS = (
    "update", "by", "group", "parameters", "mean", "std", "std_over_mean", "gini", "share_top20", "mean_top20",
    "mean_bottom80", "top20_over_bottom80", "weight_norm", "gradient_norm", "frozen",
)  # fmt: skip
# Logged as sensitivity_*: a guided optimizer logs an importance_std of its own metric and scope.
_IN_PROGRESS_BAR = ("std", "gini", "top20_over_bottom80")
# On a CPU a measurement takes up to half as long as a short update (benchmarks/log_importance.py): 0.2 % of training.
DEFAULT_INTERVAL = 200


@dataclass
class _Setting:
    log_importance: int = field(
        default=0,
        metadata={
            "help": "at every N-th update measure abs(theta * grad) of all parameters: statistics, norms and frozen "
            f"share by type and layer go to importance.csv in the save folder (0: off; without N: {DEFAULT_INTERVAL})",
            "argparse_const": DEFAULT_INTERVAL,
        },
    )


def add_setting() -> None:
    """Add the setting to fairseq's CommonConfig, which defines both the flags and Hydra's schema.

    The class is changed in place, because modules of fairseq refer to it. Hydra has a copy of its fields, which
    `hydra_init` replaces.
    """
    (setting,) = dataclasses.fields(_Setting)
    CommonConfig.__dataclass_fields__[setting.name] = setting
    CommonConfig.__annotations__[setting.name] = setting.type
    setattr(CommonConfig, setting.name, setting.default)
    hydra_init()


def interval_of(cfg: Any) -> int:
    """The N of --log-importance, 0 for never; raises UserError where importance cannot be measured."""
    # Hydra may have composed the settings before this plugin was imported; older omegaconf then returns None.
    interval = getattr(cfg.common, "log_importance", None)
    interval = 0 if interval is None else interval
    if not isinstance(interval, int) or interval < 0:
        raise UserError(
            f"--log-importance must be a number of updates, got {interval}; type --log-importance {DEFAULT_INTERVAL}, "
            "or 0: never"
        )
    if interval:
        parameters.refuse_sharding(cfg, "--log-importance")
        if cfg.optimization.use_bmuf:
            raise UserError("--log-importance needs one gradient for all processes; leave out --use-bmuf")
    return interval


class ImportanceLog(TrainerListener):
    """Measures every `interval`-th update of a trainer."""

    def __init__(self, cfg: Any, interval: int) -> None:
        self.interval = interval
        self.path = Path(cfg.checkpoint.save_dir) / FILE
        self.tensorboard = cfg.common.tensorboard_logdir

    @classmethod
    def for_trainer(cls, trainer: Trainer) -> "ImportanceLog | None":
        interval = interval_of(trainer.cfg)
        return cls(trainer.cfg, interval) if interval and is_master(trainer.cfg.distributed_training) else None

    def optimizer_built(self, trainer: Trainer) -> None:
        self.parameters = parameters.by_name()
        self.weights = [
            (entry, slot)
            for entry, slot in parameters.match_all(_stepped_tensors(trainer.optimizer))
            if not COPIES_OF_0_12_2.fullmatch(entry.name) and not entry.name.startswith(parameters.OF_CRITERION)
        ]
        self.guided_optimizers = _guided_optimizers(trainer.optimizer.optimizer)
        for optimizer in self.guided_optimizers:  # after the adapter's hook, which sets `record` for its own log
            optimizer.register_step_pre_hook(self._request_record)
        self.start: int | None = None  # number of finished updates when this run began or was resumed
        self.contributions: dict[Group, Contribution] = {}  # of the current update, if it is measured
        self.progress_values: dict[str, float] = {}  # of the last measured update
        logger.info("importance of %d tensors every %d updates in %s", len(self.weights), self.interval, self.path)

    def clipped(self, trainer: Trainer, norm: Tensor) -> None:
        """Measure every `interval`-th update, if its gradients are finite."""
        num_updates = trainer.get_num_updates()
        if self.start is None:
            self._open_table(num_updates)
        self.contributions = {}
        if (num_updates + 1) % self.interval:
            return
        if not bool(torch.isfinite(norm).all()):
            logger.info("the gradients of update %d overflow: their importance is not measured", num_updates + 1)
            return
        # fairseq's half-precision optimizers unscale and clip gradients only in their step.
        scale = getattr(trainer.optimizer, "_multiply_factor", 1.0)
        # DEVIATION: Xu et al. Figure 2 does not say on which batches sensitivity is measured while a model trains. Here
        # it is the batch of the update as it is trained on: with dropout, the whole loss of the method, and the
        # gradient averaged and clipped; not a mean over batches, as `wff sensitivity` takes it.
        self.contributions = contribution.measure(
            [(entry, slot) for entry, slot in self.weights if self.parameters[entry.name].grad is not None], scale
        )

    def _request_record(self, optimizer: WrappedOptimizer, *_: Any) -> None:
        optimizer.record |= bool(self.contributions)

    def updated(self, trainer: Trainer) -> None:
        """Write the contributions and the frozen shares; the progress bar repeats the last values in every update."""
        if self.contributions:
            counts = [frozen for optimizer in self.guided_optimizers if (frozen := optimizer.frozen_counts) is not None]
            frozen_counts = dict(ChainMap(*counts)) if counts else None
            rows = [
                {"update": trainer.get_num_updates(), **row}
                for row in contribution.rows(self.contributions, frozen_counts)
            ]
            self.contributions = {}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_as_lines(rows))
            self._write_to_tensorboard(rows)
            self.progress_values = {
                f"sensitivity_{name}": rows[0][name] for name in _IN_PROGRESS_BAR if rows[0][name] is not None
            }
        for priority, (name, value) in enumerate(self.progress_values.items(), start=610):
            metrics.log_scalar(name, value, weight=0, priority=priority)

    def _open_table(self, num_updates: int) -> None:
        """Drop the rows after update `num_updates`, which a killed run may have written."""
        self.start = num_updates
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.is_file() else []
        if lines and lines[0] != _HEAD:
            raise UserError(f"{self.path} was written by another version, with other columns; move it away and retry")
        rows = [line for line in lines[1:] if line.endswith("\n") and int(line.split(",", 1)[0]) <= num_updates]
        write_atomically(self.path, "".join([_HEAD, *rows]))

    def _write_to_tensorboard(self, rows: list[dict[str, Any]]) -> None:
        if self._writer is None:
            return
        for row in rows:
            group = "model" if row["by"] == "model" else row["group"]
            for name in COLUMNS[4:]:
                if row[name] is not None:
                    self._writer.add_scalar(f"{name}/{group}".replace(" ", "_"), row[name], row["update"])
        self._writer.flush()

    @cached_property
    def _writer(self) -> Any:
        """Writes to a sub-folder of fairseq's; drops values that a killed run wrote after its last checkpoint."""
        if not self.tensorboard or progress_bar.SummaryWriter is None:  # fairseq then logs what to install
            return None
        return progress_bar.SummaryWriter(Path(self.tensorboard) / "importance", purge_step=(self.start or 0) + 1)


def _stepped_tensors(optimizer: Any) -> list[Tensor]:
    """The tensors of the optimizer in the model's order, which a composite optimizer's groups do not keep."""
    tensors = getattr(optimizer, "fp32_params", optimizer.params)
    return list(tensors.values() if isinstance(tensors, dict) else tensors)


def _guided_optimizers(optimizer: torch.optim.Optimizer) -> list[WrappedOptimizer]:
    """The guided ones among the parts of a composite optimizer, or else the optimizer itself if guided."""
    parts = [part.optimizer for part in getattr(optimizer, "optimizers", {}).values()]
    return [part for part in parts or [optimizer] if isinstance(part, WrappedOptimizer)]


def _as_lines(rows: list[dict[str, Any]]) -> str:
    lines = io.StringIO(newline="")
    csv.DictWriter(lines, COLUMNS, lineterminator="\n").writerows(rows)
    return lines.getvalue()


_HEAD = _as_lines([dict(zip(COLUMNS, COLUMNS, strict=True))])
