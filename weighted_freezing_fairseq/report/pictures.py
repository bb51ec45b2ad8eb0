"""Figures for a page: SVG as data URIs, in two widths."""

import base64
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..figures.drawing import Options
from ..figures.registry import FIGURES, draw


@dataclass(frozen=True)
class Picture:
    """A figure as data URIs for wide and narrow screens, with its alternative text and its caption."""

    wide: str
    narrow: str
    alt: str
    caption: str


def figure(name: str, rows: Sequence[Mapping[str, Any]], runs: Iterable[str]) -> Picture | None:
    """A figure of `wff plot`, two columns and one column wide; None without matplotlib."""
    about, source = FIGURES[name].about, FIGURES[name].source
    caption = f"{about[0].upper()}{about[1:]} (as {source}). Its numbers as CSV: `wff plot {name}`."
    wide, narrow = (partial(draw, name, rows, options=Options(wide=wide)) for wide in (True, False))
    return picture([wide, narrow], about, runs, caption)


def picture(
    draw_functions: Sequence[Callable[[Path], None]], about: str, runs: Iterable[str], caption: str
) -> Picture | None:
    """A picture from functions that draw into a file: the first draws the wide version, the last the narrow one."""
    uris = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.svg"
        try:
            for draw_into in draw_functions:
                draw_into(path)
                uris.append(f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}")
        except ImportError:
            return None
    return Picture(uris[0], uris[-1], f"{about}; of {', '.join(runs)}", caption)
