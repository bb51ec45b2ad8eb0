"""The steps that recipes share: what is left open is filled in, and a failure says why."""

import pytest
from recipe_runs import CONFIGS, shortened

from weighted_freezing_fairseq.errors import UserError
from weighted_freezing_fairseq.studies.sizes import SIZES
from weighted_freezing_fairseq.studies.train import Study
from weighted_freezing_fairseq.studies.training import fill_open_settings, train
from weighted_freezing_fairseq.workspace.machine import Machine
from weighted_freezing_fairseq.workspace.runs import Run


@pytest.mark.slow
def test_what_a_yaml_leaves_open_is_filled_in_and_nothing_else(tmp_path):
    fisher, teacher = tmp_path / "f.pt", tmp_path / "t.pt"
    found = {"fisher": fisher, "ewc_anchor": fisher, "teacher": teacher}
    given = {
        path.relative_to(CONFIGS).with_suffix("").as_posix(): fill_open_settings(path, found)
        for path in CONFIGS.rglob("*.yaml")
    }
    fisher_settings, teacher_settings = {"optimizer": {"fisher": str(fisher)}}, {"criterion": {"teacher": str(teacher)}}
    sizes = [f"own/{size}" for size in SIZES]
    assert {name: settings for name, settings in given.items() if settings} == {
        "adapt/ewc": {"criterion": {"ewc_anchor": str(fisher)}},
        "adapt/spg": fisher_settings,
        **{f"{folder}/lfr_cm": fisher_settings for folder in ("adapt", "multi30k", "iwslt14", *sizes)},
        **{
            f"{folder}/self_distillation": teacher_settings
            for folder in ("toy", "multi30k", "lowresource", "iwslt14", *sizes)
        },
        **{f"{folder}/self_distillation_twice": teacher_settings for folder in ("iwslt14", *sizes)},
    }  # no mask was found for adapt/fish_mask
    start = fill_open_settings(CONFIGS / "multi30k/fish_mask.yaml", {"finetune_from_model": teacher})
    assert start == {"checkpoint": {"finetune_from_model": str(teacher)}}


@pytest.mark.parametrize(
    ("remove_bpe", "tokenizer", "detok"), [("sentencepiece", None, "space"), ("subword_nmt", "moses", "moses")]
)
def test_bleu_while_training_is_that_of_the_recipes_text(remove_bpe, tokenizer, detok):
    task = Study.of("iwslt14", configs=CONFIGS / "iwslt14-li").task
    manifest = {"generate": {"remove_bpe": remove_bpe, "tokenizer": tokenizer}}
    found = task.settings(CONFIGS / "iwslt14-li/standard.yaml", {}, manifest, ())
    assert found == {"task": {"eval_bleu_remove_bpe": remove_bpe, "eval_bleu_detok": detok}}
    assert task.settings(CONFIGS / "iwslt14/standard.yaml", {}, manifest, ()) == {}  # no BLEU there


@pytest.mark.usefixtures("warm_children")
def test_a_training_that_fails_says_why_in_one_line(toy_data, tmp_path):
    run, config = Run("student", 1, tmp_path / "student-1"), CONFIGS / "toy/self_distillation.yaml"
    with pytest.raises(UserError, match=r"there is no teacher /nowhere.pt; give --teacher .*; the whole log is .*$"):
        train(run, config, toy_data, "x-y", Machine("cpu", 1, 1), {}, {"criterion": {"teacher": "/nowhere.pt"}})


ABOUT = {"pair": "x-y", "data": "toy", "command": "wff train ..."}


@pytest.mark.usefixtures("warm_children")
def test_a_folder_belongs_to_the_settings_of_its_first_update(toy_data, tmp_path):
    """Not to those of a start that failed: the corrected command goes on there."""
    run, config = (
        Run("standard", 1, tmp_path / "standard-1"),
        shortened("toy/standard.yaml", tmp_path / "configs", 2, 2, 1),
    )

    def start(**optimization):
        more = {
            "model": {"dropout": 0.0},
            "optimization": optimization,
            "checkpoint": {"finetune_from_model": start.model},
        }
        train(run, config, toy_data, "x-y", Machine("cpu", 1, 1), ABOUT, more)

    start.model = str(tmp_path / "nowhere.pt")
    with pytest.raises(UserError, match=r"failed: .*nowhere.pt.*; the whole log is"):
        start(lr=[0.004])
    assert not list(run.folder.glob(".training*")) and not (run.folder / "provenance.json").exists()
    assert not (run.folder / "environment.txt").exists()
    start.model = None
    start(lr=[0.002])
    assert run.trained and run.provenance()["pair"] == "x-y" and len(run.provenance()["sittings"]) == 1
    assert not list(run.folder.glob(".*begun*")) and (run.folder / "environment.txt").is_file()
    with pytest.raises(UserError, match="holds the step training of other settings; give another --out"):
        start(lr=[0.003])


def test_settings_are_checked_before_a_file_is_written(toy_data, tmp_path):
    run, config = Run("standard", 1, tmp_path / "standard-1"), CONFIGS / "toy/weighted_freeze.yaml"
    machine = Machine("cpu", 1, 1)
    with pytest.raises(UserError, match="did you mean adamax or adam.*; correct .*weighted_freeze.yaml, or --set$"):
        train(run, config, toy_data, "x-y", machine, ABOUT, {"optimizer": {"base_optimizer": "adma"}})
    for text, said in (
        ("dataset: {max_tokens: 9", "does not hold a mapping of sections to settings"),
        ("- task", "does not hold a mapping of sections"),
        ("dataset: {max_tokens: 9}", "setting optimization.max_update is missing; correct"),
        ("dataset: {}", "setting dataset.max_tokens or dataset.batch_size is missing"),
    ):
        broken = tmp_path / "broken.yaml"
        broken.write_text(text)
        with pytest.raises(UserError, match=said):
            train(run, broken, toy_data, "x-y", machine, ABOUT)
    assert not run.folder.exists()
