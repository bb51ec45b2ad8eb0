"""Fetches archives of public corpora from the first mirror that has them; interrupted downloads are resumed.

The size and SHA-256 of the first complete download of an archive are recorded beside it, and later downloads are
compared with them. Archives are never deleted. A file that the user fetched by hand is taken as it is.
"""

import datetime
import hashlib
import http.client
import json
import shlex
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import UserError
from ..files import filename_in_errors, write_atomically
from ..forms import read_json
from ..workspace.locks import lock_folder
from ..workspace.progress import Progress, say
from .archives import Unpacked, some
from .recipe import Archive

RECORD = "fetched.json"
_CHUNK = 1 << 20
_TRIES = 3  # at each mirror; each one resumes the download
_TIMEOUT = 60.0  # seconds without a byte
_DRIVE = "https://drive.usercontent.google.com/download?id={}&export=download&confirm=t"
_GZIP = b"\x1f\x8b"


class _MirrorError(Exception):
    """A mirror does not have the archive; another one may."""


class _ConnectionBroken(Exception):
    """The connection ended early; errors of the disk are OSErrors."""


def find_local(
    needs: Mapping[str, tuple[Archive, ...]],
    folder: Path,
    user_paths: Sequence[Path],
    unpacked: Mapping[str, Unpacked] = MappingProxyType({}),
) -> dict[str, Path]:
    """Returns for each need an archive that serves it, if `user_paths` or `folder` have one.

    Args:
        needs: for each name the archives that may serve it, the best first.
        user_paths: files, and folders of files, that the user gave.
        unpacked: what there is of the archives' members for each need; complete ones go before those in `folder`.
    """
    user_files = _files(user_paths)
    files: dict[str, Path] = {}
    for need, alternatives in needs.items():
        names = [archive.name for archive in alternatives]
        local = [user_files[name] for name in names if name in user_files]
        if not _is_complete(need, unpacked):
            local += [folder / name for name in names if (folder / name).is_file()]
        if local:
            files[need] = local[0]
    named = [path for path in user_paths if path.is_file()]
    used = {*files.values(), *(path for found in unpacked.values() for path in found.members.values())}
    unused = [path for path in named if path not in used]
    serve_all = set.intersection(*({archive.name for archive in alternatives} for alternatives in needs.values()))
    if unused and len(named) == 1 and serve_all:  # a single file that serves all needs may have any name
        files = dict.fromkeys(needs, named[0])
    elif unused:
        expected = ", ".join(archive.name for alternatives in needs.values() for archive in alternatives)
        raise UserError(f"--archive {unused[0]} is none of those needed here; their names are: {expected}")
    for path in files.values():
        _check_size(path)
    return files


def _is_complete(need: str, unpacked: Mapping[str, Unpacked]) -> bool:
    return need in unpacked and not unpacked[need].missing


def _files(user_paths: Sequence[Path]) -> dict[str, Path]:
    """The files by name, those in folders included."""
    for path in user_paths:
        if not path.exists():
            raise UserError(f"there is no archive {path}; give --archive a file, or a folder of them")
    in_folders = [file for path in user_paths if path.is_dir() for file in sorted(path.rglob("*")) if file.is_file()]
    in_folders.sort(key=lambda file: len(file.parts), reverse=True)  # what is less deep goes before
    return {file.name: file for file in [*in_folders, *(path for path in user_paths if path.is_file())]}


def obtain(
    needs: Mapping[str, tuple[Archive, ...]],
    folder: Path,
    user_paths: Sequence[Path] = (),
    command: str = "",
    unpacked: Mapping[str, Unpacked] = MappingProxyType({}),
) -> dict[str, Path]:
    """Returns an archive for every need that is not unpacked; downloads what is missing to `folder`, one at a time.

    Args:
        unpacked: what there is of the archives' members for each need.
        command: what to type, before --archive, to use files that were fetched by hand.

    Raises:
        UserError: no mirror has an archive; the message says what was found, and lists all addresses of all missing
            archives.
    """
    files = find_local(needs, folder, user_paths, unpacked)
    if all(need in files or _is_complete(need, unpacked) for need in needs):
        return files
    with lock_folder(folder):
        files = find_local(needs, folder, user_paths, unpacked)
        found = _what_was_found(needs, user_paths, files, unpacked)
        unreachable: dict[str, str] = {}  # hosts that are not asked again, and why
        failures: dict[str, list[str]] = {}
        for need, alternatives in needs.items():
            if need in files or _is_complete(need, unpacked):
                continue
            reasons: list[str] = []
            for archive in alternatives:
                if path := _from_mirrors(archive, folder, unreachable, reasons):
                    files[need] = path
                    break
            else:
                failures[" or ".join(archive.name for archive in alternatives)] = reasons
    if failures:
        addresses = "\n".join("\n  ".join([f"{names}:", *reasons]) for names, reasons in failures.items())
        raise UserError(
            f"{found}no mirror has what is needed. Fetch by hand, from any of these addresses:\n{addresses}\n"
            f"then type: {command} --archive FILE_OR_FOLDER"
        )
    return files


