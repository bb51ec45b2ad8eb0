"""Results of several checkpoints in one folder, a file each, so that a killed call goes on where it was.

What a checkpoint is called, in tables and as a file, and whether its file was made with the settings of this call.
Left out on purpose: what a result is, which each command says for itself.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..forms import read_json


def labels(paths: Sequence[Path], names: str | None, kind: str = "checkpoints") -> dict[str, Path]:
    """What each path is called: its name without the ending, or with its folder where that is not enough."""
    own = [path.resolve().name if path.is_dir() else path.stem for path in paths]
    found = own if names is None else names.split(",")
    if names is None and len(set(found)) < len(paths):
        found = [f"{path.resolve().parent.name}/{name}" for path, name in zip(paths, own, strict=True)]
    if len(found) != len(paths) or len(set(map(as_file_name, found))) < len(paths):
        raise UserError(f"{len(paths)} {kind} need as many different names; type --names with one for each: A,B")
    return dict(zip(found, paths, strict=True))


def as_file_name(label: str) -> str:
    """`label` with nothing in it that a file system minds."""
    return re.sub(r"[^\w.-]", "-", label)


def reuse(path: Path, settings: Mapping[str, Any], folder: Path, form: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the file at `path` holds, if it is there already; one of other settings is the user's to sort out.

    form: of what it holds beside its settings.
    """
    if not path.is_file():
        return None
    content = read_json(path, {"settings": dict, **form}, f"to measure it again, type: rm {shlex.quote(str(path))}")
    other = [name for name in settings if content["settings"].get(name) != settings[name]]
    if other:
        raise UserError(f"{path} was made with another {', '.join(other)}; give another --out, or move {folder} away")
    return content
