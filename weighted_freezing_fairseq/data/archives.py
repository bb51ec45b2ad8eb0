"""Members of archives, copied out under names of our own: nothing that an archive says decides where a byte is written.

An archive is read once, front to back, to its end, so that a damaged one shows. Archives inside it are read through
it. Links, devices, and names that lead out are counted and never opened.
"""

import gzip
import shutil
import sys
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from ..errors import UserError

_BLOCK = 1 << 20
_SHOWN = 5


@dataclass
class Found:
    """What an archive held: wanted members, what was left alone and why, and a few of its names for a message."""

    members: set[str] = field(default_factory=set)
    left_alone: Counter[str] = field(default_factory=Counter)
    names: list[str] = field(default_factory=list)


def copy_out(archive: Path, wanted: Mapping[str, Path], nested: Sequence[str] = ()) -> Found:
    """Copy the members `wanted` of a gzipped tar (the end of a name is enough) to the paths given; "" is all of a .gz.

    nested: ends of the names of gzipped tars inside it that are read too.
    """
    found = Found()
    with _readable(archive), _shown(archive) as file, gzip.open(file) as stream:
        if "" in wanted:
            _write(stream, wanted[""])
            found.members.add("")
        else:
            _walk(stream, wanted, nested, found)
    return found


def _walk(stream: IO[bytes], wanted: Mapping[str, Path], nested: Sequence[str], found: Found) -> None:
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            reason = _suspicious(member)
            if reason:
                found.left_alone[reason] += 1
                continue
            if not member.isfile():
                continue
            content = archive.extractfile(member)
            assert content is not None
            goal = _one_of(wanted, member.name)
            if _one_of(nested, member.name):
                with gzip.open(content) as inner:
                    _walk(inner, wanted, nested, found)
            elif goal is None:
                found.names.append(member.name)
            elif goal in found.members:
                found.left_alone["a second file of the same name"] += 1
            else:
                _write(content, wanted[goal])
                found.members.add(goal)
    while stream.read(_BLOCK):  # what follows the last member, and with it gzip's checksum
        pass


def _suspicious(member: tarfile.TarInfo) -> str:
    """Why a member is not even looked at."""
    path = PurePosixPath(member.name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        return "a name that leads out of the archive"
    if member.issym() or member.islnk():
        return "a link"
    return "" if member.isfile() or member.isdir() else "neither file nor folder"


def _one_of(endings: Mapping[str, Path] | Sequence[str], name: str) -> str | None:
    return next((ending for ending in endings if f"/{name}".endswith(f"/{ending}")), None)


def _write(content: IO[bytes], goal: Path) -> None:
    with goal.open("wb") as file:
        shutil.copyfileobj(content, file, _BLOCK)


@contextmanager
def _shown(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, with a progress bar where somebody looks."""
    from tqdm import tqdm

    with (
        path.open("rb") as file,
        tqdm.wrapattr(
            file, "read", total=path.stat().st_size, desc=path.name, leave=False, disable=None, file=sys.stderr
        ) as shown,
    ):
        yield shown


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Any damage of the archive at `path` that shows inside this block becomes one line."""
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's, not the archive's
            raise
        raise UserError(
            f"{path} is damaged or was cut short ({error}); move it away and fetch it again, or give another with "
            "--archive"
        ) from None


def missing(archive: Path, member: str, found: Found) -> UserError:
    """What to say where a wanted member is not there."""
    has = ", ".join([*found.names[:_SHOWN], *(["..."] if len(found.names) > _SHOWN else [])]) or "nothing else"
    told = "".join(f"; {number} x {reason}, left alone" for reason, number in sorted(found.left_alone.items()))
    return UserError(
        f"{archive} holds no {member} (it has: {has}{told}); is it of another pair or data set? Give the right one "
        "with --archive FILE"
    )
