"""Tables as text: cells under a header, with what must be said with them, in Markdown, in LaTeX and in HTML.

What stands in backticks is code in all of them. Left out on purpose: CSV, which holds data and not text.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .markup import Markup, element, joined, with_code


@dataclass(frozen=True)
class Grid:
    """One table."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def as_markdown(grids: Iterable[Grid]) -> str:
    """Tables of GitHub's Markdown, with their notes as lists."""
    blocks = []
    for grid in grids:
        lines = [grid.header, ["---"] * len(grid.header), *grid.rows]
        table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
        blocks.append("\n".join([f"### {grid.title}", "", *table, "", *(f"- {note}" for note in grid.notes)]).rstrip())
    return "\n\n".join(blocks)


def as_latex(grids: Iterable[Grid]) -> str:
    """Tables with the rules of booktabs, as wide as the page at most."""
    blocks = ["% \\usepackage{booktabs,graphicx}"]
    for grid in grids:
        header, *rows = [" & ".join(map(_escaped, line)) + r" \\" for line in (grid.header, *grid.rows)]
        notes = [r"\par\footnotesize " + _escaped(note) for note in grid.notes]
        blocks.append("\n".join([
            r"\begin{table*}", r"\centering", rf"\caption{{{_escaped(grid.title)}}}", r"\resizebox{\textwidth}{!}{%",
            rf"\begin{{tabular}}{{{'l' * len(grid.header)}}}", r"\toprule", header, r"\midrule", *rows, r"\bottomrule",
            r"\end{tabular}}", *notes, r"\end{table*}",
        ]))  # fmt: skip
    return "\n\n".join(blocks) + "\n"


def as_html(grid: Grid) -> Markup:
    """One table that scrolls in a box of its own where a page is narrow; its first column names the lines."""
    numeric = [all(map(_NUMBER.fullmatch, column)) for column in zip(*grid.rows, strict=True)]
    numeric = numeric or [False] * len(grid.header)
    table = element(
        "table",
        element("caption", element("span", with_code(grid.title))),
        element("thead", _line(grid.header, numeric, ["col"] * len(grid.header))),
        element("tbody", *(_line(row, numeric, ["row"]) for row in grid.rows)),
    )
    columns = "many wide" if len(grid.header) > _FEW else "wide"
    box = element("div", table, class_=columns, role="region", aria_label=grid.title, tabindex="0")
    notes = [element("ul", *(element("li", with_code(note)) for note in grid.notes), class_="notes")]
    return joined([box, *(notes if grid.notes else [])])


_FEW = 7  # columns that fit on paper as they are
_NUMBER = re.compile(r"[-+\d.,±%()\[\]/ ]*\d[-+\d.,±%()\[\]/ ]*|-|")


def _line(cells: Sequence[str], numeric: Sequence[bool], scopes: Sequence[str]) -> Markup:
    """A line of a table, of which the first cells head what `scopes` say."""
    made = []
    for place, (cell, number) in enumerate(zip(cells, numeric, strict=True)):
        heads = {"scope": scopes[place]} if place < len(scopes) and cell else {}
        aligned = {"class_": "number"} if number else {}
        made.append(element("th" if heads else "td", with_code(cell), **heads, **aligned))
    return element("tr", *made)


_LATEX = {**{sign: f"\\{sign}" for sign in "&%$#_{}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}",
          "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"$<$", ">": r"$>$", "|": r"$|$"}  # fmt: skip


def _escaped(text: str) -> str:
    """`text` for LaTeX, with what stands in backticks as code."""
    escaped = "".join(_LATEX.get(sign, sign) for sign in text)
    return re.sub(r"`([^`]*)`", r"\\texttt{\1}", escaped)
