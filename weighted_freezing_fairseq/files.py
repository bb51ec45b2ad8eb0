"""Files and folders that are whole or not there: written beside their goal, then renamed; and names they may have."""

from __future__ import annotations  # an older Python must get as far as `wff doctor`

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
    """Arguments, and the current folder, that libraries in C would take for other names: they read all as UTF-8."""
    here = []
    with contextlib.suppress(OSError):  # a folder that was deleted
        here = [str(Path.cwd())]
    for word in (*words, *here):
        try:
            same = os.fsencode(word) == word.encode("utf-8", "replace")
        except UnicodeEncodeError:
            same = False
        if not same:
            encoding = sys.getfilesystemencoding()
            remedy = "rename it" if encoding == "utf-8" else f"Python reads {encoding}; type: export PYTHONUTF8=1"
            raise UserError(f"the name {word!a} is not read as UTF-8: {remedy}")


_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_FOLDER = {errno.ENOTDIR, errno.EEXIST}


def explain(error: BaseException) -> UserError | None:
    """What to type where permission, room on a disk or a folder is missing; None of any other error."""
    cause = _of_system(error)
    if cause is None:
        return None
    if "No usable temporary directory" in str(cause):
        return UserError(f"{cause.strerror}; type: export TMPDIR=FOLDER, one that can be written and has room")
    if cause.errno not in _DENIED | _FULL | _NO_FOLDER:
        return None
    if cause.filename is None:
        return UserError(
            f"{cause.strerror}; see where this command writes, and {tempfile.gettempdir()} for temporary files: "
            "export TMPDIR=FOLDER, one with room"
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


def _of_system(error: BaseException | None) -> OSError | None:
    """The error of the system behind another one, such as torch's when a write fails."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # in a folder that may not be looked into
        return False


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A failed write inside, which does not know where it was, gets this path."""
    try:
        yield
    except Exception as error:
        if (cause := _of_system(error)) is not None and cause.filename is None:
            cause.filename = str(path)
        raise


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to; it becomes `path` when the block ends well, and goes when it does not.

    Every writer has a path of its own, and holds it: one that nobody holds is what a killed writer left, and goes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.writing"):
        with contextlib.suppress(OSError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.writing")
    with part.open("xb") as held:
        with contextlib.suppress(OSError):  # a file system without locks keeps what was left
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            with naming(path):
                yield part
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def write_atomically(path: Path, data: str | bytes) -> None:
    """`data` as the whole content of `path`; text as UTF-8 with line feeds.

    What UTF-8 has no bytes for, of names that are in no encoding, becomes an escape.
    """
    with whole(path) as part:
        part.write_bytes(data.encode(errors="backslashreplace") if isinstance(data, str) else data)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill; it becomes `path` when the block ends well, in place of an older one, and goes if not.

    One caller at a time: what a killed process left in it is deleted.
    """
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        with naming(path):
            yield part
        shutil.rmtree(path, ignore_errors=True)
        part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
