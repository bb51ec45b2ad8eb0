"""`wff report --html`: what the page says of real run folders, that it is safe and whole, and how a browser sees it."""

import argparse
import base64
import html
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from scored_runs import a_run
from torch.utils.tensorboard import SummaryWriter

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.report.account import Account, compare_settings, find_runs
from weighted_freezing_fairseq.report.templates import with_code
from weighted_freezing_fairseq.scoring.compare import best_with_standard, compare
from weighted_freezing_fairseq.scoring.scored_runs import collect

EVIL = "</td><script>document.title = 'run'</script>"
NAMES = ["standard-1", "standard-2", f"{EVIL}-1", "<img src=x>-2", "mine"]
HYDRA, ARGPARSE = "[x][{}][INFO] - ", "2026-11-21 | INFO | {} | "


def a_log(path, form, seed, optimizer, model, updates=200, done=True):
    """What fairseq logs: all settings, losses of training and of validation, its end."""
    settings = (
        f"{{'_name': None, 'common': {{'_name': None, 'seed': {seed}, 'log_format': 'json'}}, 'task': {{'_name': "
        f"'translation', 'data': 'bin', 'source_lang': 'de', 'target_lang': 'en'}}, 'model': {model}, 'optimizer': "
        f"{optimizer}, 'optimization': {{'max_update': 200, 'lr': [0.004]}}, 'checkpoint': {{'save_dir': "
        f"'{path.parent}/checkpoints'}}}}"
    )
    lines = [form.format("fairseq_cli.train") + settings]
    lines.append(form.format("fairseq_cli.train") + "num. shared model params: 1,042,048")
    for update in range(50, updates + 1, 50):
        loss = {"loss": f"{8 - update / 50}", "nll_loss": f"{7 - update / 50}", "num_updates": f"{update}"}
        lines.append(form.format("train_inner") + json.dumps({**loss, "wall": f"{18 * update}"}))
        valid = {f"valid_{name}": value for name, value in {**loss, "bleu": f"{update / 10}"}.items()}
        lines.append(form.format("valid") + json.dumps(valid))
    lines.append(form.format("fairseq_cli.train") + ("done training in 9.9 seconds" if done else '{"half'))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


