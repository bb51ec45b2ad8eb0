"""Copies members out of archives, to paths that the caller chooses: an archive cannot decide where a file is written.

A gzipped tar is read once and to its end, so that damage is noticed; archives inside it are read as streams. Of a zip
or a folder only the wanted members are read. Links, devices and names that lead outside are counted and skipped.
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from ..errors import UserError
from ..workspace.progress import Progress

_BLOCK = 1 << 20
_NAMES_SHOWN = 5
# What tarfile, zipfile and gzip raise for a damaged archive.
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, RuntimeError,
    OverflowError, struct.error,
)  # fmt: skip
_DEEPEST = 4  # archives inside archives; the corpora here have one level


@dataclass
class Extracted:
    """The members that were copied out, what was skipped by reason, and the names of the other members."""

    members: set[str] = field(default_factory=set)
    skipped: Counter[str] = field(default_factory=Counter)
    names: list[str] = field(default_factory=list)

    def take(self, name: str, targets: Mapping[str, Path], open_member: Callable[[], IO[bytes]]) -> None:
        """Copies a member to its target if it has one; the first member of a name counts."""
        ending = _matching_ending(name, targets)
        if ending is None:
            self.names.append(name.rpartition("/")[2] if name.startswith("/") else name)  # short for a file of the disk
        elif ending in self.members:
            self.skipped["a second file of the same name"] += 1
        else:
            with open_member() as content, targets[ending].open("wb") as file:
                shutil.copyfileobj(content, file, _BLOCK)
            self.members.add(ending)


def copy_out(archive: Path, targets: Mapping[str, Path], nested: Sequence[str] = ()) -> Extracted:
    """Copies members out of a gzipped tar, or the content of a gzipped file.

    Args:
        targets: the goal of each member by the end of its name; "" stands for the content of a gzipped file.
        nested: ends of the names of gzipped tars inside the archive that are read too.
    """
    extracted = Extracted()
    _from_gzip(archive, targets, nested, extracted)
    return extracted


def copy_out_of_all(paths: Iterable[Path], targets: Mapping[str, Path]) -> Extracted:
    """Copies members out of zips, folders, gzipped tars and plain files; the first path that has a member counts."""
    extracted = Extracted()
    for path in paths:
        missing = {ending: target for ending, target in targets.items() if ending not in extracted.members}
        if path.is_dir():
            _from_folder(path, missing, extracted)
        elif zipfile.is_zipfile(path):
            _from_zip(path, missing, extracted)
        elif _is_tar(path):
            _from_gzip(path, missing, (), extracted)
        else:
            extracted.take(path.resolve().as_posix(), missing, partial(path.open, "rb"))
    return extracted


def _is_tar(path: Path) -> bool:
    with _explaining_damage(path):
        return tarfile.is_tarfile(path)


def _from_folder(folder: Path, targets: Mapping[str, Path], extracted: Extracted) -> None:
    """Copies files under a folder, whose own name may be the first part of a wanted path."""
    for name, path in _files_under(folder):
        if _matching_ending(name, targets) and _is_link_to_outside(path, folder):
            extracted.skipped["a link that leads out of the folder"] += 1
        else:
            extracted.take(name, targets, partial(path.open, "rb"))


def _files_under(folder: Path) -> Iterator[tuple[str, Path]]:
    """The files under a folder in order, each with its name from the root of the disk."""
    root = folder.resolve()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield (root / path.relative_to(folder)).as_posix(), path


def _is_link_to_outside(path: Path, folder: Path) -> bool:
    return path.is_symlink() and not path.resolve().is_relative_to(folder.resolve())


@dataclass(frozen=True)
class Unpacked:
    """The members of an archive that lie unpacked on the disk, and the names of required members that do not."""

    members: Mapping[str, Path]
    missing: Sequence[str]


def find_unpacked(wanted: Mapping[str, Mapping[str, bool]], paths: Sequence[Path]) -> dict[str, Unpacked]:
    """Looks for the members of each archive among files, and anywhere under folders.

    Args:
        wanted: for each archive its members, and whether each of them is required; "" is the content of a .gz, which
            must lie in a folder itself, since many files are called train.de.
    """
    files: dict[str, list[Path]] = {}  # by name
    for path in sorted(paths, key=Path.is_dir):  # a file that was given goes before those in folders
        for file in [file for _, file in _files_under(path)] if path.is_dir() else [path]:
            if not (path.is_dir() and _is_link_to_outside(file, path)):
                files.setdefault(file.name, []).append(file)
    unpacked = {}
    for archive, required in wanted.items():
        names = {member: member or archive.removesuffix(".gz") for member in required}
        # Of several files, the one in the folder of this archive: others may have members of the same names.
        by_folder = partial(_is_not_in, archive.removesuffix(".tgz"))
        members = {}
        for member, name in names.items():
            places = [file for file in files.get(name, ()) if member or file.parent in paths or file in paths]
            if places:
                members[member] = min(places, key=by_folder)
        missing = [name for member, name in names.items() if required[member] and member not in members]
        unpacked[archive] = Unpacked(members, missing)
    return unpacked


def _is_not_in(folder: str, path: Path) -> bool:
    return folder not in path.parts


def copy_files(members: Mapping[str, Path], targets: Mapping[str, Path]) -> Extracted:
    """Copies unpacked members to their targets, as `copy_out` copies them out of an archive."""
    extracted = Extracted()
    for member in targets.keys() & members.keys():
        shutil.copyfile(members[member], targets[member])
        extracted.members.add(member)
    return extracted


def _from_zip(archive: Path, targets: Mapping[str, Path], extracted: Extracted) -> None:
    with _explaining_damage(archive), zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            if reason := _reason_to_skip_in_zip(member):
                extracted.skipped[reason] += 1
            elif not member.is_dir():
                extracted.take(member.filename, targets, partial(opened.open, member))


def _from_gzip(archive: Path, targets: Mapping[str, Path], nested: Sequence[str], extracted: Extracted) -> None:
    with (
        _explaining_damage(archive),
        archive.open("rb") as file,
        Progress.wrapattr(file, "read", total=archive.stat().st_size, desc=archive.name) as shown,
        gzip.open(shown) as stream,
    ):
        if "" in targets:
            extracted.take("", targets, lambda: stream)
        else:
            _from_tar(archive, stream, targets, nested, extracted)


def _from_tar(
    path: Path,
    stream: IO[bytes],
    targets: Mapping[str, Path],
    nested: Sequence[str],
    extracted: Extracted,
    depth: int = 0,
) -> None:
    """Reads a stream that is a tar, in the archive at `path`."""
    if depth > _DEEPEST:
        raise UserError(
            f"{path} holds archives nested more than {_DEEPEST} deep; give the archive of the corpus itself with "
            "--archive FILE"
        )
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            if reason := _reason_to_skip_in_tar(member):
                extracted.skipped[reason] += 1
            elif member.isfile() and _matching_ending(member.name, nested):
                with gzip.open(_open_in_tar(archive, member)) as inner:
                    _from_tar(path, inner, targets, nested, extracted, depth + 1)
            elif member.isfile():
                extracted.take(member.name, targets, partial(_open_in_tar, archive, member))
    while stream.read(_BLOCK):  # up to gzip's checksum, which follows the last member
        pass


def _open_in_tar(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = archive.extractfile(member)
    assert content is not None
    return content


def _reason_to_skip_in_tar(member: tarfile.TarInfo) -> str:
    if _leads_outside(member.name):
        return "a name that leads out of the archive"
    if member.issym() or member.islnk():
        return "a link"
    return "" if member.isfile() or member.isdir() else "neither file nor folder"


def _reason_to_skip_in_zip(member: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(member.external_attr >> 16)  # of a zip made on Unix; otherwise 0
    if _leads_outside(member.filename):
        return "a name that leads out of the archive"
    if kind == stat.S_IFLNK:
        return "a link"
    if member.flag_bits & 1:
        return "an encrypted file"
    return "" if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "neither file nor folder"


def _leads_outside(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts


def _matching_ending(name: str, endings: Iterable[str]) -> str | None:
    return next((ending for ending in endings if f"/{name}".endswith(f"/{ending}")), None)


@contextmanager
def _explaining_damage(path: Path) -> Iterator[None]:
    """Turns an error that a damaged archive raises into a UserError."""
    try:
        yield
    except NotImplementedError as error:  # zipfile's, for compressions and encryptions that it does not support
        raise UserError(
            f"{path} cannot be read here ({error}); unpack it with another program and give the folder with "
            "--archive FOLDER"
        ) from None
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # the disk's, not the archive's
            raise
        raise UserError(
            f"{path} is damaged or incomplete ({error}); move it away and fetch it again, or give another with "
            "--archive"
        ) from None


def some(names: Sequence[str]) -> str:
    """The first of several names, for a message."""
    return ", ".join([*names[:_NAMES_SHOWN], *["..."] * (len(names) > _NAMES_SHOWN)])


def missing_member(archive: Path, member: str, extracted: Extracted) -> UserError:
    """The error for a wanted member that the archive lacks."""
    names = some(extracted.names)
    skipped = "".join(f"; {number} x {reason}, skipped" for reason, number in sorted(extracted.skipped.items()))
    return UserError(
        f"{archive} holds no {member} (it has: {names or 'nothing else'}{skipped}); is it of another pair or "
        "data set? Give the right one with --archive FILE"
    )