def _what_was_found(
    needs: Mapping[str, tuple[Archive, ...]],
    user_paths: Sequence[Path],
    files: Mapping[str, Path],
    unpacked: Mapping[str, Unpacked],
) -> str:
    """What the user's files and folders have of the needs, and what they lack; "" if the user gave none."""
    if not user_paths:
        return ""
    has, lacks = [path.name for path in dict.fromkeys(files.values())], []
    for need in [need for need in needs if need not in files]:
        found = unpacked.get(need, Unpacked({}, ()))
        has += [path.name for path in found.members.values()]
        if not _is_complete(need, unpacked):
            names = [archive.name for archive in needs[need]]
            lacks.append(" or ".join([*names, *([" and ".join(found.missing)] if found.missing else [])]))
    others = [path.name for folder in user_paths if folder.is_dir() for path in sorted(folder.iterdir())]
    there = some(has) if has else f"nothing that is needed (there is: {some(others) or 'nothing'})"
    return f"found in {', '.join(map(str, user_paths))}: {there}; missing: {some(lacks)}\n"


def _from_mirrors(archive: Archive, folder: Path, unreachable: dict[str, str], reasons: list[str]) -> Path | None:
    """Downloads an archive from the first mirror that has it; appends to `reasons` why mirrors failed."""
    target = folder / archive.name
    if target.is_file():  # fetched for another need
        return target
    for mirror in archive.mirrors:
        address = _DRIVE.format(mirror.removeprefix("drive:")) if mirror.startswith("drive:") else mirror
        try:
            _download(address, target, unreachable)
        except _MirrorError as error:
            reasons.append(f"{address} ({error})")
            continue
        _accept(target, address)
        return target
    return None


def _download(address: str, target: Path, unreachable: dict[str, str]) -> None:
    """Downloads the complete .part of `target`; what an attempt received stays for the next one."""
    host = urllib.parse.urlsplit(address).netloc
    if host in unreachable:
        raise _MirrorError(unreachable[host])
    reason, is_reached = "", False
    for attempt in range(_TRIES):
        try:
            _resume(address, target)
            return
        except urllib.error.HTTPError as error:
            reason, is_reached = f"the server says {error.code} {error.reason}", True
            if error.code < 500:  # a retry would not help
                raise _MirrorError(reason) from None
        except urllib.error.URLError as error:  # no connection
            reason = f"cannot be reached: {getattr(error.reason, 'strerror', None) or error.reason}"
        except _ConnectionBroken as error:
            reason, is_reached = str(error), True
        if attempt + 1 < _TRIES:
            say(f"{target.name}: {reason}; retrying")
            time.sleep(2**attempt)
    if not is_reached:
        unreachable[host] = reason
    raise _MirrorError(f"{reason}, {_TRIES} times")


def _part(target: Path) -> tuple[Path, Path]:
    """The received part of `target`, and the note that says where it comes from."""
    return target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.json")


def _resume(address: str, target: Path) -> None:
    """Appends what is missing to the .part of `target`."""
    part, note = _part(target)
    begun: Mapping[str, Any] = {}
    if note.is_file() and part.is_file():
        form = {"address": str, "tag": (str, type(None)), "bytes": int}
        begun = read_json(note, form, f"to fetch it from its start, type: rm {shlex.quote(str(note))}")
    received = part.stat().st_size if begun.get("address") == address and begun.get("tag") else 0
    if not received or received != begun.get("bytes"):  # else it was killed after the last byte
        _receive(address, part, note, received, begun.get("tag"))
    with part.open("rb") as file:
        if file.read(2) != _GZIP:
            part.unlink()
            note.unlink()
            raise _MirrorError("it sent no gzip archive but perhaps a web page: a quota, or a moved file")