ADAM = "{'_name': 'adam', 'adam_eps': 1e-08, 'lr': [0.004]}"
FREEZE = "{'_name': 'weighted_freeze', 'base_optimizer': 'adam', 'lr': '${optimization.lr}'}"
MODEL = "{'_name': 'transformer', 'dropout': 0.1, 'note': '<b>&amp;</b>'}"
NAMESPACE = "Namespace(_name='transformer', seed=9, optimizer='adam', dropout=0.1, note='mine', bound=inf)"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two methods of two seeds, one of them half trained, a log of fairseq-train, and what was measured of them."""
    folder = tmp_path_factory.mktemp("a page & its runs")
    for seed in (1, 2):
        run = a_run(folder, "standard", seed)
        a_log(run / "train.log", HYDRA, seed, ADAM, MODEL)
        run = a_run(folder, "weighted_freeze", seed, noise=0.38)
        a_log(run / "train.log", HYDRA, seed, FREEZE, MODEL, updates=200 if seed == 1 else 100, done=seed == 1)
    shutil.rmtree(run / "scores")
    (run / ".training.json").unlink()
    for path in run.parent.glob("*/provenance.json"):
        about = json.loads(path.read_text())
        about["versions"] = {"torch": "2.13.0", EVIL: "1"}
        path.write_text(json.dumps(about | {"method": EVIL} if "freeze" in str(path) else about))
    a_log(folder / "mine/some.log", ARGPARSE, 7, ADAM, NAMESPACE)
    (folder / "mine/checkpoints").mkdir()
    (folder / "mine/checkpoints/checkpoint_last.pt").touch()
    columns = "update,by,group,parameters,mean,std,std_over_mean,gini,share_top20,mean_top20,mean_bottom80,"
    columns += "top20_over_bottom80,weight_norm,gradient_norm,frozen\n"
    rows = [f"{update},model,all,9,1e-5,2e-5,2,0.7,0.8,4e-5,1e-6,40,1,1,0.{update}\n" for update in (50, 100)]
    (run.parent / "weighted_freeze-1/checkpoints").mkdir()
    (run.parent / "weighted_freeze-1/checkpoints/importance.csv").write_text(columns + "".join(rows) + "150,mod")
    (run.parent / "weighted_freeze-1/checkpoints/checkpoint_best.pt").touch()
    measured = run.parent / "sensitivity"
    (measured / "samples").mkdir(parents=True)
    columns = "checkpoint,by,group,batches,parameters,mean,std,std_over_mean,gini,share_top20,top20_over_bottom80\n"
    lines = [f"{EVIL if by == 'type' else 'a'},{by},x,6,1000,1e-5,8e-5,8,0.7,0.72,\n" for by in ("model", "type")]
    (measured / "sensitivity.csv").write_text(columns + "".join(lines))
    np.save(measured / "samples/a.npy", np.linspace(0, 1e-4, 100, dtype=np.float32))
    (folder / "cost").mkdir()
    columns = (
        "method,size,time_ratio,time_low,time_high,memory_ratio,state_bytes,update_seconds,parameters,rounds,flops\n"
    )
    lines = "standard,toy,1,1,1,1,0,0.1,900000,15,2e9\newc,toy,1.2,1.1,1.3,1.25,7000,0.12,900000,15,2.1e9\n"
    (folder / "cost/bench.csv").write_text(columns + lines)
    return folder


def given(root):
    """What is typed for all of it."""
    runs = [root / f"runs/iwslt14-li/clean/de-en/{name}" for name in ("standard-1", "standard-2")]
    runs += [root / f"runs/iwslt14-li/clean/de-en/weighted_freeze-{seed}" for seed in (1, 2)]
    return [*runs, root / "mine/some.log", root / "cost", "--names", ",".join(NAMES)]


def write(capsys, *words):
    assert main(["report", "--html", *map(str, words)]) == 0
    path = Path(capsys.readouterr().out.removeprefix("wrote ").strip())
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(root):
    assert main(["report", "--html", *map(str, given(root)), "--out", str(root / "page.html")]) == 0
    return root / "page.html"


class Read(HTMLParser):
    """A page as a reader's browser takes it apart; elements that do not close in order are an error."""

    def __init__(self, text):
        super().__init__()
        self.open, self.counts, self.attributes, self.tables, self.text = [], Counter(), [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.counts[tag] += 1
        self.attributes += [(tag, *each) for each in attributes]
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            assert tag == "td" or dict(attributes)["scope"] in ("col", "row")
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def rows(self, *header):
        """Of the table with these columns: its lines by their first cell."""
        (found,) = [table for table in self.tables if set(header) <= set(table[0])]
        return {line[0]: [line[found[0].index(name)] for name in header] for line in found[1:]}

    def values(self, *names):
        return [value for _, name, value in self.attributes if name in names]


@pytest.fixture(scope="module")
def read(page):
    return Read(page.read_text(encoding="utf-8"))


# What it says -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_scores_are_those_of_the_report(read, root):
    rows = read.rows("method", "seeds", "BLEU", "minus standard")
    scores = (root / "runs/iwslt14-li/clean/de-en").glob("standard-*/scores/test.best.json")
    mean = sum(json.loads(path.read_text())["bleu"] for path in scores) / 2
    assert rows["standard"][1] == "1 2" and rows["standard"][2].startswith(f"{mean:.2f} ± ")
    assert rows[EVIL][1] == "1" and re.fullmatch(r"[+-]\d+\.\d\d \(seeds 1\)|[+-]\d+\.\d\d", rows[EVIL][3])
    assert "nrefs:1|case:mixed|eff:no|tok:13a" in read.text and "nrefs:1|bs:1000|seed:12345" in read.text


def test_how_far_each_run_got(read):
    header = ("updates", "of", "end", "best validation nll_loss", "at update", "best BLEU", "hours", "parameters")
    rows = read.rows("run", *header)
    assert {row.pop() for row in rows.values()} == {"1,042,048"}
    assert rows["standard-1"][1:] == ["200", "200", "reached", "3.000", "200", "20.00", "1.00"]
    assert rows["<img src=x>-2"][1:] == ["100", "200", "not reached", "5.000", "100", "10.00", "0.50"]
    assert rows["mine"][1:] == ["200", "200", "reached", "3.000", "200", "20.00", "1.00"]


def test_settings_that_differ_come_first_and_equal_ones_once(read):
    rows = read.rows("setting", "standard-1, -2", "mine")
    assert rows["common.seed"][1:] == ["1 2", "7"] and rows["optimizer"][1:] == ["adam", "adam"]
    assert rows["optimizer.adam_eps"][1:] == ["1e-08", "1e-08"] and rows["model.bound"][1:] == ["-", "inf"]
    assert not {"model.seed", "model.optimizer", "optimizer.lr", "model.dropout"} & rows.keys()
    shared = read.rows("setting", "value")
    assert shared["checkpoint.save_dir"][1] == "RUN/checkpoints" and shared["optimization.lr"][1] == "[0.004]"
    assert not shared.keys() & rows.keys()


def test_sensitivity_cost_and_origin(read):
    rows = [table for table in read.tables if "share_top20" in table[0]]
    assert [row[:6] for row in rows[0][1:]] == [[f"{EVIL}-1", "50", "1e-05", "2e-05", "2", "0.7"],
                                                [f"{EVIL}-1", "100", "1e-05", "2e-05", "2", "0.7"]]  # fmt: skip
    assert [row[:3] for row in rows[1][1:]] == [["a", "8e-05", "8"]] and rows[2][1][:2] == [EVIL, "x"]
    cost = read.rows("method", "update time", "peak memory", "GFLOP an update")
    assert cost["ewc"][1:] == ["1.200 [1.100, 1.300]", "1.250", "2.10"]
    assert read.rows("package", "version") == {"torch": ["torch", "2.13.0"], EVIL: [EVIL, "1"]}
    origin = read.rows("configuration", "commit", "sittings")
    assert origin["standard-2"] == ["configs/iwslt14-li/standard.yaml", "abc123", "2"] and "mine" not in origin
    assert "wff train iwslt14 --method standard --seed 2" in read.text


@pytest.mark.slow
def test_how_cost_grows_is_drawn_where_a_table_has_several_sizes(root, capsys, tmp_path):
    columns = (root / "cost/bench.csv").read_text().splitlines()[0] + ",varied,value\n"
    lines = [f'ewc,"toy, passes {k}",1.{k},1,2,1.5,7,0.1,900,15,2e9,passes,{k}\n' for k in (2, 3)]
    lines += [f'standard,"toy, passes {k}",1,1,1,1,0,0.1,900,15,2e9,passes,{k}\n' for k in (2, 3)]
    (tmp_path / "grown").mkdir()
    (tmp_path / "grown/bench.csv").write_text(columns + "".join(lines))
    found = Read(write(capsys, root / "mine/some.log", tmp_path / "grown", "--out", tmp_path / "page.html"))
    assert "Its numbers as CSV: wff plot growth." in found.text and "wff plot cost." in found.text


def test_sentences_are_compared_for_the_best_other_method(page, read, root):
    result = compare([root / f"runs/iwslt14-li/clean/de-en/{name}-1" for name in ("standard", "weighted_freeze")])
    shown = re.findall(r"<h3>(\d+): ", page.read_text(encoding="utf-8"))
    expected = [*result.gains(5), *result.losses(5)]
    assert [int(number) for number in shown] == [sentence.number for sentence in expected] and len(shown) == 10
    assert all(text in read.text for sentence in expected for text in (sentence.reference, *sentence.translations))
    systems = read.rows("system", "BLEU")
    assert systems["standard, seed 1"][1] == f"{result.scores[0]:.2f}" and f"{EVIL}, seed 1" in systems
    assert f"better in {result.better} of 30 sentences, worse in {result.worse}, by" in read.text
    assert " by paired bootstrap" not in read.text  # the method was chosen for its score


def test_the_command_below_the_sentences_compares_the_same_set(tmp_path, capsys):
    for method, noise in (("standard", 0.5), ("sage", 0.3)):
        a_run(tmp_path, method, 1, noise, choices=("best", "last"), subset="test1", test_name="news")
    (tmp_path / "data").rename(tmp_path / "moved")
    data, out = tmp_path / "moved/iwslt14", tmp_path / "page.html"
    text = Read(write(capsys, tmp_path / "runs", "--choice", "last", "--data", data, "--out", out)).text
    (command,) = re.findall("wff (compare .*)", text)
    assert main(shlex.split(command)) == 0
    assert "de-en, news: 30 sentences" in capsys.readouterr().out and (tmp_path / "compare.html").is_file()


def test_sentences_are_compared_only_where_scores_are(tmp_path):
    """With the standard training of the same settings; without one, or with several, not at all."""

    def run(method, seed, noise, *changed):
        folder = a_run(tmp_path, method, seed, noise)
        about = json.loads((folder / "provenance.json").read_text())
        (folder / "provenance.json").write_text(json.dumps(about | {"changed": changed}))

    for seed, rate in ((1, "lr=1"), (2, "lr=2")):
        run("standard", seed, 0.5, rate)
    run("ewc", 1, 0.1, "lr=3")  # the best, and nothing to compare it with
    assert best_with_standard(collect([tmp_path / "runs"], None, None)[0]) == []
    run("sage", 2, 0.3, "lr=2")
    (found,) = best_with_standard(collect([tmp_path / "runs"], None, None)[0])
    assert found.names == ("standard, seed 2", "sage, seed 2") and found.p_values is None


def test_files_of_the_runs_are_links_from_the_page(page, read):
    links = [unquote(value) for value in read.values("href") if not value.startswith("#")]
    assert all((page.parent / link).is_file() for link in links)
    assert {Path(link).name for link in links} == {"train.log", "some.log", "test.best.hyp.txt"}


def test_a_page_of_a_log_in_the_simple_format(tmp_path, capsys):
    lines = [
        "fairseq_cli.train | num. shared model params: 5,000 (num. trained: 5,000)",
        "train_inner | epoch 001:    50 / 99 loss=9.5, nll_loss=9, num_updates=50, lr=1e-05, train_wall=1, wall=1800",
        "valid | epoch 001 | valid on 'valid' subset | loss 7.5 | nll_loss 6.5 | wps 9 | num_updates 99",
        "train | epoch 001 | loss 9 | nll_loss 8 | num_updates 99 | lr 0.1 | train_wall 7 | wall 3600",
        "fairseq_cli.train | done training in 3600.0 seconds",
    ]
    (tmp_path / "x.log").write_text("".join(f"2026-11-27 | INFO | {line}\n" for line in lines))
    header = ("parameters", "updates", "end", "training loss", "best validation nll_loss", "hours")
    rows = Read(write(capsys, tmp_path / "x.log")).rows(*header)
    assert rows == {"x": ["5,000", "99", "reached", "9.500", "6.500", "1.00"]}


def test_a_page_of_what_tensorboard_has(tmp_path, capsys):
    with SummaryWriter(tmp_path / "tb/valid") as writer:
        for name, value in (("loss", 4.5), ("nll_loss", 3.25)):
            writer.add_scalar(name, value, 100)
    rows = Read(write(capsys, tmp_path / "tb")).rows("run", "updates", "end", "best validation nll_loss")
    assert rows == {"tb": ["tb", "100", "unknown", "3.250"]}


def test_what_is_missing_says_what_to_type(read, root):
    half = root / "runs/iwslt14-li/clean/de-en/weighted_freeze-2"
    assert f"not done to the end: 1 runs, {half} is one" in read.text
    assert "wff train iwslt14 --method weighted_freeze --seed 2" in read.text
    saved = root / "mine/checkpoints"
    typed = f"wff evaluate '{saved}/checkpoint_last.pt' --data bin --reference RAW.TXT --out '{saved}'"
    assert "No scores of mine; type: " in read.text and typed in read.text
    assert "Commit, versions and machine of mine are not known" in read.text
    assert "How mine was started is not known" in read.text


def test_a_log_alone_is_a_run_with_gaps(root, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    score = {"bleu": 12.345, "chrf": 40, "sentences": 1000, "bleu_signature": "sig|nature"}
    (root / "mine/checkpoints/checkpoint_last.score.json").write_text(json.dumps(score))
    text = html.unescape(write(capsys, root / "mine/some.log"))
    (root / "mine/checkpoints/checkpoint_last.score.json").unlink()
    assert Read(text).rows("run", "file", "cased BLEU")["some"] == ["some", "checkpoint_last.score", "12.35"]
    assert (root / "mine/report.html").is_file()
    assert "<title>some: report</title>" in text and "no picture: matplotlib is missing" in text
    assert "pip install 'weighted-freezing-fairseq[plot]'" in text
    assert "no importance.csv; train with --log-importance 200" in text
    assert "wff bench --out " in text and "/checkpoints/checkpoint_last.pt' --names some --data bin --out " in text


# That it is safe, whole, and the same -------------------------------------------------------------------------------


def test_it_is_a_page_for_everyone(page, read):
    text = page.read_text(encoding="utf-8")
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">') and read.counts["h1"] == 1
    assert all(read.counts[name] == 1 for name in ("title", "header", "nav", "main", "footer"))
    assert read.counts["table"] == read.counts["caption"] > 5
    assert ("meta", "name", "viewport") in read.attributes
    assert all(alt.strip() for alt in read.values("alt")) and len(read.values("alt")) == read.counts["img"]
    targets = [value.removeprefix("#") for value in read.values("href") if value.startswith("#")]
    assert set(targets) == {value for tag, name, value in read.attributes if (tag, name) == ("section", "id")}


def test_nothing_of_a_file_is_more_than_text(page, read):
    assert not {"script", "b", "iframe", "link", "object"} & read.counts.keys() and EVIL in read.text
    assert read.counts["img"] == len([value for value in read.values("src") if value.startswith("data:")])
    assert not [name for _, name, _ in read.attributes if name.startswith("on")]


def test_it_asks_for_nothing(page, read):
    assert all(value.startswith("data:image/svg+xml;base64,") for value in read.values("src", "srcset"))
    assert not any(re.match(r"\w+:|/", value) for value in read.values("href"))
    style = re.search(r"<style>(.*?)</style>", page.read_text(encoding="utf-8"), re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style and "@media print" in style


def test_the_pictures_are_whole(read):
    pictures = [base64.b64decode(value.partition(",")[2]) for value in read.values("src", "srcset")]
    # curves, importance, sensitivity, cost: two widths of each, for a light and a dark ground
    assert len(pictures) == 16 and read.counts["img"] == 4
    for picture in pictures:
        drawn = ElementTree.fromstring(picture)
        assert drawn.tag.endswith("svg") and len(list(drawn.iter())) > 50
        ground = drawn.find(".//*[@id='patch_1']/*").get("style")
        assert "fill: none" in ground or "opacity: 0" in ground  # transparent
        assert not [v for e in drawn.iter() for k, v in e.attrib.items() if k.endswith("href") and v[0] != "#"]


@pytest.mark.slow
def test_the_same_runs_give_the_same_bytes(page, root):
    before = page.read_bytes()
    assert main(["report", "--html", *map(str, given(root)), "--out", str(page)]) == 0
    assert page.read_bytes() == before


def test_what_stands_in_backticks_is_code_and_everything_is_escaped():
    assert with_code("type `a<b` or `c`") == "type <code>a&lt;b</code> or <code>c</code>"
    assert with_code('one ` alone < & "') == "one ` alone &lt; &amp; &#34;"


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nothing"], "there is no {}/nothing; give a run folder, a save folder of fairseq, or a training log"),
        (["empty"], "there is no run in {}/empty; give a run folder"),
        (
            ["mine/some.log", "--out", "empty"],
            "{0}/empty is a folder, but a page is a file; type --out {0}/empty/report",
        ),
        (
            ["mine/some.log", "--out", "other.html"],
            "{}/other.html exists and is not a page of wff report; type",
        ),
        (["cost"], "there is no run to report on; add the folder or the log of a run"),
        (["other.html"], "{}/other.html is not a log of fairseq-train: it has no settings and no losses; give a run"),
        (["mine", "mine/some.log", "--names", "a"], "runs need as many different names; type --names"),
    ],
)
def test_a_wrong_call_is_told_what_to_type(words, expected, root, capsys):
    (root / "empty").mkdir(exist_ok=True)
    (root / "other.html").write_text("<title>somebody's work</title>")
    given = [word if word.startswith("--") or word == "a" else str(root / word) for word in words]
    shutil.copy(root / "mine/some.log", root / "mine/train.log")
    try:
        assert main(["report", "--html", *given]) == 2
    finally:
        (root / "mine/train.log").unlink()
    said = capsys.readouterr().err
    assert expected.format(root) in said and said.count("\n") == 1
    assert (root / "other.html").read_text() == "<title>somebody's work</title>"


def test_names_are_for_a_page(root, capsys):
    assert main(["report", str(root / "runs"), "--names", "a"]) == 2
    assert "add --html" in capsys.readouterr().err


# Accounts -----------------------------------------------------------------------------------------------------------


def test_a_folder_of_runs_is_its_runs_with_standard_first(root):
    found = find_runs([root / "runs"], None)
    assert list(found) == ["standard-1", "standard-2", "weighted_freeze-1", "weighted_freeze-2"]
    columns, differing, shared = compare_settings(found)
    assert list(columns) == ["standard-1, -2", "weighted_freeze-1, -2"]
    assert differing["optimizer"] == ["adam", "weighted_freeze"] and shared["model.note"] == "<b>&amp;</b>"


def test_a_log_above_runs_is_no_run(root):
    """As `wff reproduce ... > runs/train.log` leaves it."""
    (root / "runs/train.log").write_text("done\n")
    found = find_runs([root / "runs"], None)
    (root / "runs/train.log").unlink()
    assert list(found) == ["standard-1", "standard-2", "weighted_freeze-1", "weighted_freeze-2"]


def test_settings_are_found_wherever_they_are(tmp_path):
    torn = a_log(tmp_path / "torn/train.log", HYDRA, 1, "{'_name': <Enum: 1>", MODEL)
    assert Account(torn).settings == {}
    (tmp_path / "torn/run.yaml").write_text("common: {seed: 4}\nmodel: {_name: lstm, encoder: {layers: 2}}\n")
    found = Account(tmp_path / "torn")
    assert not found.complete
    assert found.settings == {"common.seed": "4", "model": "lstm", "model.encoder.layers": "2"}


def test_a_folder_tells_its_settings_by_checkpoint_or_run_yaml_and_only_else_by_its_log(tmp_path):
    a_log(tmp_path / "run/train.log", HYDRA, 1, ADAM, MODEL)
    run, last = tmp_path / "run", tmp_path / "run/checkpoints/checkpoint_last.pt"
    assert Account(run).complete and Account(run).settings["common.seed"] == "1"
    (run / "run.yaml").write_text("common: {seed: 2}\n")
    assert not Account(run).complete and Account(run).settings == {"common.seed": "2"}
    last.parent.mkdir()
    model = argparse.Namespace(_name="transformer", seed=9, dropout=0.1)  # of an architecture without a dataclass
    cfg = {"common": {"_name": None, "seed": 3}, "model": model, "checkpoint": {"save_dir": str(last.parent)}}
    torch.save({"cfg": cfg, "model": {"w": torch.ones(2)}}, last)
    assert Account(run).complete and Account(run).settings == {
        "common.seed": "3", "model": "transformer", "model.dropout": "0.1", "checkpoint.save_dir": "RUN/checkpoints"
    }  # fmt: skip
    assert Account(run / "train.log").settings["common.seed"] == "1"
    last.write_bytes(last.read_bytes()[:300])  # cut off
    assert Account(run).settings == {"common.seed": "2"}


# In a browser -------------------------------------------------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no browser; type: apt-get install chromium")
# Frames of a phone's and of a desk's width, since no window is as narrow as a phone; what is folded is opened.
PROBE = """<!DOCTYPE html><title></title>{frames}<script>addEventListener("load", () => {{
  document.title = JSON.stringify([...document.querySelectorAll("iframe")].map(frame => {{
    const inside = frame.contentDocument, root = inside.documentElement;
    inside.querySelectorAll("details").forEach(each => each.open = true);
    return {{wide: root.scrollWidth, shown: root.clientWidth,
             images: [...inside.images].map(image => image.complete && image.naturalWidth)}};
  }}));
}})</script>"""


def browser(tmp_path, page, *words):
    """What a browser prints, and what it says on its console."""
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--disable-background-networking", "--enable-logging=stderr", *words, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@needs_browser
def test_a_browser_shows_all_of_it_on_a_phone_and_on_a_desk(page, tmp_path):
    source = html.escape(page.read_text(encoding="utf-8"))
    frames = "".join(f'<iframe width="{width}" height="800" srcdoc="{source}"></iframe>' for width in (390, 1280))
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(frames=frames), encoding="utf-8")
    shown, console = browser(tmp_path, probe, "--dump-dom")
    phone, desk = json.loads(html.unescape(re.search("<title>(.*?)</title>", shown)[1]))
    assert not console
    for frame in (phone, desk):
        assert frame["wide"] <= frame["shown"] <= 1300 and len(frame["images"]) == 4 and all(frame["images"])
    assert phone["shown"] <= 390 and phone["images"] != desk["images"]  # narrow pictures on the phone


@needs_browser
def test_a_browser_prints_it(page, tmp_path):
    _, console = browser(tmp_path, page, f"--print-to-pdf={tmp_path / 'page.pdf'}")
    printed = (tmp_path / "page.pdf").read_bytes()
    assert not console and printed.startswith(b"%PDF") and 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 12
