"""Measures of labelled sentences against scikit-learn and scipy, and what a task decides of a training."""

import argparse
import json
import random
import warnings
from dataclasses import replace
from pathlib import Path

import fairseq
import labelled_files
import numpy as np
import pytest
from omegaconf import OmegaConf
from recipe_runs import CONFIGS
from scipy import stats
from sklearn import metrics

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.cli import arguments, train
from weighted_freezing_fairseq.data import GLUE, PAWSX, XGLUE, XNLI, prepare_command
from weighted_freezing_fairseq.errors import UserError
from weighted_freezing_fairseq.report.tables import write
from weighted_freezing_fairseq.scoring.sentences import evaluate
from weighted_freezing_fairseq.scoring.sentences.evaluate import as_text
from weighted_freezing_fairseq.scoring.sentences.measures import MEASURES, all_scores, as_numbers, ndcg_of_queries
from weighted_freezing_fairseq.scoring.sentences.significance import Labels
from weighted_freezing_fairseq.studies.reproduce import cells_of, levels
from weighted_freezing_fairseq.studies.sentences import task as sentence_task
from weighted_freezing_fairseq.workspace.machine import Machine
from weighted_freezing_fairseq.workspace.runs import Run

RNG = np.random.default_rng(3)
CLASSES = RNG.integers(0, 2, (2, 40))
SCORES = RNG.normal(size=(2, 40)).round(1)  # with ties


def test_measures_by_hand():
    """Of 1 1 1 0 0 against 1 1 0 0 1: two true positives, one false positive, one false negative, one true negative."""
    predicted, gold = np.array([1, 1, 1, 0, 0]), np.array([1, 1, 0, 0, 1])
    found = all_scores(predicted, gold, ["accuracy", "f1", "mcc"])
    assert found == pytest.approx(
        {"accuracy": 60, "f1": 100 * 4 / 6, "mcc": 100 * (2 * 1 - 1 * 1) / (3 * 3 * 2 * 2) ** 0.5}
    )
    # x - mean: -1 0 1, y - mean: -1 -1 2; 3 / sqrt(2 * 6)
    assert MEASURES["pearson"].score(np.array([1.0, 2, 3]), np.array([0.0, 0, 3])) == pytest.approx(3 / 12**0.5)
    assert MEASURES["spearman"].score(np.array([1.0, 2, 3]), np.array([0.0, 1, 30])) == pytest.approx(1)


def test_ndcg_by_hand():
    """Labels 4, 0 and 1 of one query, 1 and 0 of another; a third has one page, and no page of the last is relevant.

    The best order of the first has 4 / log2(2) + 1 / log2(3) = 4.6309. Predicted 4, 1 and 1: the two that follow share
    ranks 2 and 3, (0 + 1) / 2 * (1 / log2(3) + 1 / log2(4)) = 0.5655, so 4.5655. Predicted 0 and 2: the relevant page
    of the second is on rank 2, 1 / log2(3) = 0.6309 in place of 1.
    """
    gold = as_numbers(["4\t0", "0\t0", "1\t0", "1\t1", "0\t1", "3\t2", "0\t3", "0\t3"], list("01234"), "x")
    predicted = as_numbers(list("41102333"), list("01234"), "x")
    first, second = 4.5655 / 4.6309, 0.6309
    assert ndcg_of_queries(predicted, gold)[0] == pytest.approx([first, second, 0], abs=1e-4)
    assert all_scores(predicted, gold, ["ndcg"])["ndcg"] == pytest.approx(100 * (first + second) / 3, abs=1e-2)
    assert all_scores(gold[0], gold, ["ndcg"])["ndcg"] == pytest.approx(100 * 2 / 3)
    assert all_scores(predicted[5:6], gold[:, 5:6], ["ndcg"]) == {"ndcg": 0}  # no query with several pages


