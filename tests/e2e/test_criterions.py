"""Every criterion row through the real fairseq-train: neutral, precisions, resume, processes, logging, mistakes."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from fairseq_runs import (
    PRECISIONS,
    USER_DIR,
    Fairseq,
    assert_close,
    assert_same,
    kill_when_saved,
    logged,
    on_two_processes,
)

from weighted_freezing_fairseq.core import snapshot

# Row -> flags of an ordinary run, flags that leave training as it is, terms in the log.
# TEACHER stands for a checkpoint of the toy model, FISHER for a snapshot of it.
ROWS = {
    "intra_distillation": (["--alpha", 2, "--alpha-p", 2], ["--alpha", 0], ["ce_loss", "divergence", "alpha"]),
    "ewc": (["--ewc-lambda", 100], ["--ewc-lambda", 0], ["ce_loss", "ewc"]),
    "self_distillation": (["--teacher", "TEACHER"], ["--teacher-weight", 0], ["ce_loss", "teacher_kl"]),
    "alignreg": (
        [
            "--alignreg",
            "frobenius",
            "--alignreg-lambda",
            0.02,
            "--prune",
            "magnitude",
            "--prune-interval",
            3,
            "--prune-target",
            0.4,
            "--prune-step",
            0.15,
        ],
        ["--alignreg", "none"],
        ["ce_loss", "alignreg"],
    ),
}
every_row = pytest.mark.parametrize("row", ROWS)
ADAM = ["--optimizer", "adam"]


@pytest.fixture(scope="session")
def teacher(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy model after some training, and its Fisher information as a file gives it."""
    fairseq = Fairseq(toy_data, tmp_path_factory.mktemp("teacher"))
    fairseq.train("run", *ADAM, "--max-update", 8, plugin=False)
    generator = torch.Generator().manual_seed(1)
    model = fairseq.checkpoint("run")["model"]
    model.pop("decoder.output_projection.weight")  # tied: counted once
    weights = {n: t for n, t in model.items() if t.dim() and t.numel() > 1}
    fisher = {n: torch.rand(t.shape, generator=generator) for n, t in weights.items()}
    snapshot.save(fairseq.folder / "fisher.pt", "fisher", fisher, weights=weights)
    return fairseq.folder / "run/checkpoint_last.pt"


@pytest.fixture
def flags_of(teacher: Path):
    def flags(row: str, neutral: bool = False) -> list[object]:
        return ["--criterion", row, *filled(ROWS[row][neutral], teacher)]

    return flags


def filled(flags, teacher: Path) -> list[object]:
    files = {"TEACHER": teacher, "FISHER": teacher.parents[1] / "fisher.pt"}
    return [files.get(flag, flag) for flag in flags]


def assert_same_training(a: dict, b: dict) -> None:
    for key in ("model", "last_optimizer_state"):
        assert_same(a[key], b[key])
    assert_same(*(c["extra_state"].get("guided_criterion") for c in (a, b)))


_plain: dict[str, dict] = {}


@every_row
def test_neutral_run_is_bit_identical_to_label_smoothed_cross_entropy(fairseq: Fairseq, flags_of, row: str):
    flags = [*ADAM, "--max-update", 3, "--clip-norm", 0.5]
    if not _plain:
        _plain["log"] = logged(fairseq.train("plain", *flags, plugin=False))
        _plain["checkpoint"] = fairseq.checkpoint("plain")
    log = logged(fairseq.train("neutral", *flags_of(row, neutral=True), *flags))
    assert_same_training(fairseq.checkpoint("neutral"), _plain["checkpoint"])
    for mine, its in zip(log, _plain["log"], strict=True):
        assert {key: mine[key] for key in ("loss", "nll_loss")} == {key: its[key] for key in ("loss", "nll_loss")}


@every_row
def test_terms_are_logged_and_add_up_and_validation_is_plain(fairseq: Fairseq, flags_of, row: str):
    output = fairseq.train(
        "run", *ADAM, *flags_of(row), "--max-update", 30, "--tensorboard-logdir", fairseq.folder / "tb",
        without="--disable-validation",
    )  # fmt: skip
    lines = logged(output)
    for line in lines:
        terms = {key: float(line[key]) for key in ROWS[row][2]}
        strength = terms.pop("alpha", 1.0)
        total = terms.pop("ce_loss") + strength * sum(terms.values())
        assert float(line["loss"]) == pytest.approx(total, abs=2e-3)
    first, last = lines[2], lines[-1]
    assert float(last["ce_loss"]) < 0.9 * float(first["ce_loss"])
    if row == "intra_distillation":  # N / q = 3, N / p = 15
        alphas = [float(line["alpha"]) for line in lines]
        assert alphas[0] == 0 and alphas[3] == pytest.approx(1) and set(alphas[15:]) == {2.0}
    valid = logged(output, "valid")[-1]
    assert not {f"valid_{key}" for key in ROWS[row][2]} & valid.keys()
    shutil.copy(fairseq.folder / "run/checkpoint_last.pt", fairseq.folder / "copy.pt")
    found = fairseq(
        "validate", fairseq.data, "--path", fairseq.folder / "copy.pt", "--user-dir", USER_DIR, "--cpu",
        "--valid-subset", "valid", "--task", "translation", "--max-tokens", 200, "--required-batch-size-multiple", 1,
    )  # fmt: skip
    assert f"loss {valid['valid_loss']} " in found
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(fairseq.folder / "tb/train_inner")).Reload()
    assert set(ROWS[row][2]) <= set(events.Tags()["scalars"])


