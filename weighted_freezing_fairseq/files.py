"""Files and folders that are whole or not there: written beside their goal, then renamed."""

import contextlib
import fcntl
import glob
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
            yield part
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def write_atomically(path: Path, data: str | bytes) -> None:
    """`data` as the whole content of `path`; text as UTF-8 with line feeds."""
    with whole(path) as part:
        part.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill; it becomes `path` when the block ends well, in place of one that was there.

    One caller at a time: what a killed one left half-made is thrown away.
    """
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    shutil.rmtree(path, ignore_errors=True)
    part.replace(path)
