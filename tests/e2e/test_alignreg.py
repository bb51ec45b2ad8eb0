"""Pruning inside real fairseq runs: exact zeros in plain checkpoints, and a reference that holds the weights."""

import re

import pytest
import torch
from fairseq_runs import PRECISIONS, USER_DIR, Fairseq, assert_close, assert_same, logged, on_two_processes

from weighted_freezing_fairseq.core.pruning import METHODS

ADAM = ["--optimizer", "adam", "--adam-betas", "(0.9, 0.98)"]
ALIGNREG = ["--criterion", "alignreg"]
PRUNE = [*ALIGNREG, "--prune-interval", 3, "--prune-step", 0.3, "--prune-target", 0.7, "--prune"]
# The toy model's matrices of attention and feed-forward layers: 3 attentions of 4 x 16 x 16, 2 blocks of 2 x 16 x 32.
LAYERS = 16


def matrices(model: dict) -> dict[str, torch.Tensor]:
    return {n: t for n, t in model.items() if t.dim() == 2 and ("_proj.weight" in n or "fc" in n) and "output" not in n}


def zeros(model: dict) -> dict[str, int]:
    return {name: int((tensor == 0).sum()) for name, tensor in matrices(model).items()}


def exactly(model: dict, sparsity: float) -> dict[str, int]:
    return {name: round(sparsity * tensor.numel()) for name, tensor in matrices(model).items()}


def exactly_by_rows(model: dict, sparsity: float) -> dict[str, int]:
    return {name: len(tensor) * round(sparsity * tensor.shape[1]) for name, tensor in matrices(model).items()}


def in_all(model: dict, sparsity: float, compared: str) -> int:
    if compared == "network":
        return round(sparsity * sum(tensor.numel() for tensor in matrices(model).values()))
    by_name = exactly if compared == "layer" else exactly_by_rows
    return sum(by_name(model, sparsity).values())


def test_every_checkpoint_has_exactly_the_scheduled_zeros(fairseq: Fairseq):
    flags = [*ADAM, *PRUNE, "magnitude", "--save-interval-updates", 1, "--max-update", 11, "--weight-decay", 0.1]
    output = fairseq.train("run", *flags)
    for update, sparsity in enumerate([0, 0, 0, 0.3, 0.3, 0.3, 0.6, 0.6, 0.6, 0.7, 0.7, 0.7]):
        if update:
            model = fairseq.checkpoint("run", f"checkpoint_1_{update}.pt")["model"]
            assert len(matrices(model)) == LAYERS and zeros(model) == exactly(model, sparsity), update
            others = [t for n, t in model.items() if n not in matrices(model) and "norm" not in n and t.dim() == 2]
            assert others and all((t[4:] != 0).all() for t in others)  # embeddings, but for padding's
    assert [float(line["sparsity"]) for line in logged(output)] == pytest.approx(
        [0] * 3 + [0.3] * 3 + [0.6] * 3 + [0.7] * 2, abs=1e-2
    )
    assert "pruning step 3 of 3 (magnitude)" in output and " s" in output


@pytest.mark.parametrize(
    ("optimizer", "updates"),
    [(ADAM, 200), (["--optimizer", "nag", "--momentum", 0.9], 30), (["--optimizer", "adafactor"], 30),
     (["--optimizer", "weighted_freeze"], 30)],
    ids=["adam", "nag", "adafactor", "weighted_freeze"],
)  # fmt: skip
def test_zeros_are_intact_after_many_more_updates(fairseq: Fairseq, optimizer, updates):
    flags = [*optimizer, "--weight-decay", 0.01, *PRUNE, "magnitude", "--lr", 0.01, "--save-interval-updates", 10]
    fairseq.train("run", *flags, "--max-update", 10 + updates, "--max-tokens", 60)
    before = fairseq.checkpoint("run", "checkpoint_1_10.pt")["model"]
    after = fairseq.checkpoint("run")["model"]
    assert zeros(after) == exactly(after, 0.7)
    for name, weight in matrices(before).items():
        assert torch.equal(weight == 0, matrices(after)[name] == 0)
        assert (weight != matrices(after)[name]).any()


@pytest.mark.parametrize("method", [m for m in METHODS if m != "magnitude"])
def test_every_method_prunes_exactly(fairseq: Fairseq, method: str):
    fairseq.train("run", *ADAM, *PRUNE, method, "--max-update", 10)
    model = fairseq.checkpoint("run")["model"]
    if METHODS[method].compared == "network":
        assert sum(zeros(model).values()) == in_all(model, 0.7, "network")
    elif METHODS[method].compared == "row":
        assert zeros(model) == exactly_by_rows(model, 0.7)
        for weight in matrices(model).values():
            assert ((weight == 0).sum(1) == round(0.7 * weight.shape[1])).all()
    elif method == "l0":  # a closed gate makes a zero of its own
        assert all(count >= exactly(model, 0.7)[name] for name, count in zeros(model).items())
    else:
        assert zeros(model) == exactly(model, 0.7)


