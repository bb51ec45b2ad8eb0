"""`wff report --html`: what runs were, did and cost, on one page that needs nothing but itself.

Plain HTML with its style and pictures inside: it opens from a file without a network, reads on a phone, prints, and is
the same for the same runs. What was not measured says what to type. Left out on purpose: scripts, and the time of
making.
"""

import re
import shlex
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .. import __version__
from ..analysis import sensitivity
from ..data import DATASETS
from ..errors import UserError
from ..figures.drawing import NO_PICTURE, Options, number, read_csv, whole_number
from ..figures.registry import FIGURES, collect, draw
from ..files import write_atomically
from ..scoring import results
from .account import Account, accounts, in_columns, name_of
from .grids import Grid, as_html
from .markup import Markup, command, element, joined, picture, with_code
from .tables import EVERYTHING, HOW_TO_READ, sheet_of_everything, sheet_of_paper

PAGE = "report.html"
_MADE_BY = f"weighted_freezing_fairseq {__version__}"
_SIGN = '<meta name="generator" content="weighted_freezing_fairseq '
_STYLE = Path(__file__).with_name("page.css")
_SENSITIVITY, _COST = "sensitivity.csv", "bench.csv"
_MANY = 6  # runs, from which on what is said of each is folded away


@dataclass(frozen=True)
class Subject:
    """What a page is about: runs by what they are called, and tables of `wff sensitivity` and `wff bench`."""

    runs: Mapping[str, Account]
    sensitivities: Sequence[Path]
    costs: Sequence[Path]
    tables: Sequence[str] = ()
    choice: str | None = None
    data: Path | None = None

    @classmethod
    def of(cls, given: Sequence[Path], names: str | None, **more: Any) -> "Subject":
        """From what a user typed; tables that were not typed may lie beside the runs, or beside their folder."""
        found = {name: [path / name for path in given if (path / name).is_file()] for name in (_SENSITIVITY, _COST)}
        folders = [table.parent for tables in found.values() for table in tables]
        runs = accounts([path for path in given if path not in folders], names)
        sensitivities, costs = (tables or _beside(runs, name) for name, tables in found.items())
        return cls(runs, sensitivities, costs, **more)

    @property
    def place(self) -> Path:
        """The folder that the first run lies in."""
        return _place(next(iter(self.runs.values())))


def _place(account: Account) -> Path:
    return account.path.parent if account.path.is_file() else account.folder.parent


def _beside(runs: Mapping[str, Account], name: str) -> list[Path]:
    near = dict.fromkeys(map(_place, runs.values()))
    found = [path for folder in near for path in sorted(folder.glob(f"*/{name}"))]
    # `wff quickstart` measures cost once for all its language pairs
    return found or [path for folder in near for path in sorted(folder.parent.glob(f"cost-*/{name}"))]


def write(subject: Subject, out: Path | None) -> Path:
    """The page, at `out` or beside the first run."""
    out = out or subject.place / PAGE
    if out.is_dir():
        raise UserError(f"{out} is a folder, and a page is a file; type --out {out / PAGE}")
    if out.is_file() and _SIGN.encode() not in out.read_bytes()[:2000]:
        raise UserError(f"{out} is there and is no page of wff report; type another --out, or move it away")
    with tempfile.TemporaryDirectory() as folder:
        write_atomically(out, _page(subject, Pictures(Path(folder)), out))
    return out


def _page(subject: Subject, pictures: "Pictures", out: Path) -> str:
    runs = subject.runs
    sections = {
        "scores": ("Scores", _scores(subject, out.with_name("significance.json"))),
        "training": ("Training", _training(runs, pictures)),
        "settings": ("Settings", _settings(runs)),
        "importance": ("Importance of parameters", [*_importance(runs, pictures), *_sensitivity(subject, pictures)]),
        "cost": ("Cost", _cost(subject, pictures)),
        "provenance": ("Where it comes from", _provenance(runs)),
        "again": ("Make it again", _again(subject, out)),
    }
    body = [
        element("section", element("h2", title), *content, id=name, aria_label=title)
        for name, (title, content) in ((name, (title, list(content))) for name, (title, content) in sections.items())
    ]
    links = [element("li", element("a", title, href=f"#{name}")) for name, (title, _) in sections.items()]
    title = " and ".join(runs) if len(runs) < 3 else f"{len(runs)} training runs"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="generator", content=_MADE_BY),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title}: report"),
        element("style", Markup(_STYLE.read_text(encoding="utf-8"))),
    )
    header = element(
        "header",
        element("h1", title),
        *(element("p", line) for line in _summary(runs)),
        element("nav", element("ul", *links), aria_label="Sections"),
    )
    footer = element("footer", element("p", f"Made by {_MADE_BY}. Everything on this page is in this file."))
    page = joined([head, element("body", header, element("main", *body), footer)], "\n")
    return f"<!DOCTYPE html>\n{element('html', page, lang='en')}\n"


