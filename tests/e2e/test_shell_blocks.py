"""Every block of commands and of Python in README.md and docs/ runs at toy size, or says above it why it does not.

The blocks of a page run one after another in one folder. The names of files and runs that a page takes for granted
stand for small generated ones, `...` for the flags of a toy model, and LITTLE says what makes a command small.
`<!-- not run: REASON -->` in the line above a block leaves it out.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import miniature
import pytest
from fairseq_runs import TOY_MODEL, TOY_RUN, TOY_YAML
from in_process import TOY
from recipe_runs import shortened
from scored_runs import a_run
from warm_shell import Shell

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = {"bash", "sh", "shell", "console"}
_BLOCK = re.compile(r"^(?:<!-- not run: (?P<reason>.+) -->\n)?```(?P<kind>\w*).*\n(?P<text>(?:.*\n)*?)```$", re.M)


@dataclass
class Block:
    kind: str
    text: str
    reason: str | None  # why it is not run

    @property
    def lines(self) -> list[str]:
        """The lines of the commands, without what they print."""
        if not re.search(r"^\$ ", self.text, re.M):
            return self.text.splitlines()
        return re.findall(r"^\$ ((?:.*\\\n)*.*)$", self.text, re.M)


def blocks(page: Path) -> list[Block]:
    found = (Block(m["kind"], m["text"], m["reason"]) for m in _BLOCK.finditer(page.read_text(encoding="utf-8")))
    return [b for b in found if b.kind in SHELL | {"python"} or re.search(r"^\$ ", b.text, re.M)]


BLOCKS = {str(page.relative_to(ROOT)): blocks(page) for page in PAGES}

# What makes a command small: the words that follow those of every command that begins so.
_SET = {
    "optimization.max_update": 4, "dataset.validate_interval_updates": 2, "checkpoint.save_interval_updates": 2,
    **{f"model.{side}coder.{size}": value for side in ("en", "de") for size, value in (
        ("layers", 1), ("embed_dim", 16), ("ffn_embed_dim", 32), ("attention_heads", 2),
    )},
}  # fmt: skip
_SETTINGS = " ".join(f"--set {name}={value}" for name, value in _SET.items())
LITTLE = {
    "wff corpus": "--train-lines 200 --valid-lines 20 --test-lines 10",
    "wff prepare own": "--pieces 300 --jobs 1",
    "wff prepare (multi30k|iwslt14|wmt17)(?!.*any-counts)": "--dry-run",  # has no archives
    "wff reproduce (multi30k|iwslt14|wmt17)": "--dry-run",
    "wff train wmt17": "--dry-run",  # on eight GPUs
    "wff (train|reproduce) (own|multi30k|iwslt14)": _SETTINGS,
    "wff train .*common.log_importance": "--set common.log_importance=2",
    "wff (adapt|prune-iterative)": "--corpus-fraction 0.1 --parent-config {folder}/yamls/parent/standard.yaml",
    "wff adapt": "--configs {folder}/yamls/adapt --samples 20",
    "wff prune-iterative": "--configs {folder}/yamls/prune",
    "wff average runs": "--last 2",
    "wff sensitivity": "--batches 2",
    "wff prune .*--fractions": "--batches 2 --fractions 0,0.9",
    "wff fisher": "--samples 20",
    "wff (evaluate runs|reproduce own)": "--choices best",
    "python examples/": "--steps 10",
}
MODEL = [*TOY_MODEL, *TOY_RUN, "--optimizer", "adam", "--max-update", "14"]
MODEL.remove("--disable-validation")
UPDATES = {"50000": "14", "2000": "2"}  # between the steps of pruning, of which there are seven

# What a page takes for granted, and how it comes about.
_OWN = """
  wff corpus --pair es-en --out es
  for side in fr en; do from=${side/fr/es}; cp es/train.$from a.$side; cp es/test.$from n.$side; done
  head -2 n.fr > letter.fr
