"""`--optimizer weighted_freeze` through the real fairseq-train: bases, precisions, resume, processes."""

import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from fairseq_runs import USER_DIR, Fairseq, assert_close, assert_same, environment, logged

from weighted_freezing_fairseq.core.masks import keep_mask, stream_key, uniform

WF = ["--optimizer", "weighted_freeze"]
BASE_FLAGS = {
    "adam": ["--adam-betas", "(0.8, 0.95)", "--adam-eps", "1e-6", "--weight-decay", "0.01"],
    "sgd": ["--momentum", "0.5", "--wd", "0.01"],
    "nag": ["--momentum", "0.8", "--weight-decay", "0.01"],
    "adamax": ["--adamax-betas", "(0.8, 0.95)", "--no-bias-correction"],
    "adagrad": [],
    "adadelta": ["--adadelta-rho", "0.8"],
    "adafactor": ["--scale-parameter", "--clip-threshold", "0.9"],
}
GUIDED = [
    *(f"{side}.layers.0.{name}.weight"
      for side in ("encoder", "decoder")
      for name in ("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2")),
    *(f"decoder.layers.0.encoder_attn.{name}_proj.weight" for name in ("k", "v", "q", "out")),
]  # fmt: skip
PRECISIONS = {
    "fp32": [],
    "fp16": ["--fp16", "--fp16-no-flatten-grads", "--fp16-init-scale", "4"],
    "memory-efficient-fp16": ["--memory-efficient-fp16", "--fp16-init-scale", "4"],
    "bf16": ["--bf16"],
    "memory-efficient-bf16": ["--memory-efficient-bf16"],
    "amp": ["--amp"],
}


@pytest.mark.parametrize(
    "base", [b if b in ("adam", "sgd") else pytest.param(b, marks=pytest.mark.slow) for b in BASE_FLAGS]
)
def test_neutral_run_is_bit_identical_to_its_base(fairseq: Fairseq, base: str):
    flags = [*BASE_FLAGS[base], "--max-update", 3, "--clip-norm", 0.5]
    fairseq.train("plain", "--optimizer", base, *flags, plugin=False)
    fairseq.train("guided", *WF, "--base-optimizer", base, "--importance-start", 1000, *flags)
    plain, guided = fairseq.checkpoint("plain"), fairseq.checkpoint("guided")
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


@pytest.mark.parametrize(
    "mode", [m if m in ("fp32", "bf16") else pytest.param(m, marks=pytest.mark.slow) for m in PRECISIONS]
)
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU it works")
def test_flat_fp16_needs_a_gpu(fairseq: Fairseq):
    # fairseq itself flattens on GPUs only; the matching of flat tensors is tested in tests/plugin.
    output = fairseq.train("flat", *WF, "--fp16", "--max-update", 1, ok=False)
    assert "CUDA" in output or "NVIDIA" in output


def kill_when_saved(fairseq: Fairseq, name: str, file: str, *args: object) -> None:
    """Start a training and kill -9 it as soon as it has saved `file`."""
    process = fairseq.start("train", *fairseq.train_words(name, *args))
    goal = fairseq.folder / name / file
    deadline = time.time() + 120
    while not goal.exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and goal.exists()


def test_forty_updates_equal_twenty_a_kill_and_twenty(fairseq: Fairseq):
    flags = [*WF, "--max-update", 40, "--save-interval-updates", 20, "--lr-scheduler", "inverse_sqrt"]
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


@pytest.mark.skipif(sys.version_info < (3, 11), reason="stock fairseq 0.12.2 cannot generate on torch 2, see compat.py")
def test_checkpoint_loads_without_the_plugin(fairseq: Fairseq):
    fairseq.train("guided", *WF, "--max-update", 2)
    # Plain fairseq on torch >= 2.6 refuses its own checkpoints (their settings are a Namespace) without this variable.
    variables = {**environment(), "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    output = fairseq(
        "generate", fairseq.data, "--path", fairseq.folder / "guided/checkpoint_last.pt", "--cpu", env=variables
    )
    assert "Generate test with beam" in output


RANK = """
import sys
import torch
from fairseq.trainer import Trainer
from fairseq_cli.train import cli_main
made = []
build = Trainer.__init__
def remember(self, *args, **kwargs):
    build(self, *args, **kwargs)
    made.append(self)
Trainer.__init__ = remember
goal = sys.argv.pop(1)
cli_main()
torch.save(made[0].get_model().state_dict(), goal)
"""


def on_two_processes(fairseq: Fairseq, name: str, *args: object, backend: str = "legacy_ddp") -> list[dict]:
    """The final weights of both ranks of one gloo run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in (0, 1):
        words = [sys.executable, "-c", RANK, fairseq.folder / f"{name}-{rank}.pt", *fairseq.train_words(name, *args)]
        words += ["--distributed-world-size", 2, "--distributed-rank", rank, "--distributed-no-spawn"]
        words += ["--distributed-init-method", f"tcp://127.0.0.1:{port}", "--distributed-backend", "gloo"]
        words += ["--ddp-backend", backend]
        ranks.append(
            subprocess.Popen(
                list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=fairseq.folder
            )
        )
    outputs = [process.communicate(timeout=300)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], outputs[0][-4000:] + outputs[1][-4000:]
    return [torch.load(fairseq.folder / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_two_processes_agree_resume_and_equal_one_with_twice_the_update_freq(fairseq: Fairseq):
    flags = [*WF, "--dropout", 0, "--attention-dropout", 0, "--clip-norm", 1, "--lr", 0.003, "--weight-decay", 0.01]
    straight = on_two_processes(fairseq, "two", *flags, "--max-update", 20)
    assert_same(*straight)
    fairseq.train("one", *flags, "--max-update", 20, "--update-freq", 2)
    assert_close(fairseq.checkpoint("one")["model"], straight[0])
    # fairseq 0.12.2 has parameters without gradients, which torch's own wrapper must be told.
    unused = ["--find-unused-parameters"] if sys.version_info < (3, 11) else []
    c10d = on_two_processes(fairseq, "c10d", *flags, *unused, "--max-update", 20, backend="c10d")
    assert_same(*c10d)
    assert_close(c10d[0], straight[0])
    on_two_processes(fairseq, "half", *flags, "--max-update", 10)
    resumed = on_two_processes(fairseq, "half", *flags, "--max-update", 20)  # broadcasts the checkpoint to rank 1
    assert_same(resumed[0], resumed[1])
    assert_same(resumed[0], straight[0])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--zero-sharding", "os"], "leave out --zero-sharding"),
        (["--importance-scope", "attention"], "invalid choice"),
        (["--base-optimizer", "adamw"], "invalid choice"),
    ],
)
def test_impossible_settings_are_refused_with_what_to_type(fairseq: Fairseq, flags, words):
    assert words in fairseq.train("refused", *WF, *flags, "--max-update", 1, ok=False)


def test_help_names_the_flags_and_their_bases(fairseq: Fairseq):
    text = " ".join(fairseq("train", "--user-dir", USER_DIR, *WF, "--help").split())
    for word in ("--base-optimizer", "--importance-start", "--freeze-apply", "--adam-betas", "--wd"):
        assert word in text
    assert "momentum factor (base: nag, sgd; default: the base's)" in text
