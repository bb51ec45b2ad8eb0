"""Snapshots: files of Fisher information or of masks, with a header.

A snapshot belongs to one model: names and shapes are compared with the model that uses it. Fisher information is saved
with the weights that it was measured at, the anchor of EWC (Kirkpatrick et al. 2017, eq. 3).
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import UserError
from ..files import atomic_file
from ..forms import expect
from .tensor_files import read, refuse_bad_numbers, refuse_unusual

Kind = Literal["fisher", "mask"]
_FORMAT = "weighted_freezing_fairseq snapshot 1"
_FORM = {"kind": str, "about": dict, "shapes": {str: [int]}, "tensors": {str: Tensor}}
_BIT_VALUES = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Snapshot:
    """The content of a file. Tensors of a loaded snapshot stay in the file until they are used: keep copies.

    about: where the tensors come from. tensors: Fisher information, or bool masks in which 1 means updated. weights:
    those that the Fisher information was measured at; None for masks and for Fisher information saved without them.
    """

    kind: Kind
    about: dict[str, Any]
    tensors: dict[str, Tensor]
    weights: dict[str, Tensor] | None = None


def pack_bits(mask: Tensor) -> Tensor:
    """A bool tensor as bytes of eight values, the first in the lowest bit."""
    flat = mask.reshape(-1)
    padded = torch.nn.functional.pad(flat.to(torch.uint8), (0, -len(flat) % 8)).view(-1, 8)
    return (padded * padded.new_tensor(_BIT_VALUES)).sum(1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse of `pack_bits`."""
    size = math.prod(shape)
    bits = packed[:, None].bitwise_and(packed.new_tensor(_BIT_VALUES)) != 0
    return bits.view(-1)[:size].view(tuple(shape))


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes; independent of device and strides."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().clone(memory_format=torch.contiguous_format)
        digest.update(f"{name}\n{tensor.dtype}\n{tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save(
    path: Path, kind: Kind, tensors: Mapping[str, Tensor], *, weights: Mapping[str, Tensor] | None = None, **about: Any
) -> None:
    """Write a snapshot atomically. `about` must hold plain values."""
    content = {
        "format": _FORMAT,
        "kind": kind,
        "about": about,
        "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
        "tensors": {name: pack_bits(t) for name, t in tensors.items()} if kind == "mask" else _alone(tensors),
        "weights": None if weights is None else _alone(weights),
    }
    with atomic_file(path) as part, part.open("wb") as stream:  # for a path, torch does not report why a write failed
        torch.save(content, stream)


def _alone(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU: torch saves the whole storage of a view."""
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def load(path: Path, kind: Kind) -> Snapshot:
    """Read a snapshot of `kind`; UserError for any other file."""
    remedy = _remedy(kind)
    # Mapped, so that the weights take no memory unless they are used.
    content = read(path, "snapshot of this package", remedy, mapped=True)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise UserError(f"{path} is not a whole snapshot of this package; {remedy}")
    try:
        expect(content, _FORM)
        _expect_plain(content["about"])
        tensors, weights = content["tensors"], content.get("weights")  # earlier versions wrote no weights
        if weights is not None:
            expect(weights, {str: Tensor}, "weights")
        if content["kind"] != kind:
            raise UserError(f"{path} is a snapshot of kind {content['kind']!r}, not {kind!r}; {remedy}")
        refuse_unusual({**tensors, **{f"weights of {name}": tensor for name, tensor in (weights or {}).items()}}, path)
        if kind == "mask":
            expect(content["shapes"], dict.fromkeys(tensors, list), "shapes")
            tensors = {name: _unpacked(name, packed, content["shapes"][name]) for name, packed in tensors.items()}
        else:
            refuse_bad_numbers(tensors, f"{path}: the Fisher information of", remedy, least=0)
    except ValueError as error:
        raise UserError(f"{path} is not a valid snapshot: {error}; {remedy}") from None
    return Snapshot(kind, content["about"], tensors, weights)


def _expect_plain(about: Mapping[str, Any]) -> None:
    """ValueError unless `about` holds plain values."""
    try:
        json.dumps(about)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"about must hold plain values: {error}") from None


def _unpacked(name: str, packed: Tensor, shape: Sequence[int]) -> Tensor:
    """The mask `name`; ValueError if its bytes do not match its shape."""
    if any(not 0 <= size <= 1 << 48 for size in shape):
        raise ValueError(f"{name} cannot have the shape {tuple(shape)}")
    count = -(-math.prod(shape) // 8)
    if packed.dtype != torch.uint8 or packed.shape != (count,):
        raise ValueError(
            f"a mask of {name} with shape {tuple(shape)} has {count} bytes, not {tuple(packed.shape)} {packed.dtype}"
        )
    return unpack_bits(packed, shape)


def _remedy(kind: Kind) -> str:
    return f"make one with: wff fisher CHECKPOINT --data BIN --out FILE{' --mask-density D' * (kind == 'mask')}"


def of_this_model(snapshot: Snapshot, path: Path, shapes: Iterable[tuple[str, Sequence[int]]]) -> dict[str, Tensor]:
    """The tensors with these names and shapes; UserError for a snapshot of another model."""
    return matching(snapshot.tensors, path, shapes, _FROM_HERE)


def fisher_and_weights(
    snapshot: Snapshot, path: Path, shapes: Iterable[tuple[str, Sequence[int]]]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The Fisher information with these names and shapes, and the weights that it was measured at.

    The weights have the precision of their checkpoint. UserError for a snapshot of another model or without weights.
    """
    if snapshot.weights is None:
        raise UserError(f"{path} is a snapshot without the weights that it was measured at; {_remedy('fisher')}")
    shapes = list(shapes)
    fisher, weights = (matching(t, path, shapes, _FROM_HERE) for t in (snapshot.tensors, snapshot.weights))
    refuse_bad_numbers(weights, f"{path}: the weight", _FROM_HERE)
    return fisher, weights


_FROM_HERE = "make one from the checkpoint that this run starts from, with: wff fisher"


def matching(
    tensors: Mapping[str, Tensor], path: Path, shapes: Iterable[tuple[str, Sequence[int]]], remedy: str
) -> dict[str, Tensor]:
    """Copies of the tensors with these names and shapes; UserError, ending with `remedy`, for those of another model.

    Copies, because mapped tensors change, or crash the process, when their file is overwritten.
    """
    shapes = list(shapes)
    if wrong := mismatches(tensors, shapes):
        raise UserError(f"{path} was made from another model: {few(wrong)}; {remedy}")
    return {name: tensors[name].clone() for name, _ in shapes}


def mismatches(tensors: Mapping[str, Tensor], shapes: Iterable[tuple[str, Sequence[int]]]) -> list[str]:
    """How `tensors` differ from these names and shapes."""
    return [
        f"{name} is missing"
        if name not in tensors
        else f"{name} is {tuple(tensors[name].shape)} there and {tuple(shape)} here"
        for name, shape in shapes
        if name not in tensors or tuple(tensors[name].shape) != tuple(shape)
    ]


def few(texts: Sequence[str]) -> str:
    """The first three of `texts`, and the number of the others."""
    return "; ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")
