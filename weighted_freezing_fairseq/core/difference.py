"""The lossless difference of two sets of named tensors: positions and values of the numbers that differ.

A model tuned under a fixed sparse mask differs from its base in few places (diff pruning, Guo et al. 2021; FISH mask,
Sung et al. 2021). Numbers are compared and stored as bit patterns: every dtype, NaN and -0.0 are restored exactly.
Big-endian machines are not supported.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..forms import expect

# The integer dtypes that numbers are compared as, by their bytes; a complex128 is two integers.
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}
# The form of a difference; `refuse_malformed` checks more.
FORM = {
    "names": [str],
    "gone": [str],
    "tensors": [{"names": [str], "starts": (str, type(None)), "changed": int, "gap_bytes": int}],
    "gaps": Tensor,
    "values": Tensor,
}


def tied(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """The names of `tensors`, grouped by the tensor in memory that they share."""
    groups: dict[Any, list[str]] = {}
    for name, t in tensors.items():
        key = (t.untyped_storage().data_ptr(), t.storage_offset(), t.dtype, t.shape, t.stride())
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def equal_bits(a: Tensor, b: Tensor) -> bool:
    """Whether dtype, shape and every bit are equal: NaN equals itself, -0.0 is not 0.0."""
    return _alike(a, b) and torch.equal(_words(a), _words(b))


def difference(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> dict[str, Any]:
    """What turns `base` into `tuned`, as tensors and plain values. May hold tensors of `tuned` itself, not copies.

    A position is stored as its gap to the previous one in the flattened tensor, in as few bytes as the largest gap of
    the tensor needs. A tensor is stored whole if `base` has none of its name, shape and dtype, or if that is smaller.
    Tied tensors are stored once.

    Returns a dict: `names` of `tuned` in order; names of `base` that are `gone` in `tuned`; `gaps` and `values`, the
    concatenated bytes of all tensors; `tensors`, a list of dicts with the `names` of a tensor, the name in `base` that
    it `starts` from (None: stored in `whole`), the number of `changed` numbers, and `gap_bytes` per gap.
    """
    tensors: list[dict[str, Any]] = []
    gaps, values = ([torch.empty(0, dtype=torch.uint8)] for _ in range(2))
    for names in tied(tuned):
        tensor = tuned[names[0]]
        start = next((name for name in names if name in base and _alike(base[name], tensor)), None)
        entry: dict[str, Any] = {"names": names, "starts": start, "changed": tensor.numel(), "gap_bytes": 0}
        if start is not None:
            words = _words(tensor)
            positions = (words != _words(base[start])).nonzero().view(-1)
            entry["changed"] = len(positions)
            distances = positions.diff(prepend=positions.new_zeros(1))
            entry["gap_bytes"] = max(1, math.ceil(int(distances.max()).bit_length() / 8)) if len(distances) else 0
            if len(distances) * (entry["gap_bytes"] + words.element_size()) >= max(1, tensor.nbytes):
                entry["starts"] = None
            else:
                gaps.append(_low_bytes(distances, entry["gap_bytes"]))
                values.append(words[positions].view(torch.uint8))
        if entry["starts"] is None:
            entry["whole"] = _alone(tensor)
        tensors.append(entry)
    return {
        "names": list(tuned),
        "gone": [name for name in base if name not in tuned],
        "tensors": tensors,
        "gaps": torch.cat(gaps),
        "values": torch.cat(values),
    }


def refuse_malformed(difference: Mapping[str, Any]) -> None:
    """ValueError if a dict of this `FORM` is not a valid difference."""
    entries = difference["tensors"]
    names = [name for entry in entries for name in entry["names"]]
    if not all(entry["names"] for entry in entries) or len(set(names)) < len(names):
        raise ValueError("two tensors have the same name, or one has none")
    if sorted(names) != sorted(difference["names"]):
        raise ValueError("its list of names differs from the names of its tensors")
    for part in ("gaps", "values"):
        if difference[part].dtype != torch.uint8 or difference[part].dim() != 1:
            raise ValueError(f"its {part} are not a flat tensor of bytes")
    for entry in entries:
        if entry["starts"] is None:
            expect(entry, {"whole": Tensor}, entry["names"][0])
        elif entry["changed"] < 0 or not 0 <= entry["gap_bytes"] <= 8 or (entry["changed"] and not entry["gap_bytes"]):
            raise ValueError(f"{entry['names'][0]} has {entry['changed']} changes with {entry['gap_bytes']} bytes each")
    if sum(entry["changed"] * entry["gap_bytes"] for entry in entries if entry["starts"]) != len(difference["gaps"]):
        raise ValueError("the numbers of gaps and of changes differ")


def stored_tensors(difference: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors in a difference, by name."""
    whole = {entry["names"][0]: entry["whole"] for entry in difference["tensors"] if entry["starts"] is None}
    return {"gaps": difference["gaps"], "values": difference["values"], **whole}


def patches(base: Mapping[str, Tensor], difference: Mapping[str, Any]) -> Iterator[tuple[list[str], Tensor]]:
    """The tuned tensors one by one, each with all its names; ValueError if `base` does not fit.

    A tensor without changes is that of `base` itself, not a copy.
    """
    gap_at = value_at = 0
    for entry in difference["tensors"]:
        if entry["starts"] is None:
            yield entry["names"], entry["whole"]
            continue
        name, start = entry["names"][0], base.get(entry["starts"])
        if start is None:
            raise ValueError(f"{name} starts from {entry['starts']}, which the base does not have")
        if not entry["changed"]:
            yield entry["names"], _alone(start)
            continue
        words = _words(start)
        gap_end = gap_at + entry["changed"] * entry["gap_bytes"]
        value_end = value_at + entry["changed"] * words.element_size()
        if value_end > len(difference["values"]):
            raise ValueError(f"the values of {name} are cut off")
        positions = _from_low_bytes(difference["gaps"][gap_at:gap_end], entry["gap_bytes"]).cumsum(0)
        if int(positions.min()) < 0 or int(positions.max()) >= len(words):
            raise ValueError(f"positions of {name} are outside its {len(words)} numbers")
        # cloned, because bytes can be viewed as wider words at an aligned offset only
        words[positions] = difference["values"][value_at:value_end].clone().view(words.dtype)
        yield entry["names"], words.view(start.dtype).view(start.shape)
        gap_at, value_at = gap_end, value_end


def patched(base: Mapping[str, Tensor], difference: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tuned tensors, bit for bit and in their order; tied tensors are tied again."""
    tensors = {name: tensor for names, tensor in patches(base, difference) for name in names}
    return {name: tensors[name] for name in difference["names"]}


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape


def _words(tensor: Tensor) -> Tensor:
    """A flat copy of the numbers as integers of the same bytes."""
    flat = tensor.detach().clone(memory_format=torch.contiguous_format).view(-1)
    return flat.view(_WORDS[tensor.element_size()])


def _alone(tensor: Tensor) -> Tensor:
    """The tensor in a storage of its own: torch saves the whole storage of a view."""
    tensor = tensor.detach()
    if tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def _low_bytes(numbers: Tensor, width: int) -> Tensor:
    """int64 numbers below 256 ** width as bytes, little-endian."""
    return numbers.view(torch.uint8).view(-1, 8)[:, :width].reshape(-1)


def _from_low_bytes(data: Tensor, width: int) -> Tensor:
    """The inverse of `_low_bytes`."""
    numbers = data.new_zeros(len(data) // width, 8)
    numbers[:, :width] = data.view(-1, width)
    return numbers.view(torch.int64).view(-1)