@pytest.mark.parametrize("method", ["l0", "sensitivity", "random_global", "wanda", "platon"])
def test_a_resumed_run_is_an_uninterrupted_one(fairseq: Fairseq, method: str):
    flags = [*ADAM, *PRUNE, method, "--update-freq", 2, "--alignreg-lambda", 0.01]
    fairseq.train("straight", *flags, "--max-update", 12, "--save-interval-updates", 9)
    (saved,) = fairseq.folder.glob("straight/checkpoint_*_9.pt")
    fairseq.train("resumed", *flags, "--max-update", 12, "--restore-file", saved)
    straight, resumed = fairseq.checkpoint("straight"), fairseq.checkpoint("resumed")
    for key in ("model", "last_optimizer_state"):
        assert_same(straight[key], resumed[key])
    assert_same(*(c["extra_state"]["guided_criterion"] for c in (straight, resumed)))


@pytest.mark.parametrize("method", ["magnitude", "l0", "sensitivity", "wanda", "platon"])
@pytest.mark.parametrize(
    "mode",
    [m for m in PRECISIONS if m != "fp32"],
)
def test_zeros_are_exact_in_every_precision(fairseq: Fairseq, mode: str, method: str):
    flags = [*ADAM, *PRUNE, method, *PRECISIONS[mode], "--clip-norm", 1, "--update-freq", 2]
    lines = logged(fairseq.train("run", *flags, "--max-update", 14))
    model = fairseq.checkpoint("run")["model"]
    found, exact = sum(zeros(model).values()), in_all(model, 0.7, METHODS[method].compared)
    # Half precision and closed gates may make zeros of their own.
    assert exact - 3 <= found <= exact + (60 if method == "l0" else 3)
    assert float(lines[-1]["ce_loss"]) < 0.9 * float(lines[0]["ce_loss"])


@pytest.mark.parametrize(("method", "more"), [("magnitude", []), ("l0", ["--prune-lambda", 50])])
def test_validation_and_checkpoint_see_the_pruned_network(fairseq: Fairseq, method: str, more):
    flags = [*ADAM, *PRUNE, method, *more, "--save-interval-updates", 6, "--max-update", 9]
    output = fairseq.train("run", *flags, without="--disable-validation")
    (line,) = (line for line in logged(output, "valid") if line["valid_num_updates"] == "6")
    saved = fairseq.folder / "run/checkpoint_1_6.pt"
    assert sum(zeros(fairseq.checkpoint("run", "checkpoint_1_6.pt")["model"]).values()) > 0
    found = fairseq(
        "validate", fairseq.data, "--path", saved, "--user-dir", USER_DIR, "--cpu", "--valid-subset", "valid",
        "--task", "translation", "--max-tokens", 200, "--required-batch-size-multiple", 1,
    )  # fmt: skip
    assert f"loss {line['valid_loss']} " in found


def test_the_best_checkpoint_is_of_the_last_sparsity(fairseq: Fairseq):
    flags = [*ADAM, *PRUNE, "random", "--lr", 0.02, "--max-update", 13, "--save-interval-updates", 1]
    fairseq.train("run", *flags, without="--disable-validation")
    model = fairseq.checkpoint("run", "checkpoint_best.pt")["model"]
    assert zeros(model) == exactly(model, 0.7)


def test_a_pruned_checkpoint_loads_without_the_plugin(fairseq: Fairseq):
    fairseq.train("run", *ADAM, *PRUNE, "magnitude", "--max-update", 10)
    assert len(fairseq.stock_translations(fairseq.folder / "run/checkpoint_last.pt")) == 21


def test_epochs_count_and_the_last_step_is_made_at_the_end_of_the_last_epoch(fairseq: Fairseq):
    flags = [*ADAM, *PRUNE, "magnitude", "--prune-unit", "epochs", "--prune-interval", 1, "--max-tokens", 1000]
    output = fairseq.train("straight", *flags, "--max-epoch", 3, without="--no-epoch-checkpoints")
    assert "will not be reached" not in output
    for epoch, sparsity in enumerate([0.3, 0.6, 0.7], 1):
        model = fairseq.checkpoint("straight", f"checkpoint{epoch}.pt")["model"]
        assert zeros(model) == exactly(model, sparsity), epoch
    fairseq.train("inputs", *flags, "--prune", "wanda", "--max-epoch", 3)
    model = fairseq.checkpoint("inputs")["model"]
    assert zeros(model) == exactly_by_rows(model, 0.7)
    output = fairseq.train("half", *flags, "--max-epoch", 3, "--max-update", 1)
    assert "--prune-target 0.7 will not be reached: pruning takes 3 epochs, and this run has 0; type " in output
    assert "--prune-interval 1 --prune-step 0.7" in output
    fairseq.train("half", *flags, "--max-epoch", 3)
    assert_same(fairseq.checkpoint("straight")["model"], fairseq.checkpoint("half")["model"])


