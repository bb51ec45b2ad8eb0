"""`wff plot`: what each figure draws, CSV first, and what it says where it cannot."""

import dataclasses
import json
import logging
import math
import sys

import pytest
import torch
from plotted import line, lines, read, write

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.core.schedules import adaptive_alpha
from weighted_freezing_fairseq.figures import costs, registry, training
from weighted_freezing_fairseq.figures.training_logs import seed_columns
from weighted_freezing_fairseq.scoring.scores import Score
from weighted_freezing_fairseq.studies import prune_iterative
from weighted_freezing_fairseq.studies.prune_iterative import Child
from weighted_freezing_fairseq.workspace.runs import Run


@pytest.fixture
def wff(tmp_path, capsys):
    """The command, into a folder of this test; `ok=False` gives the one line of its mistake."""

    def call(*words, ok=True, out="out", endings="svg"):
        more = ["--out", str(tmp_path / out)] if out else []
        status = main(["plot", *map(str, words), "--format", endings, *more])
        said = capsys.readouterr()
        assert status == (0 if ok else 2), said.err
        return said if ok else said.err.splitlines()[-1]

    call.out = tmp_path / "out"
    yield call
    logging.disable(logging.NOTSET)


# Learning curves, and what is true of every figure ------------------------------------------------------------------


@pytest.fixture
def logs(tmp_path):
    """Two runs: a folder, and a log of a run without validation by BLEU."""
    made = [tmp_path / "a/train.log", tmp_path / "b.log"]
    made[0].parent.mkdir()
    for log, shift, more in zip(made, (0.0, 0.5), ({"bleu": 20.5}, {}), strict=True):
        told = [line("train_inner", u, 9 - u / 100 + shift) for u in (50, 100)]
        log.write_text("\n".join([*told, line("valid", 100, 8 + shift, **more)]))
    return [made[0].parent, made[1]]


@pytest.mark.slow
def test_learning_curves_of_runs_are_a_csv_and_pictures(wff, logs, drawn):
    said = wff("curves", *logs, "--names", "standard,sage", endings="png,pdf")
    assert said.out.splitlines() == [f"wrote {wff.out}/curves.{ending}" for ending in ("csv", "png", "pdf")]
    assert (wff.out / "curves.pdf").read_bytes().startswith(b"%PDF")
    found = read(wff.out / "curves.csv")
    assert list(found[0]) == ["run", "method", "seed", "split", "update", "loss", "nll_loss", "bleu"]
    assert len(found) == 6
    training, loss, nll, bleu = drawn[0].axes
    assert lines(training) == {"standard": [[50, 8.5], [100, 8.0]], "sage": [[50, 9.0], [100, 8.5]]}
    assert lines(loss) == {"standard": [[100, 8.0]], "sage": [[100, 8.5]]}
    assert lines(nll)["sage"] == [[100, 7.5]] and lines(bleu) == {"standard": [[100, 20.5]]}
    assert nll.get_ylabel() == "validation nll_loss (bits/token)" and bleu.get_ylabel() == "validation BLEU"
    assert bleu.get_xlabel() == "updates"
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["standard", "sage"]


def test_a_csv_that_was_edited_draws_again_and_stays(wff, logs, drawn):
    wff("curves", *logs, "--show", "loss")
    table = wff.out / "curves.csv"
    (before,) = drawn[0].axes
    assert before.get_ylabel() == "validation loss (bits/token)"
    first = (wff.out / "curves.svg").read_bytes()
    wff("curves", table, "--show", "loss", out=None)
    assert (wff.out / "curves.svg").read_bytes() == first
    table.write_text(table.read_text().replace("b,b,,valid,100,8.5", "other,other,,valid,100,6.25") + "# end\n")
    edited = table.read_bytes()
    wff("curves", table, "--show", "loss", out=None)
    assert lines(drawn[2].axes[0])["other"] == [[100, 6.25]] and table.read_bytes() == edited


