"""The package as an installed wheel, without the repository around it: every command finds what it needs."""

import os
import random
import re
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest
from fairseq_runs import environment
from recipe_runs import finished

from weighted_freezing_fairseq.workspace.configs import CONFIGS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A fresh environment with the wheel; torch, fairseq and the like come from the environment of the tests.

    A line of a .pth file adds their folder without running the .pth files in it: the editable install is not seen.
    """
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index"]
    words = ["wheel", *offline, "--no-build-isolation", "--wheel-dir", folder, _copy(folder / "source")]
    subprocess.run([*pip, *words], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (site / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([*pip, "--python", folder / "venv/bin/python", "install", *offline, wheel], check=True)
    return Installed(folder, site)


@dataclass(frozen=True)
class Installed:
    """Where the wheel was installed, and commands of that environment."""

    folder: Path
    site: Path

    def __call__(self, program, *words, **options):
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(
            [self.folder / "venv/bin" / program, *map(str, words)], cwd=self.folder, capture_output=True, text=True,
            timeout=600, env={**environment, "OMP_NUM_THREADS": "1"}, **options,
        )  # fmt: skip

    def wff(self, *words):
        """The output of a command that must succeed, started warm."""
        programs = self.folder / "venv/bin"
        done = finished([programs / "python", programs / "wff", *words], cwd=self.folder, env=environment())
        assert done.returncode == 0, done.stderr
        return done.stdout


def _copy(goal):
    """What a wheel is made from, so that building leaves nothing in the repository."""
    ours = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*.py", "*.c",
                           "*.css", "*.j2", "*.toml", "*.yaml", "*.in", "*/py.typed", "README.md"], cwd=ROOT,
                          check=True, capture_output=True, text=True).stdout  # fmt: skip
    for name in ours.removesuffix("\0").split("\0"):
        if not name.startswith(("tests/", "benchmarks/")):
            (goal / name).parent.mkdir(parents=True, exist_ok=True)
            (goal / name).write_bytes((ROOT / name).read_bytes())
    return goal


@pytest.mark.slow
def test_the_wheel_holds_every_yaml(installed):
    inside = installed.site / "weighted_freezing_fairseq/configs"
    names = {path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml")}
    assert names and {path.relative_to(inside) for path in inside.rglob("*.yaml")} == names
    assert installed("wff", "configs").stdout == f"{inside}\n"


@pytest.mark.slow
def test_the_wheel_holds_the_folder_for_user_dir(installed):
    folder = Path(installed("wff", "user-dir").stdout.rstrip("\n"))
    assert installed.site in folder.parents and (folder / "__init__.py").is_file()


CALLS = """if True:
    import contextlib, io, sys, traceback
    from weighted_freezing_fairseq.__main__ import COMMANDS, main
    calls = [[command, "--help"] for command in COMMANDS]
    calls += [line.split() for line in sys.stdin.read().splitlines()]
    for words in calls:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                status = main(words)
            except SystemExit as stop:
                status = stop.code
            except BaseException:
                traceback.print_exc()
                status = "a traceback"
        print(*words, "->", status, repr(said.getvalue()[-300:]))
"""
# The smallest real call of each command: what is not there is said in one line, with status 2.
REAL = {
    "rules": 0,
    "user-dir": 0,
    "corpus --pair de-en --out corpus": 0,
    "configs --copy my-configs": 0,
    "translate nowhere": 2,
    "compare nowhere nowhere": 2,
    "init --pair fr-en --method sage": 0,
    "prepare multi30k --dry-run": 0,
    "doctor": 0,
    "train multi30k --dry-run": 0,
    "reproduce multi30k --list --methods standard,fish_mask": 0,
    "quickstart --methods nosuch": 2,
    "adapt --methods nosuch": 2,
    "bench --methods nosuch": 2,
    "self-distill --rounds 0": 2,
    "prune-iterative --methods nosuch": 2,
    "evaluate nowhere": 2,
    "report nowhere": 2,
    "pack nowhere nowhere --out packed": 2,
    "unpack nowhere nowhere --out unpacked": 2,
    "average nowhere --out mean.pt": 2,
    "fisher nowhere --data nowhere --out f.pt": 2,
    "sensitivity nowhere --data nowhere --out s": 2,
    "prune nowhere --method lamp --out pruned.pt": 2,
    "plot curves nowhere --out plots": 2,
}


@pytest.mark.slow
def test_no_command_shows_a_traceback(installed):
    done = installed("python", "-c", CALLS, input="\n".join(REAL))
    lines = done.stdout.splitlines()
    statuses = {line.partition(" -> ")[0]: line.partition(" -> ")[2].split()[0] for line in lines}
    helped = {words for words in statuses if words.endswith(" --help")}
    assert len(helped) > 20 and {statuses[words] for words in helped} == {"0"}, done.stdout + done.stderr
    assert {words: statuses[words] for words in REAL} == {w: str(s) for w, s in REAL.items()}, done.stdout
    assert "Traceback" not in done.stdout + done.stderr and "type --methods with some of: standard" in done.stdout


@pytest.mark.slow
def test_own_files_become_a_translation_and_the_quickstart_a_table(installed):
    """What a user types who has the wheel only, with trainings of twenty updates."""
    rng = random.Random(7)
    texts = [" ".join(rng.choice(["ab", "Cd.", "efg", "h"]) for _ in range(rng.randint(2, 6))) for _ in range(200)]
    for language, lines in (("xx", texts), ("yy", [text[::-1] for text in texts])):
        (installed.folder / f"a.{language}").write_text("".join(f"{line}\n" for line in lines))
    installed.wff("configs", "--copy", "mine")
    every = re.compile(r"(?m)^(  (?:max_update|validate_interval_updates|save_interval_updates)): .*")
    for path in (installed.folder / "mine/toy").glob("*.yaml"):
        path.write_text(every.sub(r"\1: 20", path.read_text()))
    words = ["--valid-lines", 20, "--test-lines", 10, "--pieces", 40, "--jobs", 1]
    shown = installed.wff("prepare", "own", "--pair", "xx-yy", "--train", "a.xx", "a.yy", *words)
    assert "next: wff train own" in shown
    shown = installed.wff("train", "own", "--pair", "xx-yy", "--configs", "mine/toy", "--device", "cpu")
    run = shown.splitlines()[0]
    shown = installed.wff("evaluate", run, "--choices", "best", "--device", "cpu")
    assert "10 sentences" in shown
    installed.wff("translate", run, "--input", "a.xx", "--output", "out.yy", "--device", "cpu")
    assert len((installed.folder / "out.yy").read_text().splitlines()) == len(texts)
    words = ["--configs", "mine/toy", "--methods", "standard", "--corpus-fraction", 0.05, "--device", "cpu"]
    assert "| `standard`" in installed.wff("quickstart", *words)
    assert (installed.folder / "runs/quickstart/de-en/table.csv").is_file()


def test_methods_that_no_yaml_describes_are_refused(tmp_path, capsys):
    from weighted_freezing_fairseq.__main__ import main

    words = ["--configs", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["adapt", *words]) == 2
    assert f"there is no METHOD.yaml in {tmp_path}; give --configs a folder" in capsys.readouterr().err
    assert main(["train", "multi30k", *words]) == 2
    assert f"there is no METHOD.yaml in {tmp_path}; give --configs a folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
