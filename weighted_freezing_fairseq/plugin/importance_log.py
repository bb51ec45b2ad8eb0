"""`--log-importance N`: how much each part of the model contributes, while any method trains, at every N-th update.

The figures are those of `core/contribution.py`, of the gradient that the optimizer is about to get. They go to
importance.csv in the save folder, to TensorBoard where that is on, and three of the whole model to the progress bar.
Left out on purpose: every process but the first, since all hold the same weights and gradients.
"""

import csv
import dataclasses
import io
import logging
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
from .compat import COPIES_OF_0_12_2

logger = logging.getLogger(__name__)

FILE = "importance.csv"
COLUMNS = (
    "update", "by", "group", "parameters", "mean", "std", "std_over_mean", "gini", "share_top20", "mean_top20",
    "mean_bottom80", "top20_over_bottom80", "weight_norm", "gradient_norm", "frozen",
)  # fmt: skip
# Of the whole model. A guided optimizer has an importance_std of its own, that of its metric over its scope.
_SHOWN = ("std", "gini", "top20_over_bottom80")
# On a CPU a measurement takes up to half as long as a short update (benchmarks/log_importance.py): of the whole, 0.2 %.
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
    """One more field in fairseq's CommonConfig, which flags and Hydra's schema are made from.

    In place, since both fairseq and Hydra hold the class itself; what Hydra stored of it before is stored anew.
    """
    (setting,) = dataclasses.fields(_Setting)
    CommonConfig.__dataclass_fields__[setting.name] = setting
    CommonConfig.__annotations__[setting.name] = setting.type
    setattr(CommonConfig, setting.name, setting.default)
    hydra_init()


def interval_of(cfg: Any) -> int:
    """The N of --log-importance, 0 for never; what cannot be measured is refused with what to type."""
    # A YAML without it may have been composed before this plugin was imported; old omegaconf then says None.
    interval = getattr(cfg.common, "log_importance", None)
    interval = 0 if interval is None else interval
    if not isinstance(interval, int) or interval < 0:
        raise UserError(
            f"--log-importance {interval} is no interval; type --log-importance {DEFAULT_INTERVAL}, or 0: never"
        )
    if interval:
        parameters.refuse_sharding(cfg, "--log-importance")
        if cfg.optimization.use_bmuf:
            raise UserError("--log-importance needs one gradient for all processes; leave out --use-bmuf")
    return interval


def log_of(trainer: Trainer, interval: int) -> "ImportanceLog | None":
    """What measures this trainer's updates; None, and nothing at all, where nothing is to be measured."""
    return ImportanceLog(trainer, interval) if interval and is_master(trainer.cfg.distributed_training) else None


