"""Archives of public corpora: from the first mirror that has them, resumed where they broke off, never deleted.

The first whole download of an archive is recorded with its size and SHA-256 beside it, and later ones are compared with
that. Left out on purpose: what is inside (`archives.py`). A file that the user fetched by hand is taken as it is.
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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import filename_in_errors, write_atomically
from ..forms import read_json
from ..workspace.locks import lock_folder
from ..workspace.progress import Progress, say
from .recipe import Archive

RECORD = "fetched.json"
_CHUNK = 1 << 20
_TRIES = 3  # at each mirror; every one goes on where the last broke off
_WAIT = 60.0  # seconds without a byte
_DRIVE = "https://drive.usercontent.google.com/download?id={}&export=download&confirm=t"
_GZIP = b"\x1f\x8b"


class _Failed(Exception):
    """A mirror does not have the archive; another may."""


class _BrokenOff(Exception):
    """The connection; what fails on the disk is an OSError."""


def at_hand(needs: Mapping[str, tuple[Archive, ...]], folder: Path, given: Sequence[Path]) -> dict[str, Path]:
    """For each need, one of the archives that may serve it: of the user's `given`, or in `folder` from before."""
    files = _files(given)
    found: dict[str, Path] = {}
    for need, alternatives in needs.items():
        names = [archive.name for archive in alternatives]
        if mine := [files[name] for name in names if name in files]:
            found[need] = mine[0]
        elif there := [folder / name for name in names if (folder / name).is_file()]:
            found[need] = there[0]
    named = [path for path in given if path.is_file()]
    served = set.intersection(*({archive.name for archive in alternatives} for alternatives in needs.values()))
    if len(named) == 1 and named[0] not in found.values() and served:  # it need not be called as we would call it
        found = dict.fromkeys(needs, named[0])
    elif surplus := [path for path in named if path not in found.values()]:
        wanted = ", ".join(archive.name for alternatives in needs.values() for archive in alternatives)
        raise UserError(f"--archive {surplus[0]} is none of those needed here; their names are: {wanted}")
    for path in found.values():
        _compare(path)
    return found


def _files(given: Sequence[Path]) -> dict[str, Path]:
    """The user's files by name, those in a folder too."""
    for path in given:
        if not path.exists():
            raise UserError(f"there is no archive {path}; give --archive a file, or a folder of them")
    inside = (file for path in given if path.is_dir() for file in sorted(path.iterdir()) if file.is_file())
    return {file.name: file for file in [*inside, *(path for path in given if path.is_file())]}


def obtain(
    needs: Mapping[str, tuple[Archive, ...]], folder: Path, given: Sequence[Path] = (), go_on: str = ""
) -> dict[str, Path]:
    """A file for every need: at hand, or downloaded to `folder`; what no mirror has is told in one message.

    One process at a time downloads to `folder`; nothing is written where all is at hand.

    go_on: the command that takes files fetched by hand.
    """
    found = at_hand(needs, folder, given)
    if found.keys() == needs.keys():
        return found
    with lock_folder(folder):
        return _downloaded(needs, folder, at_hand(needs, folder, given), go_on)


def _downloaded(
    needs: Mapping[str, tuple[Archive, ...]], folder: Path, found: dict[str, Path], go_on: str
) -> dict[str, Path]:
    """`found`, and a file for every other need."""
    silent: dict[str, str] = {}  # hosts that cannot be reached, and why: not to be asked for every file
    failed: dict[str, list[str]] = {}
    for need, alternatives in needs.items():
        if need not in found:
            reasons: list[str] = []
            for archive in alternatives:
                if (path := _from_mirrors(archive, folder, silent, reasons)) is not None:
                    found[need] = path
                    break
            else:
                failed[" or ".join(archive.name for archive in alternatives)] = reasons
    if failed:
        told = "\n".join(f"{name}:\n" + "\n".join(f"  {reason}" for reason in why) for name, why in failed.items())
        raise UserError(
            f"no mirror has what is needed. Fetch by hand, from any of these addresses:\n{told}\n"
            f"then type: {go_on} --archive FILE_OR_FOLDER"
        )
    return found


def _from_mirrors(archive: Archive, folder: Path, silent: dict[str, str], reasons: list[str]) -> Path | None:
    goal = folder / archive.name
    if goal.is_file():  # fetched for another need
        return goal
    for mirror in archive.mirrors:
        address = _DRIVE.format(mirror.removeprefix("drive:")) if mirror.startswith("drive:") else mirror
        try:
            _download(address, goal, silent)
        except _Failed as error:
            reasons.append(f"{address} ({error})")
            continue
        _accept(goal, address)
        return goal
    return None


def _download(address: str, goal: Path, silent: dict[str, str]) -> None:
    """The whole file as the .part of `goal`, or _Failed; what came so far stays there for the next try."""
    host = urllib.parse.urlsplit(address).netloc
    if host in silent:
        raise _Failed(silent[host])
    reason, reached = "", False
    for attempt in range(_TRIES):
        try:
            _go_on(address, goal)
            return
        except urllib.error.HTTPError as error:
            reason, reached = f"the server says {error.code} {error.reason}", True
            if error.code < 500:  # it will not be there in a minute either
                raise _Failed(reason) from None
        except urllib.error.URLError as error:  # no connection at all
            reason = f"cannot be reached: {getattr(error.reason, 'strerror', None) or error.reason}"
        except _BrokenOff as error:
            reason, reached = str(error), True
        if attempt + 1 < _TRIES:
            say(f"{goal.name}: {reason}; trying again")
            time.sleep(2**attempt)
    if not reached:
        silent[host] = reason
    raise _Failed(f"{reason}, {_TRIES} times")


