"""The generated tables of the pages: what stands between `<!-- NAME -->` and `<!-- /NAME -->`.

`python docs/tables.py` (or `make tables`) rewrites them all from the code and from results/; tests/test_docs.py holds
them equal.
"""

import dataclasses
import enum
import re
import typing
from collections.abc import Callable, Iterable
from pathlib import Path

import measurements

import weighted_freezing_fairseq

weighted_freezing_fairseq.register()

from fairseq.criterions import CRITERION_DATACLASS_REGISTRY  # noqa: E402
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterionConfig  # noqa: E402
from fairseq.criterions.sentence_prediction import SentencePredictionConfig  # noqa: E402
from fairseq.optim import OPTIMIZER_DATACLASS_REGISTRY, OPTIMIZER_REGISTRY  # noqa: E402

from weighted_freezing_fairseq.core import fixed, pruning, rules  # noqa: E402
from weighted_freezing_fairseq.figures import registry as figures  # noqa: E402
from weighted_freezing_fairseq.plugin.architectures import SWITCH_FIELDS  # noqa: E402
from weighted_freezing_fairseq.plugin.mends.registry import MENDS  # noqa: E402
from weighted_freezing_fairseq.plugin.optimizers import BaseSettings  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

STOCK = {
    field.name
    for config in (BaseSettings, LabelSmoothedCrossEntropyCriterionConfig, SentencePredictionConfig)
    for field in dataclasses.fields(config)
}


def choices(field: dataclasses.Field) -> list[str]:
    """The values that a setting allows; none if it is no choice, or if the installed fairseq decides."""
    kinds = [kind for kind in (field.type, *typing.get_args(field.type)) if isinstance(kind, enum.EnumMeta)]
    return [name for kind in kinds for name in kind.__members__ if name not in OPTIMIZER_REGISTRY]


def options(fields: Iterable[dataclasses.Field]) -> str:
    """The settings as flags, with their defaults and their `--help`."""
    lines = ["| option | default | meaning |", "|---|---|---|"]
    for field in fields:
        default = "" if field.default in (None, "") else f"`{str(field.default).lower()}`"
        text = field.metadata["help"].replace("|", "\\|")
        if set(choices(field)) - set(re.findall(r"[\w-]+", text)):
            text += f" (one of {', '.join(choices(field))})"
        lines.append(f"| `--{field.name.replace('_', '-')}` | {default} | {text} |")
    return "\n".join(lines)


def options_of(method: str) -> str:
    """The settings that this package adds for a method, without those of fairseq."""
    config = {**OPTIMIZER_DATACLASS_REGISTRY, **CRITERION_DATACLASS_REGISTRY}[method]
    fields = (field for field in dataclasses.fields(config) if field.name not in STOCK)
    return options(field for field in fields if not str(field.default).startswith("${"))  # not another section's


def forms_of(method: str) -> str:
    """The rows of a method's variants in the table of methods, as columns."""
    head, _, *rows = (
        re.split(r" ?(?<!\\)\| ?", line)[1:-1] for line in rules.as_markdown(rules.forms(method)).split("\n")
    )
    columns = ["| " + " | ".join(cells) + " |" for cells in zip(head, *rows, strict=True)]
    return "\n".join([columns[0], "|---" * (1 + len(rows)) + "|", *columns[1:]])


def deviations() -> str:
    """Every `# DEVIATION:` comment of the package, as one item each, by module."""
    lines = []
    for path in sorted((ROOT / "weighted_freezing_fairseq").rglob("*.py")):
        blocks = re.findall(r"# DEVIATION: (.*(?:\n\s*#.*)*)", path.read_text(encoding="utf-8"))
        if blocks:
            lines += [f"**`{path.relative_to(ROOT / 'weighted_freezing_fairseq')}`**", ""]
            lines += ["- " + re.sub(r"\s*\n\s*# ?", " ", block) for block in blocks]
            lines.append("")
    return "\n".join(lines).rstrip()


def mends() -> str:
    lines = ["| name | without it | needed by |", "|---|---|---|"]
    for mend in MENDS.values():
        lines.append(f"| `{mend.name}` | {mend.reason}{' **(protects)**' * mend.protects} | {mend.need.text} |")
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {
    "rules": rules.as_markdown,
    "pruning methods": pruning.as_markdown,
    "sources of fish_mask": fixed.as_markdown,
    "figures": figures.as_markdown,
    "deviations": deviations,
    "mends": mends,
    **measurements.TABLES,
    "options switch_transformer": lambda: options(SWITCH_FIELDS),
    **{f"options {name}": lambda name=name: options_of(name) for name in rules.RULES},
    **{f"rule {name}": lambda name=name: forms_of(name) for name in rules.RULES},
}


def names(page: str) -> list[str]:
    """The tables that a page has."""
    return re.findall(r"^<!-- /(.+) -->$", page, re.MULTILINE)


def rewritten(page: str) -> str:
    """The page with every generated table as the code says now."""
    for name in set(names(page)) & TABLES.keys():
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, rest = page.split(start)
        page = f"{before}{start}\n{TABLES[name]()}\n\n{end}{rest.split(end)[1]}"
    return page


if __name__ == "__main__":
    for path in PAGES:
        old = path.read_text(encoding="utf-8")
        if (new := rewritten(old)) != old:
            path.write_text(new, encoding="utf-8")
            print(f"rewrote {path.relative_to(ROOT)}")