def _summary(runs: Mapping[str, Account]) -> Iterator[str]:
    """On what was trained; and which runs these are, where the title does not say it."""
    told = []
    for account in runs.values():
        own, about = account.settings, account.provenance
        languages = f"{own['task.source_lang']}-{own['task.target_lang']}" if "task.source_lang" in own else ""
        if about:
            told.append(f"{about['dataset']}, recipe {about['recipe']}, {about['pair']}")
        else:
            told.append(", ".join(filter(None, [own.get("task.data", ""), languages])))
    yield "; ".join(filter(None, dict.fromkeys(told)))
    if len(runs) > 2:
        yield "; ".join(_alike(runs))


def _alike(runs: Iterable[str]) -> list[str]:
    """The names of the runs, those of one method together."""
    found: dict[str, list[str]] = {}
    for label in runs:
        found.setdefault(label.rpartition("-")[0] or label, []).append(label)
    return [name_of(mine) for mine in found.values()]


# Pieces -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pictures:
    """Figures on their way into the page, made in a folder that goes again."""

    folder: Path

    def figure(self, name: str, rows: Sequence[Mapping[str, Any]], runs: Iterable[str]) -> Markup:
        """A figure of `wff plot`, for two columns and for one."""
        about, source = FIGURES[name].about, FIGURES[name].source
        caption = f"{about[0].upper()}{about[1:]} (as {source}). Its numbers as CSV: `wff plot {name}`."
        makes = [partial(draw, name, rows, options=Options(wide=wide)) for wide in (True, False)]
        return self.made(makes, about, runs, caption)

    def made(self, makes: Sequence[Callable[[Path], None]], about: str, of: Iterable[str], caption: str) -> Markup:
        """What `makes` draw into files, wide and narrow; what is missing where nothing can be drawn."""
        paths = [self.folder / f"{place}.svg" for place in range(len(makes))]
        try:
            for make, path in zip(makes, paths, strict=True):
                make(path)
        except ImportError:
            return _gap(NO_PICTURE)
        return picture(paths[0], paths[-1], f"{about}; of {', '.join(of)}", caption)


def _gap(note: str) -> Markup:
    """What is not there, and what to type."""
    said, typed, words = note.rpartition("type: ")
    if not typed:
        return element("div", element("p", note), class_="gap")
    return element("div", element("p", said + typed), command(words), class_="gap")


def _folded(summary: str, *content: Markup, unless: bool = False) -> Markup:
    return element("details", element("summary", summary), *content, **({"open": ""} if unless else {}))


def _short(cell: Any, digits: str = ".3g") -> str:
    """A number for a reader; what has none stays empty."""
    return "-" if cell in ("", None) else format(float(cell), digits)


# Sections -----------------------------------------------------------------------------------------------------------


def _scores(subject: Subject, kept: Path) -> Iterator[Markup]:
    """Those of `wff evaluate` and of the recipes, compared where they may be; then any others, for themselves."""
    known = [account.folder for account in subject.runs.values() if account.provenance]
    scored, missing = results.collect(known, subject.choice, subject.data) if known else ([], [])
    found, apart = results.results(scored)
    found, untested = results.compared(found, kept)
    sheets = [sheet_of_everything(found)] if found else []
    sheets += [sheet_of_paper(name, found) for name in subject.tables if name != EVERYTHING]
    yield from (as_html(grid) for sheet in sheets for grid in sheet.grids)
    if sheets:
        yield _folded("How to read these tables", element("ul", *map(_item, HOW_TO_READ)))
    others = [
        [label, name, *(f"{score[key]:.2f}" for key in ("bleu", "chrf")), f"{score['sentences']:,}", _signature(score)]
        for label, account in subject.runs.items()
        for name, score in account.scores.items()
    ]
    if others:
        header = ["run", "file", "cased BLEU", "chrF", "sentences", "signature of BLEU"]
        yield as_html(Grid("Scores that lie in the folders of the runs", header, others))
    for note in (*missing, *apart, *untested):
        yield _gap(note)
    scoreless = {label: a for label, a in subject.runs.items() if not a.provenance and not a.scores}
    if scoreless:
        yield _gap(f"No scores of {', '.join(_alike(scoreless))}; {_scoring(next(iter(scoreless.values())))}")


