"""Every optimizer row through the real fairseq-train: bases, precisions, resume, processes, logging, mistakes."""

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
from weighted_freezing_fairseq.core.masks import keep_mask, stream_key, uniform
from weighted_freezing_fairseq.core.rules import RULES

WF = ["--optimizer", "weighted_freeze"]
BASE_FLAGS = {
    "adam": ["--adam-betas", "(0.8, 0.95)", "--adam-eps", "1e-6", "--weight-decay", "0.01"],
    "sgd": ["--momentum", "0.5", "--wd", "0.01"],
    "nag": ["--momentum", "0.8", "--weight-decay", "0.01"],
    "adamax": ["--adamax-betas", "(0.8, 0.95)", "--no-bias-correction"],
    "adagrad": [],
    "adadelta": ["--adadelta-rho", "0.8"],
    "adafactor": ["--scale-parameter", "--clip-threshold", "0.9", "--beta1", "0.9"],
}
GUIDED = [
    *(f"{side}.layers.0.{name}.weight"
      for side in ("encoder", "decoder")
      for name in ("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2")),
    *(f"decoder.layers.0.encoder_attn.{name}_proj.weight" for name in ("k", "v", "q", "out")),
]  # fmt: skip


# Row -> flags of an ordinary run, flags that leave training as it is. FISHER, ZEROS: files of the toy model.
ROWS = {
    "weighted_freeze": ([], ["--freeze-rule", "random", "--freeze-keep", 1]),
    "sage": ([], ["--sage-eps", 1e30]),
    "fish_mask": (["--fish-density", 0.05, "--fish-updates", 2], ["--fish-density", 1, "--fish-source", "magnitude"]),
    "lfr_cm": (
        ["--lfr-quantile", 0.25, "--fisher", "FISHER"],
        ["--lfr-quantile", 1, "--lfr-always-frozen", "", "--fisher", "FISHER"],
    ),
}
ROWS["spg"] = (["--fisher", "FISHER"], ["--fisher", "ZEROS"])
ROWS["cautious_decay"] = (["--weight-decay", 0.1], ["--importance-start", 10**6])
ROWS["lisa"] = (["--lisa-layers", 1, "--lisa-period", 3], ["--lisa-layers", 2])
ROWS |= {name: ([], [f"--{name}-fraction", 1]) for name in ("mofo", "gmt")}
ROWS |= {
    name: ([], ["--importance-start", 10**6])
    for name, row in RULES.items()
    if row.kind == "optimizer" and name not in ROWS
}
every_row = pytest.mark.parametrize("row", ROWS)
# A row of each kind of state; tests/plugin/test_every_form.py has all rows in fairseq's trainer.
every_state = pytest.mark.parametrize("row", ["weighted_freeze", "sage", "fish_mask", "spg", "magma", "lisa"])


