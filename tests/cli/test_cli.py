"""The command line from outside: help, mistakes, speed. What each command does is tested beside its module."""

import argparse
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from weighted_freezing_fairseq import __version__
from weighted_freezing_fairseq.__main__ import COMMANDS, main
from weighted_freezing_fairseq.cli.arguments import seeds
from weighted_freezing_fairseq.workspace.configs import CONFIGS

ROOT = CONFIGS.parent
WFF = [str(Path(sys.executable).parent / "wff")]
MODULE = [sys.executable, "-m", "weighted_freezing_fairseq"]


def run(*words: str, command: list[str] = MODULE) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, *words], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert text.startswith(f"usage: wff {command}")
    example = text.split("example:\n")[1]
    assert f"wff {command}" in example


def test_help_lists_every_command():
    done = run("--help")
    assert done.returncode == 0
    words = " ".join(done.stdout.split())  # argparse breaks lines as it likes
    for command, text in COMMANDS.items():
        assert f"{command} {text}" in words


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "COMMAND"),
        (["no-such-command"], "no-such-command"),
        (["doctor", "--no-such-option"], "--no-such-option"),
        (["user-dir", "surplus"], "surplus"),
    ],
    ids=["nothing", "command", "option", "argument"],
)
def test_a_mistake_is_one_line_that_says_what_to_type(words, named):
    done = run(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert named in done.stderr
    assert "; type: wff" in done.stderr
    assert done.stderr.rstrip().endswith("--help")


@pytest.mark.parametrize(
    ("words", "command", "expected"),
    [
        ("trian", "wff", "argument COMMAND: invalid choice 'trian'; did you mean train?"),
        ("rules saeg", "wff rules", "argument METHOD: invalid choice 'saeg'; did you mean sage?"),
        ("bench --precision x", "wff bench",
         "argument --precision: invalid choice 'x'; choose from: fp32, bf16, fp16, amp"),
        ("train glue --metod a", "wff train", "unrecognized arguments: --metod a; did you mean --method?"),
        ("evaluate run --zzz=1", "wff evaluate", "unrecognized arguments: --zzz=1"),
        ("adapt --seeds 3", "wff adapt", "argument --seeds: 3 is ambiguous: type 1-3 for 3 seeds, or 3-3 for one"),
        ("reproduce glue --seeds 1,x", "wff reproduce",
         "argument --seeds: invalid seeds '1,x': type positive numbers, as 1,2,3 or 1-3"),
    ],
)  # fmt: skip
def test_a_typo_is_answered_with_the_nearest_word_and_the_help_of_its_command(words, command, expected, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 2 and capsys.readouterr().err == f"{command}: {expected}; type: {command} --help\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", [1]), ("1-3", [1, 2, 3]), ("3-3", [3]), ("2,5,2", [2, 5]), ("10-11", [10, 11])],
)
def test_seeds_are_a_list_or_a_range(text, expected):
    assert seeds(text) == expected


@pytest.mark.parametrize("text", ["", "0", "3-1", "0-2", "1,", "-1", "1-2,4", "a", "2.0", "²"])
def test_other_seeds_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        seeds(text)


def test_user_dir_is_a_folder_that_fairseq_can_import():
    folder = Path(run("user-dir").stdout.rstrip("\n"))
    assert (folder / "__init__.py").is_file()
    assert folder.name == "register_weighted_freezing"  # not a name that scripts import


QUICK = """
import contextlib, io, sys
from weighted_freezing_fairseq.__main__ import COMMANDS, main
calls = ["--help", "--version", "no-such-command", *(f"{name} --help" for name in COMMANDS)]
calls += ["rules", "rules sage --json", "user-dir", "configs", "bench --precision x", "fisher --out f --mask-density 2"]
calls += ["prune c --method snip --fraction 0 --out p", "sensitivity c --data d --out o --batches 0", "adapt --jobs 0"]
for call in calls:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(sys.stdout):
        with contextlib.suppress(SystemExit):
            main(call.split())
    for module in ("torch", "fairseq"):
        assert module not in sys.modules, f"wff {call} imports {module}"
print(len(calls), "calls")
"""


def test_help_the_table_and_mistakes_do_not_wait_for_torch():
    done = subprocess.run([sys.executable, "-c", QUICK], capture_output=True, text=True, timeout=120)
    assert done.stderr == "" and done.stdout == f"{len(COMMANDS) + 12} calls\n"


@pytest.mark.parametrize("words", [["user-dir"], ["--help"], ["--version"], ["no-such-command"]])
def test_wff_and_the_module_are_the_same(words):
    script, module = run(*words, command=WFF), run(*words)
    assert (script.returncode, script.stdout, script.stderr) == (module.returncode, module.stdout, module.stderr)


def test_version():
    assert run("--version").stdout == f"weighted_freezing_fairseq {__version__}\n"


