"""What current Python, torch and numpy break in fairseq, and fairseq's own faults in this package's way, mended.

Each mend is one function with its reason, applied once at import and only where it is needed. Left out on purpose:
anything that would need a copy of a fairseq file.
"""

import argparse
import atexit
import codecs
import contextlib
import functools
import importlib.util
import inspect
import logging
import math
import pickle
import queue
import re
import sys
import threading
import time
import types
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils, options, trainer, utils
from fairseq.criterions.sentence_prediction import SentencePredictionCriterion
from fairseq.data import iterators
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.logging import meters
from fairseq.models import distributed_fairseq_model
from fairseq.modules import transformer_layer
from fairseq.nan_detector import NanDetector
from fairseq.optim.amp_optimizer import AMPOptimizer
from fairseq.tasks import FairseqTask

from ..core.tensor_files import refuse_damaged
from ..errors import UserError
from .evaluated_settings import refuse_code

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parents[1]


def mend() -> None:
    """Apply every mend that this machine needs."""
    quieten_warnings()
    allow_fairseq_checkpoints()
    explain_refused_checkpoints()
    broadcast_checkpoints()
    copy_checkpoints_whole()
    resume_on_the_same_batches()
    end_at_max_update()
    stop_reading_ahead_at_exit()
    wrap_on_cpu_too()
    gather_what_cannot_be_added()
    accept_this_package_twice()
    unscale_once_under_amp()
    skip_overflows_on_cpu()
    name_what_is_not_finite()
    use_bf16_without_tpu()
    show_every_flag_in_help()
    leave_broken_fast_path()


def quieten_warnings() -> None:
    """Hide warnings about fairseq's own old calls, which a user can do nothing about and which bury the log."""
    for message in (
        r".*hydra\.experimental\.(compose|initialize).*",
        r".*version_base parameter is not specified.*",
        r".*@package _group_.*",
        r".*validated against ConfigStore schema.*",
        r".*strict=None.*|.*strict flag in the compose API is deprecated.*",
        r".*'pin_memory' argument is set as true but no accelerator.*",
        r".*torch\.(cuda|cpu)\.amp\..*deprecated.*",
        r".*torch\.cuda\.amp\.GradScaler is enabled, but CUDA is not available.*",
        r".*mismatched key_padding_mask and attn_mask.*",
    ):
        warnings.filterwarnings("ignore", message="(?s)" + message)


def safe_classes() -> list[Any]:
    """The classes that a fairseq checkpoint may hold beside tensors and plain Python values.

    Model settings are a Namespace; checkpoints of fairseq 0.9 and older hold meters; --eval-bleu leaves numpy numbers.
    None of them runs code of the file when it is rebuilt.
    """
    import numpy as np

    numbers = [np.dtype(name) for name in ("int64", "int32", "float64", "float32", "bool")]
    scalar, rebuild = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
    return [
        argparse.Namespace,
        *(getattr(meters, name) for name in ("AverageMeter", "SumMeter", "TimeMeter", "StopwatchMeter", "MetersDict")),
        np.ndarray,
        np.dtype,
        *{type(number) for number in numbers},
        # numpy 2 moved these; files of either numpy name either module
        *((function, f"numpy.{module}.multiarray.{function.__name__}") for function in (scalar, rebuild)
          for module in ("core", "_core")),
    ]  # fmt: skip


def allow_fairseq_checkpoints() -> None:
    """Since torch 2.6 checkpoints load without running code of the file: name what fairseq's need, and no more.

    Under older torch fairseq is made to load likewise.
    """
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        load_without_code()
        # Before torch 2.5 a class goes by its own name alone; and numpy 1 writes its bytes as encoded text.
        torch.serialization.add_safe_globals([c[0] if isinstance(c, tuple) else c for c in safe_classes()])
        torch.serialization.add_safe_globals([codecs.encode])
    else:
        torch.serialization.add_safe_globals(safe_classes())


def load_without_code() -> None:
    """Have fairseq's module for checkpoints, and no other code, load with weights_only."""

    _change_torch_of(checkpoint_utils, load=functools.partial(torch.load, weights_only=True))


