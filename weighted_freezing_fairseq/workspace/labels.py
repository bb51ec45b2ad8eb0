"""Results of several checkpoints in one folder: labels, file names, and the reuse of results of a killed call."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..forms import read_json


def labels(paths: Sequence[Path], names: Sequence[str] | None, kind: str = "checkpoints") -> dict[str, Path]:
    """Paths by `names`; by default by file name without suffix, with the folder's name if that is ambiguous."""
    stems = [path.resolve().name if path.is_dir() else path.stem for path in paths]
    if names is None:
        names = stems
        if len(set(stems)) < len(paths):
            names = [f"{path.resolve().parent.name}/{stem}" for path, stem in zip(paths, stems, strict=True)]
    if len(names) != len(paths) or len(set(map(as_file_name, names))) < len(paths):
        raise UserError(f"{len(paths)} {kind} need as many different names; type --names with one for each: A,B")
    return dict(zip(names, paths, strict=True))


def as_file_name(label: str) -> str:
    """`label` with every character except letters, digits, `_`, `.` and `-` replaced by `-`."""
    return re.sub(r"[^\w.-]", "-", label)


def reuse(path: Path, settings: Mapping[str, Any], folder: Path, form: Mapping[str, Any]) -> dict[str, Any] | None:
    """The JSON at `path`, or None if there is no file; a file of other settings is refused.

    Args:
        form: the form of the file's content, without its settings.
    """
    if not path.is_file():
        return None
    content = read_json(path, {"settings": dict, **form}, f"to measure it again, type: rm {shlex.quote(str(path))}")
    changed = [name for name in settings if content["settings"].get(name) != settings[name]]
    if changed:
        raise UserError(f"{path} was made with another {', '.join(changed)}; give another --out, or move {folder} away")
    return content
