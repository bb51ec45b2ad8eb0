"""Checkpoints of fairseq as files: read without running code from them, checked, and written whole.

What is read is validated once, here, so that the commands that work on tensors can rely on dense, named tensors.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core import tensor_files
from ..errors import UserError
from ..forms import expect, expect_known

OPTIMIZER_STATE = "last_optimizer_state"
# Of what a checkpoint may hold, that which commands look into.
_STATE_FORM = {"extra_state": dict, "optimizer_history": [dict]}


_CHECKPOINT_REMEDY = "give one that fairseq-train saved"


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a fairseq checkpoint holds, with its model emptied; and the tensors of that model, all of them dense."""
    state = read_torch_file(path, "checkpoint", _CHECKPOINT_REMEDY)
    try:
        expect(state, {"model": {str: Tensor}})
        expect_known({name: value for name, value in state.items() if value is not None}, _STATE_FORM)
    except ValueError as error:
        raise UserError(f"{path} is not a fairseq checkpoint: {error}; {_CHECKPOINT_REMEDY}") from None
    model = state["model"]
    tensor_files.refuse_unusual(model, path)
    tensors = dict(model)
    model.clear()  # the emptied container keeps its type and attributes (versions of the modules), and its place
    return state, tensors


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that a fairseq checkpoint was trained with, a section each; its tensors stay in the file."""
    state = read_torch_file(path, "checkpoint", _CHECKPOINT_REMEDY, mapped=True)
    settings = state.get("cfg") if isinstance(state, dict) else None
    return dict(settings) if isinstance(settings, Mapping) else {}


def refuse_to_overwrite(out: Path) -> None:
    """Whatever --out names already is somebody's work."""
    if out.exists():
        raise UserError(f"{out} exists and stays as it is; give another --out, or type: rm {out}")


def save(content: Mapping[str, Any], path: Path) -> None:
    """torch.save through an open file.

    By its name, the archive would hold the name of the unfinished part, and a failed write not say why.
    """
    with path.open("wb") as stream:
        torch.save(content, stream)


def read_torch_file(path: Path, kind: str, remedy: str, *, mapped: bool = False) -> Any:
    """The content of a file of torch that may hold what fairseq's checkpoints hold."""
    from .. import register

    register()  # which allows that
    return tensor_files.read(path, kind, remedy, mapped=mapped)