RESUMED = {
    **{row: (row, []) for row in ROWS},
    "recompute": ("intra_distillation", ["--pass-mode", "recompute", "--divergence", "js"]),
    "ewc of an old task": ("ewc", ["--ewc-anchor", "FISHER", "--ewc-lambda", 0.1]),
}


@pytest.mark.parametrize(("row", "more"), RESUMED.values(), ids=RESUMED)
def test_24_updates_equal_ten_a_kill_and_14(fairseq: Fairseq, flags_of, teacher, row: str, more):
    """In the second of four epochs, after the warm-up and all pruning."""
    flags = [*ADAM, *flags_of(row), *filled(more, teacher), "--save-interval-updates", 10, "--clip-norm", 1]
    flags += ["--weight-decay", 0.01, "--lr-scheduler", "inverse_sqrt", "--warmup-updates", 5, "--update-freq", 3]
    fairseq.train("straight", *flags, "--max-update", 24)
    # N of the schedule is --max-update: a run that is killed was going as far.
    kill_when_saved(fairseq, "killed", "checkpoint_2_10.pt", *flags, "--max-update", 24, "--log-interval", 1)
    saved = fairseq.folder / "killed/checkpoint_2_10.pt"
    fairseq.train("resumed", *flags, "--max-update", 24, "--restore-file", saved)
    straight, resumed = fairseq.checkpoint("straight"), fairseq.checkpoint("resumed")
    assert_same_training(straight, resumed)
    assert ("guided_criterion" in straight["extra_state"]) == (row in ("ewc", "alignreg") and not more)


def test_ewc_starts_after_the_warm_up_and_holds_two_copies(fairseq: Fairseq, flags_of):
    flags = [*ADAM, *flags_of("ewc"), "--lr-scheduler", "inverse_sqrt", "--warmup-updates", 4, "--max-update", 6]
    lines = logged(fairseq.train("run", *flags))
    assert [float(line["ewc"]) > 0 for line in lines] == [False] * 4 + [True] * 2
    own = fairseq.checkpoint("run")["extra_state"]["guided_criterion"]
    weights = {n: t for n, t in fairseq.checkpoint("run")["model"].items() if n in own["anchor"]}
    assert own["fisher"].keys() == own["anchor"].keys() == weights.keys() and own["method"] == "ewc"
    for name, weight in weights.items():
        assert (own["fisher"][name] >= 0).all() and own["anchor"][name].shape == weight.shape


def test_the_fisher_information_of_the_previous_update_is_that_of_the_cross_entropy(fairseq: Fairseq):
    """One SGD step tells the gradient: with the penalty's own part taken out, clipped or not."""
    common = ["--optimizer", "sgd", "--lr", 0.5, "--dropout", 0, "--save-interval-updates", 1, "--max-update", 3]
    common += ["--keep-interval-updates", 9, "--attention-dropout", 0, "--clip-norm", 0.5]
    ewc = ["--criterion", "ewc", "--ewc-start", 1]
    for name, lam in (("weak", 1e-9), ("strong", 2.0)):
        fairseq.train(name, *common, *ewc, "--ewc-lambda", lam)
    (_, weak), (_, strong) = (
        [fairseq.checkpoint(name, f"checkpoint_1_{u}.pt") for u in (1, 2)] for name in ("weak", "strong")
    )
    names = strong["extra_state"]["guided_criterion"]["fisher"]
    moved = {n: (weak["model"][n] - strong["model"][n]).abs().max().item() for n in names}
    assert max(moved.values()) > 1e-5  # the penalty acts in update 2 ...
    for n in names:  # ... and is not in F, but for clipping, which changes with the norm of both
        f_weak, f_strong = (c["extra_state"]["guided_criterion"]["fisher"][n] for c in (weak, strong))
        scale = (f_strong.sum() / f_weak.sum()).item() if f_weak.sum() > 0 else 1
        torch.testing.assert_close(f_strong, f_weak * scale, rtol=1e-2, atol=1e-9, msg=n)


