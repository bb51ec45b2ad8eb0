"""Mends of checkpoints: loading without running pickled code, copying, and broadcasting to other processes."""

import functools
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.logging import meters

from ...core import tensor_files
from ...errors import UserError
from ..evaluated_settings import refuse_code
from .registry import FAIRSEQ_AFTER_0_12_2, TORCH_BEFORE_2_6, TORCH_FROM_2_6, mend, replace_torch_functions

# Copies of other weights that only the encoder layers of fairseq 0.12.2 have, for PyTorch's fast path.
COPIES_OF_0_12_2 = re.compile(r"encoder\.layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)")


@mend("torch refuses to load fairseq's checkpoints, because they hold settings, meters and numpy numbers")
def allow_fairseq_checkpoints() -> None:
    tensor_files.allow(safe_classes())


def safe_classes() -> list[Any]:
    """The classes that a fairseq checkpoint may contain beside tensors and plain Python values.

    Model settings are a Namespace; checkpoints of fairseq 0.9 and older contain meters; --eval-bleu adds numpy numbers.
    """
    names = ("AverageMeter", "SumMeter", "TimeMeter", "StopwatchMeter", "MetersDict")
    return [*tensor_files.plain_classes(), *(getattr(meters, name) for name in names)]


@mend("fairseq runs the code in a checkpoint when it loads one", TORCH_BEFORE_2_6, True)
def load_without_code() -> None:
    replace_torch_functions(checkpoint_utils, load=functools.partial(torch.load, weights_only=True))


def _wrap_load(change: Callable[[Callable[..., Any], str], dict[str, Any]]) -> None:
    """Replace fairseq's loading of a checkpoint by `change(load, path)`, where `load()` is the previous loading."""
    load = checkpoint_utils.load_checkpoint_to_cpu

    @functools.wraps(load)
    def wrapped(path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return change(functools.partial(load, path, *args, **kwargs), path)

    checkpoint_utils.load_checkpoint_to_cpu = wrapped


@mend("the error for a checkpoint with code in it advises the user to run that code")
def explain_refused_checkpoints() -> None:
    def load_or_explain(load: Callable[[], dict[str, Any]], path: str) -> dict[str, Any]:
        try:
            return load()
        except pickle.UnpicklingError as error:
            code = re.search(r"GLOBAL (\S+)|global,? `?([\w.]+)`?|class `?([\w.]+)", str(error))
            if code is None:
                raise UserError(
                    f"{path} was not loaded: it is damaged, or not a checkpoint; give an intact fairseq checkpoint"
                ) from None
            raise UserError(
                f"{path} was not loaded: it holds something other than tensors and settings "
                f"({next(filter(None, code.groups()))}), which could run code on this machine. If you trust who made "
                "it, load it in plain fairseq and save it again."
            ) from None

    _wrap_load(load_or_explain)


@mend("fairseq evaluates some settings of a checkpoint as Python code", protects=True)
def refuse_code_in_settings() -> None:
    def load_and_check(load: Callable[[], dict[str, Any]], path: str) -> dict[str, Any]:
        state = load()
        refuse_code(state, path)
        return state

    _wrap_load(load_and_check)


@mend("damaged checkpoints load, because nothing compares them with their checksums", protects=True)
def verify_checksums() -> None:
    def verify_and_load(load: Callable[[], dict[str, Any]], path: str) -> dict[str, Any]:
        if Path(path).is_file():  # fairseq can also read from remote storage
            tensor_files.refuse_damaged(Path(path), "checkpoint", "give an earlier checkpoint")
        return load()

    _wrap_load(verify_and_load)


@mend("checkpoints of fairseq 0.12.2 do not load, because they hold some weights twice", FAIRSEQ_AFTER_0_12_2)
def drop_copied_weights() -> None:
    def load_without_copies(load: Callable[[], dict[str, Any]], path: str) -> dict[str, Any]:
        state = load()
        state["model"] = {name: w for name, w in state["model"].items() if not COPIES_OF_0_12_2.fullmatch(name)}
        return state

    _wrap_load(load_without_copies)


@mend("resuming on several processes fails: torch refuses the settings that rank 0 sends", TORCH_FROM_2_6)
def broadcast_checkpoints() -> None:
    # Unpickling is safe here: the bytes come from rank 0 of this run, not from a file.
    def broadcast(obj: Any, src_rank: int, group: Any, dist_device: torch.device) -> Any:
        objects = [obj]
        torch.distributed.broadcast_object_list(objects, src=src_rank, group=group, device=dist_device)
        return objects[0]

    distributed_utils._broadcast_object_slow = broadcast


@mend("a kill during the copy to checkpoint_last.pt leaves half a file")
def copy_checkpoints_atomically() -> None:
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
