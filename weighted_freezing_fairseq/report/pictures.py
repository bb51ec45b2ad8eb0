"""Figures for a page: SVG as data URIs, in two widths, each for a light and for a dark ground."""

import base64
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..figures.drawing import Options
from ..figures.registry import FIGURES, draw

# For a dark ground: black, which matplotlib leaves out where it is the colour of a filled shape or of text, and white.
# The other colours suit both grounds.
_DARK = """<style>
svg { fill: #e4e6e8 }
[style*="stroke: #000000"] { stroke: #e4e6e8 !important }
[style*="fill: #ffffff"] { fill: #16181b !important }
</style>
"""


@dataclass(frozen=True)
class Picture:
    """A figure as data URIs for wide and narrow screens, with its alternative text and its caption."""

    wide: str
    wide_dark: str
    narrow: str
    narrow_dark: str
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
    pictures = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.svg"
        try:
            from matplotlib import rc_context

            with rc_context({"savefig.transparent": True}):
                for draw_into in draw_functions:
                    draw_into(path)
                    pictures.append(path.read_text(encoding="utf-8"))
        except ImportError:
            return None
    wide, narrow = (
        (_data_uri(svg), _data_uri(svg.replace("<defs>", f"{_DARK}<defs>", 1))) for svg in (pictures[0], pictures[-1])
    )
    return Picture(*wide, *narrow, f"{about}; of {', '.join(runs)}", caption)


def _data_uri(svg: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
