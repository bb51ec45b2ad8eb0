"""The lossless difference of two sets of named tensors: positions and values of the numbers that differ.

A run under a fixed sparse mask differs from its start in few places (diff pruning, Guo et al. 2021; FISH mask, Sung et
al. 2021). Numbers are compared and stored as bit patterns, so that every dtype, NaN and -0.0 come back exactly. Left
out on purpose: compression of the values, strides, and machines that store the highest byte first.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..forms import expect

# The integers that a number's bytes are compared as; a complex128 counts as two.
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}
_NOTHING = torch.empty(0, dtype=torch.uint8)
# What `difference` gives; `refuse_malformed` says more.
FORM = {
    "names": [str],
    "gone": [str],
    "tensors": [{"names": [str], "starts": (str, type(None)), "changed": int, "gap_bytes": int}],
    "gaps": Tensor,
    "values": Tensor,
}


def tied(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """The names, those of one and the same stored tensor together."""
    groups: dict[Any, list[str]] = {}
    for name, t in tensors.items():
        key = (t.untyped_storage().data_ptr(), t.storage_offset(), t.dtype, t.shape, t.stride())
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def equal_bits(a: Tensor, b: Tensor) -> bool:
    """Whether dtype, shape and every bit are equal: NaN equals itself, -0.0 is not 0.0."""
    return _alike(a, b) and torch.equal(_words(a), _words(b))


def difference(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> dict[str, Any]:
    """What turns `base` into `tuned`, as tensors and plain values, which torch saves and loads without code.

    A position is stored as its gap to the one before it in the flattened tensor, in as few bytes as the tensor's
    largest gap needs. A tensor is stored whole where `base` has none of its name, shape and dtype, or where that is
    smaller. Tensors that share their storage are stored once. May hold tensors of `tuned` itself, not copies.

    names: all of `tuned`, in its order; gone: those of `base` that `tuned` lacks; gaps, values: bytes, one tensor's
    after another's. tensors: each with its `names`, the name in `base` that it `starts` from (None: whole), how many
    numbers `changed`, and the bytes of a gap.
    """
    tensors: list[dict[str, Any]] = []
    gaps, values = [_NOTHING], [_NOTHING]
    for names in tied(tuned):
        tensor = tuned[names[0]]
        start = next((name for name in names if name in base and _alike(base[name], tensor)), None)
        entry: dict[str, Any] = {"names": names, "starts": start, "changed": tensor.numel(), "gap_bytes": 0}
        if start is not None:
            words = _words(tensor)
            positions = (words != _words(base[start])).nonzero().view(-1)
            entry["changed"] = len(positions)
            steps = positions.diff(prepend=positions.new_zeros(1))
            entry["gap_bytes"] = _width(int(steps.max())) if len(steps) else 0
            if len(steps) * (entry["gap_bytes"] + words.element_size()) >= max(1, tensor.nbytes):
                entry["starts"] = None
            else:
                gaps.append(_low_bytes(steps, entry["gap_bytes"]))
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
    """ValueError where something of this FORM is not a difference of any two sets of tensors."""
    entries = difference["tensors"]
    names = [name for entry in entries for name in entry["names"]]
    if not all(entry["names"] for entry in entries) or len(set(names)) < len(names):
        raise ValueError("its tensors do not have one name each")
    if sorted(names) != sorted(difference["names"]):
        raise ValueError("its list of names is not that of its tensors")
    for part in ("gaps", "values"):
        if difference[part].dtype != torch.uint8 or difference[part].dim() != 1:
            raise ValueError(f"its {part} are not a row of bytes")
    for entry in entries:
        if entry["starts"] is None:
            expect(entry, {"whole": Tensor}, entry["names"][0])
        elif entry["changed"] < 0 or not 0 <= entry["gap_bytes"] <= 8 or (entry["changed"] and not entry["gap_bytes"]):
            raise ValueError(f"{entry['names'][0]} has {entry['changed']} changes with {entry['gap_bytes']} bytes each")
    if sum(entry["changed"] * entry["gap_bytes"] for entry in entries if entry["starts"]) != len(difference["gaps"]):
        raise ValueError("it has another number of gaps than of changes")


def stored_tensors(difference: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors that a difference consists of, by where they are in it."""
    whole = {entry["names"][0]: entry["whole"] for entry in difference["tensors"] if entry["starts"] is None}
    return {"gaps": difference["gaps"], "values": difference["values"], **whole}


def patches(base: Mapping[str, Tensor], difference: Mapping[str, Any]) -> Iterator[tuple[list[str], Tensor]]:
    """The tensors that `difference` was made from, one by one, each with all its names.

    A tensor without a change is the one of `base` itself, not a copy. ValueError where `base` does not fit.
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
        # cloned: bytes may become wider words only where their storage begins
        words[positions] = difference["values"][value_at:value_end].clone().view(words.dtype)
        yield entry["names"], words.view(start.dtype).view(start.shape)
        gap_at, value_at = gap_end, value_end


def patched(base: Mapping[str, Tensor], difference: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors that `difference` was made from, bit for bit, in their order; tied ones are one tensor again."""
    found = {name: tensor for names, tensor in patches(base, difference) for name in names}
    return {name: found[name] for name in difference["names"]}


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape


def _words(tensor: Tensor) -> Tensor:
    """A copy of the numbers, flat, as integers of the same bytes."""
    flat = tensor.detach().clone(memory_format=torch.contiguous_format).view(-1)
    return flat.view(_WORDS[tensor.element_size()])


def _alone(tensor: Tensor) -> Tensor:
    """The tensor without what else its storage holds, which torch would save along with it."""
    tensor = tensor.detach()
    if tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def _width(number: int) -> int:
    """The bytes that `number` needs, at least one."""
    return max(1, -(-number.bit_length() // 8))


def _low_bytes(numbers: Tensor, width: int) -> Tensor:
    """int64 numbers below 256 ** width as bytes, the lowest first."""
    return numbers.view(torch.uint8).view(-1, 8)[:, :width].reshape(-1)


def _from_low_bytes(data: Tensor, width: int) -> Tensor:
    """The numbers that `_low_bytes` made bytes of."""
    numbers = data.new_zeros(len(data) // width, 8)
    numbers[:, :width] = data.view(-1, width)
    return numbers.view(torch.int64).view(-1)