def _receive(address: str, part: Path, note: Path, received: int, tag: str | None) -> None:
    """Downloads the rest of a file of which `part` has `received` bytes, or all of it if the server's file changed."""
    request = urllib.request.Request(address, headers={"User-Agent": "weighted-freezing-fairseq"})
    if received and tag:
        request.add_header("Range", f"bytes={received}-")
        request.add_header("If-Range", tag)
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not received:
            raise
        return _receive(address, part, note, 0, None)  # the server's file is now shorter: another one
    except urllib.error.URLError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise _ConnectionBroken(str(error) or type(error).__name__) from None
    with response:
        is_resumed = response.status == 206
        first = received if is_resumed else 0
        length = response.headers.get("Content-Length")
        total = int(length) + first if length else None
        if not is_resumed:
            tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
            write_atomically(note, json.dumps({"address": address, "tag": tag, "bytes": total}))
        with filename_in_errors(part), part.open("ab" if is_resumed else "wb") as file:
            for chunk in _chunks(response, part.stem, total, first):
                file.write(chunk)
    size = part.stat().st_size
    if total is not None and size != total:
        raise _ConnectionBroken(f"broke off after {size:,} of {total:,} bytes")
    return None


def _chunks(response: http.client.HTTPResponse, name: str, total: int | None, first: int) -> Iterator[bytes]:
    """Yields the content of a response, with a progress bar on a terminal."""
    with Progress(desc=name, total=total, initial=first, unit="B", unit_scale=True) as bar:
        try:
            while chunk := response.read(_CHUNK):
                yield chunk
                bar.update(len(chunk))
        except (OSError, http.client.HTTPException) as error:
            raise _ConnectionBroken(str(error) or type(error).__name__) from None


def sha256(path: Path) -> str:
    """The SHA-256 of a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _accept(target: Path, address: str) -> None:
    """Renames a complete download to `target` if it equals the recorded one, or records it if it is the first."""
    part, note = _part(target)
    record = target.parent / RECORD
    records = _records(target.parent)
    downloaded = {"sha256": sha256(part), "bytes": part.stat().st_size}
    recorded = records.get(target.name)
    if recorded is not None and recorded["sha256"] != downloaded["sha256"]:
        other = target.with_name(f"{target.name}.other")
        note.unlink()
        part.replace(other)
        raise UserError(
            f"{target.name} from {address} is not what was fetched before ({downloaded['sha256'][:12]} now, "
            f"{recorded['sha256'][:12]} from {recorded['mirror']}); it is kept as {other}: to use it, rename it to "
            f"{target.name} and remove {target.name} from {record}"
        )
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    records[target.name] = recorded or {**downloaded, "mirror": address, "fetched": now}
    write_atomically(record, json.dumps(records, indent=2) + "\n")
    note.unlink()
    part.replace(target)  # last, so that a file with this name is always recorded


def _check_size(path: Path) -> None:
    """Raises a UserError if a downloaded file has another size than recorded; `identity` compares the hash."""
    recorded = _records(path.parent).get(path.name)
    if recorded is not None and recorded["bytes"] != path.stat().st_size:
        raise UserError(
            f"{path} has {path.stat().st_size:,} bytes and had {recorded['bytes']:,} when it was fetched; "
            "move it away to fetch it again"
        )


def identity(path: Path) -> dict[str, Any]:
    """Size, hash and origin of an archive for a manifest; raises a UserError if it differs from the recorded one."""
    content = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    recorded = _records(path.parent).get(path.name)
    if recorded is not None and recorded["sha256"] != content["sha256"]:
        raise UserError(f"{path} is not what was fetched (its SHA-256 differs); move it away to fetch it again")
    return {**content, "from": recorded["mirror"] if recorded else "given"}


def _records(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not path.is_file():
        return {}
    form = {str: {"sha256": str, "bytes": int, "mirror": str}}
    return read_json(path, form, f"to ignore what it records, type: rm {shlex.quote(str(path))}")