def test_measures_are_those_of_the_libraries():
    predicted, gold = CLASSES
    assert MEASURES["accuracy"].score(*CLASSES) == metrics.accuracy_score(gold, predicted)
    assert MEASURES["f1"].score(*CLASSES) == pytest.approx(metrics.f1_score(gold, predicted))
    assert MEASURES["mcc"].score(*CLASSES) == metrics.matthews_corrcoef(gold, predicted)
    assert MEASURES["pearson"].score(*SCORES) == stats.pearsonr(*SCORES).statistic
    assert MEASURES["spearman"].score(*SCORES) == stats.spearmanr(*SCORES).statistic


@pytest.mark.parametrize("name", MEASURES)
def test_many_sets_at_once_are_scored_as_one(name):
    kinds = SCORES if name in ("pearson", "spearman") else CLASSES
    places = np.random.default_rng(1).integers(0, 40, (30, 40))
    predicted, gold = (values[places] for values in kinds)
    predicted[3], gold[4] = 1, 0  # constant ones
    wanted = [MEASURES[name].score(one, other) for one, other in zip(predicted, gold, strict=True)]
    np.testing.assert_allclose(MEASURES[name].scores(predicted, gold), wanted, atol=1e-12)


@pytest.mark.parametrize(
    ("predicted", "gold"), [([1, 1], [0, 1]), ([0, 1], [1, 1]), ([0, 0], [0, 0]), ([1], [1]), ([0], [1])]
)
def test_degenerate_sets_have_a_score_and_no_warning(predicted, gold):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        of_rows = [name for name in MEASURES if name != "ndcg"]
        found = all_scores(np.array(predicted, float), np.array(gold, float), of_rows)
    assert all(np.isfinite(value) for value in found.values())
    assert found["mcc"] == found["pearson"] == found["spearman"] == 0


def test_labels_become_numbers_or_the_user_is_told():
    assert as_numbers(["b", "a"], ["a", "b"], "x").tolist() == [1, 0]
    assert as_numbers(["1.5", "2"], [], "x").tolist() == [1.5, 2]
    assert as_numbers(["b\t0", "a\t7"], ["a", "b"], "x").tolist() == [[1, 0], [0, 7]]  # with numbers of queries
    with pytest.raises(UserError, match="x has a label that is none of a, b"):
        as_numbers(["c"], ["a", "b"], "x")
    with pytest.raises(UserError, match="the training diverged: try a lower learning rate"):
        as_numbers(["nan"], [], "x")


def test_a_score_is_shown_with_its_languages():
    found = {"scores": {"accuracy": 50.0}, "sets": {"de": 40.0, "en": 60.0}, "sentences": 1234, "signature": "s"}
    assert as_text(found) == "accuracy 50.00  1,234 sentences, de 40.0, en 60.0  s"


def study(*words):
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    return arguments.study_of(parser.parse_args(list(map(str, words))))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    folder = labelled_files.roberta(tmp_path_factory.mktemp("encoder") / "roberta", weights=False)
    (folder / "model.pt").touch()
    return folder


def settings_of(study, config, files, manifest):
    return study.task.settings(config, files, manifest, study.assignments)


def manifest_of(task, rows, encoder):
    from weighted_freezing_fairseq.data.fetch import sha256

    names = ("dict.txt", "encoder.json", "vocab.bpe")
    return {"task": task, "rows": {"train": rows}, "encoder": {name: sha256(encoder / name) for name in names}}


