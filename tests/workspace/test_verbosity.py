"""--quiet and --verbose: results and errors are the same, before and after the name of every command."""

import pytest
import torch

from weighted_freezing_fairseq.__main__ import COMMANDS, build_parser, main
from weighted_freezing_fairseq.workspace.commands import fairseq, wff
from weighted_freezing_fairseq.workspace.progress import Progress, say
from weighted_freezing_fairseq.workspace.verbosity import NORMAL, QUIET, VERBOSE, set_verbosity


@pytest.fixture(autouse=True)
def normal_afterwards(monkeypatch):
    monkeypatch.setenv("_WFF_VERBOSITY", NORMAL)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_both(command):
    options = build_parser(command)._subparsers._group_actions[0].choices[command]._option_string_actions
    assert {"--quiet", "--verbose"} <= options.keys()


def test_quiet_leaves_results_and_errors(tmp_path, capfd):
    torch.save({"model": {"encoder.layers.0.fc1.weight": torch.ones(2, 2)}}, tmp_path / "a.pt")
    words = ["plot", "norms", str(tmp_path / "a.pt"), "--format", "svg", "--out", str(tmp_path / "out")]
    printed = {}
    for name, called in {"": words, "before": ["--quiet", *words], "after": [*words, "--quiet"]}.items():
        assert main(called) == 0
        printed[name] = capfd.readouterr()
    assert "a: reading" in printed[""].err and printed["before"].err == printed["after"].err == ""
    assert printed[""].out == printed["before"].out == printed["after"].out != ""
    assert main(["--quiet", *words[:2], "no.pt", *words[3:]]) == 2
    assert "there is no no.pt" in capfd.readouterr().err


def test_quiet_has_no_bar_and_no_line(capfd):
    set_verbosity(QUIET)
    say("a notice")
    with Progress(desc="name", total=2, unit="batch", lines=True) as bar:
        bar.update(2)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_verbose_shows_what_child_processes_are_told_and_say(tmp_path, capfd):
    set_verbosity(VERBOSE)
    wff(["user-dir"], 1)
    assert capfd.readouterr().err == "$ python -m weighted_freezing_fairseq user-dir --verbose\n"
    fairseq("score", ["--help"], tmp_path / "log")
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "$ python -m fairseq_cli.score --help"
    assert lines[1:] == (tmp_path / "log").read_text().rstrip("\n").splitlines()
