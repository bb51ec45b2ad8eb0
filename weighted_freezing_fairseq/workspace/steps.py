"""Steps that are done once: each leaves a stamp with its settings, so that a second call reuses what is done.

A step that was killed goes on with the same settings; a folder that holds another step of this name is refused.
"""

import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_atomically
from ..forms import Content, read_json
from .contents import same_settings
from .progress import say

DONE, OPEN, OTHER = "done", "open", "other"


def state_of(folder: Path, name: str, settings: Mapping[str, Any]) -> str:
    """DONE where `folder` has the step `name` with these settings, OTHER where it was begun with others, else OPEN."""
    settings = json.loads(json.dumps(settings, default=str))
    for stamp, state in ((folder / f".{name}.json", DONE), (folder / f".{name}.begun.json", OPEN)):
        if stamp.is_file():
            return state if same_settings(read_stamp(stamp), settings) else OTHER
    return OPEN


def read_stamp(path: Path) -> Content:
    """The settings of a step that was begun or done."""
    return read_json(path, {"contents": {str: str}}, f"to do this step again, type: rm {shlex.quote(str(path))}")


def once(
    folder: Path,
    name: str,
    settings: dict[str, Any],
    work: Callable[[], None],
    remedy: str = "give another --out, or move that folder away",
) -> None:
    """Do `work` unless `folder` has it done with the same settings; other settings are the user's to sort out."""

    def claim_and_work(claim: Callable[[], None]) -> None:
        claim()
        work()

    once_claimed(folder, name, settings, claim_and_work, remedy)


def once_claimed(
    folder: Path,
    name: str,
    settings: dict[str, Any],
    work: Callable[[Callable[[], None]], None],
    remedy: str = "give another --out, or move that folder away",
) -> None:
    """The same; other settings are refused from when `work` calls the function that it gets, not from its start."""
    stamp, begun = folder / f".{name}.json", folder / f".{name}.begun.json"
    state = state_of(folder, name, settings)
    if state == DONE:
        say(f"{folder.name}: {name} is done already")
        return
    if state == OTHER:
        raise UserError(f"{folder} holds a {'' if stamp.is_file() else 'half-done '}{name} of other settings; {remedy}")

    def claim() -> None:
        write_atomically(begun, json.dumps(settings, default=str))

    work(claim)
    begun.replace(stamp)
