"""What the README says is what the code does."""

import dataclasses
import re
from pathlib import Path

import pytest

from weighted_freezing_fairseq.core.rules import as_markdown

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


def test_every_deviation_is_listed():
    listed = [
        re.sub(r"\s+", " ", item).strip()
        for item in between("<!-- deviations -->", "<!-- /deviations -->").split("\n- ")
    ]
    listed[0] = listed[0].removeprefix("- ")
    assert sorted(listed) == sorted(deviations()) and listed


def test_the_plain_loop_runs_and_changes_the_model():
    code = between("<!-- loop -->", "<!-- /loop -->").removeprefix("```python").removesuffix("```")
    assert len(code.strip().splitlines()) <= 11
    names: dict = {}
    exec(code, names)
    assert names["optimizer"].updates == 100


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(configs/[\w/]+|scripts/[\w.]+)`", README))))
def test_files_that_are_named_exist(path):
    assert (ROOT / path).exists()


def test_every_option_is_named_with_its_default():
    from weighted_freezing_fairseq.plugin.optimizers import FishConfig, FreezeConfig, LfrConfig, SageConfig

    table = between("| option | default | meaning |", "In YAML")
    named = dict(re.findall(r"^\| `--([\w-]+)` \|([^|]*)\|", table, re.MULTILINE))
    named.pop("optimizer")
    fields = {f.name: f for c in (FreezeConfig, SageConfig, FishConfig, LfrConfig) for f in dataclasses.fields(c)}
    fields = {name: f for name, f in fields.items() if name not in ("_name", "seed", "log_interval")}
    assert {name.replace("-", "_") for name in named} == fields.keys()
    for name, default in named.items():
        mine = fields[name.replace("-", "_")].default
        if mine is None or mine == "":
            assert default.strip() in ("", "by method"), name
        else:
            assert float(default) == mine if isinstance(mine, int | float) else default.strip() == str(mine), name