@pytest.mark.skipif(fairseq.__version__.startswith("0.12.2"), reason="fairseq 0.12.2 has no reports")
def test_a_task_decides_classes_updates_and_alpha(encoder):
    """Xu et al. 2022: 20 epochs of 32 sentences, alpha of Table 6; a sum over the batch and F1 as in their code."""
    mine = study("glue", "--encoder", encoder)
    config = CONFIGS / "glue/intra_distillation.yaml"
    found = settings_of(mine, config, {}, manifest_of("MRPC", 3668, encoder))
    assert found == {
        "task": {"num_classes": 2},
        "criterion": {
            "regression_target": False, "alpha": 1.5, "divergence_reduction": "sum", "report_acc_and_f1": True
        },
        "optimization": {"max_update": 2300},  # 20 x 115
        "checkpoint": {
            "finetune_from_model": str(encoder / "model.pt"),
            "best_checkpoint_metric": "f1", "maximize_best_checkpoint_metric": True,
        },
    }  # fmt: skip
    found = settings_of(mine, config, {}, manifest_of("STS-B", 5749, encoder))
    assert found["task"]["num_classes"] == 1 and found["criterion"] == {
        "regression_target": True, "alpha": 1.0, "divergence_reduction": "mean", "report_pearson_and_spearman": True
    }  # fmt: skip
    assert found["checkpoint"]["best_checkpoint_metric"] == "pearson"
    found = settings_of(mine, config, {}, manifest_of("MNLI", 392_702, encoder))
    assert found["task"]["num_classes"] == 3 and found["optimization"]["max_update"] == 20 * 12_272
    assert found["criterion"]["alpha"] == 0.5 and found["checkpoint"]["best_checkpoint_metric"] == "accuracy"
    found = settings_of(mine, config, {}, manifest_of("QQP", 363_846, encoder))
    assert found["criterion"]["alpha"] == 0.5 and found["checkpoint"]["best_checkpoint_metric"] == "f1"
    third = settings_of(mine, CONFIGS / "glue/intra_distillation_third.yaml", {}, manifest_of("MRPC", 3668, encoder))
    assert third["optimization"]["max_update"] == 7 * 115


def test_the_best_checkpoint_is_chosen_by_what_the_task_is_scored_by(encoder, monkeypatch, capsys):
    def chosen(task, *more):
        config = CONFIGS / "glue/sage.yaml"
        found = settings_of(study("glue", "--encoder", encoder, *more), config, {}, manifest_of(task, 100, encoder))
        reports = sorted(name for name in found["criterion"] if name.startswith("report"))
        chosen_by = found["checkpoint"]["best_checkpoint_metric"]
        return chosen_by, found["checkpoint"].get("maximize_best_checkpoint_metric"), *reports

    monkeypatch.setattr(sentence_task, "installed_versions", lambda: {"fairseq-fixed": "0.12.3.1"})
    assert chosen("CoLA") == ("mcc", True, "report_mcc") and chosen("QNLI") == ("accuracy", True)
    assert chosen("CoLA", "--set", "checkpoint.best_checkpoint_metric=loss") == ("loss", None)
    ranked = settings_of(
        study("xglue", "--encoder", encoder), CONFIGS / "glue/sage.yaml", {}, manifest_of("WPR", 100, encoder)
    )
    assert ranked["checkpoint"]["best_checkpoint_metric"] == "accuracy"  # fairseq knows no queries
    monkeypatch.setattr(sentence_task, "installed_versions", lambda: {"fairseq": "0.12.2"})
    assert chosen("CoLA") == ("accuracy", True) and chosen("STS-B") == ("loss", False)
    assert "fairseq 0.12.2 does not log mcc: the best checkpoint is chosen by accuracy" in capsys.readouterr().err


def test_what_a_user_changes_counts_for_the_rest_too(encoder):
    mine = study("glue", "--encoder", encoder, "--set", "optimization.max_epoch=2", "--set", "dataset.batch_size=8")
    found = settings_of(mine, CONFIGS / "glue/standard.yaml", {}, manifest_of("RTE", 2490, encoder))
    assert found["optimization"] == {"max_update": 2 * 312, "max_epoch": 2}
    mine = study("xnli", "--encoder", encoder, "--set", "optimization.max_update=100")
    found = settings_of(mine, CONFIGS / "xnli/standard.yaml", {}, manifest_of("XNLI", 392_702, encoder))
    assert found["optimization"] == {"max_update": 100}
    mine = study("xnli", "--encoder", encoder)
    found = settings_of(mine, CONFIGS / "xnli/standard.yaml", {}, manifest_of("XNLI", 392_702, encoder))
    assert found["optimization"]["max_update"] == 3 * 24_544
    mine = study("pawsx", "--encoder", encoder)
    found = settings_of(mine, CONFIGS / "pawsx/standard.yaml", {}, manifest_of("PAWS-X", 49_401, encoder))
    assert found["optimization"]["max_update"] == 5 * 3088
    mine = study("xglue", "--encoder", encoder)
    for name, epochs in (("standard", 10), ("cosine", 180)):
        found = settings_of(mine, CONFIGS / f"xglue/{name}.yaml", {}, manifest_of("NC", 100_000, encoder))
        assert found["optimization"]["max_update"] == epochs * 3125 and found["task"]["num_classes"] == 10


