"""`wff compare`: sentences in the order of their differences, for a terminal and on a page; runs that do not fit."""

import json
from html.parser import HTMLParser

import pytest
from sacrebleu.metrics import CHRF
from scored_runs import REFERENCE, a_run

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.scoring.compare import compare


@pytest.fixture
def runs(tmp_path):
    folders = [a_run(tmp_path, "standard", 1, noise=0.5), a_run(tmp_path, "sage", 1, noise=0.3)]
    source = tmp_path / "data/iwslt14/clean/de-en/raw/test.de"
    source.write_text("".join(f"Satz <b>{number}</b> & mehr\n" for number in range(len(REFERENCE))))
    return folders


def said(capsys, *words, status=0):
    assert main(["compare", *map(str, words)]) == status
    captured = capsys.readouterr()
    return captured.out if status == 0 else captured.err.splitlines()[-1]


def test_sentences_are_sorted_by_the_difference_of_their_scores(runs):
    result = compare(runs)
    assert sorted(sentence.number for sentence in result.sentences) == list(range(1, len(REFERENCE) + 1))
    differences = [sentence.difference for sentence in result.sentences]
    assert differences == sorted(differences, reverse=True) and differences[0] > 0 > differences[-1]
    assert result.better + result.worse + differences.count(0) == len(REFERENCE) and result.better > result.worse
    one = result.sentences[3]
    hypotheses = [(run / "scores/test.best.hyp.txt").read_text().splitlines()[one.number - 1] for run in runs]
    assert one.translations == tuple(hypotheses) and one.reference == REFERENCE[one.number - 1]
    assert one.scores == tuple(CHRF().sentence_score(text, [one.reference]).score for text in hypotheses)
    assert result.scores == tuple(json.loads((run / "scores/test.best.json").read_text())["bleu"] for run in runs)
    assert 0 < result.p_values.randomisation < 0.05


def test_the_terminal_shows_gains_and_losses_with_source_and_reference(runs, capsys):
    text = said(capsys, *runs, "--most", 1)
    result = compare(runs)
    gain, loss = result.sentences[0], result.sentences[-1]
    for sentence in (gain, loss):
        assert f"sentence {sentence.number}: chrF {sentence.scores[0]:.1f} -> {sentence.scores[1]:.1f}" in text
        assert all(line in text for line in (sentence.source, sentence.reference, *sentence.translations))
    assert text.count("\nsentence ") == 2 and text.index("gains most") < text.index("loses most")
    assert f"sage, seed 1 is better in {result.better} sentences, worse in {result.worse}" in text
    assert "(p = 0.0" in text and "chrF|nrefs:1" in text


def test_equal_runs_have_no_gains_and_no_losses(runs, capsys):
    text = said(capsys, runs[0], runs[0])
    assert "better in 0 sentences, worse in 0, equal in 30" in text and "\nsentence " not in text
    assert f"{runs[0]}: BLEU" in text  # one name for both would not tell them apart


def test_a_test_set_has_the_name_that_its_user_gave_it(tmp_path, capsys):
    named = [a_run(tmp_path, method, 1, test_name="news") for method in ("standard", "sage")]
    assert "de-en, news: 30 sentences" in said(capsys, *named, "--subset", "news", "--most", 0)
    assert "no scores of 'olds'; type --subset with one of: news" in said(capsys, *named, "--subset", "olds", status=2)
    unnamed = a_run(tmp_path, "fish_mask", 1)  # scored by an earlier version
    assert "de-en, news: 30 sentences" in said(capsys, named[0], unnamed, "--most", 0)


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_has_every_sentence_and_nothing_from_elsewhere(runs, tmp_path, capsys):
    path = tmp_path / "compare.html"
    assert f"wrote {path}" in said(capsys, *runs, "--html", "--out", path)
    page = Page(path.read_text())
    assert sum(attributes.get("class") == "sentence" for _, attributes in page.tags) == len(REFERENCE)
    assert {f"Satz <b>{number}</b> & mehr" for number in range(len(REFERENCE))} <= set(page.texts)  # not as markup
    assert not [tag for tag in page.tags if tag[0] == "link" or "src" in tag[1] or "href" in tag[1]]
    assert "exists and is not overwritten; give another --out" in said(capsys, *runs, "--html", "--out", path, status=2)
    assert "--out is the file of a page; add --html" in said(capsys, *runs, "--out", path, status=2)


def test_runs_that_do_not_fit_are_refused_with_what_to_type(runs, tmp_path, capsys):
    other = a_run(tmp_path, "standard", 2, recipe="fairseq")
    assert "cannot be compared: recipe is 'clean' and 'fairseq'" in said(capsys, runs[0], other, status=2)
    assert "type --subset with one of: test" in said(capsys, *runs, "--subset", "dev", status=2)
    assert "give one that wff train made" in said(capsys, runs[0], tmp_path, status=2)
    (runs[1] / "scores/test.best.hyp.txt").write_text("one line\n")
    assert f"has 1 lines, and {tmp_path}" in (line := said(capsys, *runs, status=2))
    assert f"type: rm {runs[1]}/.scoring-*; wff evaluate {runs[1]}" in line
    (runs[1] / "scores/test.best.json").unlink()
    assert f"type: wff evaluate {runs[1]}" in said(capsys, *runs, status=2)