def _scoring(account: Account) -> str:
    """How a run without a recipe gets a score that a page finds."""
    if account.weights is None:
        return "and there is no checkpoint to score"
    words = ["wff", "evaluate", account.weights, "--data", account.settings.get("task.data", "BIN")]
    return f"type: {_line([*words, '--reference', 'RAW.TXT', '--out', account.saved])}"


def _signature(score: Mapping[str, Any]) -> str:
    return f"`{score['bleu_signature']}`"


def _item(text: str) -> Markup:
    return element("li", with_code(text))


def _line(words: Iterable[Any]) -> str:
    return shlex.join(map(str, words))


def _training(runs: Mapping[str, Account], pictures: Pictures) -> Iterator[Markup]:
    """How far each run got, and its curves."""
    rows = collect("curves", {label: log for label, account in runs.items() if (log := account.traces.log)})
    lines = [_progress(label, account, [row for row in rows if row["run"] == label]) for label, account in runs.items()]
    header = ["run", "updates", "of", "end", "training loss", "best validation nll", "at update", "best BLEU", "hours"]
    notes = ["Losses in bits; BLEU is that of validation, not of a test set."]
    if all(line[-2] == "-" for line in lines):  # none was trained with --eval-bleu
        header, lines, notes = (
            [*header[:-2], header[-1]],
            [[*line[:-2], line[-1]] for line in lines],
            ["Losses in bits."],
        )
    yield as_html(Grid("How far each run got", header, lines, notes))
    if rows:
        yield pictures.figure("curves", rows, runs)
    missing = [label for label in runs if label not in {row["run"] for row in rows}]
    if missing:
        yield _gap(f"No curves of {', '.join(missing)}: {FIGURES['curves'].remedy}")


