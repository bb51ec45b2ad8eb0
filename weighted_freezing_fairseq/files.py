"""Files and folders that appear only when they are complete, valid file names, and errors of the file system."""

from __future__ import annotations  # so that `wff doctor` runs on an older Python

import contextlib
import errno
import fcntl
import glob
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError


def refuse_names_not_in_utf8(words: Iterable[str]) -> None:
    """Refuse arguments, and a current folder, that are not valid UTF-8, which C libraries would read as other names."""
    names = list(words)
    with contextlib.suppress(OSError):  # a folder that was deleted
        names.append(str(Path.cwd()))
    for name in names:
        try:
            valid = os.fsencode(name) == name.encode("utf-8", "replace")
        except UnicodeEncodeError:
            valid = False
        if not valid:
            encoding = sys.getfilesystemencoding()
            remedy = "rename it" if encoding == "utf-8" else f"Python reads {encoding}; type: export PYTHONUTF8=1"
            raise UserError(f"the name {name!a} is not read as UTF-8: {remedy}")


_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_FOLDER = {errno.ENOTDIR, errno.EEXIST}


def explain(error: BaseException) -> UserError | None:
    """A UserError for a missing permission, a full disk or a missing folder; None for any other error."""
    cause = _os_error(error)
    if cause is None:
        return None
    if "No usable temporary directory" in str(cause):
        return UserError(f"{cause.strerror}; type: export TMPDIR=FOLDER, a writable folder with free space")
    if cause.errno not in _DENIED | _FULL | _NO_FOLDER:
        return None
    if cause.filename is None:
        return UserError(
            f"{cause.strerror}; check the folder of the output, and {tempfile.gettempdir()} for temporary files: "
            "export TMPDIR=FOLDER, one with free space"
        )
    path = Path(os.fsdecode(cause.filename))
    folder = path.absolute()
    if cause.errno in _NO_FOLDER:
        while not folder.exists():
            folder = folder.parent
        return UserError(f"{cause.strerror}: {folder}; a folder is needed there: give another path, or move it away")
    while not _is_folder(folder):
        folder = folder.parent
    if cause.errno in _DENIED:
        return UserError(f"{cause.strerror}: {path}; give another path, or let this user write there: ls -ld {folder}")
    return UserError(f"{cause.strerror}: {path}; make room in {folder}, or give a path on another disk: df -h {folder}")


def _os_error(error: BaseException | None) -> OSError | None:
    """The OSError behind an error, such as torch's error of a failed write."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # its parent may not be read
        return False


def refuse_to_overwrite(path: Path) -> None:
    """Raise UserError if `path`, the value of --out, exists."""
    if path.exists():
        raise UserError(f"{path} exists and is not overwritten; give another --out, or type: rm {path}")


@contextmanager
def filename_in_errors(path: Path) -> Iterator[None]:
    """Set the filename of an OSError that is raised inside to `path`, if it has none."""
    try:
        yield
    except Exception as error:
        if (cause := _os_error(error)) is not None and cause.filename is None:
            cause.filename = str(path)
        raise


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which replaces `path` at the end of the block, and is deleted after an error.

    Every writer has a temporary file of its own and locks it; an unlocked one is of a killed writer, and is deleted.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.writing"):
        with contextlib.suppress(OSError), stale.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stale.unlink()
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.writing")
    with part.open("xb") as lock:
        with contextlib.suppress(OSError):  # on a file system without locks, stale files remain
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            with filename_in_errors(path):
                yield part
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write `data` as the content of `path`; text as UTF-8, with escapes for characters that UTF-8 cannot encode."""
    with atomic_file(path) as part:
        part.write_bytes(data.encode(errors="backslashreplace") if isinstance(data, str) else data)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """An empty temporary folder, which replaces `path` at the end of the block, and is deleted after an error.

    For one caller at a time: a temporary folder of a killed process is deleted.
    """
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        with filename_in_errors(path):
            yield part
        shutil.rmtree(path, ignore_errors=True)
        part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
