"""Hashes of the files and folders that a training starts from, so that stamps compare contents and not paths.

A hash covers the size of a file and blocks that are spread evenly over it; for a checkpoint of torch, which is a zip
archive, also the CRC of every tensor. It takes milliseconds for a large checkpoint, and differs for other weights.
Small changes between the blocks of a large file that is not a zip archive are not seen. The hash of a prepared folder
is that of the SHA-256 sums in its manifest.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..forms import NUMBER, Content, read_json

MANIFEST = "manifest.json"
_OPTIONAL_TEXT = (str, type(None))
_MANIFEST_FORM = {  # all keys that commands read, of corpora and of labelled sentences
    **dict.fromkeys(("dataset", "recipe", "pair", "task", "source", "target"), str),
    **dict.fromkeys(("sha256", "tests", "encoder"), {str: str}),
    "generate": {"remove_bpe": _OPTIONAL_TEXT, "tokenizer": _OPTIONAL_TEXT},
    "counts": [dict],
    "rows": {str: int},
    "subsets": {str: {str: str}},
    "labels": [str],
    "metrics": [str],
    "scale": (*NUMBER, type(None)),
}

_BLOCK, _BLOCKS = 1 << 16, 64  # files of up to 4 MiB are hashed completely
_CONTENTS = "contents"


def manifest_of(folder: Path) -> Content:
    """The manifest.json of a prepared folder."""
    return read_json(folder / MANIFEST, _MANIFEST_FORM, f"move {folder} away, and prepare it again")


def split_pairs(manifest: Content) -> Content:
    """The number of sentence pairs in each split of a prepared corpus, from its manifest."""
    rows = [Content(row, manifest.path, manifest.remedy) for row in manifest["counts"]]
    pairs = {row["split"]: row["pairs"] for row in rows if row["step"] == "binarised"}
    return Content(pairs, manifest.path, manifest.remedy)


def content_hash(path: Path) -> str:
    """The hash of a file, or of all files in a folder except logs and hidden files."""
    if not path.is_dir():
        return _file_hash(path)
    if (path.parent / MANIFEST).is_file():
        sums = manifest_of(path.parent)["sha256"]
        hashes = {name: value for name, value in sums.items() if name.startswith(f"{path.name}/")}
    else:
        files = [file for file in path.rglob("[!.]*") if file.is_file() and file.suffix != ".log"]
        hashes = {str(file.relative_to(path)): _file_hash(file) for file in files}
    return hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest()


def _file_hash(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for block in range(_BLOCKS):
            file.seek(max(block * _BLOCK, block * (size - _BLOCK) // (_BLOCKS - 1)))
            digest.update(file.read(_BLOCK))
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = [(member.filename, member.file_size, member.CRC) for member in archive.infolist()]
        digest.update(json.dumps(members).encode())
    return digest.hexdigest()


def with_contents(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in the stamp of a training: `config`, and a hash for every absolute path in it."""
    hashes = {}
    for name, value in _flat(config):
        paths = [Path(part) for part in value.split(":")] if isinstance(value, str) else []  # teachers: A:B
        if paths and all(path.is_absolute() and path.exists() for path in paths):
            hashes[name] = ":".join(map(content_hash, paths))
    return {"config": dict(config), _CONTENTS: hashes}


def same_settings(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> bool:
    """Whether two stamps agree; paths are compared by hash if both have one (older versions recorded none)."""
    before, now = recorded.get(_CONTENTS, {}), current.get(_CONTENTS, {})
    hashed = before.keys() & now.keys()
    if any(before[name] != now[name] for name in hashed):
        return False
    first, second = (
        {name: value for name, value in _flat({**stamp, _CONTENTS: {}}) if name.removeprefix("config.") not in hashed}
        for stamp in (recorded, current)
    )
    return first == second


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested sections, by dotted name."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
