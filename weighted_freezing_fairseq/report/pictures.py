"""Figures for a page: SVG as data URIs, wide and narrow, drawn in a temporary folder."""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..figures.drawing import Options
from ..figures.registry import FIGURES, draw


@dataclass(frozen=True)
class Picture:
    """One figure as data URIs; `about` says what it shows to readers who cannot see it."""

    wide: str
    narrow: str
    about: str
    caption: str


@dataclass(frozen=True)
class Pictures:
    """Draws pictures in `folder`; a picture is None without matplotlib."""

    folder: Path

    def figure(self, name: str, rows: Sequence[Mapping[str, Any]], runs: Iterable[str]) -> Picture | None:
        """A figure of `wff plot`, for two columns and for one."""
        about, source = FIGURES[name].about, FIGURES[name].source
        caption = f"{about[0].upper()}{about[1:]} (as {source}). Its numbers as CSV: `wff plot {name}`."
        wide, narrow = (partial(draw, name, rows, options=Options(wide=wide)) for wide in (True, False))
        return self.picture([wide, narrow], about, runs, caption)

    def picture(
        self, draws: Sequence[Callable[[Path], None]], about: str, runs: Iterable[str], caption: str
    ) -> Picture | None:
        """What the functions `draws` draw into files: the first is the wide picture, the last the narrow one."""
        path = self.folder / "picture.svg"
        try:
            uris = [self._uri(function, path) for function in draws]
        except ImportError:
            return None
        return Picture(uris[0], uris[-1], f"{about}; of {', '.join(runs)}", caption)

    def _uri(self, function: Callable[[Path], None], path: Path) -> str:
        function(path)
        return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"