def test_without_matplotlib_there_is_the_csv(wff, logs, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = wff("curves", *logs)
    assert said.out == f"wrote {wff.out}/curves.csv\n"
    assert "no picture: matplotlib is missing; type: pip install 'weighted-freezing-fairseq[plot]'" in said.err


def test_list_says_what_there_is_and_every_figure_has_a_source(wff):
    said = wff("--list", out=None).out
    for figure in registry.FIGURES.values():
        assert f"{figure.name}: {figure.about}\n  as {figure.source}\n  wff plot {figure.name} " in said
        assert "et al. 20" in figure.source and "\n" not in figure.about


@pytest.mark.parametrize("name", list(registry.FIGURES))
def test_where_there_is_nothing_there_are_no_rows_and_the_command_says_what_to_type(wff, name, tmp_path):
    (tmp_path / "empty").mkdir()
    if name == "norms":
        said = wff(name, tmp_path / "empty", ok=False)
        assert "empty/checkpoint_best.pt (checkpoints there: none); give a run folder" in said
        return
    assert registry.collect(name, {"empty": tmp_path / "empty"}) == []
    said = wff(name, tmp_path / "empty", ok=False)
    assert said == f"wff plot: nothing to draw: {registry.FIGURES[name].remedy}"
    assert any(word in said for word in ("; train with --log", "; give ", "; make one with: wff bench"))
    assert not wff.out.exists()


def test_an_input_without_anything_is_named_beside_others(wff, logs, tmp_path):
    (tmp_path / "bare.log").write_text("epoch 1: loss 9.0\n")
    said = wff("curves", logs[0], tmp_path / "bare.log")
    assert "bare: no values in fairseq's log and no TensorBoard files; train with --log-format json or" in said.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "which figure? type one of: curves, importance, alpha, "),
        (["curvse", "a"], "there is no figure 'curvse'; did you mean curves?"),
        (["curves"], "nothing to draw; type: wff plot curves RUN... --out DIR"),
        (["curves", "missing"], "there is no missing; give the folder of a run, its log, or a table"),
        (
            ["curves", "a", "--show", "blue"],
            "there is no panel 'blue'; type --show with some of training,loss,nll_loss,bleu",
        ),
        (
            ["curves", "b.log", "--show", "bleu"],
            "no log has validation BLEU; train with --eval-bleu, or leave bleu",
        ),
        (["curves", "a", "b.log", "--names", "one"], "2 inputs need as many different names; type --names with one"),
        (["alpha", "--alpha", "5", "--p", "10"], "the schedule needs q > p > 0 and no alpha below 0; type --alpha 5"),
        (["alpha", "--alpha", "5", "--updates", "0"], "--updates must be at least 1, got 0; type --updates 1"),
        (
            ["cost", "a", "--updates-per-epoch", "0"],
            "--updates-per-epoch must be at least 1, got 0; type",
        ),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_mistakes_say_what_to_type(wff, logs, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    assert said in wff(*words, ok=False)


def test_what_else_may_be_wrong_with_the_call(wff, logs):
    assert "there is no format 'gif'; type --format with some of png,pdf,svg" in wff(
        "curves", logs[0], endings="gif", ok=False
    )
    assert wff("curves", logs[0], out=None, ok=False) == "wff plot: the folder to write is missing; add --out DIR"
    assert "is a file, and a figure needs a folder; give another --out" in wff("curves", logs[0], out="b.log", ok=False)
    table = logs[1].with_name("curves.csv")
    table.write_text("run,method,seed,split,update,loss,nll_loss,bleu\na,a,1,valid,1O0,8,7,\n")
    assert "'1O0' is not a number; correct that cell of the CSV" in wff("curves", table, out=None, ok=False)


def test_a_log_without_losses_has_no_curves(wff, tmp_path):
    (tmp_path / "odd.log").write_text('2026 | INFO | train_inner | {"num_updates": "50", "wall": "9"}\n')
    assert "nothing to draw: no values in fairseq's log" in wff("curves", tmp_path / "odd.log", ok=False)


def test_seeds_of_a_method_are_one_line_in_a_band_and_all_in_the_csv(wff, tmp_path, drawn):
    runs = [recorded(a_run(tmp_path / f"sage-{seed}", {"_name": "x"}, seed), seed) for seed in (1, 2)]
    runs += [recorded(a_run(tmp_path / name, {"_name": "x"}), 1) for name in ("alone-1", "other-7")]
    for run, shift, updates in zip(runs, (0, 2, 0, 0), ((50, 100, 150), (50, 100), (50, 100), (50,)), strict=True):
        told = [line("train_inner", update, 10 - update / 50 + shift) for update in updates]
        (run / "train.log").write_text("\n".join(told))
    wff("curves", *runs)
    (axis,) = drawn[0].axes
    # sage-2 ends at update 100, and from there on the line is that of sage-1
    sage, *others = lines(axis).items()
    assert sage == ("sage (2 seeds)", [[50, 10], [100, 9], [150, 7]])
    assert [name for name, _ in others] == ["alone-1", "other-7"]
    band = axis.collections[0].get_paths()[0].get_extents()
    assert (band.x0, band.y0, band.x1, band.y1) == (50, 7, 150, 11)
    legend = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert legend == ["sage (2 seeds)", "alone-1", "other-7", "seeds: mean, lowest to highest"]
    table = read(wff.out / "curves.csv")
    assert [row["run"] for row in table].count("sage-2") == 2 and {row["seed"] for row in table} == {"1", "2"}


@pytest.mark.parametrize(
    "differ", [{}, {"pair": "en-de"}, {"changed": ["model.dropout=0.2"]}, {"recipe": "fairseq"}, {"config": "d/x.yaml"}]
)
def test_only_runs_that_differ_in_nothing_but_their_seed_are_one_line(tmp_path, differ):
    runs = [recorded(a_run(tmp_path / f"sage-{seed}", {}, seed), seed, **differ) for seed in (1, 2, 3)]
    recorded(runs[2], 3)
    methods = [columns["method"] for columns in seed_columns({run.name: run for run in runs}).values()]
    assert methods == (["sage"] * 3 if not differ else ["sage-1", "sage-2", "sage-3"])


def test_names_stay_where_no_two_of_them_differ_in_their_seed_alone(tmp_path):
    runs = [recorded(a_run(tmp_path / str(number), {}), seed) for number, seed in enumerate((1, 1, 1, 2))]
    for names in (["alpha-1", "alpha-5"], ["a", "b"], ["alpha-1", "beta-1"]):
        found = seed_columns(dict(zip(names, runs, strict=False)))
        assert {label: columns["method"] for label, columns in found.items()} == {name: name for name in names}
    found = seed_columns({"x-1": runs[0], "x-2": runs[3], "x": tmp_path})  # an x of other files
    assert [columns["method"] for columns in found.values()] == ["x-1", "x-2", "x"]


def test_curves_need_no_settings(wff, logs, tmp_path):
    (logs[0] / "run.yaml").write_text("common: [")
    wff("curves", logs[0])
    assert {row["seed"] for row in read(wff.out / "curves.csv")} == {""}


def test_what_has_no_rows_is_told_what_to_type_once(wff, logs, tmp_path):
    recorded(a_run(tmp_path / "runs/clean/de-en/sage-1", {}), 1)
    folder = tmp_path / "runs"
    said = wff("curves", folder, ok=False)
    assert said.endswith(f"nothing to draw: {folder} is a folder of runs; give its runs: {folder}/clean/de-en/*")
    old = write(tmp_path / "old/curves.csv", [{"run": "a", "split": "valid", "update": 1, "loss": 1}])
    said = wff("curves", old, ok=False)
    assert "old/curves.csv has no column method, seed, nll_loss, bleu; draw it again from the runs" in said
    for name in ("one", "two"):
        (tmp_path / f"{name}.log").write_text("nothing\n")
    said = wff("curves", logs[0], tmp_path / "one.log", tmp_path / "two.log").err
    assert "one, two: no values in fairseq's log" in said and said.count("no values") == 1


def test_seeds_that_were_logged_at_other_updates_are_interpolated_or_else_lines(tmp_path, drawn):
    def curve(run, *points):
        row = {"run": run, "method": "sage", "seed": "", "split": "valid", "nll_loss": "", "bleu": ""}
        return [{**row, "update": x, "loss": y} for x, y in points]

    registry.draw("curves", curve("a", (0, 4), (20, 2)) + curve("b", (10, 5), (20, 4)), tmp_path / "x.svg")
    assert lines(drawn[0].axes[0]) == {"sage (2 seeds)": [[0, 4], [10, 4], [20, 3]]}
    registry.draw("curves", curve("a", (10, 4)) + curve("b", (20, 3)), tmp_path / "x.svg")
    assert [each.get_xydata().tolist() for each in drawn[1].axes[0].lines] == [[[10, 4]], [[20, 3]]]


# Importance while training ------------------------------------------------------------------------------------------


@pytest.fixture
def measured(tmp_path):
    """importance.csv of two runs: one was stopped and went on, and its last line is half there."""

    def row(update, group, scale, frozen=""):
        return {
            "update": update, "by": "model" if group == "all" else "type", "group": group, "parameters": 10,
            "mean_top20": 4 * scale, "mean_bottom80": scale, "std": 2 * scale, "frozen": frozen,
        }  # fmt: skip

    plain = [row(u, g, s) for u, s in ((100, 8.0), (200, 9.0), (200, 4.0), (300, 2.0)) for g in ("all", "fc1")]
    frozen = [row(u, "all", 1.0, 0.5) for u in (100, 200)]
    write(tmp_path / "plain/checkpoints/importance.csv", plain)
    with write(tmp_path / "freeze/importance.csv", frozen).open("a") as file:
        file.write("300,model,all,10,4.0")
    return [tmp_path / "plain", tmp_path / "freeze"]


def test_importance_has_the_top_the_rest_the_balance_and_what_is_frozen(wff, measured, drawn):
    wff("importance", *measured)
    means, std, frozen = drawn[0].axes
    top, rest, *_ = means.lines
    assert top.get_xydata().tolist() == [[100, 32], [200, 16], [300, 8]] and top.get_label() == "plain"
    assert rest.get_xydata().tolist() == [[100, 8], [200, 4], [300, 2]] and rest.get_markerfacecolor() == "white"
    assert means.get_yscale() == "log" and "nats/token" in means.get_ylabel()
    assert lines(std)["freeze"] == [[100, 2], [200, 2]] and std.get_ylim()[0] == 0 and std.get_ylim()[1] > 16
    shown = [each for each in frozen.lines if not math.isnan(each.get_ydata()[0])]
    assert [each.get_label() for each in shown] == ["freeze"] and shown[0].get_ydata().tolist() == [50, 50]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["plain", "freeze", "top 20 %", "the rest"]


def test_importance_of_types_and_layers(wff, measured, drawn):
    wff("importance", measured[0], "--group", "fc1,all")
    assert len(drawn[0].axes) == 2  # nothing is frozen
    assert list(lines(drawn[0].axes[1])) == ["all", "fc1"]
    assert {row["group"] for row in read(wff.out / "importance.csv")} == {"all", "fc1"}
    said = wff("importance", measured[0], "--group", "fc9", ok=False)
    assert "importance.csv has no group 'fc9'; type --group with some of: all, fc1" in said
    other = write(measured[0] / "other.csv", [{"update": 1, "loss": 2}])
    assert "no importance.csv; train with --log-importance 200" in wff("importance", other, ok=False)


# The strength of intra-distillation ---------------------------------------------------------------------------------


def a_run(folder, criterion, seed=1, **more):
    settings = {
        "common": {"seed": seed}, "criterion": criterion, "optimizer": {"_name": "adam"},
        "model": {"_name": "transformer"}, "optimization": {"max_update": 1000}, **more,
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text(json.dumps(settings))
    return folder


def recorded(folder, seed, **more):
    """The run, as `wff train` records it."""
    about = {"dataset": "corpus", "recipe": "clean", "pair": "de-en", "method": "any", "seed": seed, "data": "d"}
    about |= {"config": "c/any.yaml", "commit": "1", **more}
    (folder / "provenance.json").write_text(json.dumps(about))
    return folder


def test_alpha_is_drawn_as_set_and_as_logged(wff, tmp_path, drawn):
    adaptive = a_run(tmp_path / "adaptive", {"_name": "intra_distillation"})
    (adaptive / "train.log").write_text("\n".join(line("train_inner", u, 5, alpha=u / 100) for u in (100, 300)))
    constant = a_run(tmp_path / "constant", {"_name": "intra_distillation", "alpha": 3, "alpha_schedule": "constant"})
    wff("alpha", adaptive, constant)
    (axis,) = drawn[0].axes
    line_of_settings, points, level, *_ = axis.lines
    shape = dict(line_of_settings.get_xydata().tolist())
    assert shape == {x: pytest.approx(adaptive_alpha(x, 1000, 5, p=5, q=10)) for x in shape}
    assert shape[100] == pytest.approx(1) and shape[200] == shape[1000] == 5 and shape[0] == 0
    assert points.get_xydata().tolist() == [[50, 1], [200, 3]]  # means of intervals, in their middles
    assert points.get_linestyle() == "None" and line_of_settings.get_marker() == ""
    assert set(level.get_ydata()) == {3} and level.get_label() == "constant"
    assert {row["source"] for row in read(wff.out / "alpha.csv")} == {"settings", "log"}


def test_alpha_without_runs_is_the_function_itself(wff, drawn):
    wff("alpha", "--alpha", 5, "--p", 5, "--q", "10,25", "--updates", 100)
    curved, straight = drawn[0].axes[0].lines
    assert curved.get_label() == "alpha 5, p 5, q 10" and straight.get_label() == "alpha 5, p 5, q 25"
    assert dict(straight.get_xydata().tolist())[10] == pytest.approx(2.5)  # linear where q = alpha p


def test_what_is_read_is_what_others_write():
    """And what a run leaves unsaid is what the criterion would do."""
    from weighted_freezing_fairseq.costs.results import Cost
    from weighted_freezing_fairseq.plugin import importance_log
    from weighted_freezing_fairseq.plugin.criterions import IntraDistillationConfig

    assert {*training.IMPORTANCE[3:]} < {*importance_log.COLUMNS}
    assert {*costs.BENCH, "flops"} < {field.name for field in dataclasses.fields(Cost)}
    own = IntraDistillationConfig()
    assert {name: str(getattr(own, name)) for name in training.PAPER} == {
        name: str(value) for name, value in training.PAPER.items()
    }


# What comes out of trainings ----------------------------------------------------------------------------------------


def test_passes_are_means_over_seeds_beside_standard_training(wff, tmp_path, drawn):
    smooth = {"_name": "label_smoothed_cross_entropy"}
    runs = []
    for number, (criterion, seed, bleu) in enumerate(
        [(smooth, 1, 30.0), (smooth, 2, 32.0)]
        + [({"_name": "intra_distillation", "num_passes": k}, s, 30.0 + k + s) for k in (2, 3) for s in (1, 2)]
        + [({"_name": "ewc"}, 1, 99.0)]
    ):
        runs.append(recorded(a_run(tmp_path / str(number), criterion, seed), seed))
        (runs[-1] / "scores").mkdir()
        score = {
            "subset": "test", "choice": "last", "decode": {"beam": 4}, "reference": "r", "sentences": 400,
            "bleu": bleu, "chrf": 1, "bleu_signature": "s", "chrf_signature": "s",
        }  # fmt: skip
        (runs[-1] / "scores/test.last.json").write_text(json.dumps(score))
    runs.append(a_run(tmp_path / "unscored", smooth))
    said = wff("passes", *runs)
    assert "6, unscored: no score of standard training or of intra_distillation" in said.err  # 6 is of ewc
    assert {row["setting"] for row in read(wff.out / "passes.csv")} == {"corpus, recipe clean, training c, de-en, test"}
    (axis,) = drawn[0].axes
    assert lines(axis)["standard (K = 1)"] == [[1, 31], [3, 31]]
    assert lines(axis)["x, alpha 5 adaptive"] == [[2, 33.5], [3, 34.5]]
    (bars,) = axis.containers
    spread = bars.lines[2][0].get_segments()[0]
    assert spread[:, 1].tolist() == pytest.approx([33.5 - 0.5**0.5, 33.5 + 0.5**0.5])
    assert axis.get_xlabel() == "passes K" and axis.get_ylabel() == "BLEU"


def test_a_single_number_of_passes_is_a_point_that_says_so(tmp_path, drawn):
    row = {"run": "a", "setting": "s", "model": "m", "scoring": "s", "series": "standard", "passes": 1}
    registry.draw("passes", [{**row, "seed": seed, "bleu": 30 + seed} for seed in (1, 2)], tmp_path / "passes.svg")
    (axis,) = drawn[0].axes
    assert lines(axis) == {"standard (K = 1)": [[1, 31.5]]}
    assert [text.get_text() for text in axis.texts] == ["scores of K = 1 only: train and score other K"]
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert labels == ["standard (K = 1)", "± standard deviation over seeds"]


def test_scores_of_other_models_and_signatures_stand_in_panels_of_their_own(wff, tmp_path, drawn):
    rows = [
        {"run": "a", "setting": s, "model": m, "scoring": "s", "series": "standard", "passes": 1, "seed": 1, "bleu": 30}
        for s, m in (("x-en", "small"), ("y-en", "small"))
    ]
    wff("passes", write(tmp_path / "passes.csv", rows))
    assert [axis.get_title() for axis in drawn[0].axes] == ["x-en", "y-en"]
    rows[1] |= {"setting": "x-en", "model": "large"}
    wff("passes", write(tmp_path / "passes.csv", rows))
    assert [axis.get_title() for axis in drawn[1].axes] == ["small", "large"]


def test_pruning_is_the_score_and_its_change(wff, tmp_path, drawn):
    rows = [
        {"checkpoint": c, "method": m, "fraction": 1 - r, "remaining": r, "bleu": 20 * r, "chrf": 1, "signature": "s"}
        for c in ("a", "b")
        for m in ("lamp", "random")
        for r in (1, 0.75)
    ]
    wff("pruning", write(tmp_path / "curve/curve.csv", rows).parent)
    score, change = drawn[0].axes
    assert list(lines(score)) == ["a, lamp", "a, random", "b, lamp", "b, random"]
    assert lines(score)["a, lamp"] == [[0, 20], [25, 15]] and lines(change)["b, random"] == [[0, 0], [25, -5]]
    assert score.get_ylabel() == "BLEU" and change.get_xlabel() == "pruned weights (%)"


@pytest.mark.slow
def test_pruning_while_training_begins_at_what_was_tuned_as_long(wff, tmp_path, drawn):
    def table(methods, sparsities=(0.7,), others=()):
        """As `wff prune-iterative` writes it, of two seeds; other pairs score half of it and quarter."""
        kinds = ("none", "cosine")
        cells = [Child("none"), *(Child(m, kind, share) for m in methods for share in sparsities for kind in kinds)]
        children = {Run(cell.name, seed, tmp_path): cell for cell in cells for seed in (1, 2)}
        parents = [Run("parent", seed, tmp_path) for seed in (1, 2)]
        bleu = dict.fromkeys(parents, 10.0) | {run: 18 - 4 * (c.sparsity > 0) + run.seed for run, c in children.items()}
        pairs = {"de-en": 1.0, **dict(zip(others, (0.5, 0.25), strict=False))}
        scores = {
            run: {pair: Score(part * value, "s", 1, "s", 400) for pair, part in pairs.items()}
            for run, value in bleu.items()
        }
        shares = {run: child.sparsity for run, child in children.items()}
        return write(tmp_path / "table.csv", prune_iterative.table(scores, shares, children, "de-en")[1])

    wff("pruning", table(["lamp"]))
    score, change = drawn[0].axes
    assert lines(score)["alignreg none"] == [[0, 19.5], [70, 15.5]]
    assert lines(change)["alignreg cosine"] == [[0, 0], [70, -4]]
    wff("pruning", table(["lamp", "l2", "l0", "fisher"]))
    assert [axis.get_title() for axis in drawn[1].axes] == ["alignreg none"] * 2 + ["alignreg cosine"] * 2
    assert list(lines(drawn[1].axes[0])) == ["lamp", "l2", "l0", "fisher"]
    wff("pruning", table(["lamp"], (0.3, 0.7), ("es-en", "pl-en")))
    score = lines(drawn[2].axes[0])
    assert score["alignreg none"] == [[0, 19.5], [30, 15.5], [70, 15.5]]
    assert [x for x, _ in score["alignreg cosine, other pairs"]] == [0, 30, 70]
    assert [y for _, y in score["alignreg cosine, other pairs"]] == pytest.approx(
        [0.375 * y for y in (19.5, 15.5, 15.5)], abs=0.01
    )


def test_norms_are_those_of_the_weights_by_layer_and_type(wff, tmp_path, drawn):
    embedding = torch.ones(3, 4)
    model = {
        "encoder.version": torch.tensor([3.0]),
        "encoder.embed_tokens.weight": embedding,
        "decoder.embed_tokens.weight": embedding,
        "decoder.output_projection.weight": embedding,
        "decoder.embed_positions._float_tensor": torch.ones(1),
        "encoder.layers.0.self_attn.q_proj.weight": torch.full((4, 4), 0.5),
        "encoder.layers.0.self_attn.q_proj.bias": torch.ones(4),
        "encoder.layers.0.self_attn_layer_norm.weight": torch.ones(4),
        "encoder.layers.1.self_attn.q_proj.weight": torch.tensor([[3.0, 0.0], [0.0, 4.0]]).half(),
        "decoder.layers.0.fc1.weight": torch.full((8, 4), 0.25),
    }
    torch.save({"model": model}, tmp_path / "dense.pt")
    model["decoder.layers.0.fc1.weight"] = torch.zeros(8, 4)
    torch.save({"model": model}, tmp_path / "pruned.pt")
    said = wff("norms", tmp_path / "dense.pt", tmp_path / "pruned.pt")
    assert "dense: reading " in said.err and "pruned: reading " in said.err
    found = {(r["run"], r["layer"], r["type"]): r for r in read(wff.out / "norms.csv")}
    assert found["dense", "", "embedding"]["parameters"] == "12"  # three names, one tensor
    assert {kind for _, _, kind in found} == {"embedding", "self-attention q", "bias", "norm", "fc1"}
    assert found["pruned", "decoder.layers.0", "fc1"]["zeros"] == "32"
    titles = ["dense, encoder", "dense, decoder", "pruned, encoder", "pruned, decoder"]
    assert [axis.get_title() for axis in drawn[0].axes] == titles
    assert lines(drawn[0].axes[0]) == {"self-attention q": [[1, 2], [2, 5]]}  # layers count from 1
    assert (
        lines(drawn[0].axes[1]) == {"fc1": [[1, pytest.approx(2**0.5)]]} and lines(drawn[0].axes[3])["fc1"][0][1] == 0
    )
    assert len({axis.get_ylim() for axis in drawn[0].axes}) == 1 and drawn[0].axes[0].get_ylim()[1] > 5
    wff("norms", wff.out / "norms.csv", "--per-parameter", out=None)
    assert lines(drawn[1].axes[0])["self-attention q"] == [[1, 0.5], [2, 2.5]]
    (tmp_path / "text.pt").write_text("no checkpoint")
    assert "text.pt is not a whole checkpoint" in wff("norms", tmp_path / "text.pt", ok=False)


# What methods cost --------------------------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path):
    def row(method, size, parameters, ratio, memory, flops):
        return {
            "method": method, "size": size, "time_ratio": ratio, "time_low": 0.9 * ratio, "time_high": 1.2 * ratio,
            "memory_ratio": memory, "flops": flops, "update_seconds": 0.5 * ratio, "parameters": parameters,
        }  # fmt: skip

    rows = [
        row(method, size, parameters, ratio, memory, flops * parameters)
        for size, parameters in (("small", 10), ("large", 1000))
        for method, ratio, memory, flops in (("standard", 1, 1, 6), ("sage", 1.1, 1.25, 9), ("fish_mask", 1, 0.8, 5))
    ]
    return write(tmp_path / "bench.csv", rows)


def test_cost_is_time_with_quartiles_and_memory_beyond_standards(wff, bench, drawn):
    wff("cost", bench.parent)
    time, memory, *larger = drawn[0].axes
    assert [label.get_text() for label in time.get_yticklabels()] == ["standard", "sage", "fish_mask"]
    assert [bar.get_width() for bar in time.patches] == pytest.approx([0.5, 0.55, 0.5])
    assert [bar.get_width() for bar in memory.patches] == pytest.approx([0, 25, -20])
    whiskers = [each.lines[2][0].get_segments()[0][:, 0].tolist() for each in time.containers if hasattr(each, "lines")]
    assert whiskers[1] == pytest.approx([0.495, 0.66])
    assert time.get_xlabel() == "seconds\nper update" and time.get_title(loc="left") == "small: 1e-05 M parameters"
    assert len(larger) == 2
    wff("cost", bench, "--updates-per-epoch", 100)
    assert drawn[1].axes[0].patches[0].get_width() == pytest.approx(50)
    assert drawn[1].axes[0].get_xlabel() == "seconds\nper epoch"


def test_what_is_zero_for_every_method_is_not_drawn(wff, bench, drawn):
    rows = [row | {"memory_ratio": 1, "flops": 6} for row in read(bench)]
    same = write(bench.parent / "same/bench.csv", rows)
    wff("cost", same)
    assert [axis.get_xlabel() for axis in drawn[0].axes] == ["seconds\nper update"] * 2  # one for each size
    said = wff("flops", same, ok=False)
    assert "no method needs more operations than standard training" in said and "wff bench" in said


def test_flops_are_those_beyond_standard_training_by_size(wff, bench, drawn):
    wff("flops", bench)
    (axis,) = drawn[0].axes
    assert lines(axis) == {"sage": [[10, 30], [1000, 3000]]}  # fish_mask needs no more
    assert axis.get_xscale() == axis.get_yscale() == "log"
    assert [row["more_flops"] for row in read(wff.out / "flops.csv")] == ["0", "30", "-10", "0", "3000", "-1000"]


def test_growth_is_over_what_was_varied_or_the_size_of_the_model(wff, bench, drawn):
    rows = read(bench)
    for row in rows:
        few = row["size"] == "small"
        row |= {"size": f"toy, passes {2 if few else 20}", "varied": "passes", "value": 2 if few else 20}
    varied = write(bench.parent / "varied/bench.csv", rows)
    wff("growth", varied)
    time, memory = drawn[0].axes
    assert lines(time)["sage"] == [[2, 1.1], [20, 1.1]] and lines(memory)["fish_mask"] == [[2, 0.8], [20, 0.8]]
    whiskers = [each.lines[2][0].get_segments()[0][:, 1].tolist() for each in time.containers]
    assert whiskers[1] == pytest.approx([0.99, 1.32])
    assert memory.get_xlabel() == "passes" and memory.get_xscale() == "log" and time.get_ylim()[0] == 0
    assert [label.get_text() for label in memory.get_xticklabels()] == ["2", "20"]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["standard", "sage", "fish_mask"]
    assert read(wff.out / "growth.csv")[0]["size"] == "toy"
    plain = write(bench.parent / "plain/bench.csv", [row | {"varied": "", "value": ""} for row in rows])
    wff("growth", varied, plain)
    assert [axis.get_xlabel() for axis in drawn[1].axes] == ["passes", "passes", "parameters", "parameters"]
    (sage,) = [points for name, points in lines(drawn[1].axes[2]).items() if name.startswith("sage")]
    assert sage == [[10, 1.1], [1000, 1.1]]
