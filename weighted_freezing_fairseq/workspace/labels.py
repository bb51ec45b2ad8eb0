"""Results of several checkpoints in one folder: labels, file names, and the reuse of results of a killed call."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..forms import read_json


def labels(paths: Sequence[Path], names: Sequence[str] | None, kind: str = "checkpoints") -> dict[str, Path]:
    """Paths by `names`; by default by file name without suffix, with as many folders as make the names differ."""
    if names is None:
        names = _names(paths)
    if len(names) != len(paths) or not _differ(names):
        if len(paths) == 1:
            raise UserError(f"1 {kind.removesuffix('s')} needs one name; type --names with one, or leave it out")
        raise UserError(
            f"{len(paths)} {kind} need as many different names; type --names with one for each: A,B, in this order: "
            f"{' '.join(map(str, paths))}"
        )
    return dict(zip(names, paths, strict=True))


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of paths that all differ; those of one folder where paths are equal."""
    stems = [path.resolve() if path.is_dir() else path.resolve().parent / path.stem for path in paths]
    for length in range(1, max((len(stem.parts) for stem in stems), default=0)):
        names = ["/".join(stem.parts[-length:]) for stem in stems]
        if _differ(names):
            return names
    return [stem.name for stem in stems]


def _differ(names: Sequence[str]) -> bool:
    """Whether the names are different file names."""
    return len(set(map(as_file_name, names))) == len(names)


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
