"""The package as an installed wheel, without the repository around it: every command finds what it needs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from weighted_freezing_fairseq.workspace.configs import CONFIGS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder for PYTHONPATH, which comes before the editable install of this environment."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *offline, "--wheel-dir", folder, _copy(folder / "source")], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", *offline, "--target", folder / "site", wheel], check=True)
    return folder / "site"


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


def python(site, *words):
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, *map(str, words)]
    return subprocess.run(words, cwd=site.parent, env=environment, capture_output=True, text=True, timeout=300)


def test_the_wheel_holds_every_yaml(site):
    inside = site / "weighted_freezing_fairseq/configs"
    names = {path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml")}
    assert names and {path.relative_to(inside) for path in inside.rglob("*.yaml")} == names
    done = python(site, "-c", "from weighted_freezing_fairseq.workspace.configs import CONFIGS; print(CONFIGS)")
    assert done.stdout == python(site, "-m", "weighted_freezing_fairseq", "configs").stdout == f"{inside}\n"


def test_the_wheel_holds_the_folder_for_user_dir(site):
    folder = Path(python(site, "-m", "weighted_freezing_fairseq", "user-dir").stdout.rstrip("\n"))
    assert site in folder.parents and (folder / "__init__.py").is_file()


def test_the_wheel_holds_what_a_page_is_rendered_from(site):
    report = site / "weighted_freezing_fairseq/report"
    assert (report / "page.html.j2").is_file() and (report / "page.css").is_file()


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


def test_no_command_shows_a_traceback(site):
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", CALLS], input="\n".join(REAL), cwd=site.parent, env=environment,
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    lines = done.stdout.splitlines()
    statuses = {line.partition(" -> ")[0]: line.partition(" -> ")[2].split()[0] for line in lines}
    helped = {words for words in statuses if words.endswith(" --help")}
    assert len(helped) > 20 and {statuses[words] for words in helped} == {"0"}, done.stdout + done.stderr
    assert {words: statuses[words] for words in REAL} == {w: str(s) for w, s in REAL.items()}, done.stdout
    assert "Traceback" not in done.stdout + done.stderr and "type --methods with some of: standard" in done.stdout


def test_methods_that_no_yaml_describes_are_refused(tmp_path, capsys):
    from weighted_freezing_fairseq.__main__ import main

    words = ["--configs", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["adapt", *words]) == 2
    assert f"there is no METHOD.yaml in {tmp_path}; give --configs a folder" in capsys.readouterr().err
    assert main(["train", "multi30k", *words]) == 2
    assert f"there is no METHOD.yaml in {tmp_path}; give --configs a folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
