"""`wff plot`: what each figure draws, CSV first, and what it says where it cannot."""

import csv

import pytest
from plotted import drawn, line  # noqa: F401

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.analysis import figures


@pytest.fixture
def wff(tmp_path, capsys):
    """The command, into a folder of this test; `ok=False` gives the one line of its mistake."""

    def call(*words, ok=True, out="out"):
        status = main(["plot", *map(str, words), *(["--out", str(tmp_path / out)] if out else [])])
        said = capsys.readouterr()
        assert status == (0 if ok else 2), said.err
        return said if ok else said.err.splitlines()[-1]

    call.out = tmp_path / "out"
    return call


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def logs(tmp_path):
    """Two runs: a folder, and a log of a run without validation by BLEU."""
    made = [tmp_path / "a/train.log", tmp_path / "b.log"]
    made[0].parent.mkdir()
    for log, shift, more in zip(made, (0.0, 0.5), ({"bleu": 20.5}, {}), strict=True):
        told = [line("train_inner", u, 9 - u / 100 + shift) for u in (50, 100)]
        log.write_text("\n".join([*told, line("valid", 100, 8 + shift, **more)]))
    return [made[0].parent, made[1]]


def test_learning_curves_of_runs_are_a_csv_and_pictures(wff, logs, drawn):  # noqa: F811
    said = wff("curves", *logs, "--names", "standard,sage", "--format", "png,svg")
    assert said.out.splitlines() == [f"wrote {wff.out}/curves.{ending}" for ending in ("csv", "png", "svg")]
    found = rows(wff.out / "curves.csv")
    assert list(found[0]) == ["run", "split", "update", "loss", "nll_loss", "bleu"] and len(found) == 6
    first, second = drawn
    training, loss, nll, bleu = first.axes
    assert [each.get_label() for each in training.lines] == ["standard", "sage"]
    assert training.lines[1].get_xydata().tolist() == [[50, 9.0], [100, 8.5]]
    assert loss.lines[0].get_xydata().tolist() == [[100, 8.0]]
    assert nll.lines[1].get_xydata().tolist() == [[100, 7.5]]
    assert bleu.lines[0].get_xydata().tolist() == [[100, 20.5]] and bleu.get_ylabel() == "validation BLEU"
    assert nll.get_ylabel() == "validation nll (bits/token)" and bleu.get_xlabel() == "updates"
    (legend,) = first.legends
    assert [text.get_text() for text in legend.get_texts()] == ["standard", "sage"]


def test_collect_has_no_rows_where_there_is_nothing(tmp_path):
    assert figures.collect("curves", {"empty": tmp_path}) == []
