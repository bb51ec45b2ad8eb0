"""The cost measurement: known answers, and a real run."""

import csv
import json
import logging
import os
import platform
import re
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from forked import Killer, forked
from locked import waits_for
from recipe_runs import wff

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.costs.bench import tables_here
from weighted_freezing_fairseq.costs.cases import VARIANTS, Case, cases, variant
from weighted_freezing_fairseq.costs.measure import _quartiles, _ratios, _transient_bytes
from weighted_freezing_fairseq.costs.results import Cost, worse_than
from weighted_freezing_fairseq.costs.subjects import SIZES, subject_of, synthetic
from weighted_freezing_fairseq.costs.tables import TABLES, CostTable
from weighted_freezing_fairseq.errors import UserError
from weighted_freezing_fairseq.workspace.configs import config_path
from weighted_freezing_fairseq.workspace.locks import lock_folder

CONFIGS = Path(__file__).resolve().parents[2] / "configs/toy"
ADAPT = CONFIGS.parent / "adapt"


def test_transient_memory_of_known_allocations():
    def work():
        a = torch.zeros(1_000_000)  # 4 MB
        b = a + 1  # 8 MB
        del a
        return b * 2  # 8 MB again

    assert _transient_bytes(work, "cpu") == pytest.approx(8e6, rel=0.01)


def test_ratios_are_taken_within_a_round():
    # A machine that is ten times slower in the second round leaves the ratios alone.
    assert _ratios([2.0, 20.0, 2.2], [1.0, 10.0, 1.0]) == [2.0, 2.0, 2.2]
    assert _quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)
    assert _quartiles([7.0]) == (7.0, 7.0, 7.0)


