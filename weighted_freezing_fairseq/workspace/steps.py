"""Steps that are done once: a finished step leaves a stamp file with its settings, and a second call skips it.

A step that was killed is resumed with the same settings; other settings are refused.
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
_REMEDY = "give another --out, or move that folder away"


def state_of(folder: Path, name: str, settings: Mapping[str, Any]) -> str:
    """DONE if `folder` has the step `name` with these settings, OTHER if it was started with others, else OPEN."""
    settings = json.loads(json.dumps(settings, default=str))
    for stamp, state in ((folder / f".{name}.json", DONE), (folder / f".{name}.begun.json", OPEN)):
        if stamp.is_file():
            return state if same_settings(read_stamp(stamp), settings) else OTHER
    return OPEN


def read_stamp(path: Path) -> Content:
    """The settings in the stamp of a step."""
    return read_json(path, {"contents": {str: str}}, f"to do this step again, type: rm {shlex.quote(str(path))}")


def once(
    folder: Path,
    name: str,
    settings: dict[str, Any],
    work: Callable[[], None],
    remedy: str = _REMEDY,
) -> None:
    """Call `work` unless the step is done in `folder`; refuse a folder in which it has other settings.

    Args:
        remedy: what the user can do about other settings.
    """

    def claim_and_work(claim: Callable[[], None]) -> None:
        claim()
        work()

    once_claimed(folder, name, settings, claim_and_work, remedy)


def once_claimed(
    folder: Path,
    name: str,
    settings: dict[str, Any],
    work: Callable[[Callable[[], None]], None],
    remedy: str = _REMEDY,
) -> None:
    """As `once`, but the settings are recorded when `work` calls its argument, not when it starts."""
    stamp, started = folder / f".{name}.json", folder / f".{name}.begun.json"
    state = state_of(folder, name, settings)
    if state == DONE:
        say(f"{folder.name}: {name} is done already")
        return
    if state == OTHER:
        raise UserError(
            f"{folder} holds the {'' if stamp.is_file() else 'half-finished '}step {name} of other settings; {remedy}"
        )
    work(lambda: write_atomically(started, json.dumps(settings, default=str)))
    started.replace(stamp)
