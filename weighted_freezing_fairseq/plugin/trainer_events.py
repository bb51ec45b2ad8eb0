"""Events of fairseq's Trainer, and the base class of their listeners.

An optimizer is not given the names of its tensors. A criterion does not know the current update or the optimizer, and
is saved only if it has Parameters, which breaks --finetune-from-model. So this module wraps methods of fairseq's
Trainer, once, and reports events to listeners; no other module patches them. `trainers.py` lists the listeners.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fairseq.trainer import Trainer
from torch import Tensor

from .parameters import published

_Method = Callable[..., Any]


class TrainerListener:
    """Base class of listeners: one method per event, in the order of a resumed run.

    A run without a checkpoint builds its batches before the optimizer. An update is `update_begun`, the forward and
    backward passes, `gradients_final`, `clipped`, the step of the optimizer, `updated`. If the gradients overflow, the
    update ends after `gradients_final` (--fp16), or after `clipped` (--amp, which then repeats it).
    """

    @classmethod
    def for_trainer(cls, trainer: Trainer) -> "TrainerListener | None":
        """Return the listener for a new trainer, or None if this run does not need it."""
        return cls()

    def trainer_built(self, trainer: Trainer) -> None:
        """Model, criterion and task are set; there is no optimizer yet."""

    def optimizer_requested(self, trainer: Trainer) -> None:
        """The optimizer will be built next: when a checkpoint is loaded, or else before the first epoch."""

    def optimizer_built(self, trainer: Trainer) -> None:
        """The optimizer is built, with its wrappers, and replaces an earlier one. `parameters` knows its tensors."""

    def checkpoint_loaded(
        self, trainer: Trainer, extra_state: Mapping[str, Any], path: str, reset_optimizer: bool
    ) -> None:
        """A checkpoint was loaded; with `reset_optimizer`, only its weights."""

    def batches_built(self, trainer: Trainer, batches: Any) -> None:
        """The epoch iterator over training batches was built, for a new or a resumed epoch."""

    def epoch_begun(self, trainer: Trainer, epoch: int) -> None:
        """An epoch begins, or continues after a resume; epochs are counted from 1."""

    def update_begun(self, trainer: Trainer, samples: Sequence[Mapping[str, Any]]) -> None:
        """An update begins with these micro-batches of this process; an empty one is a placeholder."""

    def gradients_final(self, trainer: Trainer) -> None:
        """The gradients are summed over micro-batches and processes and divided by the sample size, not yet clipped."""

    def clipped(self, trainer: Trainer, norm: Tensor) -> None:
        """The gradients, whose norm was `norm`, are clipped to `--clip-norm`; the optimizer's step comes next."""

    def updated(self, trainer: Trainer) -> None:
        """The optimizer has stepped, and the trainer has counted the update."""

    def checkpoint_saving(self, trainer: Trainer, extra_state: dict[str, Any]) -> None:
        """A checkpoint will be saved, with the entries added to `extra_state`; `checkpoint_loaded` receives them."""


def install(classes: Sequence[type[TrainerListener]]) -> None:
    """Report events of every trainer built from now on to listeners of these classes, in this order."""
    Trainer.listeners = ()
    Trainer.in_update = False

    @_wrap("__init__")
    def build(original: _Method, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        trainer.listeners = tuple(listener for cls in classes if (listener := cls.for_trainer(trainer)) is not None)
        _report(trainer, "trainer_built")

    @_wrap("_build_optimizer")
    def build_optimizer(original: _Method, trainer: Trainer) -> None:
        _report(trainer, "optimizer_requested")
        with published(trainer.get_model(), trainer.get_criterion()):
            original()
            _report(trainer, "optimizer_built")

    @_wrap("load_checkpoint")
    def load(
        original: _Method, trainer: Trainer, filename: str, reset_optimizer: bool = False, *args: Any, **kw: Any
    ) -> Any:
        extra_state = original(filename, reset_optimizer, *args, **kw)
        if extra_state is not None:  # None: the file does not exist
            _report(trainer, "checkpoint_loaded", extra_state, filename, reset_optimizer)
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
        if trainer.in_update:  # otherwise a checkpoint is being loaded
            _report(trainer, "updated")

    @_wrap("state_dict")
    def state_dict(original: _Method, trainer: Trainer) -> dict[str, Any]:
        extra_state: dict[str, Any] = {}
        _report(trainer, "checkpoint_saving", extra_state)
        state: dict[str, Any] = original()
        state["extra_state"].update(extra_state)
        return state


def _wrap(name: str) -> Callable[[_Method], None]:
    """Replace a method of Trainer by the decorated function, which takes the bound original before its arguments."""
    method = getattr(Trainer, name)

    def replace(replacement: _Method) -> None:
        @functools.wraps(method)
        def wrapped(trainer: Trainer, *args: Any, **kwargs: Any) -> Any:
            return replacement(functools.partial(method, trainer), trainer, *args, **kwargs)

        setattr(Trainer, name, wrapped)

    return replace


def _report(trainer: Trainer, event: str, *args: Any) -> None:
    for listener in trainer.listeners:
        getattr(listener, event)(trainer, *args)
