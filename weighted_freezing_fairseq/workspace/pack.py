"""Pack and unpack: a tuned checkpoint as what differs from its base, and the format of that file.

A run under a fixed sparse mask changes few of its weights: their positions and values are stored, and everything else
that the checkpoint holds beside its model as it is. Unpacking gives back equal contents: the model's names in their
order, each tensor's dtype, shape and every bit, and everything else value by value. The bytes of the zip container and
strides may differ. A difference is made of the model only, so a second copy of it (the averages of --store-ema) is
stored whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import __version__
from ..core import tensor_files
from ..core.difference import (
    FORM,
    difference,
    equal_bits,
    patched,
    patches,
    refuse_malformed,
    stored_tensors,
    tied,
)
from ..core.snapshot import few, fingerprint, mismatches
from ..errors import UserError
from ..files import whole
from ..forms import expect, expect_known
from .checkpoints import OPTIMIZER_STATE, read_checkpoint, read_torch_file, refuse_to_overwrite, save

_FORMAT = "weighted_freezing_fairseq difference 1"
_PACKED_FORM = {
    "base": {"path": str, "fingerprint": str},  # and "shapes", which earlier versions did not write
    "tuned": {"fingerprint": str},
    "difference": FORM,
    "rest": {"model": dict},
}


@dataclass(frozen=True)
class Report:
    """What changed and what it weighs. Tied tensors count once; a number without a counterpart counts as changed."""

    numbers: int
    numbers_changed: int
    density: float
    tensors: int
    tensors_changed: int
    file_bytes: int
    base_model_bytes: int
    file_over_base_model: float
    tuned_file_bytes: int
    optimizer_state: str  # kept, left out, or none where TUNED has none


def read_packed(path: Path) -> dict[str, Any]:
    """What `wff pack` wrote: base, tuned (fingerprints), difference, and the rest of the tuned checkpoint."""
    remedy = "make one with: wff pack BASE TUNED --out FILE"
    content = read_torch_file(path, "file of wff pack", remedy)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise UserError(f"{path} is not a file that this version of wff pack made; {remedy}")
    try:
        expect(content, _PACKED_FORM)
        expect_known(content["base"], {"shapes": {str: [int]}})
        refuse_malformed(content["difference"])
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; {remedy}") from None
    if content["rest"]["model"]:
        raise UserError(f"{path} is damaged: its rest has a model of its own; {remedy}")
    tensor_files.refuse_unusual(stored_tensors(content["difference"]), path)
    return content


def pack(base_path: Path, tuned_path: Path, out: Path, optimizer_state: bool = False) -> Report:
    """Store what differs between two checkpoints in `out`, which must not exist yet.

    Args:
        base_path: the checkpoint that the training started from.
        tuned_path: the checkpoint to store.
        optimizer_state: keep the state of the optimizer, whole.
    """
    refuse_to_overwrite(out)
    base = read_checkpoint(base_path)[1]
    rest, tuned = read_checkpoint(tuned_path)
    state = "none" if rest.get(OPTIMIZER_STATE) is None else "kept"
    if not optimizer_state and rest.pop(OPTIMIZER_STATE, None) is not None:
        state = "left out"
    content = {
        "format": _FORMAT,
        "version": __version__,
        "base": {
            "path": str(base_path.resolve()),
            "fingerprint": fingerprint(base),
            "shapes": {name: list(tensor.shape) for name, tensor in base.items()},
        },
        "tuned": {"fingerprint": fingerprint(tuned)},
        "difference": difference(base, tuned),
        "rest": rest,
    }
    with whole(out) as part:
        save(content, part)
        _check(part, base, tuned)
    entries = content["difference"]["tensors"]
    numbers = sum(tuned[entry["names"][0]].numel() for entry in entries)
    changed = sum(entry["changed"] for entry in entries)
    file_bytes = out.stat().st_size
    model_bytes = sum(base[names[0]].nbytes for names in tied(base))
    return Report(
        numbers=numbers,
        numbers_changed=changed,
        density=changed / max(1, numbers),
        tensors=len(entries),
        tensors_changed=sum(entry["changed"] > 0 for entry in entries),
        file_bytes=file_bytes,
        base_model_bytes=model_bytes,
        file_over_base_model=file_bytes / max(1, model_bytes),
        tuned_file_bytes=tuned_path.stat().st_size,
        optimizer_state=state,
    )


def unpack(base_path: Path, packed: Path, out: Path) -> dict[str, Any]:
    """Write the checkpoint that `pack` stored to `out`, which must not exist yet; returns the content of `packed`.

    Nothing is written unless the base is the one that was packed against and the result is the model that was packed,
    both by SHA-256.
    """
    refuse_to_overwrite(out)
    content = read_packed(packed)
    base = read_checkpoint(base_path)[1]
    wanted, base_fingerprint = content["base"], fingerprint(base)
    if base_fingerprint != wanted["fingerprint"]:
        other = mismatches(base, wanted.get("shapes", {}).items())  # earlier versions wrote no shapes
        raise UserError(
            f"{base_path} (fingerprint {base_fingerprint[:12]}) is not the base of {packed}: "
            f"{f'it is another model, {few(other)}; ' if other else ''}give the checkpoint with "
            f"fingerprint {wanted['fingerprint'][:12]}, which was {wanted['path']} when it was packed"
        )
    try:
        model = patched(base, content["difference"])
        if fingerprint(model) != content["tuned"]["fingerprint"]:
            raise ValueError("it does not give back what was packed")
    except ValueError as error:
        raise UserError(f"{packed} is damaged: {error}; fetch or pack it again") from None
    content["rest"]["model"].update(model)
    with whole(out) as part:
        save(content["rest"], part)
    return content


def _check(part: Path, base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> None:
    """Refuse a written file that does not give `tuned` back, tensor by tensor, before it gets its name."""
    written = read_packed(part)["difference"]
    good = {name: equal_bits(tensor, tuned[name]) for names, tensor in patches(base, written) for name in names}
    wrong = [name for name in tuned if not good.get(name)]
    if wrong or written["names"] != list(tuned):
        raise UserError(f"what was written does not give {wrong[:3]} back and is deleted; give --out on another disk")