def test_the_encoder_must_be_that_of_the_data(encoder):
    manifest = manifest_of("RTE", 2490, encoder)
    config = CONFIGS / "glue/standard.yaml"
    with pytest.raises(UserError, match="starts from a pretrained model; give its folder: --encoder DIR"):
        settings_of(study("glue"), config, {}, manifest)
    manifest["encoder"]["dict.txt"] = "another"
    with pytest.raises(UserError, match="dict.txt is not the one that the data was prepared with; give --encoder that"):
        settings_of(study("glue", "--encoder", encoder), config, {}, manifest)


@pytest.mark.parametrize(("name", "task"), [("xnli", "en"), ("pawsx", "en"), ("xglue", "wpr")])
def test_data_that_is_missing_is_prepared_by_the_command_of_its_name(name, task):
    assert prepare_command(name, "xlmr", task) == f"wff prepare {name} --tasks {task} --archive FILES --encoder DIR"


def test_a_cell_is_named_by_its_task_and_says_what_to_type(encoder):
    mine = study("glue", "--encoder", encoder, "--out", "/runs")
    run = mine.run(mine.task.pair("STS-B"), "sage", 3)
    assert run.folder == Path("/runs/roberta/sts-b/sage-3") and mine.parent("sts-b", run) is None
    assert mine.task.pair(None) == "rte" and "--pair sts-b --method sage --seed 3" in (
        typed := mine.command("sts-b", run)
    )
    assert typed.endswith(f"--encoder {encoder}")
    for words, told in (
        (["multi30k", "--encoder", "x"], "--encoder is for glue, xnli, pawsx, xglue, sentences; leave it out"),
        (["glue", "--recipe", "clean"], "glue has no recipe 'clean'; type --recipe roberta or xlmr"),
    ):
        with pytest.raises(UserError, match=told):
            study(*words)
    with pytest.raises(UserError, match="glue has no task 'wnli' here; type some of: rte,cola,mrpc"):
        mine.task.pair("WNLI")


def test_a_mask_is_measured_in_the_encoder_before_it_is_trained(encoder):
    """As Sung et al. section 2.2: with a new classifier, in 0.5 % of the numbers; `wff reproduce` adds that run."""
    mine = study("glue", "--encoder", encoder, "--out", "/runs")
    run = mine.run("rte", "fish_mask", 3)
    assert (start := mine.parent("rte", run)).folder == Path("/runs/roberta/rte/untrained-3")
    assert mine.task.mask_density == 0.005 and mine.parent("rte", start) is None
    matrix = replace(mine, methods=("standard", "fish_mask"))
    order = [[run.method for _, run in level] for level in levels(matrix, cells_of(matrix, ["rte"], [3]))]
    assert order == [["standard", "untrained"], ["fish_mask"]]
    found = settings_of(mine, CONFIGS / "glue/untrained.yaml", {}, manifest_of("RTE", 2490, encoder))
    assert found["optimization"] == {} and found["checkpoint"]["finetune_from_model"] == str(encoder / "model.pt")
    found = settings_of(
        mine, CONFIGS / "glue/fish_mask.yaml", {"fish_mask": Path("/m.pt")}, manifest_of("RTE", 2490, encoder)
    )
    assert found["optimizer"] == {"fish_mask": "/m.pt"} and found["optimization"] == {"max_update": 20 * 78}
    assert found["checkpoint"]["finetune_from_model"] == str(encoder / "model.pt")
    named = study("glue", "--encoder", encoder, "--set", "optimizer.fish_mask=/n.pt")
    assert named.parent("rte", run) is None


