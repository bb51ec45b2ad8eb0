"""Completion in a real bash, by the script that `wff completion` prints."""

import subprocess

import pytest

from weighted_freezing_fairseq.__main__ import main

COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
_shtab_wff; printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "wff"
    with pytest.MonkeyPatch.context() as patch, path.open("w") as stream:
        patch.setattr("sys.stdout", stream)
        assert main(["completion", "bash"]) == 0
    return path


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("wff tr", ["train", "translate"]),
        ("wff --q", ["--quiet"]),
        ("wff fisher --est", ["--estimator"]),
        ("wff fisher --estimator s", ["sampled"]),
        ("wff train multi30k --device c", ["cpu", "cuda"]),
        ("wff rules ew", ["ewc"]),
        ("wff average run", ["run.pt", "runs"]),
        ("wff translate runs --input run", ["run.pt", "runs"]),
        ("wff unpack base file --out run", ["run.pt", "runs"]),
    ],
)
def test_bash_completes_commands_options_choices_and_paths(typed, expected, script, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "run.pt").touch()
    done = subprocess.run(
        ["bash", "-c", COMPLETE, "-", script, *typed.split()], cwd=tmp_path, capture_output=True, text=True
    )
    assert sorted(done.stdout.split()) == expected and done.stderr == ""


def test_zsh_gets_a_script_of_its_own(capsys):
    assert main(["completion", "zsh"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("#compdef wff") and "--estimator" in text
