"""The cost measurement: known answers, and a real run."""

import csv
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from recipe_runs import wff

from weighted_freezing_fairseq.analysis.bench import _quartiles, _ratios, _transient_bytes

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


def test_a_real_measurement(tmp_path):
    for path in CONFIGS.glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    text = (tmp_path / "standard.yaml").read_text()
    sgd = re.sub(r"optimizer:\n  _name: adam\n  adam_betas: .*\n", "optimizer:\n  _name: nag\n  momentum: 0.5\n", text)
    assert sgd != text
    (tmp_path / "nag.yaml").write_text(sgd)
    (tmp_path / "ewc_of_a_file.yaml").write_text((ADAPT / "ewc.yaml").read_text())
    words = ["bench", "--configs", tmp_path, "--size", "toy", "--rounds", 2, "--out", tmp_path / "out", "--json"]
    done = wff(*words, "--configs", ADAPT)  # everything that there is
    assert done.returncode == 0, done.stderr
    rows = {row["method"]: row for row in json.loads(done.stdout)}
    assert set(rows) == {path.stem for folder in (tmp_path, ADAPT) for path in folder.glob("*.yaml")}
    standard, freeze, nag = rows["standard"], rows["weighted_freeze"], rows["nag"]
    assert standard["time_ratio"] == standard["memory_ratio"] == 1 and standard["step_share_added"] == 0
    assert freeze["state_bytes"] == 0  # the method's own claim
    assert freeze["transient_ratio"] == pytest.approx(1, abs=0.02)
    # SAGE: one average a weight of attention and feed-forward layers: 2 encoder layers with 4 matrices of attention, 2
    # decoder layers with 8, and two matrices of feed-forward each.
    assert rows["sage"]["state_bytes"] == 4 * (2 * (4 + 8) * 128**2 + 4 * 2 * 128 * 256)
    # FISH Mask at density 0.005: a byte a weight for the mask, and nearly none of Adam's 8.
    assert rows["fish_mask"]["state_bytes"] == pytest.approx(-6.9 * standard["parameters"], rel=0.02)
    assert rows["fish_mask"]["memory_ratio"] < 1 and rows["lfr_cm"]["time_ratio"] > 0
    # One moment in place of two, in float32. The encoder layers of fairseq 0.12.2 hold copies that are never trained.
    idle = 2 * (4 * 128 * (128 + 1) + 128 * 256 * 2 + 128 + 256) if sys.version_info < (3, 11) else 0
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
    assert rows["intra_distillation"]["bound_ratio"] > rows["r_drop"]["bound_ratio"] > 1
    with (tmp_path / "out/bench.csv").open() as file:
        assert [row["method"] for row in csv.DictReader(file)] == list(rows)
    assert "| `weighted_freeze` |" in (tmp_path / "out/bench.md").read_text()


def test_wrong_calls_say_what_to_type():
    done = wff("bench", "--methods", "weighted_freze")
    assert done.returncode == 2 and "choose from: standard, alignreg, ewc, fish_mask, " in done.stderr
    assert wff("bench", "--rounds", 0).returncode == 2
