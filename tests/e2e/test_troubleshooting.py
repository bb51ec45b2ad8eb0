"""The error texts of docs/troubleshooting.md are those that the commands print, and their cures cure."""

import re
from pathlib import Path

import pytest
from fairseq_runs import USER_DIR

PAGE = (Path(__file__).resolve().parents[2] / "docs/troubleshooting.md").read_text(encoding="utf-8")
TEXTS = re.findall(r"^### `(.+)`$", PAGE, re.MULTILINE)
ADAM, FREEZE = "--optimizer adam", "--optimizer weighted_freeze"
FP16 = f"{ADAM} --fp16 --fp16-no-flatten-grads"
CROSS_ENTROPY = f"{ADAM} --criterion cross_entropy"
LANGUAGES = "-s x -t y"

# The beginning of an error text, what is added to the command of a toy run, and the part of the cure in its place; a
# cure of None has no other command here. The runs are at update 2; "resumed" continues one that has 8.
CASES = {
    "an adaptive alpha": (f"{ADAM} --criterion intra_distillation --max-epoch 1", "--alpha-schedule constant"),
    "Torch not compiled": (f"{ADAM} --fp16 --max-update 2", "--fp16-no-flatten-grads"),
    "Minimum loss scale": (f"{FP16} --fp16-init-scale 1099511627776 --min-loss-scale 1e12 --max-update 2", None),
    "the gradient of this": ("--optimizer sgd --lr 1e30 --max-update 8", None),
}
RESUMED = {
    "Optimizer does not match": (f"{FREEZE} --max-update 10", "--reset-optimizer"),
    "Cannot load model": (f"{ADAM} --encoder-layers 2 --max-update 10", "--encoder-layers 1"),
}


def assert_told(beginning: str, output: str) -> None:
    """The error text of the page that begins so is in the output, whatever stands for its dots."""
    (text,) = [text for text in TEXTS if text.startswith(beginning)]
    parts = (re.escape(part.strip()) for part in text.split("..."))
    assert re.search(".*".join(parts), output, re.DOTALL), output[-3000:]


def test_every_case_is_an_entry():
    assert all(sum(text.startswith(case) for text in TEXTS) == 1 for case in {**CASES, **RESUMED})


@pytest.mark.parametrize("beginning", CASES)
def test_an_error_of_a_new_run_is_told_and_cured(fairseq, beginning):
    flags, cure = CASES[beginning]
    if beginning == "Torch not compiled" and not built_for_cpu():
        pytest.skip("torch is built for a GPU")
    assert_told(beginning, fairseq.train("run", *flags.split(), ok=False))
    if cure is not None:
        fairseq.train("cured", *flags.split(), *cure.split())


@pytest.mark.parametrize("beginning", RESUMED)
def test_an_error_of_a_resumed_run_is_told_and_cured(fairseq, trained, beginning):
    flags, cure = RESUMED[beginning]
    restored = ["--restore-file", trained]
    assert_told(beginning, fairseq.train("run", *flags.split(), *restored, ok=False))
    fairseq.train("cured", *flags.split(), *cure.split(), *restored)


def test_a_method_needs_the_user_dir(fairseq):
    flags = [*FREEZE.split(), "--max-update", 2]
    assert_told("argument --optimizer", fairseq.train("run", *flags, plugin=False, ok=False))
    fairseq.train("cured", *flags)


def test_languages_are_read_from_a_binarised_folder(fairseq):
    words = fairseq.train_words("run", *ADAM.split(), "--max-update", 2)
    assert_told("Could not infer", fairseq("train", fairseq.data.parent, *words[1:], ok=False))
    fairseq("train", *words, *LANGUAGES.split())


def test_long_sentences_of_the_validation_set_stop_a_run(fairseq):
    flags = [*ADAM.split(), "--max-source-positions", 4, "--max-target-positions", 4, "--max-update", 2]
    words = fairseq.train_words("run", *flags, without="--disable-validation")
    assert_told("Size of sample", fairseq("train", *words, ok=False))
    fairseq("train", *words, "--skip-invalid-size-inputs-valid-test")
    words = fairseq.train_words("short", *ADAM.split(), "--max-update", 2, without="--disable-validation")
    assert_told("Sentences lengths", fairseq("train", *words, "--max-tokens", 4, ok=False))
    fairseq("train", *words, "--max-tokens", 4, "--max-tokens-valid", 120)


def test_stock_fairseq_does_not_load_its_checkpoints_and_the_plugin_does(fairseq, trained):
    words = [fairseq.data, "--path", trained, "--cpu", "--beam", 1, "--max-len-b", 10]
    assert_told("Weights only", fairseq("generate", *words, ok=False))
    output = fairseq("generate", *words, "--user-dir", USER_DIR)
    assert "Translated 16 sentences" in output  # of 21
    output = fairseq("generate", *words, "--user-dir", USER_DIR, "--required-batch-size-multiple", 1)
    assert "Translated 21 sentences" in output


def test_a_plain_yaml_setting_needs_a_plus(fairseq):
    words = [f"task.data={fairseq.data}"]
    assert_told("Could not override", fairseq("hydra_train", *words, ok=False))


def test_the_learning_rate_of_a_resumed_run(fairseq):
    """inverse_sqrt takes a new one; reduce_lr_on_plateau keeps that of the checkpoint unless the optimizer is reset."""
    sqrt = "--lr-scheduler inverse_sqrt --warmup-updates 1"
    plateau = "--lr-scheduler reduce_lr_on_plateau"

    def rate(updates: int, *flags: str) -> float:
        words = " ".join((ADAM, "--max-update", str(updates), *flags)).split()
        return float(re.findall(r'"lr": "([\d.e-]+)"', fairseq.train("run", *words))[-1])

    assert rate(4, sqrt) == pytest.approx(0.01 / 4**0.5)
    assert rate(9, sqrt, "--lr 0.03") == pytest.approx(0.03 / 9**0.5)
    assert rate(10, plateau, "--lr 0.5") == rate(11, plateau, "--lr 0.5 --reset-lr-scheduler") == pytest.approx(0.01)
    assert rate(12, plateau, "--lr 0.5 --reset-lr-scheduler --reset-optimizer") == pytest.approx(0.5)


def built_for_cpu() -> bool:
    import torch

    return torch.version.cuda is None and torch.version.hip is None
