"""Mends of training: batches and updates after a resume, several processes, precision, NaN and infinite gradients."""

import atexit
import contextlib
import functools
import logging
import math
import queue
import threading
import time
import types
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from fairseq import checkpoint_utils, trainer
from fairseq.criterions.sentence_prediction import SentencePredictionCriterion
from fairseq.data import iterators
from fairseq.distributed import utils as distributed_utils
from fairseq.models import distributed_fairseq_model
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from fairseq.nan_detector import NanDetector
from fairseq.optim.amp_optimizer import AMPOptimizer
from fairseq.tasks import FairseqTask

from .registry import FAIRSEQ_AFTER_0_12_2, FAIRSEQ_UP_TO_0_12_2, mend, replace_torch_functions

logger = logging.getLogger(__name__)


@mend(
    "a run resumed in a later epoch groups sentences into other batches than the uninterrupted run",
    FAIRSEQ_AFTER_0_12_2,
)
def keep_batches_on_resume() -> None:
    # fairseq groups sentences by seed + first epoch of the process; an uninterrupted run groups once, in epoch 1.
    build = FairseqTask.get_batch_iterator

    @functools.wraps(build)
    def build_as_in_epoch_one(self: FairseqTask, dataset: Any, *args: Any, epoch: int = 1, **kwargs: Any) -> Any:
        rebuilt = kwargs.get("disable_iterator_cache") or kwargs.get("update_epoch_batch_itr")  # in every epoch
        if rebuilt or not self.can_reuse_epoch_itr(dataset) or dataset in self.dataset_to_epoch_iter:
            return build(self, dataset, *args, epoch=epoch, **kwargs)
        iterator = build(self, dataset, *args, epoch=1, **kwargs)
        dataset.set_epoch(epoch)
        iterator.epoch = epoch
        return iterator

    FairseqTask.get_batch_iterator = build_as_in_epoch_one


@mend("a finished run that is started again makes one more update, and saves it")
def stop_at_max_update() -> None:
    # fairseq checks --max-update only after an update. So a run that is killed after its last checkpoint, and started
    # again by the same command, would end with other weights.
    load = checkpoint_utils.load_checkpoint
    no_epoch = types.SimpleNamespace(next_epoch_idx=math.nan)  # fairseq trains while this is <= --max-epoch or infinity

    @functools.wraps(load)
    def load_unless_finished(cfg: Any, loader: trainer.Trainer, **kwargs: Any) -> tuple[Any, Any]:
        extra_state, iterator = load(cfg, loader, **kwargs)
        updates, limit = loader.get_num_updates(), loader.cfg.optimization.max_update or 0
        # A checkpoint that --restore-file names may be from another run: one update then saves it in this run's folder.
        if not 0 < limit <= updates or cfg.restore_file != "checkpoint_last.pt":
            return extra_state, iterator
        logger.warning(
            "%s/%s is at update %d already: --max-update %d leaves nothing to train; raise it to continue",
            cfg.save_dir, cfg.restore_file, updates, limit,
        )  # fmt: skip
        return extra_state, no_epoch

    checkpoint_utils.load_checkpoint = load_unless_finished


@mend("a finished command aborts now and then (status 134), because its thread still reads batches ahead")
def stop_readers_at_exit() -> None:
    # At exit Python ends a thread that waits for the interpreter lock, and C++ aborts with "terminate called without an
    # active exception". So the threads are stopped before the exit.
    create = iterators.BackgroundConsumer.__init__
    exiting = threading.Event()
    readers: weakref.WeakSet[threading.Thread] = weakref.WeakSet()

    def until_exit(source: Iterable[Any]) -> Iterator[Any]:
        for item in source:
            if exiting.is_set():
                return
            yield item

    @functools.wraps(create)
    def create_stoppable(self: Any, buffer: Any, source: Any, *args: Any) -> None:
        create(self, buffer, until_exit(source), *args)
        readers.add(self)

    def stop() -> None:
        exiting.set()
        deadline = time.monotonic() + 10  # a reader that waits for another process may wait forever
        for reader in list(readers):
            while reader.is_alive() and time.monotonic() < deadline:
                with contextlib.suppress(queue.Empty):  # make room, or the reader waits forever to put its batch
                    reader._queue.get_nowait()
                reader.join(0.01)

    iterators.BackgroundConsumer.__init__ = create_stoppable
    atexit.register(stop)