def test_ewc_with_a_snapshot_stays_near_the_old_task(fairseq: Fairseq, teacher: Path):
    flags = [*ADAM, "--finetune-from-model", teacher, "--max-update", 30, "--lr", 0.01]
    ends = {}
    for lam in (0, 10):
        name = f"lambda-{lam}"
        ewc = filled(["--criterion", "ewc", "--ewc-anchor", "FISHER", "--ewc-lambda", lam], teacher)
        fairseq.train(name, *flags, *ewc)
        ends[lam] = fairseq.checkpoint(name)["model"]
    old = torch.load(teacher, weights_only=False)["model"]
    far, near = (sum((end[n] - old[n]).square().sum() for n in old if old[n].dim()) for end in ends.values())
    assert near < 0.3 * far


@every_row
@pytest.mark.parametrize(
    "mode",
    [m for m in PRECISIONS if m != "fp32"],
)
def test_every_precision_trains(fairseq: Fairseq, flags_of, row: str, mode: str):
    output = fairseq.train(
        mode, *ADAM, *flags_of(row), "--max-update", 12, "--update-freq", 2, "--clip-norm", 1, *PRECISIONS[mode]
    )
    lines = logged(output)
    assert float(lines[-1]["ce_loss"]) < 0.9 * float(lines[0]["ce_loss"])
    assert all(torch.isfinite(torch.tensor(float(line[key]))) for line in lines for key in ROWS[row][2])
    assert float(lines[-1][ROWS[row][2][1]]) > 0
    model = fairseq.checkpoint(mode)["model"]
    assert all(t.isfinite().all() for t in model.values() if t.is_floating_point())


GUIDED_BY = {
    "weighted_freeze": [], "sage": [], "fish_mask": ["--fish-density", 0.1, "--fish-updates", 2],
    "lfr_cm": ["--lfr-quantile", 0.5, "--fisher", "FISHER"],
}  # fmt: skip


@pytest.mark.parametrize("optimizer", GUIDED_BY)
def test_criterions_work_with_every_optimizer_of_the_package(fairseq: Fairseq, flags_of, teacher, optimizer: str):
    row = "ewc" if optimizer in ("weighted_freeze", "fish_mask") else "intra_distillation"
    flags = ["--optimizer", optimizer, *filled(GUIDED_BY[optimizer], teacher), *flags_of(row), "--max-update", 20]
    lines = logged(fairseq.train("both", *flags))
    assert float(lines[-1]["ce_loss"]) < float(lines[0]["ce_loss"]) and float(lines[-1][ROWS[row][2][1]]) > 0
    assert "scale_mean" in lines[-1] or float(lines[-1]["frozen_fraction"]) > 0.05


@pytest.mark.parametrize(
    ("row", "more", "backend"),
    [
        ("intra_distillation", [], "legacy_ddp"),
        ("intra_distillation", ["--pass-mode", "loop"], "c10d"),
        ("intra_distillation", ["--pass-mode", "recompute"], "c10d"),
        ("ewc", [], "legacy_ddp"),
        ("self_distillation", [], "c10d"),
        ("alignreg", ["--prune", "gradient"], "legacy_ddp"),
        ("alignreg", [], "c10d"),
    ],
)
def test_two_processes_equal_one_with_twice_the_update_freq(fairseq: Fairseq, flags_of, row, more, backend):
    flags = [*ADAM, *flags_of(row), "--dropout", 0, "--attention-dropout", 0, "--clip-norm", 1, "--lr", 0.003]
    flags += [*more, "--max-update", 12]
    # fairseq 0.12.2 has parameters without gradients, which torch's own wrapper must be told.
    unused = ["--find-unused-parameters"] if sys.version_info < (3, 11) and backend == "c10d" else []
    two = on_two_processes(fairseq, "two", *flags, *unused, backend=backend)
    assert_same(*two)
    fairseq.train("one", *flags, "--update-freq", 2)
    assert_close(fairseq.checkpoint("one")["model"], two[0])


@pytest.mark.parametrize("unused", [[], ["--find-unused-parameters"]], ids=["all-used", "find-unused"])
def test_an_untied_projection_is_reduced_over_processes(fairseq: Fairseq, flags_of, unused):
    """It is used after the forward pass that torch's wrapper sees, unless that wrapper would call it unused."""
    flags = [*ADAM, *flags_of("intra_distillation"), "--pass-mode", "recompute", "--max-update", 6]
    # The bias of a key has no gradient but rounding, of which Adam with a tiny eps makes whole steps.
    flags += ["--dropout", 0, "--attention-dropout", 0, "--adam-eps", 1e-5]
    tied = "--share-decoder-input-output-embed"
    if sys.version_info < (3, 11):
        unused = ["--find-unused-parameters"]
    two = on_two_processes(fairseq, "two", *flags, *unused, backend="c10d", without=tied)
    assert_same(*two)
    fairseq.train("one", *flags, "--update-freq", 2, without=tied)
    one = fairseq.checkpoint("one")["model"]
    assert not torch.equal(one["decoder.output_projection.weight"], one["decoder.embed_tokens.weight"])
    assert_close(one, two[0])