def _part(goal: Path) -> tuple[Path, Path]:
    """What came of `goal` so far, and the note that says from where."""
    return goal.with_name(f"{goal.name}.part"), goal.with_name(f"{goal.name}.part.json")


def _go_on(address: str, goal: Path) -> None:
    """Append to the .part of `goal` what is missing of it."""
    part, note = _part(goal)
    begun: Mapping[str, Any] = {}
    if note.is_file() and part.is_file():
        form = {"address": str, "tag": (str, type(None)), "bytes": int}
        begun = read_json(note, form, f"to fetch it from its start, type: rm {shlex.quote(str(note))}")
    have = part.stat().st_size if begun.get("address") == address and begun.get("tag") else 0
    if not have or have != begun.get("bytes"):  # else killed when it was whole
        _receive(address, part, note, have, begun.get("tag"))
    with part.open("rb") as file:
        if file.read(2) != _GZIP:
            part.unlink()
            note.unlink()
            raise _Failed("what it sends is no gzip archive but perhaps a web page: a quota, or a moved file")


def _receive(address: str, part: Path, note: Path, have: int, tag: str | None) -> None:
    """The rest of a file of which `part` has the first `have` bytes, or all of it where the server has another one."""
    request = urllib.request.Request(address, headers={"User-Agent": "weighted-freezing-fairseq"})
    if have and tag:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", tag)
    try:
        response = urllib.request.urlopen(request, timeout=_WAIT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        return _receive(address, part, note, 0, None)  # more than the server has: another file by now
    except urllib.error.URLError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise _broken_off(error) from None
    with response:
        resumed = response.status == 206
        length = response.headers.get("Content-Length")
        total = int(length) + have * resumed if length else None
        if not resumed:
            tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
            write_atomically(note, json.dumps({"address": address, "tag": tag, "bytes": total}))
        with filename_in_errors(part), part.open("ab" if resumed else "wb") as file:
            for chunk in _with_bar(_chunks(response), part.stem, total, have * resumed):
                file.write(chunk)
    size = part.stat().st_size
    if total is not None and size != total:
        raise _BrokenOff(f"broke off after {size:,} of {total:,} bytes")
    return None


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read(_CHUNK):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _broken_off(error) from None


def _broken_off(error: Exception) -> _BrokenOff:
    return _BrokenOff(str(error) or type(error).__name__)


def _with_bar(chunks: Iterable[bytes], name: str, total: int | None, begun: int) -> Iterator[bytes]:
    with Progress(desc=name, total=total, initial=begun, unit="B", unit_scale=True) as bar:
        for chunk in chunks:
            yield chunk
            bar.update(len(chunk))


def sha256(path: Path) -> str:
    """Of a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _accept(goal: Path, address: str) -> None:
    """Give a whole download its name; it must be the one that was recorded, or is recorded first of that name."""
    part, note = _part(goal)
    record = goal.parent / RECORD
    records = _records(goal.parent)
    found = {"sha256": sha256(part), "bytes": part.stat().st_size}
    earlier = records.get(goal.name)
    if earlier is not None and earlier["sha256"] != found["sha256"]:
        other = goal.with_name(f"{goal.name}.other")
        note.unlink()
        part.replace(other)
        raise UserError(
            f"{goal.name} from {address} is not what was fetched before ({found['sha256'][:12]} now, "
            f"{earlier['sha256'][:12]} from {earlier['mirror']}); it is kept as {other}: rename it to {goal.name} and "
            f"take {goal.name} out of {record} if it is to be used"
        )
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    records[goal.name] = earlier or {**found, "mirror": address, "fetched": now}
    write_atomically(record, json.dumps(records, indent=2) + "\n")
    note.unlink()
    part.replace(goal)  # last: a file that is there was recorded


def _compare(path: Path) -> None:
    """A file that was downloaded must be as large as it was then; its sum is compared where it is read anyway."""
    recorded = _records(path.parent).get(path.name)
    if recorded is not None and recorded["bytes"] != path.stat().st_size:
        raise UserError(
            f"{path} has {path.stat().st_size:,} bytes and had {recorded['bytes']:,} when it was fetched; "
            "move it away to fetch it again"
        )


def identity(path: Path) -> dict[str, Any]:
    """Size and sum of an archive for a manifest; one that was downloaded must still be what it was."""
    found = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    recorded = _records(path.parent).get(path.name)
    if recorded is not None and recorded["sha256"] != found["sha256"]:
        raise UserError(f"{path} is not what was fetched (its SHA-256 differs); move it away to fetch it again")
    return {**found, "from": recorded["mirror"] if recorded else "given"}


def _records(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not path.is_file():
        return {}
    form = {str: {"sha256": str, "bytes": int, "mirror": str}}
    return read_json(path, form, f"to do without what it records, type: rm {shlex.quote(str(path))}")
