"""What prepared folders have in common: steps that are done once and counted, and a manifest that is written last.

`folder.py` prepares sentence pairs for translation, `sentence_folder.py` labelled sentences.
"""

import importlib.metadata
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from ..errors import UserError
from ..files import write_atomically
from ..forms import read_json_rows
from ..workspace.contents import MANIFEST, manifest_of
from ..workspace.steps import once
from .fetch import sha256

Counts = dict[str, Any]  # a row of the manifest's "counts": the step, the split, and numbers of lines
PACKAGES = ("weighted-freezing-fairseq", "sacremoses", "sentencepiece", "subword-nmt", "fairseq", "fairseq-fixed")


class FolderJob:
    """Base class of the jobs of `wff prepare`: a folder and the settings that decide its contents."""

    folder: Path
    first_step: ClassVar[str]
    outputs: ClassVar[tuple[str, ...]]  # folders that the steps write
    counts_form: ClassVar[Mapping[str, Any]]  # of a row of counts; see `forms.py`
    optional_settings: ClassVar[tuple[str, ...]]  # of `settings`, which lack them where they are not used

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the contents of the folder, except the input files and the package versions."""
        raise NotImplementedError

    def is_done(self) -> bool:
        """Whether the folder is complete.

        Raises:
            UserError: the folder has other settings, lost a file, or was not made by `wff prepare`.
        """
        if (self.folder / MANIFEST).is_file():
            manifest = manifest_of(self.folder)
            if changes := _differences(manifest, {**dict.fromkeys(self.optional_settings), **self.settings}):
                raise UserError(
                    f"{self.folder} was made with other settings ({', '.join(changes)}); "
                    "give another --out, or move that folder away"
                )
            lost = [name for name in manifest["sha256"] if not (self.folder / name).is_file()]
            if lost:
                raise UserError(
                    f"{self.folder / lost[0]} is missing; move {self.folder} away, and type the same command again"
                )
            return True
        existing = [name for name in (*self.outputs, MANIFEST) if (self.folder / name).exists()]
        if existing and not any(stamp.is_file() for stamp in _stamps(self.folder, self.first_step)):
            raise UserError(
                f"{self.folder / existing[0]} was not made by wff prepare; give another --out, or move it away"
            )
        return False

    def run_step(
        self,
        name: str,
        work: Callable[[], list[Counts]],
        settings: dict[str, Any] | None = None,
        reset: Sequence[str] = (),
    ) -> list[Counts]:
        """Runs `work` unless the step is done, and returns its counts, which are kept in the folder.

        Args:
            settings: what decides the result of the step (default: the settings of the job).
            reset: steps to do again after a UserError, so that the user may give other files (default: this step).
        """
        counts_file = self.folder / f".{name}.rows.json"

        def work_and_count() -> None:
            try:
                counts = work()
            except UserError:
                for step in reset or (name,):
                    for stamp in _stamps(self.folder, step):
                        stamp.unlink(missing_ok=True)
                raise
            write_atomically(counts_file, json.dumps(counts, ensure_ascii=False))

        once(self.folder, name, self.settings if settings is None else settings, work_and_count)
        remedy = f"to count it again, type: rm {shlex.quote(str(self.folder / f'.{name}.json'))}"
        return list(read_json_rows(counts_file, dict(self.counts_form), remedy))

    def write_manifest(self, content: Mapping[str, Any], counts: Sequence[Counts], **more: Any) -> None:
        """Writes manifest.json: settings, `content`, `counts`, package versions, `more`, and the hash of each file."""
        files = [
            path
            for pattern in ("[!.]*", "[!.]*/**/*")
            for path in sorted(self.folder.glob(pattern))
            if path.is_file() and path.suffix != ".log"
        ]
        manifest = {
            **self.settings,
            **content,
            "counts": list(counts),
            "versions": versions(*PACKAGES),
            **more,
            "sha256": {str(path.relative_to(self.folder)): sha256(path) for path in files},
        }
        write_atomically(self.folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def _differences(recorded: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """The settings that differ from the recorded ones, as "NAME OLD instead of NEW"."""
    changes = []
    for name, value in settings.items():
        old = recorded.get(name)
        if isinstance(value, dict) and isinstance(old, dict):
            value = {key: value.get(key) for key in sorted(value.keys() | old.keys())}
            changes += _differences(old, value)
        elif old != value:
            changes.append(f"{name} {old} instead of {value}")
    return changes


def _stamps(folder: Path, step: str) -> tuple[Path, Path]:
    """The files that exist when a step was begun or is done."""
    return folder / f".{step}.begun.json", folder / f".{step}.json"


def versions(*packages: str) -> dict[str, str]:
    """The versions of the packages that are installed."""
    return {package: version for package in packages if (version := _version(package)) is not None}


@cache
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