def test_a_pruned_checkpoint_keeps_its_zeros_when_the_optimizer_is_reset(fairseq: Fairseq):
    fairseq.train("parent", *ADAM, *PRUNE, "magnitude", "--prune-target", 0.6, "--max-update", 7)
    parent = fairseq.folder / "parent/checkpoint_last.pt"
    pruned = {name: weight == 0 for name, weight in matrices(fairseq.checkpoint("parent")["model"]).items()}
    reset = ["--restore-file", parent, "--reset-optimizer", "--reset-dataloader", "--reset-lr-scheduler"]
    more = ["--prune-interval", 3, "--prune-step", 0.3, "--prune-target", 0.8, "--max-update", 10]
    for name, flags in {
        "reset": [*reset, "--prune", "magnitude", *more],
        "another method": [*reset, "--prune", "lamp", *more],
        "gates": [*reset, "--prune", "l0", *more],
        "tuned": ["--finetune-from-model", parent, "--prune", "magnitude", *more],
    }.items():
        output = fairseq.train(name, *ADAM, *ALIGNREG, *flags, "--save-interval-updates", 1)
        assert re.search(r"60\.\d\d % of the weights stay at zero", output), name
        begun = matrices(fairseq.checkpoint(name, "checkpoint_1_2.pt")["model"])
        assert all(((weight == 0) >= pruned[n]).all() for n, weight in begun.items()), name
        end = fairseq.checkpoint(name)["model"]
        assert all(((weight == 0) >= pruned[n]).all() for n, weight in matrices(end).items()), name
        if name in ("reset", "tuned"):  # 60 % are two of three steps: the third is made after one interval
            assert sum(zeros(end).values()) == in_all(end, 0.8, "layer")
            assert zeros(begun) == exactly(begun, 0.6)


def test_zeros_grow_again_only_in_a_run_that_is_told_so(fairseq: Fairseq):
    fairseq.train("parent", *ADAM, *PRUNE, "magnitude", "--max-update", 9)
    parent = fairseq.folder / "parent/checkpoint_last.pt"
    for criterion in (["label_smoothed_cross_entropy"], ["ewc", "--ewc-lambda", 1], ["alignreg"]):
        flags = [*ADAM, "--criterion", *criterion, "--max-update", 12]
        output = fairseq.train("no", *flags, "--restore-file", parent, "--reset-optimizer", ok=False)
        assert f"{parent} is pruned, and without its masks zeros in 16 matrices would become nonzero" in output
        assert "add --criterion alignreg --prune magnitude" in output and "with --finetune-from-model" in output
    output = fairseq.train("dense", *flags, "--finetune-from-model", parent)
    assert f"{parent} is pruned, and zeros in 16 matrices will become nonzero; to keep them, add" in output


def test_pruning_that_begins_late_counts_from_there(fairseq: Fairseq):
    fairseq.train("run", *ADAM, *ALIGNREG, "--max-update", 8)
    fairseq.train("run", *ADAM, *PRUNE, "magnitude", "--max-update", 12)
    model = fairseq.checkpoint("run")["model"]
    assert zeros(model) == exactly(model, 0.3)


def test_the_reference_is_the_start_of_the_run_or_a_checkpoint(fairseq: Fairseq):
    fairseq.train("parent", *ADAM, "--max-update", 8)
    parent = fairseq.folder / "parent/checkpoint_last.pt"
    tune = [*ADAM, *ALIGNREG, "--finetune-from-model", parent, "--max-update", 25, "--alignreg", "frobenius"]
    start = fairseq.checkpoint("parent")["model"]
    far = {}
    for name, more in {
        "free": ["--alignreg-lambda", 0],
        "start": ["--alignreg-lambda", 0.1],
        "path": ["--alignreg-lambda", 0.1, "--alignreg-reference", parent],
    }.items():
        fairseq.train(name, *tune, *more)
        end = fairseq.checkpoint(name)["model"]
        far[name] = sum((end[n] - start[n]).square().sum().item() for n in matrices(start))
    assert far["start"] == far["path"] < 0.3 * far["free"]
    own = {name: fairseq.checkpoint(name)["extra_state"].get("guided_criterion", {}) for name in far}
    assert "reference" in own["start"] and "reference" not in own["path"] and not own["free"]
    assert_same(own["start"]["reference"], matrices(start))


