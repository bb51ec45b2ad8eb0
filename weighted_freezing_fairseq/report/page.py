"""`wff report --html`: what runs were, did and cost, on one page that needs nothing but itself.

Plain HTML (`page.html.j2`) with its style and pictures inside: it opens from a file without a network, reads on a
phone, prints, and is the same for the same runs. What was not measured says what to type. Left out on purpose:
scripts, the time of writing, and the content of each section (`sections.py`).
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from .. import __version__
from ..errors import UserError
from ..figures.drawing import NO_PICTURE
from ..figures.registry import FIGURES
from ..files import write_atomically
from . import sections
from .account import Account, accounts
from .pictures import Pictures
from .tables import HOW_TO_READ

PAGE = "report.html"
_MADE_BY = f"weighted_freezing_fairseq {__version__}"
_SIGN = '<meta name="generator" content="weighted_freezing_fairseq '
_SENSITIVITY, _COST = "sensitivity.csv", "bench.csv"


@dataclass(frozen=True)
class Subject:
    """What a page is about: runs by label, and tables of `wff sensitivity` and `wff bench`."""

    runs: Mapping[str, Account]
    sensitivities: Sequence[Path]
    costs: Sequence[Path]
    tables: Sequence[str] = ()
    choice: str | None = None
    data: Path | None = None

    @classmethod
    def of(cls, paths: Sequence[Path], names: Sequence[str] | None, **more: Any) -> "Subject":
        """From paths to runs and tables; tables that are not named may lie beside the runs, or beside their folder."""
        named = {name: [path / name for path in paths if (path / name).is_file()] for name in (_SENSITIVITY, _COST)}
        folders = [table.parent for tables in named.values() for table in tables]
        runs = accounts([path for path in paths if path not in folders], names)
        sensitivities, costs = (tables or _beside(runs, name) for name, tables in named.items())
        return cls(runs, sensitivities, costs, **more)

    @property
    def place(self) -> Path:
        """The folder that the first run lies in."""
        return _place(next(iter(self.runs.values())))


def _place(account: Account) -> Path:
    return account.path.parent if account.path.is_file() else account.folder.parent


def _beside(runs: Mapping[str, Account], name: str) -> list[Path]:
    near = dict.fromkeys(map(_place, runs.values()))
    tables = [path for folder in near for path in sorted(folder.glob(f"*/{name}"))]
    # `wff quickstart` measures cost once for all its language pairs
    return tables or [path for folder in near for path in sorted(folder.parent.glob(f"cost-*/{name}"))]


def write(subject: Subject, out: Path | None) -> Path:
    """Write the page to `out` (default: beside the first run), and return its path."""
    out = out or subject.place / PAGE
    if out.is_dir():
        raise UserError(f"{out} is a folder, and a page is a file; type --out {out / PAGE}")
    if out.is_file() and _SIGN.encode() not in out.read_bytes()[:2000]:
        raise UserError(f"{out} exists and is not a page of wff report; type another --out, or move it away")
    runs = subject.runs
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, autoescape=True,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["code"] = with_code
    with tempfile.TemporaryDirectory() as folder:
        pictures = Pictures(Path(folder))
        page = environment.get_template("page.html.j2").render(
            made_by=_MADE_BY,
            title=" and ".join(runs) if len(runs) < 3 else f"{len(runs)} training runs",
            summary=list(sections.summary(runs)),
            how_to_read=HOW_TO_READ,
            no_picture=NO_PICTURE,
            importance_remedy=FIGURES["importance"].remedy,
            scores=sections.scores(runs, subject.tables, subject.choice, subject.data, out),
            training=sections.training(runs, pictures),
            settings=sections.settings(runs),
            importance=sections.importance(runs, pictures),
            sensitivities=[sections.sensitivity_of(path, pictures) for path in subject.sensitivities],
            sensitivity_gap=sections.sensitivity_gap(runs, subject.place),
            costs=[sections.cost_of(path, pictures) for path in subject.costs],
            cost_command=sections.cost_command(runs, subject.place),
            provenance=sections.provenance(runs),
            again=sections.again(runs, [*subject.sensitivities, *subject.costs], out),
        )
    write_atomically(out, page.lstrip())
    return out


def with_code(text: str) -> Markup:
    """`text` as HTML, with what stands in backticks as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick without another
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts)
    )
