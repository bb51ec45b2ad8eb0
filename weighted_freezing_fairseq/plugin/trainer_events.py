"""The life of a training run in fairseq's Trainer, as events, and the base class of what listens to them.

An optimizer is not told the names of its tensors. A criterion is not told which update it is part of, does not see the
optimizer, and is saved only if it has Parameters, which breaks --finetune-from-model. So this module wraps the methods
of fairseq's Trainer, once, and reports what happens in them. No other module patches the Trainer's methods. Left out on
purpose: which listeners there are (`trainers.py`), and what each of them does.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fairseq.trainer import Trainer
from torch import Tensor

from .parameters import published

_Method = Callable[..., Any]


class TrainerListener:
    """Base class of listeners: one method for each event, in the order in which a resumed run reports them.

    A run without a checkpoint builds its batches first and the optimizer after them. An update is `update_begun`, the
    passes of the criterion, `gradients_final`, `clipped`, the step of the optimizer, `updated`. If its gradients
    overflow, it ends after `gradients_final` (--fp16), or after `clipped` (--amp, which then begins it again).
    """

    @classmethod
    def for_trainer(cls, trainer: Trainer) -> "TrainerListener | None":
        """The listener for a new trainer, or None if this run has no use for it."""
        return cls()

    def trainer_built(self, trainer: Trainer) -> None:
        """Model, criterion and task are set; there is no optimizer yet."""

    def optimizer_wanted(self, trainer: Trainer) -> None:
        """The optimizer is about to be built: when a checkpoint is loaded, or else before the first epoch."""

    def optimizer_built(self, trainer: Trainer) -> None:
        """The optimizer is built, with its wrappers, and replaces any earlier one. `parameters` knows its tensors."""

    def state_in(self, trainer: Trainer, extra_state: Mapping[str, Any], path: str, reset_optimizer: bool) -> None:
        """A checkpoint was loaded. With `reset_optimizer`, the run takes its weights only."""

    def batches_built(self, trainer: Trainer, batches: Any) -> None:
        """The epoch iterator over training batches was built, for a new or a resumed epoch."""

    def epoch_begun(self, trainer: Trainer, epoch: int) -> None:
        """An epoch begins, or goes on after a resume; epochs count from 1."""

    def update_begun(self, trainer: Trainer, samples: Sequence[Mapping[str, Any]]) -> None:
        """An update begins with these micro-batches of this process; an empty one is a placeholder."""

    def gradients_final(self, trainer: Trainer) -> None:
        """The gradients are summed over micro-batches and processes and divided by the sample size, not yet clipped."""

    def clipped(self, trainer: Trainer, norm: Tensor) -> None:
        """The gradients, whose norm was `norm`, are clipped to `--clip-norm`; the optimizer's step comes next."""

    def updated(self, trainer: Trainer) -> None:
        """The optimizer has made its step, and the trainer has counted it."""

    def state_out(self, trainer: Trainer, extra_state: dict[str, Any]) -> None:
        """A checkpoint is about to be taken. Entries put into `extra_state` are saved, and come back in `state_in`."""


def install(kinds: Sequence[type[TrainerListener]]) -> None:
    """Have listeners of these kinds, in this order, hear every event of each trainer that is built from now on."""
    Trainer.listeners = ()
    Trainer.in_update = False

    @_wrap("__init__")
    def build(original: _Method, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        trainer.listeners = tuple(listener for kind in kinds if (listener := kind.for_trainer(trainer)) is not None)
        _report(trainer, "trainer_built")

    @_wrap("_build_optimizer")
    def build_optimizer(original: _Method, trainer: Trainer) -> None:
        _report(trainer, "optimizer_wanted")
        with published(trainer.get_model(), trainer.get_criterion()):
            original()
            _report(trainer, "optimizer_built")

    @_wrap("load_checkpoint")
    def load(
        original: _Method, trainer: Trainer, filename: str, reset_optimizer: bool = False, *args: Any, **kw: Any
    ) -> Any:
        extra_state = original(filename, reset_optimizer, *args, **kw)
        if extra_state is not None:  # None: there is no such file
            _report(trainer, "state_in", extra_state, filename, reset_optimizer)
        return extra_state

    @_wrap("get_train_iterator")
    def build_batches(original: _Method, trainer: Trainer, *args: Any, **kwargs: Any) -> Any:
        batches = original(*args, **kwargs)
        _report(trainer, "batches_built", batches)
        return batches

    @_wrap("begin_epoch")
    def begin_epoch(original: _Method, trainer: Trainer, epoch: int) -> None:
        _report(trainer, "epoch_begun", epoch)
        original(epoch)

    @_wrap("train_step")
    def update(original: _Method, trainer: Trainer, samples: list[Any], *args: Any, **kwargs: Any) -> Any:
        _report(trainer, "update_begun", samples)
        trainer.in_update = True
        try:
            return original(samples, *args, **kwargs)
        finally:
            trainer.in_update = False

    @_wrap("clip_grad_norm")
    def clip(original: _Method, trainer: Trainer, clip_norm: float) -> Tensor:
        _report(trainer, "gradients_final")
        norm: Tensor = original(clip_norm)
        _report(trainer, "clipped", norm)
        return norm

    @_wrap("set_num_updates")
    def count(original: _Method, trainer: Trainer, num_updates: int) -> None:
        original(num_updates)
        if trainer.in_update:  # else a checkpoint is loaded
            _report(trainer, "updated")

    @_wrap("state_dict")
    def state_dict(original: _Method, trainer: Trainer) -> dict[str, Any]:
        extra_state: dict[str, Any] = {}
        _report(trainer, "state_out", extra_state)
        state: dict[str, Any] = original()
        state["extra_state"].update(extra_state)
        return state


def _wrap(name: str) -> Callable[[_Method], None]:
    """Replace a method of Trainer by a function of the bound original, the trainer, and the method's arguments."""
    method = getattr(Trainer, name)

    def put(replacement: _Method) -> None:
        @functools.wraps(method)
        def wrapped(trainer: Trainer, *args: Any, **kwargs: Any) -> Any:
            return replacement(functools.partial(method, trainer), trainer, *args, **kwargs)

        setattr(Trainer, name, wrapped)

    return put


def _report(trainer: Trainer, event: str, *args: Any) -> None:
    for listener in trainer.listeners:
        getattr(listener, event)(trainer, *args)
