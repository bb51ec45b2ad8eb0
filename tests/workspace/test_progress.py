"""Progress: a bar on a terminal, lines or nothing in a log or pipe."""

import io
import re
import sys

from weighted_freezing_fairseq.workspace.progress import Progress, say


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_pipe_gets_no_bar_and_the_items_stay_the_same(capfd):
    assert list(Progress(range(3), desc="name", unit="batch")) == [0, 1, 2]
    with Progress(desc="name", total=2, unit="batch") as bar:
        bar.update(2)
    assert capfd.readouterr().err == ""


def test_a_pipe_gets_a_line_for_every_tenth_where_lines_are_wanted(capfd):
    with Progress(desc="sage, seed 1", total=1500, unit="sentence", lines=True) as bar:
        for _ in range(1500):
            bar.update()
    lines = [re.sub(r"^\[ +\d+ s\] ", "", line) for line in capfd.readouterr().err.splitlines()]
    assert lines == [f"sage, seed 1: sentence {count:,} of 1,500" for count in range(150, 1501, 150)]


def test_fewer_items_than_tenths_get_a_line_each(capfd):
    with Progress(desc="bench", total=2, unit="round", lines=True) as bar:
        bar.update()
        bar.update()
        bar.update(0)
    assert re.findall(r"round \d of \d", capfd.readouterr().err) == ["round 1 of 2", "round 2 of 2"]


def test_an_unexpected_item_is_no_error(capfd):
    with Progress(desc="name", total=0, unit="sentence", lines=True) as bar:
        bar.update()
    assert "sentence 1 of 0" in capfd.readouterr().err


def test_a_terminal_gets_a_bar_that_lines_leave_intact(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(desc="name", total=4, unit="batch", lines=True, mininterval=0) as bar:
        bar.update(2)
        say("half way")
        bar.update(2)
    before, line, after = re.split(r"(\r\[ +\d+ s\] half way\n)", terminal.getvalue())  # \r: the bar was cleared
    assert "name:  50%" in before and "name: 100%" in after and line
    assert "batch 2 of 4" not in terminal.getvalue()
