"""Checkpoints of fairseq as files: read without running code from them, validated, and written.

The validation is done here, so that commands can rely on dense, named tensors.
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
_STATE_FORM = {"extra_state": dict, "optimizer_history": [dict]}  # the optional entries that commands read
_CHECKPOINT_REMEDY = "give one that fairseq-train saved"


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The content of a fairseq checkpoint with an empty model, and the tensors of the model, all dense."""
    state = read_torch_file(path, "checkpoint", _CHECKPOINT_REMEDY)
    try:
        expect(state, {"model": {str: Tensor}})
        expect_known({name: value for name, value in state.items() if value is not None}, _STATE_FORM)
    except ValueError as error:
        raise UserError(f"{path} is not a fairseq checkpoint: {error}; {_CHECKPOINT_REMEDY}") from None
    model = state["model"]
    tensor_files.refuse_unusual(model, path)
    tensors = dict(model)
    model.clear()  # the container keeps its type, its attributes (versions of the modules) and its place
    return state, tensors


def read_settings(path: Path) -> dict[str, Any]:
    """The settings by section of the training that saved a checkpoint; its tensors are not read."""
    tensor_files.allow(tensor_files.plain_classes())
    try:
        state = tensor_files.read(path, "checkpoint", _CHECKPOINT_REMEDY, mapped=True)
    except tensor_files.OtherContentError:  # as meters of an older fairseq, which only fairseq's import allows
        state = read_torch_file(path, "checkpoint", _CHECKPOINT_REMEDY, mapped=True)
    settings = state.get("cfg") if isinstance(state, dict) else None
    return dict(settings) if isinstance(settings, Mapping) else {}


def save(content: Mapping[str, Any], path: Path) -> None:
    """Save with torch.save.

    Of a path, torch.save would store the temporary name in the archive, and not say why a write failed.
    """
    with path.open("wb") as stream:
        torch.save(content, stream)


def read_torch_file(path: Path, kind: str, remedy: str, *, mapped: bool = False) -> Any:
    """The content of a file of torch, which may hold the types of fairseq's checkpoints."""
    from .. import register

    register()  # allows those types
    return tensor_files.read(path, kind, remedy, mapped=mapped)