@pytest.fixture(scope="session")
def toy_fisher(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fisher information of the toy model as a file gives it: numbers that every run can read."""
    folder = tmp_path_factory.mktemp("fisher")
    fairseq = Fairseq(toy_data, folder)
    fairseq.train("start", "--optimizer", "sgd", "--max-update", 1, plugin=False)
    generator = torch.Generator().manual_seed(1)
    model = fairseq.checkpoint("start")["model"]
    weights = {n: torch.rand(t.shape, generator=generator) for n, t in model.items() if t.is_floating_point()}
    weights.pop("decoder.output_projection.weight")  # tied: counted once
    snapshot.save(folder / "fisher.pt", "fisher", weights)
    snapshot.save(folder / "zeros.pt", "fisher", {name: torch.zeros(t.shape) for name, t in weights.items()})
    return folder / "fisher.pt"


@pytest.fixture
def flags_of(toy_fisher: Path):
    def flags(row: str, neutral: bool = False) -> list[object]:
        files = {"FISHER": toy_fisher, "ZEROS": toy_fisher.with_name("zeros.pt")}
        return ["--optimizer", row, *(files.get(flag, flag) for flag in ROWS[row][neutral])]

    return flags


_plain: dict[str, dict] = {}


@every_row
@pytest.mark.parametrize("base", BASE_FLAGS)
def test_neutral_run_is_bit_identical_to_its_base(fairseq: Fairseq, flags_of, base: str, row: str):
    if row != "weighted_freeze" and base not in ("adam", "adafactor"):
        pytest.skip("the other bases differ from these in nothing that a row sees; tests/core has them all")
    flags = [*BASE_FLAGS[base], "--max-update", 3, "--clip-norm", 0.5]
    if base not in _plain:
        fairseq.train("plain", "--optimizer", base, *flags, plugin=False)
        _plain[base] = fairseq.checkpoint("plain")
    neutral = [*flags_of(row, neutral=True), "--base-fused", "false"]
    fairseq.train("guided", *neutral, "--base-optimizer", base, *flags)
    plain, guided = _plain[base], fairseq.checkpoint("guided")
    assert_same(plain["model"], guided["model"])
    guided["last_optimizer_state"].pop("guided")
    assert_same(plain["last_optimizer_state"], guided["last_optimizer_state"])


def disagreement(fairseq: Fairseq, name: str, update: int, seed: int = 1) -> float:
    """Share of guided weights that moved in `update` against the mask that (seed, update, name) gives, under SGD."""
    old, new = (fairseq.checkpoint(name, f"checkpoint_1_{u}.pt")["model"] for u in (update - 1, update))
    wrong = total = 0
    for weight in GUIDED:
        scores = old[weight].float().abs()
        u = uniform(scores.numel(), stream_key(seed, update, weight)).view(scores.shape)
        keep = keep_mask(scores, scores.min(), scores.max(), u)
        assert 0.05 < keep.float().mean() < 0.95
        wrong += ((new[weight] != old[weight]) & ~keep).sum().item()
        total += keep.numel()
    assert not torch.equal(old["encoder.embed_tokens.weight"], new["encoder.embed_tokens.weight"])
    return wrong / total


@pytest.mark.parametrize("mode", PRECISIONS)
def test_every_precision_freezes_the_weights_that_the_mask_names(fairseq: Fairseq, mode: str):
    output = fairseq.train(
        mode, *WF, "--base-optimizer", "sgd" if "memory" not in mode else "nag", "--momentum", 0, "--lr", 0.5,
        "--max-update", 2, "--save-interval-updates", 1, "--update-freq", 2, "--clip-norm", 1, "--seed", 3,
        *PRECISIONS[mode],
    )  # fmt: skip
    # Half-precision checkpoints round the float32 weights whose importance was measured: a few verdicts may differ.
    assert disagreement(fairseq, mode, 2, seed=3) <= (0 if mode in ("fp32", "amp") or "memory" in mode else 0.01)
    for line in logged(output):
        assert 0.05 < float(line["frozen_fraction"]) < 0.95
        assert float(line["importance_mean"]) > 0 and float(line["importance_std"]) > 0


@pytest.mark.parametrize("row", ["sage", "fish_mask", "lfr_cm"])
@pytest.mark.parametrize("mode", PRECISIONS)
def test_every_precision_trains_what_the_row_lets_move(fairseq: Fairseq, flags_of, row: str, mode: str):
    output = fairseq.train(
        mode, *flags_of(row), "--weight-decay", 0.1, "--max-update", 5, "--save-interval-updates", 1,
        "--keep-interval-updates", 5, "--update-freq", 2, "--clip-norm", 1, *PRECISIONS[mode],
    )  # fmt: skip
    first, last = (fairseq.checkpoint(mode, f"checkpoint_1_{u}.pt") for u in (2, 5))
    own = last["last_optimizer_state"]["guided"]
    moved = {name: last["model"][name] != first["model"][name] for name in GUIDED}
    if row == "sage":
        assert all(change.float().mean() > 0.3 for change in moved.values())
        assert own["averages"].keys() == set(GUIDED) and all((a > 0).any() for a in own["averages"].values())
        effect, lowest, highest = "scale_mean", 0.3, 3
    else:
        masks = {name: snapshot.unpack_bits(own["masks"][name], moved[name].shape) for name in GUIDED}
        assert not any((moved[name] & ~masks[name]).any() for name in GUIDED)
        assert any(change.any() for change in moved.values())
        effect, lowest, highest = "frozen_fraction", 0.7, 1
    for line in logged(output)[2:]:
        assert lowest < float(line[effect]) < highest
        assert float(line["importance_mean"]) > 0 and float(line["importance_std"]) > 0


def test_a_mask_estimated_in_training_moves_exactly_k_weights_and_saves_state(fairseq: Fairseq):
    fish = ["--optimizer", "fish_mask", "--fish-density", 0.01, "--fish-updates", 3]
    common = ["--weight-decay", 0.1, "--save-interval-updates", 1, "--keep-interval-updates", 9, "--max-update", 9]
    fairseq.train("fish", *fish, *common)
    fairseq.train("plain", "--optimizer", "adam", *common, plugin=False)
    models = {u: fairseq.checkpoint("fish", f"checkpoint_1_{u}.pt")["model"] for u in (1, 3, 9)}
    assert_same(models[1], models[3])  # no weight moves
    state = fairseq.checkpoint("fish")["last_optimizer_state"]
    names = list(state["guided"]["masks"])
    total = sum(models[1][n].numel() for n in names)
    assert sum((models[9][n] != models[3][n]).sum() for n in names) == round(0.01 * total)
    held = sum(v.numel() for entry in state["state"].values() for v in entry.values() if torch.is_tensor(v))
    assert held < 0.1 * 2 * total  # small tensors in which many numbers move are kept whole
    sizes = [(fairseq.folder / name / "checkpoint_last.pt").stat().st_size for name in ("fish", "plain")]
    assert sizes[1] - sizes[0] > 0.8 * 8 * total - 40_000  # less bookkeeping


@pytest.mark.parametrize("source", ["sift", "smt", "lift"])
def test_other_sources_choose_the_mask_in_training(fairseq: Fairseq, source: str):
    fish = ["--optimizer", "fish_mask", "--fish-density", 0.05, "--fish-source", source]
    more = {"sift": [], "smt": ["--fish-updates", 2, "--fish-block", 8], "lift": ["--fish-rank", 4]}[source]
    fairseq.train("run", *fish, *more, "--save-interval-updates", 1, "--max-update", 6)
    before, after = (fairseq.checkpoint("run", f"checkpoint_1_{u}.pt")["model"] for u in (1, 6))
    names = list(fairseq.checkpoint("run")["last_optimizer_state"]["guided"]["masks"])
    total = sum(before[name].numel() for name in names)
    moved = {name: before[name] != after[name] for name in names}
    count, k = sum(int(change.sum()) for change in moved.values()), round(0.05 * total)
    if source == "smt":
        assert k - 2 * 64 < count <= k  # numbers of a block whose gradient is zero do not move
        assert not any(change.any() for change in moved.values() if change.dim() == 1)
    else:  # lift trains from the first update, sift from the second
        assert 0.9 * k < count <= k
        assert all(
            abs(int(change.sum()) - 0.05 * change.numel()) < 0.1 * change.numel() + 1 for change in moved.values()
        )


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU it works")
def test_flat_fp16_needs_a_gpu(fairseq: Fairseq):
    # fairseq itself flattens on GPUs only; the matching of flat tensors is tested in tests/plugin.
    output = fairseq.train("flat", *WF, "--fp16", "--max-update", 1, ok=False)
    assert "CUDA" in output or "NVIDIA" in output


@every_state
def test_forty_updates_equal_twenty_a_kill_and_twenty(fairseq: Fairseq, flags_of, row: str):
    flags = [*flags_of(row), "--max-update", 40, "--save-interval-updates", 20, "--lr-scheduler", "inverse_sqrt"]
    flags += ["--warmup-updates", 10, "--weight-decay", 0.01]
    fairseq.train("straight", *flags)
    kill_when_saved(fairseq, "killed", "checkpoint_2_20.pt", *flags, "--max-update", 4000)
    saved = fairseq.folder / "killed/checkpoint_2_20.pt"
    resumed = fairseq.train("killed", *flags, "--restore-file", saved)
    assert f"Loaded checkpoint {saved} (epoch 2 @ 20 updates)" in resumed
    assert logged(resumed)[0]["num_updates"] == "21"
    straight, killed = fairseq.checkpoint("straight"), fairseq.checkpoint("killed")
    assert straight["last_optimizer_state"]["guided"]["updates"] == 40
    assert_same(straight["model"], killed["model"])
    assert_same(straight["last_optimizer_state"], killed["last_optimizer_state"])


def test_resuming_with_another_base_says_what_to_type(fairseq: Fairseq):
    fairseq.train("run", *WF, "--max-update", 2)
    output = fairseq.train("run", *WF, "--base-optimizer", "adagrad", "--max-update", 4, ok=False)
    assert "saved with base 'Adam', but this run has 'Adagrad'" in output and "--reset-optimizer" in output


def test_checkpoint_is_as_large_as_the_base_optimizers(fairseq: Fairseq):
    fairseq.train("plain", "--optimizer", "adam", "--max-update", 2, plugin=False)
    fairseq.train("guided", *WF, "--max-update", 2)
    sizes = [(fairseq.folder / name / "checkpoint_last.pt").stat().st_size for name in ("plain", "guided")]
    assert sizes[1] - sizes[0] < 4096


@pytest.mark.skipif(sys.version_info < (3, 11), reason="fairseq 0.12.2 cannot generate on torch 2 (plugin/mends)")
def test_checkpoint_loads_without_the_plugin(fairseq: Fairseq):
    fairseq.train("guided", *WF, "--max-update", 2)
    assert len(fairseq.stock_translations(fairseq.folder / "guided/checkpoint_last.pt")) == 21


@every_state
def test_two_processes_agree_resume_and_equal_one_with_twice_the_update_freq(fairseq: Fairseq, flags_of, row: str):
    flags = [*flags_of(row), "--dropout", 0, "--attention-dropout", 0, "--clip-norm", 1, "--lr", 0.003]
    flags += ["--weight-decay", 0.01]
    flags += ["--max-update", 20]
    straight = on_two_processes(fairseq, "two", *flags, "--save-interval-updates", 7)
    assert_same(*straight)
    fairseq.train("one", *flags, "--update-freq", 2)
    assert_close(fairseq.checkpoint("one")["model"], straight[0])
    if row == "weighted_freeze":  # how gradients travel is nothing that a row sees
        # fairseq 0.12.2 has parameters without gradients, which torch's own wrapper must be told.
        unused = ["--find-unused-parameters"] if sys.version_info < (3, 11) else []
        c10d = on_two_processes(fairseq, "c10d", *flags, *unused, backend="c10d")
        assert_same(*c10d)
        assert_close(c10d[0], straight[0])
    saved = fairseq.folder / "two/checkpoint_1_7.pt"
    resumed = on_two_processes(fairseq, "resumed", *flags, "--restore-file", saved)  # which is broadcast to rank 1
    assert_same(resumed[0], resumed[1])
    assert_same(resumed[0], straight[0])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([*WF, "--zero-sharding", "os"], "leave out --zero-sharding"),
        ([*WF, "--importance-scope", "attention"], "invalid choice"),
        ([*WF, "--base-optimizer", "adamw"], "invalid choice"),
        ([*WF, "--base-fused", "maybe"], "--base-fused must be true or false, got maybe; type --base-fused false"),
        ([*WF, "--freeze-keep", 0.5], "--freeze-keep 0.5 needs --freeze-rule random, not important"),
        ([*WF, "--freeze-rule", "random", "--freeze-keep", 50], "--freeze-keep must be between 0 and 1, got 50"),
        (["--optimizer", "mofo", "--mofo-fraction", 15], "--mofo-fraction must be above 0 and at most 1, got 15; type"),
        (["--optimizer", "mofo", "--base-optimizer", "adagrad"],
         "reads a momentum (exp_avg or momentum_buffer), and Adagrad keeps none with its settings; choose Adam"),
        (["--optimizer", "magma", "--magma-fraction", 2], "--magma-fraction must be above 0 and at most 1, got 2;"),
        (["--optimizer", "gmt", "--gmt-fraction", 0], "--gmt-fraction must be above 0 and at most 1, got 0; type"),
        (["--optimizer", "lisa", "--lisa-layers", 3], "layers must be between 1 and 2, the number of layers in scope"),
        (["--optimizer", "lisa", "--lisa-layer-pattern", "stage"], "there are names such as encoder.embed_tokens"),
        (["--optimizer", "lisa", "--base-optimizer", "adagrad"], "choose another base, such as Adam"),
        (["--optimizer", "fish_mask"], "needs --fish-density 0.005, or --fish-mask FILE"),
        (["--optimizer", "fish_mask", "--fish-mask", "no.pt"], "there is no file no.pt; make one with: wff fisher"),
        (["--optimizer", "fish_mask", "--fish-mask", "FISHER"], "kind 'fisher', not 'mask'"),
        (["--optimizer", "lfr_cm", "--lfr-quantile", 0.5], "needs --fisher FILE"),
        (["--optimizer", "spg"], "--optimizer spg needs --fisher FILE; make it with: wff fisher"),
        (["--optimizer", "spg", "--fisher", "FISHER", "--encoder-ffn-embed-dim", 64],
         "make one from the checkpoint that this run starts from"),
        (["--optimizer", "lfr_cm", "--fisher", "FISHER"], "needs one of --lfr-quantile"),
        (["--optimizer", "lfr_cm", "--fisher", "FISHER", "--lfr-quantile", 0.5, "--encoder-ffn-embed-dim", 64],
         "make one from the checkpoint that this run starts from"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused_with_what_to_type(fairseq: Fairseq, toy_fisher: Path, flags, words):
    flags = [toy_fisher if flag == "FISHER" else flag for flag in flags]
    assert words in fairseq.train("refused", *flags, "--max-update", 1, ok=False)


def test_another_mask_in_a_checkpoint_says_what_to_type(fairseq: Fairseq, flags_of):
    fairseq.train("run", *flags_of("lfr_cm"), "--max-update", 2)
    output = fairseq.train("run", *flags_of("lfr_cm"), "--lfr-quantile", 0.5, "--max-update", 4, ok=False)
    assert "another mask than this run's" in output and "--reset-optimizer" in output


def test_another_fisher_file_than_that_of_a_checkpoint_says_what_to_type(fairseq: Fairseq, flags_of):
    fairseq.train("run", *flags_of("spg"), "--max-update", 2)
    output = fairseq.train("run", *flags_of("spg", neutral=True), "--max-update", 4, ok=False)
    assert "another Fisher information than this run's" in output and "--reset-optimizer" in output


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("weighted_freeze", ["--importance-start", "--freeze-apply", "--freeze-rule", "--freeze-keep"]),
        ("sage", ["--sage-variant", "--sage-max-scale", "--sage-state-dtype"]),
        (
            "fish_mask",
            [
                "--fish-density",
                "--fish-mask",
                "--fish-updates",
                "--fish-source",
                "--fish-always",
                "--fish-block",
                "--fish-rank",
                "32 for fisher, 1 for sift, 100 for smt",
            ],
        ),
        ("spg", ["--fisher", "--spg-apply"]),
        ("lisa", ["--lisa-layers", "--lisa-period", "--lisa-layer-pattern"]),
        ("lfr_cm", ["--fisher", "--lfr-threshold", "--lfr-quantile", "--lfr-norm", "--lfr-always-frozen"]),
    ],
)
def test_help_names_the_flags_and_their_bases(fairseq: Fairseq, row, words):
    text = " ".join(fairseq("train", "--user-dir", USER_DIR, "--optimizer", row, "--help").split())
    for word in ("--base-optimizer", "--base-fused", "--importance-scope", "--adam-betas", "--wd", *words):
        assert word in text
    assert "momentum factor (base: nag, sgd; default: the base's)" in text
