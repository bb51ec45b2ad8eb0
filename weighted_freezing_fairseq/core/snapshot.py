"""Named tensors on disk with a header that says what they are: Fisher information, masks.

A snapshot belongs to one model: names and shapes are compared when it is loaded, and every number is a tensor or a
plain value, so that torch loads it without running code of the file. Fisher information comes with the weights that it
was measured at, which EWC (Kirkpatrick et al. 2017, eq. 3) pulls back to. Left out on purpose: whole checkpoints.
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
_WEIGHTS_OF_BITS = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Snapshot:
    """What a file holds: `about` says where the tensors come from; masks are bool, 1 = is updated.

    `weights` are what the Fisher information was measured at, by the same names; None in a mask, and where Fisher
    information was saved alone. The numbers of a loaded snapshot stay in its file until they are used: keep copies.
    """

    kind: Kind
    about: dict[str, Any]
    tensors: dict[str, Tensor]
    weights: dict[str, Tensor] | None = None


def pack_bits(mask: Tensor) -> Tensor:
    """A bool tensor as bytes, eight numbers each, the first in the lowest bit."""
    flat = mask.reshape(-1)
    padded = torch.nn.functional.pad(flat.to(torch.uint8), (0, -len(flat) % 8)).view(-1, 8)
    return (padded * padded.new_tensor(_WEIGHTS_OF_BITS)).sum(1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """The bool tensor of `shape` that `pack_bits` made bytes of."""
    size = math.prod(shape)
    bits = packed[:, None].bitwise_and(packed.new_tensor(_WEIGHTS_OF_BITS)) != 0
    return bits.view(-1)[:size].view(tuple(shape))


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes: equal for equal tensors, wherever they are stored."""
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
    """Write a snapshot, whole or not at all. `about` holds plain values only."""
    content = {
        "format": _FORMAT,
        "kind": kind,
        "about": about,
        "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
        "tensors": {name: pack_bits(t) for name, t in tensors.items()} if kind == "mask" else _alone(tensors),
        "weights": None if weights is None else _alone(weights),
    }
    with atomic_file(path) as part, part.open("wb") as stream:  # of a path, torch does not say why a write failed
        torch.save(content, stream)


def _alone(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies: torch would save the whole tensor that one of them is a view of."""
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def load(path: Path, kind: Kind) -> Snapshot:
    """Read a snapshot of `kind`; anything else is refused with what to make instead."""
    remedy = _remedy(kind)
    # Mapped, not read: whoever needs the Fisher information alone needs no memory for the weights.
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
    """ValueError unless `about` consists of plain values, which can be compared."""
    try:
        json.dumps(about)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"about must hold plain values: {error}") from None


def _unpacked(name: str, packed: Tensor, shape: Sequence[int]) -> Tensor:
    """The mask `name`; ValueError where its bits and its shape do not fit."""
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


def of_this_model(snapshot: Snapshot, path: Path, wanted: Iterable[tuple[str, Sequence[int]]]) -> dict[str, Tensor]:
    """The tensors of the weights `wanted` (name, shape); a snapshot of another model is refused."""
    return matching(snapshot.tensors, path, wanted, _FROM_HERE)


def fisher_and_weights(
    snapshot: Snapshot, path: Path, wanted: Iterable[tuple[str, Sequence[int]]]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The Fisher information of the weights `wanted` (name, shape), and these weights where it was measured.

    The weights are in the precision of their checkpoint. A snapshot of another model is refused, and one without
    weights.
    """
    if snapshot.weights is None:
        raise UserError(f"{path} is a snapshot without the weights that it was measured at; {_remedy('fisher')}")
    wanted = list(wanted)
    fisher, weights = (matching(t, path, wanted, _FROM_HERE) for t in (snapshot.tensors, snapshot.weights))
    refuse_bad_numbers(weights, f"{path}: the weight", _FROM_HERE)
    return fisher, weights


_FROM_HERE = "make one from the checkpoint that this run starts from, with: wff fisher"


def matching(
    tensors: Mapping[str, Tensor], path: Path, wanted: Iterable[tuple[str, Sequence[int]]], remedy: str
) -> dict[str, Tensor]:
    """Copies of the `wanted` (name, shape); tensors of another model are refused with `remedy`, what to type.

    Copies, since a mapped file that is overwritten would change them, or end the process.
    """
    wanted = list(wanted)
    if wrong := mismatches(tensors, wanted):
        raise UserError(f"{path} was made from another model: {few(wrong)}; {remedy}")
    return {name: tensors[name].clone() for name, _ in wanted}


def mismatches(tensors: Mapping[str, Tensor], wanted: Iterable[tuple[str, Sequence[int]]]) -> list[str]:
    """What is wrong with `tensors` where those `wanted` (name, shape) are needed."""
    return [
        f"{name} is missing"
        if name not in tensors
        else f"{name} is {tuple(tensors[name].shape)} there and {tuple(shape)} here"
        for name, shape in wanted
        if name not in tensors or tuple(tensors[name].shape) != tuple(shape)
    ]


def few(texts: Sequence[str]) -> str:
    """The first three of `texts`, and how many more there are."""
    return "; ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")
