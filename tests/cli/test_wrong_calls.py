"""A table of wrong calls: what was typed, and the one line that comes; each says what to type instead."""

import pytest

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.workspace.configs import CONFIGS

# In a folder that has text.pt, which is no checkpoint, and an empty folder `empty`.
WRONG_CALLS = """
wff trian multi30k
    wff: argument COMMAND: invalid choice 'trian'; did you mean train?; type: wff --help
wff train multi3k
    wff train: argument DATASET: invalid choice 'multi3k'; did you mean multi30k?; type: wff train --help
wff train multi30k --metod sage
    wff train: unrecognized arguments: --metod sage; did you mean --method?; type: wff train --help
wff train multi30k --device gpu
    wff train: argument --device: invalid choice 'gpu'; choose from: auto, cpu, cuda; type: wff train --help
wff train multi30k --method saeg
    wff train: no method 'saeg' in CONFIGS/multi30k; did you mean sage?
wff train multi30k --pair de-fr
    wff train: multi30k has no pair 'de-fr'; type --pair de-en or en-de
wff train multi30k --set seed=1
    wff train: --set seed=1 is not of the form section.key=value; type --set optimization.max_update=1000
wff reproduce multi30k --seeds 3
    wff reproduce: argument --seeds: 3 is ambiguous: type 1-3 for 3 seeds, or 3-3 for one; type: wff reproduce --help
wff reproduce multi30k --choices bets
    wff reproduce: there is no choice 'bets'; type --choices with some of best,last,average
wff quickstart --seeds 1-x
    wff quickstart: argument --seeds: invalid seeds '1-x': type positive numbers, as 1,2,3 or 1-3; type: wff quickstart --help
wff quickstart --pair xx-en
    wff quickstart: unknown pair 'xx-en'; type --pair with one of: ar-en, de-en, es-en, fa-en, he-en, it-en, nl-en, pl-en
wff quickstart --jobs 0
    wff quickstart: --jobs must be at least 1, got 0; type --jobs 1, or leave it out
wff rules wegihted_freeze
    wff rules: argument METHOD: invalid choice 'wegihted_freeze'; did you mean weighted_freeze?; type: wff rules --help
wff fisher model.pt --out f.pt
    wff fisher: there is no checkpoint model.pt; give a run folder, a save-dir of fairseq or a checkpoint
wff fisher --out m.pt --mask-density 5
    wff fisher: --mask-density must be above 0 and at most 1, got 5; type --mask-density 0.005
wff prune text.pt --method magnitude --fraction 0.5 --out p.pt
    wff prune: text.pt is not a whole checkpoint (UnpicklingError); give one that fairseq-train saved
wff prune text.pt --method magntude --fraction 0.5 --out p.pt
    wff prune: there is no method 'magntude'; did you mean magnitude?
wff prune text.pt --method lamp --fraction 50 --out p.pt
    wff prune: --fraction must be at least 0 and below 1, got 50; type --fraction 0.5
wff average empty --out a.pt
    wff average: empty is a folder; add --last 5 to average the last five checkpoints of a run
wff evaluate empty
    wff evaluate: there is no empty/checkpoint_best.pt (checkpoints there: none); give a run folder or a checkpoint
wff translate empty --input letter.de
    wff translate: there is no file letter.de; give --input a text file, or - for standard input
wff compare empty empty
    wff compare: empty is not a run folder: it has no provenance.json; give one that wff train made
wff pack text.pt text.pt --out text.pt
    wff pack: text.pt exists and is not overwritten; give another --out, or type: rm text.pt
wff sensitivity text.pt --batches 0 --out s
    wff sensitivity: --batches must be at least 1, got 0; type --batches 1, or leave it out
wff plot cruves empty --out figures
    wff plot: there is no figure 'cruves'; did you mean curves?
wff report nosuch
    wff report: there is no folder nosuch; type the one that wff train put its runs into, as: runs/multi30k
wff bench --check no.csv
    wff bench: there is no table no.csv; make one with: wff bench --quick --out DIR
wff configs wmt18
    wff configs: there are no configs 'wmt18'; did you mean wmt17?
wff prepare wmt17 --langs de --moses
    wff prepare: --moses is for own files; leave it out, or type: wff prepare own
wff doctor --verbsoe
    wff doctor: unrecognized arguments: --verbsoe; did you mean --verbose?; type: wff doctor --help
"""  # noqa: E501
LINES = [line.strip() for line in WRONG_CALLS.strip().splitlines()]


@pytest.mark.parametrize(("typed", "line"), zip(LINES[::2], LINES[1::2], strict=True))
def test_a_wrong_call_is_answered_in_one_line_that_says_what_to_type(typed, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.pt").write_text("no checkpoint\n")
    (tmp_path / "empty").mkdir()
    try:
        status = main(typed.split()[1:])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    assert capsys.readouterr() == ("", line.replace("CONFIGS", str(CONFIGS)) + "\n")
