"""What the README says is what the code does."""

import dataclasses
import importlib
import re
from pathlib import Path

import pytest
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterionConfig
from fairseq.criterions.sentence_prediction import SentencePredictionConfig

from weighted_freezing_fairseq.core import pruning
from weighted_freezing_fairseq.core.rules import as_markdown
from weighted_freezing_fairseq.figures import registry

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def between(start: str, end: str) -> str:
    return README.split(start)[1].split(end)[0].strip()


def deviations() -> list[str]:
    """Every `# DEVIATION:` comment of the package, as one sentence each."""
    found = []
    for path in sorted((ROOT / "weighted_freezing_fairseq").rglob("*.py")):
        for block in re.findall(r"# DEVIATION: (.*(?:\n\s*#.*)*)", path.read_text(encoding="utf-8")):
            found.append(re.sub(r"\s*\n\s*# ?", " ", block))
    return found


def test_the_table_is_the_code():
    assert between("<!-- rules -->", "<!-- /rules -->") == as_markdown(), "paste the output of: wff rules --markdown"


def test_the_table_of_pruning_methods_is_the_code():
    assert between("<!-- pruning -->", "<!-- /pruning -->") == pruning.as_markdown()


def test_the_table_of_figures_is_the_code():
    assert between("<!-- figures -->", "<!-- /figures -->") == registry.as_markdown()


def test_every_deviation_is_listed():
    listed = [
        re.sub(r"\s+", " ", item).strip()
        for item in between("<!-- deviations -->", "<!-- /deviations -->").split("\n- ")
    ]
    listed[0] = listed[0].removeprefix("- ")
    assert sorted(listed) == sorted(deviations()) and listed


def run(start: str, end: str) -> tuple[str, dict]:
    """The code between two marks, and the names that it leaves."""
    code = between(start, end).removeprefix("```python").removesuffix("```").strip()
    names: dict = {}
    exec(code, names)
    return code, names


def test_the_plain_loops_run_and_are_short():
    code, names = run("<!-- loop -->", "<!-- /loop -->")
    assert len(code.splitlines()) <= 10 and names["optimizer"].updates == 100
    _, names = run("<!-- passes -->", "<!-- /passes -->")
    assert names["sums"].divergence > 0 and names["alpha"] == 5
    _, names = run("<!-- prune -->", "<!-- /prune -->")
    assert names["pruning"].sparsity == pytest.approx(0.7, abs=1e-2)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(configs/[\w/]+|scripts/[\w.]+)`", README))))
def test_files_that_are_named_exist(path):
    assert (ROOT / path).exists()


def adapter(path: str) -> type:
    module, name = path.split(".")
    return getattr(importlib.import_module(f"weighted_freezing_fairseq.plugin.{module}"), name)


@pytest.mark.parametrize(
    ("section", "configs"),
    [("optimizers", "optimizers.FreezeConfig optimizers.SageConfig optimizers.FishConfig optimizers.LfrConfig"),
     ("criterions", "criterions.IntraDistillationConfig criterions.EwcConfig criterions.SelfDistillationConfig "
                    "alignreg.AlignRegConfig")],
)  # fmt: skip
def test_every_option_is_named_with_its_default(section, configs):
    table = README.split(f"### {section.capitalize()}")[1].split("\n\n")[1]
    named = dict(re.findall(r"^\| `--([\w-]+)` \|([^|]*)\|", table, re.MULTILINE))
    named.pop(section.removesuffix("s"))
    fields = {f.name: f for path in configs.split() for f in dataclasses.fields(adapter(path))}
    stock = (LabelSmoothedCrossEntropyCriterionConfig, SentencePredictionConfig, adapter("optimizers.BaseSettings"))
    known = {f.name for config in stock for f in dataclasses.fields(config)}
    known |= {"_name", "seed", "log_interval", "max_update", "max_epoch"}
    assert {name.replace("-", "_") for name in named} == fields.keys() - known
    for name, default in named.items():
        mine = fields[name.replace("-", "_")].default
        if mine is None or mine is False or mine == "":
            assert default.strip() in ("", "by method", "by anchor", "by beta", "all"), name
        else:
            assert float(default) == mine if isinstance(mine, int | float) else default.strip() == str(mine), name
