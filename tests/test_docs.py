"""What the README and the pages in docs/ say is what the code does."""

import re
import shlex
import statistics
from pathlib import Path

import measurements
import pytest
import tables
from markdown.extensions.toc import slugify

from weighted_freezing_fairseq.__main__ import build_parser
from weighted_freezing_fairseq.core.rules import RULES
from weighted_freezing_fairseq.scoring.significance import seed_p_value

ROOT = Path(__file__).resolve().parents[1]
OTHERS = ("CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", ".github/PULL_REQUEST_TEMPLATE.md")
TEXTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (*tables.PAGES, *(ROOT / name for name in OTHERS))
}
EXAMPLES = {"loop", "passes", "prune"}  # marks around code, which is run


@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if set(tables.names(text)) - EXAMPLES])
def test_generated_tables_are_up_to_date(page):
    assert set(tables.names(TEXTS[page])) <= tables.TABLES.keys() | EXAMPLES
    assert tables.rewritten(TEXTS[page]) == TEXTS[page], "type: make tables"


@pytest.mark.parametrize("method", [*RULES, "switch_transformer"])
def test_every_method_has_a_page_with_its_options(method):
    text = TEXTS[f"docs/methods/{method}.md"]
    assert f"options {method}" in tables.names(text)
    assert re.findall(r"^## (?:Formula|Options|When it helps|References)$", text, re.MULTILINE) == [
        "## Formula", "## Options", "## When it helps", "## References"
    ]  # fmt: skip
    assert f"`{method}`](docs/methods/{method}.md)" in TEXTS["README.md"]


@pytest.mark.parametrize("folder", sorted(path.parent for path in (ROOT / "results").glob("*/scores.csv")), ids=str)
def test_results_are_computed_from_the_raw_scores(folder: Path):
    runs, cells = (measurements.read_rows(folder / name) for name in ("scores.csv", "runs.csv"))
    assert cells and len({(run["method"], run["seed"], run["test"]) for run in runs}) == len(runs)
    assert all(re.fullmatch(r"[0-9a-f]{64}", run["output_sha256"]) for run in runs)

    def bleu(method: str, cell: dict, seeds: str) -> list[float]:
        of_test = [run for run in runs if (run["method"], run["test"]) == (method, cell["test"])]
        return [float(run["bleu"]) for seed in seeds.split() for run in of_test if run["seed"] == seed]

    for cell in cells:
        scores = bleu(cell["method"], cell, cell["seeds"])
        assert len(scores) == int(cell["n"]) and float(cell["score"]) == pytest.approx(statistics.mean(scores))
        if cell["minus_standard"]:
            standard, method = (bleu(name, cell, cell["compared_seeds"]) for name in ("standard", cell["method"]))
            assert float(cell["minus_standard"]) == pytest.approx(statistics.mean(method) - statistics.mean(standard))
            assert float(cell["p_seeds"]) == pytest.approx(seed_p_value(standard, method))


def test_the_readme_is_short():
    assert len(TEXTS["README.md"].splitlines()) <= 200


def test_pictures_are_small():
    pictures = [path for path in (ROOT / "docs").rglob("*") if path.suffix in (".png", ".svg")]
    assert pictures and max(path.stat().st_size for path in pictures) < 200_000


def test_the_drawing_has_the_floors_that_are_checked():
    layers = re.search(r"^layers = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M | re.S)[1]
    drawing = (ROOT / "docs/floors.svg").read_text(encoding="utf-8")
    drawn = re.findall(r'font-weight="bold" fill="#111">(.*?)</text>', drawing)
    assert drawn == [layer for layer in re.findall(r'"(.+)"', layers) if layer != "__main__"]


def code(page: str, mark: str) -> str:
    block = TEXTS[page].split(f"<!-- {mark} -->")[1].split(f"<!-- /{mark} -->")[0].strip()
    return block.removeprefix("```python").removesuffix("```").strip()


def run(source: str) -> dict:
    """The names that a program leaves."""
    names: dict = {}
    exec(source, names)
    return names


def test_the_plain_loops_run_and_are_short():
    loop = code("docs/pytorch.md", "loop")
    assert len(loop.splitlines()) <= 10 and run(loop)["optimizer"].updates == 100
    assert f"```python\n{loop}\n```" in TEXTS["README.md"]
    names = run(code("docs/pytorch.md", "passes"))
    assert names["sums"].divergence > 0 and names["alpha"] == 5
    assert run(code("docs/pytorch.md", "prune"))["pruning"].sparsity == pytest.approx(0.7, abs=1e-2)


def commands(text: str) -> list[str]:
    """The `wff` commands in the shell blocks of a page, and the scripts that stand for one."""
    fences = re.findall(r"^```(?:bash|console)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    blocks = "\n".join(fences).replace("\\\n", " ")
    blocks = re.sub(r"bash scripts/(iwslt14|wmt17)/reproduce.sh", r"wff reproduce \1", blocks)
    blocks = re.sub(r"bash scripts/(prepare|train|evaluate|reproduce|quickstart|adapt).sh", r"wff \1", blocks)
    blocks = re.sub(r"\$\([^)]*\)|\$\{[^}]*\}", "SUBSTITUTED", blocks)
    return re.findall(r"(?:^|[;|] |^\$ |=\d )(wff [a-z].*?)(?= \[--|; | [|>] | *#|$)", blocks, re.MULTILINE)


@pytest.mark.parametrize("command", sorted({command for text in TEXTS.values() for command in commands(text)}))
def test_commands_that_are_printed_are_valid(command):
    _, name, *words = shlex.split(command)
    build_parser(name).parse_args([name, *words])


FILE = re.compile(r"(?<![\w/])((?:configs|scripts|benchmarks|examples|tests)/[a-z][\w./-]*\w)(?![\w{*])")
NAMED = sorted({name for text in TEXTS.values() for name in FILE.findall(text) if "METHOD" not in name})


@pytest.mark.parametrize("path", NAMED)
def test_files_that_are_named_exist(path):
    assert (ROOT / path).exists()


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings."""
    return {slugify(title, "-") for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", [page for page in TEXTS if not page.startswith("docs/")])
def test_links_lead_somewhere(page):
    """Those between the pages of docs/ are checked by `mkdocs build --strict`."""
    for target in re.findall(r"\]\(([^)]+)\)", TEXTS[page]):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), target