"""
_MULTI30K = "wff prepare multi30k --archive ~/multi30k --pairs de-en --any-counts --pieces 150 --jobs 1"
BEFORE = {
    "README.md": _OWN,
    "docs/own-corpus.md": _OWN,
    "docs/analyse.md": f"""
      {_MULTI30K}
      mkdir -p runs/full/de-en other DIR
      cp toy.yaml DIR/NAME.yaml
      for method in {{standard,weighted_freeze,intra_distillation,intra_distillation_js}}-{{1,2,3}}; do
        mkdir -p runs/full/de-en/$method/checkpoints
        cp parent.pt runs/full/de-en/$method/checkpoints/checkpoint_last.pt
      done
      ln -s ../../../DATA runs/full/de-en/bin
      for run in runs/standard-1 runs/sage-1; do
        mkdir $run
        fairseq-train DATA --user-dir "$(wff user-dir)" --log-importance 2 --save-dir $run ... > $run/train.log
      done
      cp runs/sage-1/train.log other
    """,
    "docs/recipes.md": "mkdir Downloads; mv ~/wmt17 Downloads",
    "docs/train.md": f"""
      {_MULTI30K}
      wff prepare iwslt14 --archive ~/iwslt14 --langs de --any-counts --pieces 150 --jobs 1
      for method in standard sage; do wff train multi30k --method $method; done
      wff evaluate runs/multi30k/clean/de-en/* --choices best
      mkdir -p runs/quickstart/de-en save-folder
      cp -r runs/multi30k/clean/de-en/standard-1 runs/quickstart/de-en
      cp -r runs/multi30k/clean/de-en/sage-1 runs/quickstart/de-en/weighted_freeze-1
      cp -r runs/multi30k/clean/de-en/standard-1/checkpoints SAVE_DIR
      cp runs/multi30k/clean/de-en/standard-1/train.log save-folder
      cp data/multi30k/clean/de-en/spm.model .
      head -2 data/multi30k/clean/de-en/raw/test.de | tee letter.de > a.de
      wff sensitivity runs/multi30k/clean/de-en/standard-1 --out runs/sensitivity
      wff bench --methods standard,sage --size toy --rounds 1 --out runs/costs
    """,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, toy_data: Path, trained: Path) -> Path:
    """Where a page is typed: the repository's folders, and binarised data and checkpoints under the pages' names."""
    for name in ("configs", "scripts", "benchmarks", "examples", "results"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("DATA", "BIN", "OLD-BIN", "NEW-BIN"):
        (tmp_path / name).symlink_to(toy_data)
    for name in ("parent", "a", "b", "c", *(f"{run}/checkpoint_best" for run in ("teacher", "runs/a", "runs/b"))):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(trained, tmp_path / f"{name}.pt")
    for name in ("raw", "yamls"):
        (tmp_path / name).mkdir()
    shutil.copy(toy_data.parent / "test.y", tmp_path / "raw/test.en")
    (tmp_path / "toy.yaml").write_text(TOY.format(toy=TOY_YAML, data=toy_data))
    for yaml in ("adapt/standard.yaml", "adapt/fish_mask.yaml", "prune/alignreg.yaml"):
        path = shortened(yaml, tmp_path / "yamls" / Path(yaml).parent, updates=14, every=7, log_interval=1)
        path.write_text(path.read_text().replace("prune_interval: 30", "prune_interval: 2"))
    shortened("toy/standard.yaml", tmp_path / "yamls/parent", updates=4, every=2, log_interval=1)
    return tmp_path


@pytest.mark.parametrize("page", [page for page, found in BLOCKS.items() if any(not b.reason for b in found)])
def test_the_blocks_of_a_page_run(page: str, folder: Path):
    def little(words: list[str]) -> list[str]:
        """A command at toy size; `...` in it stands for the flags of a toy model, which come before its own."""
        typed = " ".join(words)
        if "..." in words:
            rest = [UPDATES.get(word, word) for word in words[1:] if word != "..."]
            words = [words[0], *MODEL, "--save-dir", f"save-{len(shell.commands)}", *rest]
        more = " ".join(more for begin, more in LITTLE.items() if re.match(begin, typed))
        return [*words, *more.format(folder=folder).split()]

    shell = Shell(folder, little)
    for archives in (miniature.multi30k, miniature.iwslt14, miniature.wmt17):
        if f"~/{archives.__name__}" in BEFORE.get(page, ""):
            archives(folder / archives.__name__)
    if any("wff report runs/iwslt14" in block.text for block in BLOCKS[page]):
        for about in ({}, {"configs": "iwslt14"}, {"configs": "wmt17", "dataset": "wmt17", "pair": "en-de"}):
            a_run(folder / "scored", "standard", 1, choices=("best", "average"), **about)
        shutil.copytree(folder / "scored/runs", folder / "runs", dirs_exist_ok=True)
    before = shell(BEFORE.get(page, ""))
    assert before.returncode == 0, before.stdout
    shell.commands.clear()
    for block in BLOCKS[page]:
        if not block.reason:
            script = 'python -c "$CODE"' if block.kind == "python" else "\n".join(block.lines)
            done = shell(script, CODE=block.text)
            assert done.returncode == 0, f"{block.text}\n{done.stdout[-6000:]}"
    print(page, len(shell.commands), "commands")
    assert shell.commands


def test_most_blocks_run_and_the_others_say_why_not():
    found = [block for page in BLOCKS.values() for block in page]
    left = [block.reason for block in found if block.reason]
    print(len(found) - len(left), "blocks run,", len(left), "do not")
    assert len(left) < len(found) / 3
    marks = sum(page.read_text(encoding="utf-8").count("<!-- not run:") for page in PAGES)
    assert marks == len(left), "a mark stands in the line above its block"
