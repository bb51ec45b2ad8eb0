"""Safe reading of files that torch.save wrote: checkpoints, snapshots, differences.

torch stores a CRC-32 of every record but does not check it, trusts the sizes that a file claims, and loads tensors that
most code cannot use. This module checks the checksums, loads without running code of the file, and then refuses unusual
tensors and bad numbers.
"""

import argparse
import codecs
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

_ZIP = b"PK\x03\x04"  # torch checks the same bytes


class OtherContentError(UserError):
    """A file holds a class that torch was not allowed to load."""


def read(path: Path, kind: str, remedy: str, *, mapped: bool = False) -> Any:
    """The content of `path`, written by torch.save: tensors on the CPU and plain values.

    kind and remedy: for errors, what the file should be and what to type. mapped: tensors stay in the file until they
    are used; copy those that you keep.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}; {remedy}")
    zipped = refuse_damaged(path, kind, remedy)
    location = "cpu" if mapped or not zipped else _copier(path.stat().st_size)
    try:
        # Mapped even if copied, because torch would read as many bytes of a record as the file claims.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tensors that `refuse_unusual` refuses
            return torch.load(str(path), map_location=location, weights_only=True, mmap=zipped)
    except Exception as error:  # damaged archives and pickles raise many kinds of errors
        if isinstance(error, pickle.UnpicklingError) and "global" in str(error).lower():
            raise OtherContentError(
                f"{path} holds something other than tensors and settings, which could run code on this machine; "
                "if you trust its author, load it in the program that wrote it and save it again"
            ) from None
        raise UserError(f"{path} is not a whole {kind} ({type(error).__name__}); {remedy}") from None


def plain_classes() -> list[Any]:
    """A namespace of settings and the numbers of numpy, for `allow`. Unpickling them runs no code of the file."""
    import numpy as np

    numbers = [np.dtype(name) for name in ("int64", "int32", "float64", "float32", "bool")]
    functions: list[Any] = [np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]]
    return [
        argparse.Namespace,
        np.ndarray,
        np.dtype,
        *{type(number) for number in numbers},
        # numpy 2 moved these functions; a file may name the old or the new module
        *((function, f"numpy.{module}.multiarray.{function.__name__}") for function in functions
          for module in ("core", "_core")),
    ]  # fmt: skip


def allow(classes: list[Any]) -> None:
    """Let torch read files that hold these classes: a class, or a pair of what it is and its name in files."""
    if torch.__version__ < "2.6":
        # Before torch 2.5 a class can only be allowed under its own name. numpy 1 pickles bytes as encoded text.
        classes = [c[0] if isinstance(c, tuple) else c for c in classes] + [codecs.encode]
    torch.serialization.add_safe_globals(classes)


def refuse_damaged(path: Path, kind: str, remedy: str) -> bool:
    """Compare the CRC-32 of every record with its content. Returns False for torch's format before 1.6, without CRCs.

    Reads the whole file: about half a second per GB from the page cache. A CRC of zero means that none was stored, see
    torch.serialization.set_crc32_options.
    """
    with path.open("rb") as stream:
        if stream.read(len(_ZIP)) != _ZIP:
            return False
    name = "list of records"
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            if sum(record.file_size for record in records) > path.stat().st_size:
                raise zipfile.BadZipFile  # compressed, or records that overlap: not written by torch
            for record in records:
                name = f"record {record.filename!r}"
                with archive.open(record) as content:
                    while record.CRC and content.read(1 << 20):
                        pass
    except Exception:  # zipfile raises many kinds of errors
        raise UserError(
            f"{path} is not a whole {kind}: its {name} is damaged or cut off; copy it again, or {remedy}"
        ) from None
    return True


def _copier(limit: int) -> Callable[[Any, str], Any]:
    """A map_location that copies storages out of the file, at most `limit` bytes in all."""
    remaining = limit

    def copy(storage: Any, _: str) -> Any:
        nonlocal remaining
        remaining -= storage.nbytes()
        if remaining < 0:
            raise ValueError("its tensors have more bytes than the file")
        view = torch.empty(0, dtype=torch.uint8).set_(storage)
        # In numpy's memory, which torch cannot grow, uninitialised, for a tensor that is larger than its record.
        return torch.from_numpy(view.numpy().copy()).untyped_storage()

    return copy


def refuse_unusual(tensors: Mapping[str, Tensor], path: Path) -> None:
    """UserError unless all tensors are dense and have all their numbers in storage. Reads no numbers."""
    for name, tensor in tensors.items():
        if (unusual := _unusual(tensor)) is not None:
            reason, substitute = unusual
            raise UserError(f"{path}: the tensor {name} is {reason}, and must be dense; save {substitute} in its place")


def _unusual(tensor: Tensor) -> tuple[str, str] | None:
    """Why a tensor is unusual, and what to save in its place; None if it is not."""
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
    tensors: Mapping[str, Tensor], what: str, remedy: str = "give another checkpoint", least: float = -math.inf
) -> None:
    """UserError unless all tensors are floating point, finite and at least `least`.

    what: the words before a tensor's name in the message.
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