@pytest.mark.slow
def test_a_real_measurement(tmp_path):
    for path in CONFIGS.glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    text = (tmp_path / "standard.yaml").read_text()
    sgd = re.sub(r"optimizer:\n  _name: adam\n  adam_betas: .*\n", "optimizer:\n  _name: nag\n  momentum: 0.5\n", text)
    assert sgd != text
    (tmp_path / "nag.yaml").write_text(sgd)
    (tmp_path / "ewc_of_a_file.yaml").write_text((ADAPT / "ewc.yaml").read_text())
    words = ["bench", "--configs", tmp_path, "--configs", ADAPT]  # everything that there is
    words += ["--size", "toy", "--vary", "sentences=10", "--rounds", 1]
    done = wff(*words, "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["method"]: row for row in json.loads(done.stdout)}
    methods = {path.stem for folder in (tmp_path, ADAPT) for path in folder.glob("*.yaml")}
    variants = {name for name in VARIANTS if name != "r_drop_of_fairseq" or sys.version_info >= (3, 11)}
    assert set(rows) == methods | variants
    standard, freeze, nag = rows["standard"], rows["weighted_freeze"], rows["nag"]
    assert standard["time_ratio"] == standard["memory_ratio"] == 1 and standard["step_share_added"] == 0
    assert freeze["state_bytes"] == 0  # the method's own claim
    assert freeze["transient_ratio"] == pytest.approx(1, abs=0.02)
    # SAGE: one average a weight of attention and feed-forward layers: 2 encoder layers with 4 matrices of attention, 2
    # decoder layers with 8, and two matrices of feed-forward each.
    assert rows["sage"]["state_bytes"] == 4 * (2 * (4 + 8) * 128**2 + 4 * 2 * 128 * 256)
    # The encoder layers of fairseq 0.12.2 hold copies that are never trained.
    idle = 2 * (4 * 128 * (128 + 1) + 128 * 256 * 2 + 128 + 256) if sys.version_info < (3, 11) else 0
    # FISH Mask at density 0.005: a byte a weight for the mask, and nearly none of Adam's 8.
    nearly = -6.9 * (standard["parameters"] - idle) + idle
    assert rows["fish_mask"]["state_bytes"] == pytest.approx(nearly, rel=0.02)
    assert rows["fish_mask"]["memory_ratio"] < 1 and rows["lfr_cm"]["time_ratio"] > 0
    # One moment in place of two, in float32.
    assert nag["state_bytes"] == -4 * (standard["parameters"] - idle)
    assert nag["memory_ratio"] < 1
    # Criterions: a teacher; Fisher information and an anchor, and Adam's moments for what only their penalty touches.
    assert rows["self_distillation"]["state_bytes"] == 4 * standard["parameters"]
    assert rows["ewc"]["state_bytes"] == 8 * (standard["parameters"] + idle)
    # The reference of the same matrices, and a byte of mask for each of their weights: it prunes while it is measured.
    assert rows["alignreg"]["state_bytes"] == 5 * (2 * (4 + 8) * 128**2 + 4 * 2 * 128 * 256)
    # Three passes, two, a teacher's; penalties on weights have their gradients when the activations are gone.
    transient = {method: row["transient_ratio"] for method, row in rows.items()}
    assert transient["intra_distillation"] > transient["r_drop"] > 1.3
    assert transient["self_distillation"] > 1.1
    for method in ("ewc", "ewc_of_a_file", "alignreg"):
        assert transient[method] == pytest.approx(1, abs=0.02), method
    # Counted: three passes in place of one; freezing in the same pass over the same bytes, a mask in fewer.
    assert rows["intra_distillation"]["product_flops"] == pytest.approx(3 * standard["product_flops"], rel=0.2)
    assert 1.7 < rows["r_drop"]["product_flops"] / standard["product_flops"] < 2
    assert freeze["step_bytes"] == standard["step_bytes"] and freeze["flops"] > standard["flops"]
    assert freeze["product_flops"] == standard["product_flops"] and freeze["bound_ratio"] == 1
    assert rows["fish_mask"]["step_bytes"] < 0.2 * standard["step_bytes"]
    passes = [f"intra_distillation{mode}" for mode in ("_recompute", "", "_loop")]
    assert rows[passes[0]]["bound_ratio"] > rows[passes[1]]["bound_ratio"] > rows["r_drop"]["bound_ratio"] > 1
    assert (
        transient[passes[0]] < transient[passes[1]] and rows[passes[2]]["bound_ratio"] < rows[passes[0]]["bound_ratio"]
    )
    for row in rows.values():
        assert row["bound_seconds"] < row["update_seconds"], row["method"]
    # Half the state of full SAGE; none at all.
    assert (
        rows["sage_bf16"]["state_bytes"] * 2 == rows["sage"]["state_bytes"] and rows["sage_light"]["state_bytes"] == 0
    )
    with (tmp_path / "out/bench.csv").open() as file:
        assert [row["method"] for row in csv.DictReader(file)] == list(rows)
    assert "| `weighted_freeze` |" in (tmp_path / "out/bench.md").read_text()
    assert (tmp_path / "out/cost.pdf").is_file()


def test_cost_grows_with_one_number_of_a_size():
    found = cases(["toy", "small"], "vocabulary=4000,12000")
    assert [case.name for case in found] == [
        f"{name}, vocabulary {n}" for name in ("toy", "small") for n in (4000, 12000)
    ]
    assert [case.size.vocabulary for case in found] == [4000, 12000] * 2
    assert found[2].size.width == SIZES["small"].width and found[2].passes is None and found[2].processes == 1
    assert (found[1].varied, found[1].value) == ("vocabulary", 12000)
    (two,) = cases(["toy"], "passes=2")
    assert two == Case("toy, passes 2", SIZES["toy"], "passes", 2) and (two.passes, two.processes) == (2, 1)
    (four,) = cases(["toy"], "processes=4")
    assert four == Case("toy, processes 4", SIZES["toy"], "processes", 4)
    assert (four.passes, four.processes) == (None, 4)
    assert cases(["toy"], None) == [Case("toy", SIZES["toy"])]
    for wrong in ("vocabulary", "vocabulary=many", "speed=3", "passes=0", "processes=0"):
        with pytest.raises(UserError, match="type --vary vocabulary=4000,12000,40000 or passes=2,3,4"):
            cases(["toy"], wrong)


@pytest.fixture
def bench(capsys):
    """The command in this process, and what it said."""

    def call(*words):
        status = main(["bench", *map(str, words)])
        return status, capsys.readouterr()

    yield call
    logging.disable(logging.NOTSET)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of fairseq's trainer, in this process
def test_published_tables_are_measured_once_each(tmp_path, monkeypatch, bench):
    table = CostTable("tiny", "what little there is", ["standard", "weighted_freeze"], ("toy",), "sentences=2,3", 1)
    monkeypatch.setitem(TABLES, "tiny", table)
    words = ["--table", "tiny", "--out", tmp_path]
    status, said = bench(*words)
    assert status == 0 and "measuring tiny: what little there is" in said.err
    with (tmp_path / "tiny/bench.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["varied"], row["value"]) for row in rows] == [
        (method, "sentences", value) for value in "23" for method in table.methods
    ]
    assert rows[0]["size"] == "toy, sentences 2" and rows[0]["device"] and rows[0]["torch"] == torch.__version__
    written = (tmp_path / "tiny/bench.md").read_text()
    assert written.startswith("# What little there is\n") and said.out == written + "\n"
    assert f"{rows[0]['device']}, {torch.get_num_threads()} thread" in written
    assert f"wff bench --table tiny --out {tmp_path}\n" in written
    assert (tmp_path / "tiny/growth.pdf").is_file()
    before = (tmp_path / "tiny/bench.csv").stat().st_mtime_ns
    status, again = bench(*words)
    assert status == 0 and "tiny: bench is done already" in again.err and again.out == said.out
    assert (tmp_path / "tiny/bench.csv").stat().st_mtime_ns == before
    (at_once,) = waits_for(lock_folder(tmp_path / "tiny"), lambda: bench(*words))
    assert at_once[1].out == said.out
    status, said = bench(*words, "--rounds", 2)
    assert status == 2 and "holds the step bench of other settings; give another --out" in said.err
    assert (tmp_path / "tiny/bench.csv").stat().st_mtime_ns == before


@pytest.mark.filterwarnings("ignore")  # those of fairseq's trainer, in this process
@pytest.mark.slow
def test_a_table_that_was_killed_while_it_was_written_is_measured_again(tmp_path, monkeypatch, bench):
    monkeypatch.setitem(TABLES, "tiny", CostTable("tiny", "little", ["standard", "sage"], ("toy",), "sentences=2", 1))
    folders = [tmp_path / name for name in ("whole", "killed")]
    words = ["bench", "--table", "tiny", "--out"]
    assert bench(*words[1:], folders[0])[0] == 0
    killer = Killer(folders[1] / "tiny", 8)
    assert forked(tmp_path, lambda: main([*words, str(folders[1])]), killer)[0] == -signal.SIGKILL
    assert bench(*words[1:], folders[1])[0] == 0
    assert len({tuple(sorted(path.name for path in (f / "tiny").iterdir())) for f in folders}) == 1
    tables = [list(csv.DictReader((folder / "tiny/bench.csv").read_text().splitlines())) for folder in folders]
    counted = [[(row["method"], row["size"], row["state_bytes"], row["flops"]) for row in rows] for rows in tables]
    assert counted[0] == counted[1] and len(counted[0]) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of fairseq's trainer, in this process
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_the_memory_of_a_case_is_given_back(bench):
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    words = ["--methods", "standard", "--rounds", 1, "--json"]
    bench("--size", "toy", *words)  # imports, compiles
    before = resident()
    rows = json.loads(bench("--size", "small", *words)[1].out)
    assert resident() - before < 0.5 * min(row["peak_bytes"] for row in rows)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "x", "--methods", "sage"], "leave out --methods, or --table"),
        (["--out", "x", "--size", "toy"], "leave out --size, or --table"),
        (["--out", "x", "--vary", "passes=2"], "leave out --vary, or --table"),
        (["--out", "x", "--quick"], "leave out --quick, or --table"),
        (["--out", "x", "--check", "bench.csv"], "leave out --check, or --table"),
        (["--out", "x", "--json"], "leave out --json, or --table"),
        ([], "--table needs a folder to write to; add --out DIR, in which each table gets a folder"),
    ],
    ids=lambda each: each[-1] if each and isinstance(each, list) else "",
)
def test_a_table_says_what_is_measured(bench, words, said):
    status, found = bench("--table", "steps", *words)
    assert status == 2 and said in found.err


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_a_published_table_is_of_what_there_is(table):
    assert table.methods[0] == "standard" and len(set(table.methods)) == len(table.methods) > 1
    for method in table.methods:
        assert config_path(VARIANTS.get(method, (method,))[0], CONFIGS, ADAPT).is_file()
    assert len(cases(table.sizes, table.vary)) == len(table.sizes) * (table.vary or "").count(",") + len(table.sizes)


