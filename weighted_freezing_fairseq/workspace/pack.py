"""Store a tuned checkpoint as its difference from the base checkpoint (`wff pack`), and restore it (`wff unpack`).

A run with a fixed sparse mask changes few weights: the file holds their positions and values, and the rest of the
checkpoint unchanged. Unpacking restores the names of the model in order, the dtype, shape and bits of each tensor, and
all other values; the bytes of the zip container and strides may differ. Copies of the model (--store-ema) are stored in
full.
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
from ..files import atomic_file, refuse_to_overwrite
from ..forms import expect, expect_known
from .checkpoints import OPTIMIZER_STATE, read_checkpoint, read_torch_file, save

_FORMAT = "weighted_freezing_fairseq difference 1"
_PACKED_FORM = {
    "base": {"path": str, "fingerprint": str},  # earlier versions wrote no "shapes"
    "tuned": {"fingerprint": str},
    "difference": FORM,
    "rest": {"model": dict},
}


@dataclass(frozen=True)
class Report:
    """The changed numbers and the sizes. Tied tensors count once; a number without a counterpart counts as changed."""

    numbers: int
    numbers_changed: int
    density: float
    tensors: int
    tensors_changed: int
    file_bytes: int
    base_model_bytes: int
    file_over_base_model: float
    tuned_file_bytes: int
    optimizer_state: str  # kept, left out, or none (the checkpoint has none)


def read_packed(path: Path) -> dict[str, Any]:
    """A file of `wff pack`: fingerprints of base and tuned model, difference, and the rest of the tuned checkpoint."""
    remedy = "make one with: wff pack BASE TUNED --out FILE"
    content = read_torch_file(path, "file of wff pack", remedy)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise UserError(f"{path} is not a file of this version of wff pack; {remedy}")
    try:
        expect(content, _PACKED_FORM)
        expect_known(content["base"], {"shapes": {str: [int]}})
        refuse_malformed(content["difference"])
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; {remedy}") from None
    if content["rest"]["model"]:
        raise UserError(f"{path} is damaged: it holds a second model; {remedy}")
    tensor_files.refuse_unusual(stored_tensors(content["difference"]), path)
    return content


def pack(base_path: Path, tuned_path: Path, out: Path, optimizer_state: bool = False) -> Report:
    """Store the difference between two checkpoints in `out`, which must not exist.

    Args:
        base_path: the checkpoint that the training started from.
        tuned_path: the checkpoint to store.
        optimizer_state: store the state of the optimizer too.
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
    with atomic_file(out) as part:
        save(content, part)
        _verify_written(part, base, tuned)
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
    """Restore the checkpoint that `pack` stored to `out`, which must not exist; returns the content of `packed`.

    Nothing is written unless the SHA-256 fingerprints of the base and of the restored model are those in the file.
    """
    refuse_to_overwrite(out)
    content = read_packed(packed)
    base = read_checkpoint(base_path)[1]
    expected, base_fingerprint = content["base"], fingerprint(base)
    if base_fingerprint != expected["fingerprint"]:
        differences = mismatches(base, expected.get("shapes", {}).items())
        raise UserError(
            f"{base_path} (fingerprint {base_fingerprint[:12]}) is not the base of {packed}: "
            f"{f'it is another model, {few(differences)}; ' if differences else ''}give the checkpoint with "
            f"fingerprint {expected['fingerprint'][:12]}, which was {expected['path']} when it was packed"
        )
    try:
        model = patched(base, content["difference"])
        if fingerprint(model) != content["tuned"]["fingerprint"]:
            raise ValueError("it does not restore the packed model")
    except ValueError as error:
        raise UserError(f"{packed} is damaged: {error}; fetch or pack it again") from None
    content["rest"]["model"].update(model)
    with atomic_file(out) as part:
        save(content["rest"], part)
    return content


def _verify_written(part: Path, base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> None:
    """Refuse a written file that does not restore `tuned`, before it gets its name."""
    written = read_packed(part)["difference"]
    equal = {name: equal_bits(tensor, tuned[name]) for names, tensor in patches(base, written) for name in names}
    wrong = [name for name in tuned if not equal.get(name)]
    if wrong or written["names"] != list(tuned):
        raise UserError(f"the written file does not restore {wrong[:3]} and is deleted; give --out on another disk")
