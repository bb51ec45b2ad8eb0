"""Tables as text, in Markdown and in LaTeX; text in backticks is code in both."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tabulate import tabulate

_NUMBER = re.compile(r"(?=.*\d)(?:[-+.,±%()\[\]/ ]|\d+(?:e[-+]\d+)?)+|-|")


@dataclass(frozen=True)
class Grid:
    """A table with a title, and notes below it."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    @property
    def numeric(self) -> list[bool]:
        """Whether each column contains only numbers; the HTML page aligns these columns to the right."""
        columns = [all(map(_NUMBER.fullmatch, column)) for column in zip(*self.rows, strict=True)]
        return columns or [False] * len(self.header)


def as_markdown(grids: Iterable[Grid]) -> str:
    """Tables in GitHub's Markdown, with their notes as lists."""
    blocks = []
    for grid in grids:
        header, *rows = [[cell.replace("|", "\\|") for cell in line] for line in (grid.header, *grid.rows)]
        table = tabulate(rows, header, "github", disable_numparse=True, numalign=None, stralign=None)
        blocks.append("\n".join([f"### {grid.title}", "", table, "", *(f"- {note}" for note in grid.notes)]).rstrip())
    return "\n\n".join(blocks)


def as_latex(grids: Iterable[Grid]) -> str:
    """Tables in LaTeX with booktabs, scaled to the width of the text.

    tabulate's latex_booktabs does not escape backticks, ± and |.
    """
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


_LATEX = str.maketrans({
    **{character: f"\\{character}" for character in "&%$#_{}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"$<$", ">": r"$>$", "|": r"$|$",
})  # fmt: skip


def _escaped(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"\\texttt{\1}", text.translate(_LATEX))
