"""Files that torch.save wrote, read with suspicion: checkpoints, snapshots, differences.

torch stores a CRC-32 of every record and does not look at it, trusts the sizes that a file claims, and loads tensors
that most code cannot use. Everything of this package reads such files here: checksums first, then the content, without
running code of the file; then which tensors and numbers are allowed. Left out on purpose: what each format holds.
"""

import math
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError

_ZIP = b"PK\x03\x04"  # torch decides by the same bytes
_BLOCK = 1 << 20


def read(path: Path, kind: str, remedy: str, *, mapped: bool = False) -> Any:
    """What torch.save wrote to `path`: tensors on the CPU and plain values.

    kind: what the file should be, and remedy: what to type where it is not, or is damaged. mapped: the numbers stay in
    the file until they are used; whoever keeps them must copy them.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}; {remedy}")
    zipped = refuse_damaged(path, kind, remedy)
    location = "cpu" if mapped or not zipped else _copies(path.stat().st_size)
    try:
        # Mapped even to be copied: else torch reads as many bytes of a record as the file claims that it has.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of kinds of tensors that are refused in any case
            return torch.load(str(path), map_location=location, weights_only=True, mmap=zipped)
    except Exception as error:  # damaged archives and pickles raise nearly everything
        if isinstance(error, pickle.UnpicklingError) and "global" in str(error).lower():
            raise UserError(
                f"{path} holds something other than tensors and settings, which could run code on this machine; "
                "if you trust who made it, load it in the program that wrote it and save it again"
            ) from None
        raise UserError(f"{path} is not a whole {kind} ({type(error).__name__}); {remedy}") from None


def refuse_damaged(path: Path, kind: str, remedy: str) -> bool:
    """Compare the CRC-32 of every record with its content; whether there are any.

    This reads the whole file, in about half a second a GB once it is in memory. There are no checksums in torch's
    format before 1.6, and zeros in their place where torch.serialization.set_crc32_options(False) was called.
    """
    with path.open("rb") as stream:
        if stream.read(len(_ZIP)) != _ZIP:
            return False
    name = "list of records"
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            if sum(record.file_size for record in records) > path.stat().st_size:
                raise zipfile.BadZipFile  # compressed, or one byte in several records: not torch's
            for record in records:
                name = f"record {record.filename!r}"
                with archive.open(record) as content:
                    while record.CRC and content.read(_BLOCK):
                        pass
    except Exception:  # zipfile, too, raises nearly everything
        raise UserError(
            f"{path} is not a whole {kind}: its {name} is damaged or cut off; copy it again, or {remedy}"
        ) from None
    return True


def _copies(limit: int) -> Callable[[Any, str], Any]:
    """A map_location that copies each storage out of the file, `limit` bytes in all."""
    left = limit

    def copy(storage: Any, _: str) -> Any:
        nonlocal left
        left -= storage.nbytes()
        if left < 0:
            raise ValueError("its tensors have more bytes than the file")
        view = torch.empty(0, dtype=torch.uint8).set_(storage)
        # numpy's memory cannot grow; torch's own would, without numbers in it, where a tensor is larger than its record
        return torch.from_numpy(view.numpy().copy()).untyped_storage()

    return copy


def refuse_unusual(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Only dense tensors with a stored number for each of theirs; looks at no number."""
    for name, tensor in tensors.items():
        if (found := _unusual(tensor)) is not None:
            what, instead = found
            raise UserError(f"{path}: the tensor {name} is {what}, and must be dense; save {instead} in its place")


def _unusual(tensor: Tensor) -> tuple[str, str] | None:
    """What is unusual about a tensor, and what to save instead."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_nested:
        return f"of the class {type(tensor).__name__}", "a plain torch.Tensor"
    if tensor.layout != torch.strided:
        return f"sparse ({tensor.layout})", "its to_dense()"
    if tensor.is_quantized:
        return f"quantized ({tensor.dtype})", "its dequantize()"
    if tensor.device.type != "cpu":
        return f"on the device {tensor.device}, without numbers", "one with numbers"
    if tensor.is_conj() or tensor.is_neg():
        return "a lazy conjugate or negation", "its resolve_conj().resolve_neg()"
    stored = tensor.untyped_storage().nbytes()
    if tensor.numel() * tensor.element_size() > stored:
        return f"an expanded view: {tensor.numel()} numbers of {stored} stored bytes", "its clone()"
    return None


def refuse_bad_numbers(
    tensors: Mapping[str, Tensor],
    what: str,
    remedy: str = "give another checkpoint",
    least: float = -math.inf,
) -> None:
    """Weights, or what was measured of them, must be floating point, finite and not below `least`.

    what: comes before a tensor's name in the message.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise UserError(f"{what} {name} is {tensor.dtype}, and must be floating point; {remedy}")
        if not tensor.numel():
            continue
        numbers = tensor if tensor.element_size() > 1 else tensor.float()  # torch does not compare float8
        low, high = (float(end) for end in numbers.detach().aminmax())
        if not math.isfinite(low) or not math.isfinite(high):
            raise UserError(f"{what} {name} is not finite: it holds {high if math.isfinite(low) else low}; {remedy}")
        if low < least:
            raise UserError(f"{what} {name} holds {low:g}, and must be at least {least:g}; {remedy}")