@pytest.mark.parametrize("words", [["train", "--help"], ["quickstart"]])
def test_a_python_that_lacks_the_packages_is_named(words):
    """-S: without site-packages, as the Python that is found when an environment was not activated."""
    done = subprocess.run([sys.executable, "-S", *MODULE[1:], *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"wff: {sys.executable} has no module ") and done.stderr.count("\n") == 1
    assert "activate the environment" in done.stderr and done.stderr.endswith("-m weighted_freezing_fairseq doctor\n")


def test_a_closed_pipe_is_no_error():
    done = subprocess.run(
        ["bash", "-c", '"$@" | true; exit "${PIPESTATUS[0]}"', "-", *MODULE, "user-dir"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "utf8"), [("bücher", False), (b"b\xfccher", True)])
def test_names_that_are_not_read_as_utf8_are_refused_in_one_line(tmp_path, name, utf8):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": str(int(utf8)), "PYTHONCOERCECLOCALE": "0"}
    words = [sys.executable, "-m", "weighted_freezing_fairseq", "corpus", "--pair", "de-en", "--out", name]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    remedy = "rename it" if utf8 else "Python reads ascii; type: export PYTHONUTF8=1"
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("wff corpus: the name 'b\\udc") and done.stderr.endswith(f"as UTF-8: {remedy}\n")
    assert list(tmp_path.iterdir()) == []


def test_names_that_the_terminal_cannot_show_are_printed_as_escapes(tmp_path, capsys):
    folder = tmp_path / os.fsdecode(b"b\xfccher")
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    torch.save({"model": {"w": torch.ones(2)}}, folder / "a.pt")
    assert main(["average", str(tmp_path / "link/a.pt"), "--out", str(tmp_path / "out.pt")]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/b\\udcfccher/a.pt\n")


def test_rules_of_a_method_are_all_its_variants(capsys):
    assert main(["rules", "sage", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["variant"]) for row in rows] == [("sage", "full"), ("sage", "li"), ("sage", "light")]
    assert main(["rules", "r_drop", "sage_light", "--json"]) == 0
    assert [row["variant"] for row in json.loads(capsys.readouterr().out)] == ["light", "r_drop"]  # as in the table
    assert main(["rules", "sage", "ewc"]) == 0
    text = capsys.readouterr().out
    assert "sage (light)\n" in text and "\newc\n" in text and "weighted_freeze" not in text
    assert main(["rules", "sage", "--markdown"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + 3


def test_rules_are_grouped_by_purpose(capsys):
    assert main(["rules"]) == 0
    lines = capsys.readouterr().out.splitlines()
    headings = [line.strip("= ") for line in lines if line.startswith("== ")]
    assert headings == ["generalise", "adapt cheaply", "do not forget", "compress"]
    starts = [*(lines.index(f"== {heading} ==") for heading in headings), len(lines)]
    groups = [
        {line.partition(" ")[0] for line in lines[start + 1 : end] if line and line[0] != " "}
        for start, end in itertools.pairwise(starts)
    ]
    assert groups[1:] == [{"fish_mask", "lisa"}, {"mofo", "spg", "lfr_cm", "ewc"}, {"alignreg"}]
    assert {"weighted_freeze", "gmt", "intra_distillation"} <= groups[0]
    assert main(["rules", "ewc", "fish_mask"]) == 0  # in the order of the groups, without empty ones
    lines = [line for line in capsys.readouterr().out.splitlines() if line and line[0] != " "]
    assert lines[1:] == ["== adapt cheaply ==", "fish_mask", "== do not forget ==", "ewc"]


def test_configs_are_copied_and_never_over_a_folder_that_exists(tmp_path, capsys):
    assert main(["configs", "toy", "--copy", str(tmp_path / "mine")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'mine'}\n"
    copied = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    assert copied == {path.name: path.read_bytes() for path in (CONFIGS / "toy").iterdir()} and copied
    assert main(["configs", "toy", "--copy", str(tmp_path / "mine")]) == 2
    assert "exists and is not overwritten; give another folder to --copy" in capsys.readouterr().err
    for name in ("own/tiny", "own/tiny/", "./own/tiny"):
        assert main(["configs", name]) == 0
        assert capsys.readouterr().out == f"{CONFIGS / 'own/tiny'}\n"
    assert main(["configs", "own", "--copy", str(tmp_path / "own")]) == 0
    assert {str(path.relative_to(tmp_path / "own")) for path in (tmp_path / "own").rglob("*.yaml")} == {
        str(path.relative_to(CONFIGS / "own")) for path in (CONFIGS / "own").rglob("*.yaml")
    }
    capsys.readouterr()
    assert main(["configs", "nosuch"]) == 2
    assert "choose from: adapt, glue, iwslt14" in capsys.readouterr().err