def test_two_processes_resume_the_state_of_ewc(fairseq: Fairseq, flags_of):
    flags = [*ADAM, *flags_of("ewc"), "--dropout", 0]
    flags += ["--max-update", 12, "--save-interval-updates", 6]
    straight = on_two_processes(fairseq, "straight", *flags)
    saved = fairseq.folder / "straight/checkpoint_1_6.pt"
    resumed = on_two_processes(fairseq, "resumed", *flags, "--restore-file", saved)
    assert_same(*resumed)
    assert_same(resumed[0], straight[0])


def test_an_ensemble_teaches_and_a_teacher_is_not_changed(fairseq: Fairseq, teacher: Path):
    before = teacher.read_bytes()
    flags = [*ADAM, "--criterion", "self_distillation", "--max-update", 5]
    fairseq.train("first", *flags, "--teacher", teacher)
    second = fairseq.folder / "first/checkpoint_last.pt"
    lines = logged(fairseq.train("second", *flags, "--teacher", f"{teacher}:{second}", "--teacher-weight", 0.5))
    for line in lines:
        assert float(line["loss"]) == pytest.approx(float(line["ce_loss"]) + 0.5 * float(line["teacher_kl"]), abs=2e-3)
    assert teacher.read_bytes() == before
    sizes = [(fairseq.folder / n / "checkpoint_last.pt").stat().st_size for n in ("first", "second")]
    assert abs(sizes[0] - sizes[1]) < 4096 and sizes[0] < 1.1 * teacher.stat().st_size  # no teacher inside


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["intra_distillation"], "add --max-update 50000, or --alpha-schedule constant"),
        (["intra_distillation", "--pass-mode", "parallel"], "invalid choice"),
        (["ewc"], "needs --ewc-lambda"),
        (["ewc", "--ewc-lambda", 1, "--zero-sharding", "os"], "leave out --zero-sharding"),
        (["ewc", "--ewc-lambda", 1, "--ewc-anchor", "no.pt"], "there is no file no.pt; make one with: wff fisher"),
        (["ewc", "--ewc-lambda", 1, "--ewc-anchor", "TEACHER"], "is not a whole snapshot of this package"),
        (["self_distillation"], "needs --teacher CHECKPOINT"),
        (["self_distillation", "--teacher", "no.pt"], "there is no teacher no.pt"),
        (["self_distillation", "--teacher", "FISHER"], "could not be loaded"),
        (["self_distillation", "--teacher", "TEACHER", "--encoder-ffn-embed-dim", 64],
         "encoder.layers.0.fc1.weight is (32, 16) there and (64, 16) here"),
        (["self_distillation", "--teacher", "TEACHER", "--encoder-layers", 2], "it has no encoder.layers.1."),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused_with_what_to_type(fairseq: Fairseq, teacher: Path, flags, words):
    lasting = ["--max-epoch", 1] if "--max-update" in words else ["--max-update", 1]
    output = fairseq.train("refused", *ADAM, "--criterion", *filled(flags, teacher), *lasting, ok=False)
    assert words in output


def test_a_teacher_of_another_dictionary_is_refused(fairseq: Fairseq, teacher: Path):
    """Of the same size, so that the weights fit."""
    other = fairseq.folder / "other"
    shutil.copytree(fairseq.data, other)
    lines = (other / "dict.y.txt").read_text().splitlines()
    (other / "dict.y.txt").write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    fairseq.data = other
    flags = [*ADAM, "--criterion", "self_distillation", "--teacher", teacher, "--max-update", 1]
    output = fairseq.train("refused", *flags, ok=False)
    assert "another dictionary" in output and "trained on the same binarised data" in output


@every_row
def test_help_names_the_flags(fairseq: Fairseq, row: str):
    from weighted_freezing_fairseq.plugin import alignreg, criterions

    text = fairseq("train", "--user-dir", USER_DIR, "--criterion", row, "--help")
    own = {
        "intra_distillation": criterions.IntraDistillationConfig,
        "ewc": criterions.EwcConfig,
        "self_distillation": criterions.SelfDistillationConfig,
        "alignreg": alignreg.AlignRegConfig,
    }[row].__annotations__.keys() - {"max_update", "seed"}
    assert len(own) >= 2
    for name in own:
        assert f"--{name.replace('_', '-')}" in text