def test_the_terms_are_eq_3_and_eq_6(fairseq: Fairseq):
    """From the checkpoints, number by number, in the update after the one that was saved."""
    fairseq.train("parent", *ADAM, "--max-update", 4)
    parent = fairseq.folder / "parent/checkpoint_last.pt"
    reference = matrices(fairseq.checkpoint("parent")["model"])
    for kind, lam in (("cosine", 0.5), ("frobenius", 0.02)):
        flags = [*ADAM, *PRUNE, "magnitude", "--alignreg", kind, "--alignreg-lambda", lam]
        flags += ["--finetune-from-model", parent, "--save-interval-updates", 1, "--max-update", 9]
        lines = logged(fairseq.train(kind, *flags))
        for update in range(1, 9):
            pruned = matrices(fairseq.checkpoint(kind, f"checkpoint_1_{update}.pt")["model"])
            if kind == "cosine":
                cosines = [
                    sum(abs(float(a.double() @ b.double())) / float(a.double().norm() * b.double().norm() + 1e-300)
                        for a, b in zip(w, reference[n], strict=True)) / len(w)
                    for n, w in pruned.items()
                ]  # fmt: skip
                expected = -lam * sum(cosines) / LAYERS
            else:
                expected = lam * sum(
                    float((reference[n].double() - w.double()).square().sum()) for n, w in pruned.items()
                )
            in_bits = expected / torch.log(torch.tensor(2.0)).item()
            assert float(lines[update]["alignreg"]) == pytest.approx(in_bits, abs=2e-3), (kind, update)


@pytest.mark.parametrize("method", ["l0", "wanda"])
def test_two_processes_prune_alike(fairseq: Fairseq, method: str):
    flags = [*ADAM, *PRUNE, method, "--dropout", 0, "--attention-dropout", 0, "--lr", 0.003, "--clip-norm", 1]
    two = on_two_processes(fairseq, "two", *flags, "--max-update", 9)
    assert_same(*two)
    fairseq.train("one", *flags, "--max-update", 9, "--update-freq", 2)
    assert_close(fairseq.checkpoint("one")["model"], two[0])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--prune", "magnitude"], "add --prune-interval 1000, or 15 with --prune-unit epochs"),
        (["--prune", "magnitude", "--prune-interval", 4], "do not fit in --max-update 20; type --prune-interval 2"),
        (
            ["--prune", "magnitude", "--prune-interval", 1, "--prune-step", 0.01],
            "--prune-interval 1 --prune-step 0.035",
        ),
        (
            ["--prune", "lamp", "--prune-interval", 2, "--prune-unit", "epochs", "--max-epoch", 9],
            "7 pruning steps every 2 epochs do not fit in --max-epoch 9; type --prune-interval 1",
        ),
        (["--prune", "magnitudes"], "invalid choice"),
        (
            ["--prune", "lamp", "--prune-interval", 1, "--prune-target", 1.5],
            "above 0 and below 1, got 1.5; type",
        ),
        (["--prune", "lamp", "--prune-interval", 1, "--prune-step", 0], "got 0; type --prune-step 0.1"),
        (
            ["--prune", "lamp", "--prune-interval", 1, "--prune-lambda", 1],
            "got 1, and needs --prune l2 or l0",
        ),
        (
            ["--prune", "wanda", "--prune-interval", 1, "--encoder-layerdrop", 0.2],
            "--encoder-layerdrop and --decoder-layerdrop leave layers out; type --prune magnitude",
        ),
        (["--alignreg-lambda", -1], "--alignreg-lambda must not be negative, got -1"),
        (["--alignreg-reference", "no.pt"], "there is no reference no.pt; give --alignreg-reference a checkpoint"),
        (["--alignreg-reference", __file__], "was not loaded"),
        (["--zero-sharding", "os"], "leave out --zero-sharding"),
    ],
)
def test_impossible_settings_are_refused_with_what_to_type(fairseq: Fairseq, flags, words):
    output = fairseq.train("refused", *ADAM, *ALIGNREG, *flags, "--max-update", 20, ok=False)
    assert words in output


def test_a_reference_of_another_model_and_a_resume_without_pruning_are_refused(fairseq: Fairseq):
    fairseq.train("run", *ADAM, *PRUNE, "magnitude", "--max-update", 9)
    saved = fairseq.folder / "run/checkpoint_last.pt"
    other = [*ADAM, *ALIGNREG, "--encoder-ffn-embed-dim", 64, "--max-update", 1, "--alignreg-reference", saved]
    assert "encoder.layers.0.fc1.weight is (32, 16) there and (64, 16) here" in fairseq.train("other", *other, ok=False)
    output = fairseq.train("run", *ADAM, *ALIGNREG, "--max-update", 12, ok=False)
    assert "resume it with its own --prune, or start a new run" in output
    output = fairseq.train("run", *ADAM, *PRUNE, "lamp", "--max-update", 12, ok=False)
    assert "pruning by 'magnitude', but this run prunes by 'lamp'" in output