@mend("the default --ddp-backend names a GPU for every model, which torch refuses for a model on the CPU")
def wrap_cpu_models() -> None:
    wrap = distributed_fairseq_model.DistributedDataParallel

    def wrap_on_its_device(*, module: torch.nn.Module, **kwargs: Any) -> torch.nn.Module:
        if all(p.device.type == "cpu" for p in module.parameters()):
            kwargs |= {"device_ids": None, "output_device": None}
        return wrap(module=module, **kwargs)

    distributed_fairseq_model.DistributedDataParallel = wrap_on_its_device


@mend("--report-mcc and similar reports fail on several processes: fairseq tries to add their lists of predictions")
def gather_predictions() -> None:
    # In validation, use fairseq's slower gathering of lists. Its buffers are on a GPU, so CPU buffers replace them.
    gather = distributed_utils.all_gather_list

    def summable(self: SentencePredictionCriterion) -> bool:
        return self.training or not getattr(self, "keep_pred_and_targ", False)  # fairseq 0.12.2 has no such reports

    @functools.wraps(gather)
    def gather_on_cpu_too(data: Any, group: Any = None, max_size: int = 16384) -> list[Any]:
        if not torch.cuda.is_available():
            world_size = distributed_utils.get_world_size(group or distributed_utils.get_global_group())
            gather_on_cpu_too._buffer = torch.empty(max_size * world_size, dtype=torch.uint8)
            gather_on_cpu_too._cpu_buffer = torch.empty(max_size, dtype=torch.uint8)
        gathered: list[Any] = gather(data, group, max_size)
        return gathered

    SentencePredictionCriterion.logging_outputs_can_be_summed = summable
    distributed_utils.all_gather_list = gather_on_cpu_too


@mend("--amp unscales gradients twice, so that SGD and every importance of a gradient see them too small")
def unscale_once_under_amp() -> None:
    # Clipping marks the inner optimizer as unscaled, but the step checks the outer one.
    def step(self: AMPOptimizer) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()

    AMPOptimizer.step = step


@mend("an update whose gradient overflows crashes on a machine without a GPU")
def skip_overflows_on_cpu() -> None:
    # The trainer calls .cuda() on a zero even without a GPU.
    def tensor(*args: Any, **kwargs: Any) -> torch.Tensor:
        result = torch.tensor(*args, **kwargs)
        if not torch.cuda.is_available():
            result.cuda = lambda: result
        return result

    replace_torch_functions(trainer, tensor=tensor)


@mend("a NaN or infinite gradient ends in a StopIteration, which does not say where it came from")
def name_nonfinite_module() -> None:
    # fairseq repeats such an update with backward hooks on modules, which fail in current torch. Hooks on the modules'
    # outputs replace them.
    detect, end = NanDetector._detect, NanDetector.__exit__

    def detect_and_keep(self: NanDetector, tensor: torch.Tensor, name: str, backward: bool) -> str | None:
        error: str | None = detect(self, tensor, name, backward)
        if error is not None and self.first is None:
            where = f"backward pass of {self.last_finite}, which comes to" if backward else "forward pass, in"
            self.first = f"{error.split()[0]} appeared first in the {where} the output of {name}"
        elif backward:
            self.last_finite = name
        elif tensor.requires_grad:
            tensor.register_hook(lambda gradient: self._detect(gradient, name, True) and None)
        return error

    def end_with_advice(self: NanDetector, kind: type[BaseException] | None, *error: Any) -> None:
        end(self, kind, *error)
        if kind is None:
            raise FloatingPointError(
                f"the gradient of this update is NaN or infinite: {self.first or 'but no output of a module is'}. "
                "Try a lower --lr, a longer --warmup-updates or --clip-norm 1; with --fp16 a shorter "
                "--fp16-scale-window, or --bf16 in its place; and look for broken or very long sentences in the data"
            )

    NanDetector.first = None
    NanDetector.last_finite = "the loss"  # the last module with a finite gradient of its output
    NanDetector.__init__ = functools.partialmethod(NanDetector.__init__, backward=False)
    NanDetector._detect = detect_and_keep
    NanDetector.__exit__ = end_with_advice


@mend("evaluation crashes, because torch 2 changed a private function that fairseq calls", FAIRSEQ_UP_TO_0_12_2)
def avoid_broken_fast_path() -> None:
    build = TransformerEncoderLayerBase.__init__

    @functools.wraps(build)
    def build_without_fast_path(self: Any, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        self.can_use_fastpath = False

    TransformerEncoderLayerBase.__init__ = build_without_fast_path