@pytest.mark.slow
def test_processes_that_wait_for_each_other_are_measured(tmp_path):
    # self_distillation reads a file that is made for the measurement
    words = ["bench", "--methods", "self_distillation", "--configs", CONFIGS, "--size", "toy"]
    done = wff(*words, "--vary", "processes=2", "--rounds", 1, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("round 1 of 1") == 1  # one of them speaks
    with (tmp_path / "bench.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["standard", "self_distillation"]
    assert {row["size"] for row in rows} == {"toy, processes 2"}
    assert all(0 < float(row["bound_seconds"]) < float(row["update_seconds"]) for row in rows)


def test_all_tables_are_those_that_the_gpus_suffice_for(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert list(tables_here("cpu")) == list(TABLES)
    assert set(TABLES) - set(tables_here("cuda")) == {"processes"}
    assert "table processes is left out: it needs 2 GPUs, and torch sees 1" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() > 98, reason="so many GPUs")
def test_more_processes_than_gpus_are_refused():
    done = wff("bench", "--methods", "standard", "--device", "cuda", "--vary", "processes=99", "--rounds", 1)
    problem = "99 processes need as many GPUs" if torch.cuda.is_available() else "torch sees no GPU"
    assert done.returncode != 0 and problem in done.stderr and "--device cpu" in done.stderr


def test_passes_vary_where_they_are_a_choice():
    def settings(method, passes):
        return variant(method, [CONFIGS, ADAPT], passes)[1]

    assert settings("intra_distillation", 4) == ["criterion.num_passes=4"]
    assert settings("intra_distillation_loop", 2) == ["criterion.pass_mode=loop", "criterion.num_passes=2"]
    assert settings("intra_distillation_loop", None) == ["criterion.pass_mode=loop"]
    assert settings("r_drop", 4) == settings("standard", 4) == []


@pytest.mark.filterwarnings("ignore")  # those of fairseq's trainer, in this process
def test_a_measurement_writes_nothing_into_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (CONFIGS / "standard.yaml").read_text()
    assert text.count("\ncommon:\n") == 1
    config = tmp_path / "standard.yaml"
    config.write_text(text.replace("\ncommon:\n", "\ncommon:\n  log_importance: 1\n"))
    sample, task = synthetic(SIZES["toy"], seed=1)
    subject_of("standard", config, SIZES["toy"], "cpu", 1, task).update(sample)
    assert list(tmp_path.iterdir()) == [config]


@pytest.mark.slow
def test_another_precision_is_measured(tmp_path):
    words = ["bench", "--methods", "sage", "--size", "toy", "--vary", "sentences=3", "--rounds", 1, "--json"]
    done = wff(*words, "--precision", "bf16", "--check", tmp_path / "bench.csv")
    assert done.returncode == 2 and "make one with: wff bench --quick --out DIR" in done.stderr
    done = wff(*words, "--precision", "bf16", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    standard, sage = json.loads(done.stdout)
    assert standard["precision"] == "bf16" and standard["size"] == "toy, sentences 3"
    assert sage["state_bytes"] == 4 * (2 * (4 + 8) * 128**2 + 4 * 2 * 128 * 256)  # of the copies in full precision
    rows = (tmp_path / "bench.csv").read_text().splitlines()
    better = rows[2].replace(str(sage["state_bytes"]), "1")
    assert better != rows[2]
    elsewhere = [row.replace(sage["device"], "an abacus") for row in (*rows[:2], better)]
    (tmp_path / "bench.csv").write_text("\n".join([*elsewhere, ""]))
    done = wff(*words, "--precision", "bf16", "--check", tmp_path / "bench.csv")
    assert done.returncode == 1 and "sage, toy, sentences 3, bf16: 2,621,440 bytes of state, not 1" in done.stderr
    assert "was measured on another machine (an abacus), whose ratios may differ from those of this one" in done.stderr


def test_a_check_finds_what_became_worse_and_forgives_noise():
    numbers = dict.fromkeys((name for name, kind in Cost.__annotations__.items() if kind in (int, float)), 100)
    row = Cost(**numbers, method="sage", size="toy", precision="fp32", varied="", value=None, device="", torch="")
    now = [replace(row, time_low=1.05, time_ratio=1.1, time_high=1.2)]

    def stored(**changed):
        return [{name: str(value) for name, value in asdict(replace(now[0], **changed)).items()}]

    assert list(worse_than(stored(), now)) == []
    assert list(worse_than(stored(time_high=0.96, time_ratio=0.9), now)) == []  # noise, perhaps
    assert list(worse_than(stored(time_high=0.95, time_ratio=0.9), now)) == [
        "sage, toy, fp32: update time 1.100 [1.050, ...], not 0.900 [..., 0.950]"
    ]
    assert list(worse_than(stored(state_bytes=99), now)) == ["sage, toy, fp32: 100 bytes of state, not 99"]
    assert list(worse_than(stored(transient_ratio=94), now)) == ["sage, toy, fp32: transient_ratio 100, not 94"]
    assert list(worse_than(stored(product_flops=98, size="small"), now)) == []  # another size was not measured


@pytest.mark.slow
def test_wrong_calls_say_what_to_type():
    done = wff("bench", "--methods", "weighted_freze")
    assert done.returncode == 2 and "did you mean weighted_freeze?" in done.stderr
    assert wff("bench", "--rounds", 0).returncode == 2
