"""`wff report --html`: one self-contained HTML page about runs: scores, curves, settings, importance and cost.

The template `page.html.j2` embeds style and pictures, so that the page opens without a network; it links to the runs'
own files by relative paths. The page contains no scripts and no time of writing: the same runs give the same bytes.
`sections.py` has the content of each section.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..figures.drawing import NO_PICTURE
from ..figures.registry import FIGURES
from ..files import write_atomically
from . import sections
from .account import Account, find_runs
from .tables import HOW_TO_READ
from .templates import GENERATOR, rendered

PAGE = "report.html"
_GENERATOR_TAG = f'<meta name="generator" content="{GENERATOR} '
_SENSITIVITY, _COST = "sensitivity.csv", "bench.csv"


@dataclass(frozen=True)
class PageInputs:
    """The runs of a page by label, and its tables of `wff sensitivity` and `wff bench`.

    Args:
        tables, choice, data: the options of `wff report` with these names.
    """

    runs: Mapping[str, Account]
    sensitivities: Sequence[Path]
    costs: Sequence[Path]
    tables: Sequence[str] = ()
    choice: str | None = None
    data: Path | None = None

    @classmethod
    def find(cls, paths: Sequence[Path], names: Sequence[str] | None, **options: Any) -> "PageInputs":
        """Find the runs and tables at `paths`; tables that are not among them are searched for near the runs."""
        tables = {name: [path / name for path in paths if (path / name).is_file()] for name in (_SENSITIVITY, _COST)}
        table_folders = [path.parent for paths_of_kind in tables.values() for path in paths_of_kind]
        runs = find_runs([path for path in paths if path not in table_folders], names)
        sensitivities, costs = (found_paths or _tables_near(runs, name) for name, found_paths in tables.items())
        return cls(runs, sensitivities, costs, **options)

    @property
    def folder(self) -> Path:
        """The folder that contains the first run."""
        return _parent(next(iter(self.runs.values())))


def _parent(account: Account) -> Path:
    return account.path.parent if account.path.is_file() else account.folder.parent


def _tables_near(runs: Mapping[str, Account], name: str) -> list[Path]:
    """Tables in folders beside the runs."""
    folders = dict.fromkeys(map(_parent, runs.values()))
    tables = [path for folder in folders for path in sorted(folder.glob(f"*/{name}"))]
    # `wff quickstart` measures cost once for all its language pairs
    return tables or [path for folder in folders for path in sorted(folder.parent.glob(f"cost-*/{name}"))]


def write(inputs: PageInputs, out: Path | None) -> Path:
    """Write the page to `out` (default: beside the first run), and return its path."""
    out = out or inputs.folder / PAGE
    if out.is_dir():
        raise UserError(f"{out} is a folder, but a page is a file; type --out {out / PAGE}")
    if out.is_file() and _GENERATOR_TAG.encode() not in out.read_bytes()[:2000]:
        raise UserError(f"{out} exists and is not a page of wff report; type another --out, or move it away")
    runs = inputs.runs
    page = rendered(
        "page.html.j2",
        title=" and ".join(runs) if len(runs) < 3 else f"{len(runs)} training runs",
        summary=list(sections.summary(runs)),
        how_to_read=HOW_TO_READ,
        no_picture=NO_PICTURE,
        importance_remedy=FIGURES["importance"].remedy,
        scores=sections.scores(runs, inputs.tables, inputs.choice, inputs.data, out),
        comparisons=sections.comparisons(runs, inputs.choice, inputs.data, out),
        training=sections.training(runs),
        settings=sections.settings(runs),
        importance=sections.importance(runs),
        sensitivities=list(map(sections.sensitivity_table, inputs.sensitivities)),
        sensitivity_gap=sections.sensitivity_gap(runs, inputs.folder),
        costs=list(map(sections.cost_table, inputs.costs)),
        cost_command=sections.cost_command(runs, inputs.folder),
        provenance=sections.provenance(runs),
        links=sections.links(runs, out),
        reproduction=sections.reproduction(runs, [*inputs.sensitivities, *inputs.costs], out),
    )
    write_atomically(out, page)
    return out