class ImportanceLog:
    """Measures every `interval`-th update of a trainer whose optimizer was just built, names published."""

    def __init__(self, trainer: Trainer, interval: int) -> None:
        self.trainer, self.interval = trainer, interval
        self.path = Path(trainer.cfg.checkpoint.save_dir) / FILE
        self.model = parameters.by_name()
        self.weights = [
            (entry, slot)
            for entry, slot in parameters.match_all(_held(trainer.optimizer))
            if not COPIES_OF_0_12_2.fullmatch(entry.name) and not entry.name.startswith(parameters.OF_CRITERION)
        ]
        self.guided = _guided(trainer.optimizer.optimizer)
        for optimizer in self.guided:  # comes after the hook of the adapter, which asks for its own log's updates
            optimizer.register_step_pre_hook(self._have_recorded)
        self.resumed: int | None = None
        self.measured: dict[Group, Contribution] = {}
        self.shown: dict[str, float] = {}
        logger.info("importance of %d tensors at every %d. update in %s", len(self.weights), interval, self.path)

    # One update.

    def clipped(self, norm: Tensor) -> None:
        """Before the optimizer's step: measure, if this update is to be measured and its gradients are finite."""
        done = self.trainer.get_num_updates()
        if self.resumed is None:
            self._begin(done)
        self.measured = {}
        if (done + 1) % self.interval:
            return
        if not bool(torch.isfinite(norm).all()):
            logger.info("the gradients of update %d overflow: their importance is not measured", done + 1)
            return
        # The wrappers of half precision unscale and clip gradients only when they step.
        scale = getattr(self.trainer.optimizer, "_multiply_factor", 1.0)
        # DEVIATION: Xu et al. Figure 2 does not say on which batches sensitivity is measured while a model trains. Here
        # it is the batch of the update as it is trained on: with dropout, the whole loss of the method, and the
        # gradient averaged and clipped; not a mean over batches, as `wff sensitivity` takes it.
        self.measured = contribution.measure(
            [(entry, slot) for entry, slot in self.weights if self.model[entry.name].grad is not None], scale
        )

    def _have_recorded(self, optimizer: WrappedOptimizer, *_: Any) -> None:
        optimizer.record |= bool(self.measured)

    def done(self, updates: int) -> None:
        """After the step: write what was measured, with what the step froze; the progress bar shows the last of it."""
        if self.measured:
            rows = [{"update": updates, **row} for row in contribution.rows(self.measured, self._frozen())]
            self.measured = {}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_as_lines(rows))
            self._to_tensorboard(rows)
            self.shown = {f"sensitivity_{name}": rows[0][name] for name in _SHOWN if rows[0][name] is not None}
        for priority, (name, value) in enumerate(self.shown.items(), start=610):
            metrics.log_scalar(name, value, weight=0, priority=priority)

    def _frozen(self) -> dict[str, float] | None:
        """How many numbers of each weight were frozen; None without a method that freezes."""
        found = [frozen for optimizer in self.guided if (frozen := optimizer.frozen) is not None]
        return {name: count for frozen in found for name, count in frozen.items()} if found else None

    # Where it goes.

    def _begin(self, done: int) -> None:
        """Keep the rows up to update `done` of a run that goes on, and not what a killed one wrote after it."""
        self.resumed = done
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.is_file() else []
        if lines and lines[0] != _HEAD:
            raise UserError(f"{self.path} has other columns than this version writes; move it away and type again")
        kept = [line for line in lines[1:] if line.endswith("\n") and int(line.split(",", 1)[0]) <= done]
        write_atomically(self.path, "".join([_HEAD, *kept]))

    def _to_tensorboard(self, rows: list[dict[str, Any]]) -> None:
        if self._writer is None:
            return
        for row in rows:
            group = "model" if row["by"] == "model" else row["group"]
            for name in COLUMNS[4:]:
                if row[name] is not None:
                    self._writer.add_scalar(f"{name}/{group}", row[name], row["update"])
        self._writer.flush()

    @cached_property
    def _writer(self) -> Any:
        """A folder beside those of fairseq's own; points after the checkpoint that the run resumed from go."""
        folder = self.trainer.cfg.common.tensorboard_logdir
        if not folder or progress_bar.SummaryWriter is None:  # fairseq says what to install
            return None
        return progress_bar.SummaryWriter(Path(folder) / "importance", purge_step=(self.resumed or 0) + 1)


def _held(optimizer: Any) -> list[Tensor]:
    """The tensors that are stepped, in the model's order, which groups of a composite optimizer do not keep."""
    copies = getattr(optimizer, "fp32_params", None)
    if copies is None:
        return list(optimizer.params)
    return list(copies.values() if isinstance(copies, dict) else copies)


def _guided(optimizer: torch.optim.Optimizer) -> list[WrappedOptimizer]:
    """The guided ones: it itself, or some of those that a composite is made of."""
    parts = [part.optimizer for part in getattr(optimizer, "optimizers", {}).values()]
    return [part for part in parts or [optimizer] if isinstance(part, WrappedOptimizer)]


def _as_lines(rows: list[dict[str, Any]]) -> str:
    lines = io.StringIO(newline="")
    csv.DictWriter(lines, COLUMNS, lineterminator="\n").writerows(rows)
    return lines.getvalue()


_HEAD = _as_lines([dict(zip(COLUMNS, COLUMNS, strict=True))])