def _progress(label: str, account: Account, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    valid = [row for row in rows if row["split"] == "valid" and row["nll_loss"] != ""]
    best = min(valid, key=lambda row: number(row["nll_loss"]), default={"nll_loss": "", "update": 0})
    bleu = max((number(row["bleu"]) for row in valid if row["bleu"] != ""), default=None)
    last = [row["loss"] for row in rows if row["split"] == "train"][-1:]
    planned = account.settings.get("optimization.max_update", "0")
    seconds = results.cost(account.traces.log)[1] if account.traces.log else None
    return [
        label,
        f"{max((whole_number(row['update']) for row in rows), default=0):,}" if rows else "-",
        f"{int(planned):,}" if planned.isdecimal() and planned != "0" else "-",
        "reached" if account.finished else "not reached" if account.traces.log else "unknown",
        _short(last[0], ".3f") if last else "-",
        _short(best["nll_loss"], ".3f"),
        f"{best['update']:,}" if best["update"] else "-",
        _short(bleu, ".2f"),
        "-" if seconds is None else f"{seconds / 3600:.2f}",
    ]  # fmt: skip


def _settings(runs: Mapping[str, Account]) -> Iterator[Markup]:
    """What differs first; what is the same folded away."""
    columns, differing, shared = in_columns(runs)
    if differing:
        lines = [[f"`{name}`", *values] for name, values in differing.items()]
        yield as_html(Grid("Settings that differ", ["setting", *columns], lines))
    elif len(runs) > 1:
        yield element("p", "No setting differs between the runs.")
    if shared:
        lines = [[f"`{name}`", value] for name, value in shared.items()]
        count = f"{len(lines)} settings" if len(runs) == 1 else f"{len(lines)} settings that all runs share"
        yield _folded(count, as_html(Grid(count, ["setting", "value"], lines)))
    if any("RUN" in value for value in [*shared.values(), *sum(differing.values(), [])]):
        yield element("p", with_code("`RUN` stands for the folder of a run."))
    untold = [label for label, account in runs.items() if not account.settings]
    if untold:
        yield _gap(
            f"Nothing tells the settings of {', '.join(untold)}; give its save folder, or its log from the start"
        )


def _importance(runs: Mapping[str, Account], pictures: Pictures) -> Iterator[Markup]:
    """What --log-importance saw while training."""
    yield element("h3", "While training")
    tables = {label: path for label, account in runs.items() if (path := account.importance)}
    if not tables:
        yield _gap(
            f"Not measured: {FIGURES['importance'].remedy}; wff train takes it as --set common.log_importance=200"
        )
        return
    yield pictures.figure("importance", collect("importance", tables), tables)
    lines = []
    for label, path in tables.items():
        whole = [row for row in read_csv(path, torn=True) if row["by"] == "model"]
        lines += [[label, *_balance(row)] for row in ([whole[0], whole[-1]] if len(whole) > 1 else whole)]
    header = ["run", "update", "mean", "std", "std / mean", "Gini", "top 20 % hold", "top 20 % / the rest", "frozen"]
    notes = ["Of abs(theta * grad) of the batch of that update: the first and the last that was measured."]
    yield as_html(Grid("Sensitivity of all parameters", header, lines, notes))
    if len(tables) < len(runs):
        yield _gap(f"Not measured in: {', '.join(label for label in runs if label not in tables)}")


def _balance(row: Mapping[str, str]) -> list[str]:
    columns = ("mean", "std", "std_over_mean", "gini", "share_top20", "top20_over_bottom80", "frozen")
    return [row["update"], *(_short(row[column]) for column in columns)]


def _sensitivity(subject: Subject, pictures: Pictures) -> Iterator[Markup]:
    """What `wff sensitivity` measured of checkpoints."""
    yield element("h3", "Of checkpoints")
    for path in subject.sensitivities:
        rows = read_csv(path)
        models = [row for row in rows if row["by"] == "model"]
        if not models:
            yield _gap(f"{path} has no row of a whole model; make it again with: wff sensitivity")
            continue
        about = "Sensitivity of the parameters, a violin each, and its standard deviation"
        caption = (
            f"{about} (as Xu et al. 2022, Figures 3, 5 and 9); above as measured, below divided by the mean. "
            f"Measured by `wff sensitivity`, {models[0]['batches']} batches each, in {path.parent.name}/."
        )
        names = [row["checkpoint"] for row in models]
        yield pictures.made([partial(sensitivity.picture, path.parent)], about, names, caption)
        yield as_html(
            Grid("Sensitivity of all parameters of each checkpoint", *_sensitivity_table(models, "checkpoint"))
        )
        for by in ("type", "layer"):
            own = [row for row in rows if row["by"] == by]
            if own:
                title = f"The same by {by}"
                yield _folded(title, as_html(Grid(title, *_sensitivity_table(own, "checkpoint", "group"))))
    weights = {label: best for label, account in subject.runs.items() if (best := account.weights)}
    if not subject.sensitivities and weights:
        words = ["wff", "sensitivity", *weights.values(), "--names", ",".join(weights), "--data"]
        data = next(iter(subject.runs.values())).settings.get("task.data", "BIN")
        yield _gap(f"Not measured; type: {_line([*words, data, '--out', subject.place / 'sensitivity'])}")
    elif not subject.sensitivities:
        yield _gap("Not measured, and there is no checkpoint to measure")


def _sensitivity_table(rows: Sequence[Mapping[str, str]], *heads: str) -> tuple[list[str], list[list[str]]]:
    columns = {
        "std": "std", "std_over_mean": "std / mean", "gini": "Gini", "share_top20": "top 20 % hold",
        "top20_over_bottom80": "top 20 % / the rest",
    }  # fmt: skip
    lines = [
        [
            *(row[head] for head in heads),
            *(_short(row[name]) for name in columns),
            f"{whole_number(row['parameters']):,}",
        ]
        for row in rows
    ]
    return [*heads, *columns.values(), "parameters"], lines


def _cost(subject: Subject, pictures: Pictures) -> Iterator[Markup]:
    """What `wff bench` measured."""
    methods = dict.fromkeys(str(a.provenance["method"]) for a in subject.runs.values() if a.provenance)
    for path in subject.costs:
        rows = read_csv(path)
        sizes = dict.fromkeys(row["size"] for row in rows)
        for size in sizes:
            mine = [row for row in rows if row["size"] == size]
            lines = [
                [
                    f"`{row['method']}`",
                    f"{number(row['time_ratio']):.3f} [{number(row['time_low']):.3f}, {number(row['time_high']):.3f}]",
                    f"{number(row['memory_ratio']):.3f}", f"{whole_number(row['state_bytes']):,}",
                    _short(row["update_seconds"]), *([f"{number(row['flops']) / 1e9:.2f}"] if "flops" in row else []),
                ]
                for row in mine
            ]  # fmt: skip
            header = ["method", "update time", "peak memory", "more state (bytes)", "seconds an update"]
            header += ["GFLOP an update"] if "flops" in mine[0] else []
            about = f"size {size}, {number(mine[0]['parameters']) / 1e6:.1f} M parameters, {mine[0]['rounds']} rounds"
            notes = ["Update time and peak memory are ratios to standard training, measured side by side: median and "
                     "quartiles. No cost of these runs themselves, but of their methods, on one batch."]  # fmt: skip
            yield as_html(Grid(f"Cost of an update ({about})", header, lines, notes))
        for name in ("cost", "growth") if len(sizes) > 1 else ("cost",):
            if measured := collect(name, {path.parent.name: path}):  # none without standard training to compare with
                yield pictures.figure(name, measured, dict.fromkeys(row["method"] for row in rows))
    if not subject.costs:
        words = ["wff", "bench", *(["--methods", ",".join(methods)] if methods else [])]
        yield _gap(f"Not measured side by side; type: {_line([*words, '--out', subject.place / 'cost'])}")


def _provenance(runs: Mapping[str, Account]) -> Iterator[Markup]:
    """Who trained what, when and with what; of each run, then the versions that runs share."""
    known = {label: account.provenance for label, account in runs.items() if account.provenance}
    if known:
        lines = [[label, *_origin(about)] for label, about in known.items()]
        header = ["run", "configuration", "commit", "begun", "sittings", "machine", "device", "host"]
        yield as_html(
            Grid("Where each run was trained", header, lines, ["A + after a commit: files differed from it."])
        )
        versions: dict[tuple[tuple[str, str], ...], list[str]] = {}
        for label, about in known.items():
            versions.setdefault(tuple(about.get("versions", {}).items()), []).append(label)
        packages = dict.fromkeys(name for pairs in versions for name, _ in pairs)
        header = ["package", *(name_of(mine) if len(versions) > 1 else "version" for mine in versions.values())]
        lines = [[name, *(dict(pairs).get(name, "-") for pairs in versions)] for name in packages]
        yield as_html(Grid("Versions", header, lines))
    unknown = [label for label in runs if label not in known]
    if unknown:
        yield _gap(
            f"Commit, versions and machine of {', '.join(_alike(unknown))} are not "
            "known: fairseq-train alone does not keep them, wff train does"
        )


def _origin(about: Mapping[str, Any]) -> list[str]:
    sittings = about.get("sittings") or [{}]
    return [
        " ".join([about["config"], *about.get("changed", ())]),
        about.get("commit") or "unknown",
        re.sub(r"(\S+)T(\d+:\d+):\d+\+00:00", r"\1 \2 UTC", sittings[0].get("begun", "-")),
        str(len(sittings)),
        *(" and ".join(dict.fromkeys(s.get(key, "-") for s in sittings)) for key in ("machine", "device", "host")),
    ]


def _again(subject: Subject, out: Path) -> Iterator[Markup]:
    """The commands that made the runs and their scores, and this page."""
    commands = list(dict.fromkeys(line for account in subject.runs.values() for line in _commands(account)))
    scored = [a.folder for a in subject.runs.values() if a.provenance.get("dataset") in DATASETS]
    if scored:
        commands.append(_line(["wff", "evaluate", *scored]))
    paths = [account.path for account in subject.runs.values()]
    tables = [path.parent for path in (*subject.sensitivities, *subject.costs)]
    commands.append(_line(["wff", "report", "--html", *paths, *tables, "--out", out.resolve()]))
    yield _folded("Commands", *map(command, commands), unless=len(commands) <= _MANY)
    unknown = [label for label, account in subject.runs.items() if not list(_commands(account))]
    if unknown:
        yield _gap(f"How {', '.join(unknown)} was started is not known; its settings above are all that is")


def _commands(account: Account) -> Iterator[str]:
    if account.provenance:
        yield account.provenance["command"]
    elif (account.folder / "run.yaml").is_file():
        yield f"cd {shlex.quote(str(account.folder))} && fairseq-hydra-train --config-dir . --config-name run"