def _change_torch_of(module: types.ModuleType, **functions: Callable[..., Any]) -> None:
    """Give one module of fairseq a torch with these functions in place of torch's."""

    class Torch(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    module.torch = Torch("torch")  # type: ignore[attr-defined]
    vars(module.torch).update(functions)


# Copies of other weights that only the encoder layers of fairseq 0.12.2 keep, for a fast path of its time.
COPIES_OF_0_12_2 = re.compile(r"encoder\.layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)")


def explain_refused_checkpoints() -> None:
    """A checkpoint with code in it is refused in one sentence, not with torch's advice to run the code.

    The code may be pickled, or stand in a setting that fairseq evaluates, see `evaluated_settings.py`. A checkpoint
    that does not match its checksums, which neither torch nor fairseq verifies, is refused as well. Also drops the
    copies that 0.12.2 saved, which strict loading in later fairseq stumbles over.
    """
    load = checkpoint_utils.load_checkpoint_to_cpu
    has_copies = "can_use_fastpath" in inspect.getsource(transformer_layer)

    @functools.wraps(load)
    def load_or_explain(path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if Path(path).is_file():  # fairseq may be set to read from elsewhere
            refuse_damaged(Path(path), "checkpoint", "give an earlier checkpoint")
        try:
            state = load(path, *args, **kwargs)
        except pickle.UnpicklingError as error:
            code = re.search(r"GLOBAL (\S+)|global,? `?([\w.]+)`?|class `?([\w.]+)", str(error))
            if code is None:
                raise UserError(
                    f"{path} was not loaded: it is damaged, or not a checkpoint; give a whole fairseq checkpoint"
                ) from None
            raise UserError(
                f"{path} was not loaded: it holds something other than tensors and settings "
                f"({next(filter(None, code.groups()))}), which could run code on this machine. If you trust who made "
                "it, load it in plain fairseq and save it again."
            ) from None
        refuse_code(state, path)
        if not has_copies:
            state["model"] = {k: v for k, v in state["model"].items() if not COPIES_OF_0_12_2.fullmatch(k)}
        return state

    checkpoint_utils.load_checkpoint_to_cpu = load_or_explain


def broadcast_checkpoints() -> None:
    """Resume on several processes: rank 0 sends the checkpoint through `torch.load`, which now refuses its settings.

    The bytes come from our own rank 0, not from a file, so torch's own object broadcast may carry them.
    """

    def broadcast(obj: Any, src_rank: int, group: Any, dist_device: torch.device) -> Any:
        box = [obj]
        torch.distributed.broadcast_object_list(box, src=src_rank, group=group, device=dist_device)
        return box[0]

    distributed_utils._broadcast_object_slow = broadcast


def copy_checkpoints_whole() -> None:
    """checkpoint_last.pt is a copy of the newest one, written in place: a kill in that moment leaves half a file.

    The run could then not be resumed. Copying beside it and renaming leaves the old one or the new one.
    """
    copy = PathManager.copy

    @functools.wraps(copy)
    def copy_then_rename(src_path: str, dst_path: str, overwrite: bool = False) -> Any:
        if not Path(dst_path).parent.is_dir() or (Path(dst_path).exists() and not overwrite):
            return copy(src_path, dst_path, overwrite)
        part = f"{dst_path}.part"
        copied = copy(src_path, part, True)
        Path(part).replace(dst_path)
        return copied

    PathManager.copy = staticmethod(copy_then_rename)


def resume_on_the_same_batches() -> None:
    """fairseq after 0.12.2 groups sentences into batches by seed + *the epoch it was started in*.

    A run that keeps its batches from epoch 1 to the end goes on with others when it is resumed in a later epoch.
    """
    build = FairseqTask.get_batch_iterator

    @functools.wraps(build)
    def build_as_in_epoch_one(self: FairseqTask, dataset: Any, *args: Any, epoch: int = 1, **kwargs: Any) -> Any:
        changing = kwargs.get("disable_iterator_cache") or kwargs.get("update_epoch_batch_itr")
        if changing or not self.can_reuse_epoch_itr(dataset) or dataset in self.dataset_to_epoch_iter:
            return build(self, dataset, *args, epoch=epoch, **kwargs)
        iterator = build(self, dataset, *args, epoch=1, **kwargs)
        dataset.set_epoch(epoch)
        iterator.epoch = epoch
        return iterator

    FairseqTask.get_batch_iterator = build_as_in_epoch_one


def end_at_max_update() -> None:
    """fairseq looks at --max-update after an update: a finished run that is started again makes one more, and saves it.

    A run that is killed after its last checkpoint, and started again by the same command, would end with other weights.
    """
    load = checkpoint_utils.load_checkpoint
    no_epoch = types.SimpleNamespace(next_epoch_idx=math.nan)  # not <= --max-epoch, nor <= infinity where there is none

    @functools.wraps(load)
    def load_unless_finished(cfg: Any, loader: trainer.Trainer, **kwargs: Any) -> tuple[Any, Any]:
        extra_state, iterator = load(cfg, loader, **kwargs)
        updates, limit = loader.get_num_updates(), loader.cfg.optimization.max_update or 0
        # A file that --restore-file names may be of another run: one update saves it in the folder of this one.
        if not 0 < limit <= updates or cfg.restore_file != "checkpoint_last.pt":
            return extra_state, iterator
        logger.warning(
            "%s/%s is at update %d already: --max-update %d leaves nothing to train; raise it to train on",
            cfg.save_dir, cfg.restore_file, updates, limit,
        )  # fmt: skip
        return extra_state, no_epoch

    checkpoint_utils.load_checkpoint = load_unless_finished


def stop_reading_ahead_at_exit() -> None:
    """A finished command aborts now and then: its thread that reads batches ahead is still inside torch at exit.

    Python ends such a thread when it asks for the interpreter's lock, and C++ answers "terminate called without an
    active exception", status 134, after everything was written. So the thread is stopped before Python leaves.
    """
    create = iterators.BackgroundConsumer.__init__
    leaving = threading.Event()
    readers: weakref.WeakSet[threading.Thread] = weakref.WeakSet()

    def until_exit(source: Iterable[Any]) -> Iterator[Any]:
        for item in source:
            if leaving.is_set():
                return
            yield item

    @functools.wraps(create)
    def create_stoppable(self: Any, buffer: Any, source: Any, *args: Any) -> None:
        create(self, buffer, until_exit(source), *args)
        readers.add(self)

    def stop() -> None:
        leaving.set()
        deadline = time.monotonic() + 10  # a reader that waits for another process may never come back
        for reader in list(readers):
            while reader.is_alive() and time.monotonic() < deadline:
                with contextlib.suppress(queue.Empty):  # make room, or it waits for ever to put its batch
                    reader._queue.get_nowait()
                reader.join(0.01)

    iterators.BackgroundConsumer.__init__ = create_stoppable
    atexit.register(stop)


def wrap_on_cpu_too() -> None:
    """The default --ddp-backend names a GPU for every model; for one on the CPU torch refuses that."""
    wrap = distributed_fairseq_model.DistributedDataParallel

    def wrap_where_it_is(*, module: torch.nn.Module, **kwargs: Any) -> torch.nn.Module:
        if all(p.device.type == "cpu" for p in module.parameters()):
            kwargs |= {"device_ids": None, "output_device": None}
        return wrap(module=module, **kwargs)

    distributed_fairseq_model.DistributedDataParallel = wrap_where_it_is


def gather_what_cannot_be_added() -> None:
    """--report-mcc and its kind need the predictions of all processes: lists, which fairseq tries to add and fails.

    Its way for such things, which is slower, is taken in validation alone. Its buffers for that are on a GPU, where
    there may be none.
    """
    gather = distributed_utils.all_gather_list

    def summable(self: SentencePredictionCriterion) -> bool:
        return self.training or not getattr(self, "keep_pred_and_targ", False)  # fairseq 0.12.2 has no such reports

    @functools.wraps(gather)
    def gather_where_it_is(data: Any, group: Any = None, max_size: int = 16384) -> list[Any]:
        if not torch.cuda.is_available():
            world_size = distributed_utils.get_world_size(group or distributed_utils.get_global_group())
            gather_where_it_is._buffer = torch.empty(max_size * world_size, dtype=torch.uint8)
            gather_where_it_is._cpu_buffer = torch.empty(max_size, dtype=torch.uint8)
        found: list[Any] = gather(data, group, max_size)
        return found

    SentencePredictionCriterion.logging_outputs_can_be_summed = summable
    distributed_utils.all_gather_list = gather_where_it_is


def accept_this_package_twice() -> None:
    """--user-dir may name this package by another path than it was imported from: installed, linked, or relative.

    fairseq calls that "not globally unique". The same version is the same plugin; another version is a clear error.
    """
    load = utils.import_user_module

    @functools.wraps(load)
    def load_unless_loaded(args: argparse.Namespace) -> None:
        path = getattr(args, "user_dir", None)
        if path is None or not _is_copy(Path(path).resolve()):
            load(args)
        elif Path(path).resolve() != PACKAGE:
            logger.info("--user-dir=%s: using this package as it was imported from %s", path, PACKAGE)

    utils.import_user_module = load_unless_loaded


def _is_copy(path: Path) -> bool:
    """Whether `path` is this package, or an equal version of it; another version is refused."""
    if path == PACKAGE:
        return True
    if path.name != PACKAGE.name or not (path / "__init__.py").is_file():
        return False
    found = re.search(r'^__version__ = "(.*)"$', (path / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
    mine = sys.modules[__package__.split(".")[0]].__version__
    if found is None or found[1] != mine:
        raise ImportError(
            f"--user-dir={path} holds version {found and found[1]}, but version {mine} is imported from {PACKAGE}; "
            'type --user-dir "$(wff user-dir)", or install the other one'
        )
    return True


def unscale_once_under_amp() -> None:
    """--amp unscales gradients twice: clipping marks the inner optimizer as unscaled, the step looks at the outer one.

    Adam hides it, SGD and every importance of a gradient do not.
    """

    def step(self: AMPOptimizer) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()

    AMPOptimizer.step = step


def skip_overflows_on_cpu() -> None:
    """Where a gradient overflows, fairseq's trainer puts a zero on the GPU, and crashes where there is none."""

    def tensor(*args: Any, **kwargs: Any) -> torch.Tensor:
        made = torch.tensor(*args, **kwargs)
        if not torch.cuda.is_available():
            made.cuda = lambda: made  # type: ignore[method-assign, assignment, misc]
        return made

    _change_torch_of(trainer, tensor=tensor)


def name_what_is_not_finite() -> None:
    """fairseq runs an update whose gradient is NaN or infinite again, to find the module: with hooks that torch broke.

    They end in a StopIteration. Hooks on what modules return find the same; the run ends with it, and with what to try.
    """
    detect, leave = NanDetector._detect, NanDetector.__exit__

    def detect_and_keep(self: NanDetector, tensor: torch.Tensor, name: str, backward: bool) -> str | None:
        found: str | None = detect(self, tensor, name, backward)
        if found is not None and self.first is None:
            where = f"pass of {self.finite}, which comes to" if backward else "pass, in"
            way = "backward" if backward else "forward"
            self.first = f"{found.split()[0]} appeared first in the {way} {where} the output of {name}"
        elif backward:
            self.finite = name
        elif tensor.requires_grad:
            tensor.register_hook(lambda gradient: self._detect(gradient, name, True) and None)
        return found

    def leave_with_what_to_try(self: NanDetector, kind: type[BaseException] | None, *error: Any) -> None:
        leave(self, kind, *error)
        if kind is None:
            raise FloatingPointError(
                f"the gradient of this update is NaN or infinite: {self.first or 'but no output of a module is'}. "
                "Try a lower --lr, a longer --warmup-updates or --clip-norm 1; with --fp16 a shorter "
                "--fp16-scale-window, or --bf16 in its place; and look for broken or very long sentences in the data"
            )

    NanDetector.first = None
    NanDetector.finite = "the loss"  # the last module whose output had a finite gradient
    NanDetector.__init__ = functools.partialmethod(NanDetector.__init__, backward=False)
    NanDetector._detect = detect_and_keep
    NanDetector.__exit__ = leave_with_what_to_try


def use_bf16_without_tpu() -> None:
    """--bf16 on the command line means a TPU to fairseq, and crashes on every other machine."""
    if importlib.util.find_spec("torch_xla") is not None:
        return
    parse = options.parse_args_and_arch

    @functools.wraps(parse)
    def parse_without_tpu(*args: Any, **kwargs: Any) -> Any:
        parsed = parse(*args, **kwargs)
        (parsed[0] if isinstance(parsed, tuple) else parsed).tpu = False
        return parsed

    options.parse_args_and_arch = parse_without_tpu


def show_every_flag_in_help() -> None:
    """`--help` ends fairseq's first parse, before the flags of the chosen optimizer, criterion and task are known."""
    parse = options.parse_args_and_arch

    @functools.wraps(parse)
    def parse_or_help(parser: Any, input_args: Any = None, *args: Any, modify_parser: Any = None, **kwargs: Any) -> Any:
        words = sys.argv[1:] if input_args is None else input_args
        wanted = [word for word in words if word not in ("-h", "--help")]
        if len(wanted) == len(words):
            return parse(parser, input_args, *args, modify_parser=modify_parser, **kwargs)
        if "--arch" in parser._option_string_actions and not {"--arch", "-a"} & set(wanted):
            wanted += ["--arch", "transformer"]  # without one, fairseq stops in the middle of its parse
        calls = []

        def help_on_second_call(complete: Any) -> None:  # the second call comes when all flags are known
            if modify_parser is not None:
                modify_parser(complete)
            calls.append(complete)
            if len(calls) == 2:
                complete.print_help()
                complete.exit()

        return parse(parser, wanted, *args, modify_parser=help_on_second_call, **kwargs)

    options.parse_args_and_arch = parse_or_help


def leave_broken_fast_path() -> None:
    """fairseq 0.12.2 calls a private torch function in evaluation whose arguments torch 2 changed: it crashes."""
    layer = transformer_layer.TransformerEncoderLayerBase
    if "can_use_fastpath" not in inspect.getsource(layer):
        return
    build = layer.__init__

    @functools.wraps(build)
    def build_without_fast_path(self: Any, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        self.can_use_fastpath = False

    layer.__init__ = build_without_fast_path