def test_several_gpus_share_the_sentences_of_a_batch(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    found = Machine("cuda", 1, 1, 2, "bf16").settings(32, 1, "batch_size")
    assert (found["dataset"], found["optimization"]) == ({"batch_size": 16}, {"update_freq": [1]})
    found = Machine("cuda", 1, 1, 2, "bf16", tokens_per_gpu=4).settings(32, 1, "batch_size")
    assert (found["dataset"], found["optimization"]) == ({"batch_size": 4}, {"update_freq": [4]})


def test_a_yaml_leaves_open_what_tasks_decide_and_nothing_else():
    """A YAML must not contradict the facts of a task."""
    for data in (GLUE, XNLI, PAWSX, XGLUE):
        for path in (CONFIGS / data.name).glob("*.yaml"):
            cfg = OmegaConf.load(path)
            left = {f"{s}.{k}" for s, values in cfg.items() for k in values if OmegaConf.is_missing(values, k)}
            always = {"task.data", "checkpoint.save_dir", "checkpoint.finetune_from_model", "optimization.max_update"}
            tasks = {"task.num_classes", "criterion.regression_target", "checkpoint.best_checkpoint_metric"}
            intra = {"criterion.alpha"} if path.stem.startswith("intra") else set()
            intra |= {"criterion.divergence_reduction"} if cfg.criterion._name == "intra_distillation" else set()
            always -= {"optimization.max_update"} if path.stem == "untrained" else set()
            always |= {"optimizer.fish_mask"} if path.stem == "fish_mask" else set()
            open_to_tasks = {"glue": tasks | intra, "xglue": {"task.num_classes"}}.get(data.name, set())
            assert left == always | open_to_tasks, path
            assert cfg.dataset.batch_size == (32 if data.name in ("glue", "xglue") else 16)


# Report --------------------------------------------------------------------------------------------------------------


def a_run(root, task, method, seed, share, recipe="roberta", data=GLUE, sets=("dev",), subset="dev"):
    """A run folder as `wff train` and `wff evaluate` leave it, a share of whose labels is right."""
    key = next(key for key, own in data.tasks.items() if own is task)
    folder, prepared = root / f"runs/{recipe}/{key}/{method}-{seed}", root / data.name / recipe / key
    gold = {name: [task.labels[(n + len(name)) % 2] if task.labels else str(n % 11 / 2) for n in range(40)]
            for name in sets}  # fmt: skip
    (prepared / "labels").mkdir(parents=True, exist_ok=True)
    number = "\t{}" if task.ranked else ""  # of the query: four rows each
    lines = [label + number.format(n // 4) for n, label in enumerate(label for own in gold.values() for label in own)]
    (prepared / f"labels/{subset}.txt").write_text("".join(f"{line}\n" for line in lines))
    rng = random.Random(f"{task.name} {method} {seed}{subset.removeprefix('dev')}")
    (folder / "made").mkdir(parents=True, exist_ok=True)
    for name, own in gold.items():
        found = [label if rng.random() < share else rng.choice(own) for label in own]
        (folder / "made" / name).write_text("".join(f"{label}\n" for label in found))
    (folder / ".training.json").touch()
    about = {"dataset": data.name, "recipe": recipe, "pair": key, "data": str(prepared), "method": method, "seed": seed}
    about |= {"config": f"configs/{data.name}/{method}.yaml", "commit": "abc", "changed": [], "command": "wff train x"}
    (folder / "provenance.json").write_text(json.dumps(about))
    manifest = {"recipe": recipe, "task": task.name, "labels": list(task.labels), "metrics": list(task.metrics)}
    evaluate.write_scores(
        Run.load(folder), prepared, manifest, "best", subset, {name: folder / "made" / name for name in gold}
    )
    return folder


def labels_of(folder):
    return (folder / "scores/dev.best.hyp.txt").read_text().split()


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    root = tmp_path_factory.mktemp("matrix")
    for key in ("rte", "cola", "mrpc", "sts-b"):
        for method, share in (("standard", 0.5), ("weighted_freeze", 0.8)):
            for seed in (1, 2):
                a_run(root, GLUE.tasks[key], method, seed, share)
    a_run(root, GLUE.tasks["qnli"], "sage", 1, 0.5)
    for method, share in (("standard", 0.5), ("weighted_freeze", 0.9)):
        a_run(root, XNLI.tasks["en"], method, 1, share, "xlmr", XNLI, XNLI.tasks["en"].subsets["dev"])
        a_run(root / "runs/pawsx", PAWSX.tasks["en"], method, 1, share, "xlmr", PAWSX, PAWSX.tasks["en"].subsets["dev"])
    return root


@pytest.mark.slow
def test_tables_of_labels_are_like_those_of_translation(matrix, tmp_path, capsys):
    report = write([matrix / "runs"], tmp_path)
    assert [name for name, sheet in report.sheets.items() if sheet.grids and any(c.state == "run" for c in sheet.cells)]
    li = {(cell.method, cell.pair): cell for cell in report.sheets["li-7"].cells}
    ours = li["weighted_freeze", "mrpc"]
    runs = [matrix / f"runs/roberta/mrpc/weighted_freeze-{seed}" for seed in (1, 2)]
    gold = (matrix / "glue/roberta/mrpc/labels/dev.txt").read_text().split()
    f1 = [100 * metrics.f1_score(gold, labels_of(run), pos_label="1") for run in runs]
    assert ours.score == pytest.approx(np.mean(f1)) and ours.score_sd == pytest.approx(np.std(f1, ddof=1))
    assert (ours.paper, ours.metric, ours.seeds, ours.n) == (90.2, "F1", "1 2", 2)
    assert ours.second == pytest.approx(100 * np.mean([np.mean(np.array(gold) == labels_of(run)) for run in runs]))
    assert 0 < ours.p_randomisation < 0.2 and 0 < ours.p_bootstrap < 0.2 and ours.minus_standard > 0
    assert li["sage", "rte"].state == "not run" and li["weighted_freeze", "cola"].metric == "Matthews"
    assert {(c.pair, c.method) for c in report.sheets["xu-4"].cells if c.state == "run"} == {
        *((pair, "standard") for pair in ("cola", "sts-b", "rte", "mrpc")), ("qnli", "sage"),
    }  # fmt: skip
    xnli = {cell.method: cell for cell in report.sheets["li-4"].cells}
    assert (xnli["weighted_freeze"].sentences, xnli["weighted_freeze"].paper) == (600, 79.1)
    assert xnli["weighted_freeze"].p_randomisation == pytest.approx(2 / 10_000)
    for name, rows in (("li-4-pawsx", 6), ("li-6-pawsx", 7)):
        pawsx = {cell.method: cell for cell in report.sheets[name].cells}
        assert len(pawsx) == rows
        assert (pawsx["weighted_freeze"].sentences, pawsx["weighted_freeze"].paper) == (280, 88.2)
    assert "no standard" in (note := "\n".join(report.notes)) and "wff train glue --task qnli --recipe roberta" in note
    text = str(report)
    assert "official test, scored by GLUE's server; ours are of dev" in text and "accuracy|scikit-learn:" in text
    assert "| method | seeds | Pearson | Spearman | minus standard |" in text and "best checkpoint, \n" not in text
    by_set = [grid for grid in report.sheets["runs"].grids if grid.title.endswith("accuracy of each set")]
    by_language = next(grid for grid in by_set if grid.title.startswith("xnli"))
    assert by_language.header == ["method", *XNLI.tasks["en"].subsets["dev"]] and len(by_language.rows) == 2
    scored = json.loads((matrix / "runs/xlmr/en/weighted_freeze-1/scores/dev.best.json").read_text())["sets"]
    assert by_language.rows[1] == ["`weighted_freeze`", *(f"{score:.2f}" for score in scored.values())]
    assert main(["report", str(matrix / "runs"), "--table", "li-4", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tables"]["li-4"][0]["paper"] == 76.4


def test_mnli_has_two_columns_and_the_average_has_all(tmp_path):
    for key, task in GLUE.tasks.items():
        for method, share in (("standard", 0.5), ("intra_distillation", 0.8)):
            a_run(tmp_path, task, method, 1, share)
            if key == "mnli":
                a_run(tmp_path, task, method, 1, share, sets=("dev_mismatched",), subset="dev_mismatched")
    sheet = write([tmp_path / "runs"], tmp_path / "out", ["xu-4"]).sheets["xu-4"]
    found = {cell.pair: cell for cell in sheet.cells if cell.method == "intra_distillation"}
    assert all(cell.state == "run" for cell in found.values()) and len(found) == 10
    assert [(found[name].paper, found[name].test) for name in ("mnli", "mnli-mm")] == [
        (85.2, "dev"), (84.2, "dev_mismatched")
    ]  # fmt: skip
    scores = tmp_path / "runs/roberta/mnli/intra_distillation-1/scores"
    for name in ("mnli", "mnli-mm"):
        assert found[name].score == json.loads((scores / f"{found[name].test}.best.json").read_text())["score"]
        assert found[name].p_randomisation is not None
    assert (found["qqp"].metric, found["qqp"].paper) == ("F1", 72.4)
    average = found.pop("average")
    assert average.score == pytest.approx(np.mean([cell.score for cell in found.values()]))
    assert average.minus_standard == pytest.approx(np.mean([cell.minus_standard for cell in found.values()]))
    assert average.metric == "Matthews, accuracy, F1, Pearson" and average.minus_paper == average.score - 80.74
    assert "accuracy|scikit-learn:" in average.signature and "; Pearson|scipy:" in average.signature
    (tmp_path / "runs/roberta/mnli/intra_distillation-1/scores/dev_mismatched.best.json").unlink()
    sheet = write([tmp_path / "runs"], tmp_path / "out", ["xu-4"]).sheets["xu-4"]
    assert {cell.state for cell in sheet.cells if (cell.method, cell.pair) == ("intra_distillation", "average")} == {
        "8 of 9 pairs"
    }


@pytest.mark.slow
def test_the_table_of_xglue_has_ours_for_the_tasks_of_sentences(tmp_path):
    for task in XGLUE.tasks.values():
        for method, share in (("standard", 0.9), ("frobenius", 0.5)):
            a_run(tmp_path, task, method, 1, share, "xlmr", XGLUE, task.subsets["test"], "test")
    report = write([tmp_path / "runs"], tmp_path / "out", ["oneill-1", "runs"])
    cells = {(cell.pair, cell.method): cell for cell in report.sheets["oneill-1"].cells}
    for key in XGLUE.tasks:
        ours = cells[key, "frobenius"]
        gold = (tmp_path / f"xglue/xlmr/{key}/labels/test.txt").read_text().splitlines()
        lines = (tmp_path / f"runs/xlmr/{key}/frobenius-1/scores/test.best.hyp.txt").read_text().splitlines()
        if key == "wpr":
            pages = np.array([line.split("\t")[0] for line in gold], int).reshape(-1, 4)
            wanted = metrics.ndcg_score(pages, np.array(lines, int).reshape(-1, 4))
        else:
            wanted = np.mean(np.array(gold) == lines)
        assert ours.score == pytest.approx(100 * wanted) and ours.minus_standard < 0 and ours.p_bootstrap < 0.05
        assert (ours.metric, ours.test) == ("nDCG" if key == "wpr" else "accuracy", "test")
    assert cells["wpr", "frobenius"].p_randomisation < 0.05
    states = {pair: cells[pair, "frobenius"].state for pair in ("ner", "pos", "average")}
    assert states == {"ner": "not run", "pos": "not run", "average": "6 of 8 pairs"}
    assert cells["nc", "cosine"].state == "not run" and cells["nc", "cosine"].paper == 79.15
    by_set = next(grid for grid in report.sheets["runs"].grids if grid.title.endswith("nDCG of each set"))
    assert by_set.header == ["method", *XGLUE.tasks["wpr"].subsets["test"]]
    scored = json.loads((tmp_path / "runs/xlmr/wpr/frobenius-1/scores/test.best.json").read_text())["sets"]
    assert by_set.rows[1] == ["`frobenius`", *(f"{score:.2f}" for score in scored.values())]


def test_p_values_of_ndcg_are_over_queries():
    """Of three queries one system ranks all, the other the last: 2 of the 4 swaps of the others differ by no less."""
    labels, gold = Labels("wpr", tuple("01234"), "ndcg"), [f"{n % 2}\t{n // 2}" for n in range(6)]
    found = labels.p_values(list("101001"), list("010101"), gold)
    assert found.randomisation == pytest.approx(2 / 4) and "nDCG|scikit-learn:" in found.randomisation_signature
    assert labels.score(list("010101"), gold) == 100
    # as of the means of three numbers
    mean = Labels("x", (), "accuracy")
    assert found.bootstrap == mean.p_values(["0", "0", "1"], ["1"] * 3, ["1"] * 3).bootstrap


def test_the_server_gets_a_file_for_each_set(tmp_path):
    task = GLUE.tasks["mnli"]
    folder, labels = a_run(tmp_path, task, "standard", 1, 0.5), {"MNLI-m": "neutral entailment", "MNLI-mm": "neutral"}
    for name, predicted in labels.items():
        (folder / "made" / name).write_text(predicted.replace(" ", "\n") + "\n")
    manifest = {"recipe": "roberta", "task": "MNLI", "labels": list(task.labels), "metrics": list(task.metrics)}
    paths = {name: folder / "made" / name for name in task.subsets["test"]}
    evaluate.write_scores(Run.load(folder), tmp_path / "glue/roberta/mnli", manifest, "last", "test", paths)
    assert not (folder / "scores/test.last.json").exists()
    assert {path.name: path.read_text() for path in (folder / "server/last").iterdir()} == {
        "MNLI-m.tsv": "index\tprediction\n0\tneutral\n1\tentailment\n",
        "MNLI-mm.tsv": "index\tprediction\n0\tneutral\n",
    }


def test_a_page_shows_them_too(matrix, tmp_path):
    folder = matrix / "runs/roberta/sts-b/weighted_freeze-1"
    assert main(["report", "--html", str(folder), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "Pearson" in page and f"{json.loads((folder / 'scores/dev.best.json').read_text())['score']:.2f}" in page


def test_p_values_of_labels_by_hand():
    """Of four sentences one system has all, the other the first two: the four swaps of the others tell how often."""
    right, wrong = GLUE.tasks["rte"].labels
    labels = Labels("rte", (right, wrong), "accuracy")
    found = labels.p_values([right, right, wrong, wrong], [right] * 4, [right] * 4)
    assert found.randomisation == pytest.approx(2 / 4)  # 2 of 4 differ by no less, both signs
    assert found.bootstrap == labels.p_values([right, right, wrong, wrong], [right] * 4, [right] * 4).bootstrap
    same = labels.p_values([right] * 4, [right] * 4, [right] * 4)
    assert (same.randomisation, same.bootstrap) == (1, 1) and "|randomisation:9999|seed:12345|scipy:" in str(same)


def test_labels_that_are_not_those_scored_are_refused(matrix, tmp_path):
    root = tmp_path / "copy"
    for method in ("standard", "sage"):
        folder = a_run(root, GLUE.tasks["rte"], method, 1, 0.5)
    path = folder / "scores/dev.best.hyp.txt"
    path.write_text(path.read_text().replace("not_entailment", "entailment"))
    with pytest.raises(UserError, match="not .* as is recorded; score the run again: rm .*scoring"):
        write([root / "runs"], tmp_path / "out")
