"""Hashes of the files and folders that a training starts from, so that a stamp compares contents and not places.

A file is hashed in its size and in blocks spread evenly over it, and a checkpoint of torch, which is a zip archive, in
the CRC of every tensor besides: a large checkpoint takes milliseconds, and other weights have another hash. A prepared
folder is hashed by the SHA-256 of its files in the manifest. Left out on purpose: a change of a few bytes between the
blocks of a large file that is not a zip archive, which no training makes.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..forms import NUMBER, Content, read_json

MANIFEST = "manifest.json"
_TEXT_OR_NOTHING = (str, type(None))
_MANIFEST_FORM = {  # of all that a command reads in one, whether it is of a corpus or of labelled sentences
    **dict.fromkeys(("dataset", "recipe", "pair", "task", "source", "target"), str),
    **dict.fromkeys(("sha256", "tests", "encoder"), {str: str}),
    "generate": {"remove_bpe": _TEXT_OR_NOTHING, "tokenizer": _TEXT_OR_NOTHING},
    "counts": [dict],
    "rows": {str: int},
    "subsets": {str: {str: str}},
    "labels": [str],
    "metrics": [str],
    "scale": (*NUMBER, type(None)),
}

_BLOCK, _BLOCKS = 1 << 16, 64  # files up to 4 MiB are hashed whole
_CONTENTS = "contents"


def manifest_of(folder: Path) -> Content:
    """manifest.json of a prepared folder."""
    return read_json(folder / MANIFEST, _MANIFEST_FORM, f"move {folder} away, and prepare it again")


def content_hash(path: Path) -> str:
    """That of a file, or of all files in a folder but logs and hidden ones."""
    return _of_folder(path) if path.is_dir() else _of_file(path)


def _of_file(path: Path) -> str:
    size = path.stat().st_size
    found = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for block in range(_BLOCKS):
            file.seek(max(block * _BLOCK, block * (size - _BLOCK) // (_BLOCKS - 1)))
            found.update(file.read(_BLOCK))
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = [(member.filename, member.file_size, member.CRC) for member in archive.infolist()]
        found.update(json.dumps(members).encode())
    return found.hexdigest()


def _of_folder(folder: Path) -> str:
    if (folder.parent / MANIFEST).is_file():
        known = manifest_of(folder.parent)["sha256"]
        own = {name: value for name, value in known.items() if name.startswith(f"{folder.name}/")}
    else:
        own = {
            str(path.relative_to(folder)): _of_file(path)
            for path in folder.rglob("[!.]*")
            if path.is_file() and path.suffix != ".log"
        }
    return hashlib.sha256(json.dumps(sorted(own.items())).encode()).hexdigest()


def with_contents(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a training as its stamp keeps them: beside `config` a hash for each absolute path in it."""
    found = {}
    for name, value in _leaves(config):
        paths = [Path(word) for word in value.split(":")] if isinstance(value, str) else []  # teachers: A:B
        if paths and all(path.is_absolute() and path.exists() for path in paths):
            found[name] = ":".join(map(content_hash, paths))
    return {"config": dict(config), _CONTENTS: found}


def same_settings(recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether two stamps agree, paths by contents where both know them; stamps of older versions know paths only."""
    before, now = recorded.get(_CONTENTS, {}), wanted.get(_CONTENTS, {})
    known = before.keys() & now.keys()
    if any(before[name] != now[name] for name in known):
        return False
    first, second = (
        {name: value for name, value in _leaves({**stamp, _CONTENTS: {}}) if name.removeprefix("config.") not in known}
        for stamp in (recorded, wanted)
    )
    return first == second


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no section, by its name with those of its sections."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
