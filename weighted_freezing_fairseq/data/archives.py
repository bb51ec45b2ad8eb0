"""Members of archives, copied out under names of our own: nothing that an archive says decides where a byte is written.

A gzipped tar is read once, front to back, to its end, so that a damaged one shows; archives inside it are read through
it. Of a zip or a folder only the wanted members are read. Links, devices, and names that lead out are counted and never
opened.
"""

import errno
import gzip
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from ..errors import UserError
from ..workspace.progress import Progress

_BLOCK = 1 << 20
_SHOWN = 5
# What tarfile, zipfile and gzip raise where an archive is damaged.
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, RuntimeError,
    OverflowError, struct.error,
)  # fmt: skip
_DEEPEST = 4  # archives inside archives; no corpus here has more than one


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
            _walk(archive, stream, wanted, nested, found)
    return found


def copy_out_of_all(given: Sequence[Path], wanted: Mapping[str, Path]) -> Found:
    """Copy the members `wanted` to the paths given, out of whatever there is: zips, folders, gzipped tars, plain files.

    The first that has a member counts.
    """
    found = Found()
    for path in given:
        left = {ending: goal for ending, goal in wanted.items() if ending not in found.members}
        if path.is_dir():
            _from_folder(path, left, found)
        elif zipfile.is_zipfile(path):
            _from_zip(path, left, found)
        elif _is_tar(path):
            own = copy_out(path, left)
            found.members |= own.members
            found.left_alone += own.left_alone
            found.names += own.names
        else:
            _take(_one_of(left, path.resolve().as_posix()), path.name, partial(path.open, "rb"), left, found)
    return found


def _is_tar(path: Path) -> bool:
    with _readable(path):
        return tarfile.is_tarfile(path)


def _from_folder(folder: Path, wanted: Mapping[str, Path], found: Found) -> None:
    """Files under a folder; that itself may be the first part of a wanted path."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        ending = _one_of(wanted, (folder.resolve() / path.relative_to(folder)).as_posix())
        if ending is not None and path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            found.left_alone["a link that leads out of the folder"] += 1
        else:
            _take(ending, path.name, partial(path.open, "rb"), wanted, found)


def _from_zip(archive: Path, wanted: Mapping[str, Path], found: Found) -> None:
    with _readable(archive), zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            reason = _leads_out(member.filename) or _odd_in_zip(member)
            if reason:
                found.left_alone[reason] += 1
            elif not member.is_dir():
                ending = _one_of(wanted, member.filename)
                _take(ending, member.filename, partial(opened.open, member), wanted, found)


def _odd_in_zip(member: zipfile.ZipInfo) -> str:
    """Why a member whose name is good is not opened; a zip made on Unix has the kind of file in its upper bits."""
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "a link"
    if member.flag_bits & 1:
        return "an encrypted file"
    return "" if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "neither file nor folder"


def _walk(
    archive_path: Path,
    stream: IO[bytes],
    wanted: Mapping[str, Path],
    nested: Sequence[str],
    found: Found,
    depth: int = 0,
) -> None:
    if depth > _DEEPEST:
        raise UserError(
            f"{archive_path} holds archives nested more than {_DEEPEST} deep; give the archive of the corpus itself "
            "with --archive FILE"
        )
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            reason = _suspicious(member)
            if reason:
                found.left_alone[reason] += 1
                continue
            if not member.isfile():
                continue
            if _one_of(nested, member.name):
                with gzip.open(_content(archive, member)) as inner:
                    _walk(archive_path, inner, wanted, nested, found, depth + 1)
            else:
                ending = _one_of(wanted, member.name)
                _take(ending, member.name, partial(_content, archive, member), wanted, found)
    while stream.read(_BLOCK):  # what follows the last member, and with it gzip's checksum
        pass


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = archive.extractfile(member)
    assert content is not None
    return content


def _take(
    ending: str | None, name: str, opened: Callable[[], IO[bytes]], wanted: Mapping[str, Path], found: Found
) -> None:
    """A file that may be looked at: copied out where it is wanted (its `ending`) for the first time."""
    if ending is None:
        found.names.append(name)
    elif ending in found.members:
        found.left_alone["a second file of the same name"] += 1
    else:
        with opened() as content:
            _write(content, wanted[ending])
        found.members.add(ending)


def _suspicious(member: tarfile.TarInfo) -> str:
    """Why a member is not even looked at."""
    if reason := _leads_out(member.name):
        return reason
    if member.issym() or member.islnk():
        return "a link"
    return "" if member.isfile() or member.isdir() else "neither file nor folder"


def _leads_out(name: str) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    return "a name that leads out of the archive" if path.is_absolute() or ".." in path.parts else ""


def _one_of(endings: Mapping[str, Path] | Sequence[str], name: str) -> str | None:
    return next((ending for ending in endings if f"/{name}".endswith(f"/{ending}")), None)


def _write(content: IO[bytes], goal: Path) -> None:
    with goal.open("wb") as file:
        shutil.copyfileobj(content, file, _BLOCK)


@contextmanager
def _shown(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, with a progress bar where somebody looks."""
    with (
        path.open("rb") as file,
        Progress.wrapattr(file, "read", total=path.stat().st_size, desc=path.name) as shown,
    ):
        yield shown


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Any damage of the archive at `path` that shows inside this block becomes one line."""
    try:
        yield
    except NotImplementedError as error:  # zipfile's, for compressions and encryptions that it does not know
        raise UserError(
            f"{path} cannot be read here ({error}); unpack it with another program and give the folder with "
            "--archive FOLDER"
        ) from None
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # the disk's, not the archive's
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
