"""Runs of the real fairseq commands on a toy model, and what tests ask of their logs and checkpoints."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch
import warm_python

USER_DIR = Path(__file__).resolve().parents[1] / "weighted_freezing_fairseq"

TOY_MODEL = """--arch transformer_iwslt_de_en --share-decoder-input-output-embed
  --encoder-layers 1 --encoder-embed-dim 16 --encoder-ffn-embed-dim 32 --encoder-attention-heads 2
  --decoder-layers 1 --decoder-embed-dim 16 --decoder-ffn-embed-dim 32 --decoder-attention-heads 2""".split()
# The same model and criterion for a YAML.
TOY_YAML = """\
model:
  _name: transformer_iwslt_de_en
  share_decoder_input_output_embed: true
  dropout: 0.1
  base_layers: 0  # fairseq 0.12.2 wants to be told
  encoder: {layers: 1, embed_dim: 16, ffn_embed_dim: 32, attention_heads: 2}
  decoder: {layers: 1, embed_dim: 16, ffn_embed_dim: 32, attention_heads: 2}
criterion: {_name: label_smoothed_cross_entropy, label_smoothing: 0.1}
"""
TOY_RUN = """--lr 0.01 --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --max-tokens 120
  --required-batch-size-multiple 1 --num-workers 0 --log-format json --log-interval 1
  --no-epoch-checkpoints --disable-validation --dropout 0.1""".split()
ON_GPU = os.environ.get("WFF_TEST_DEVICE") == "cuda"  # trainings on the GPU: scripts/gpu.sh
if not ON_GPU:
    TOY_RUN.append("--cpu")
PRECISIONS = {
    "fp32": [],
    "fp16": ["--fp16", "--fp16-no-flatten-grads", "--fp16-init-scale", "4"],
    "memory-efficient-fp16": ["--memory-efficient-fp16", "--fp16-init-scale", "4"],
    "bf16": ["--bf16"],
    "memory-efficient-bf16": ["--memory-efficient-bf16"],
    "amp": ["--amp"],
}
if ON_GPU:  # fairseq flattens nowhere else
    PRECISIONS["flat-fp16"] = ["--fp16", "--fp16-init-scale", "4"]


# fairseq 0.12.2 saves a number that it never sets, and copies of weights that it makes when it loads a checkpoint.
UNSET_IN_0_12_2 = re.compile(r"embed_positions\._float_tensor|encoder\.layers\.\d+\.(in_proj|out_proj|fc1|fc2)_")


def environment() -> dict[str, str]:
    return dict(warm_python.ENVIRONMENT)


class Fairseq:
    """The real fairseq commands, as subprocesses.

    A warm start forks the subprocess from a Python that has imported torch and stock fairseq (warm_python.py): it runs
    the same entry point in a process of its own, only without seconds of imports. Cold starts (`warm=False`), fresh
    interpreters as a user types them, are for tests of how the plugin is loaded.
    """

    def __init__(self, data: Path, folder: Path, warm: bool = True) -> None:
        self.data, self.folder, self.warm = data, folder, warm

    def start(self, command: str, *args: object, **kwargs) -> subprocess.Popen:
        return self.python("-m", f"fairseq_cli.{command}", *args, **kwargs)

    def python(self, *words: object, **kwargs) -> subprocess.Popen:
        warm = self.warm and kwargs.keys() <= {"cwd", "env"}
        popen = warm_python.popen() if warm else subprocess.Popen
        kwargs = {"cwd": self.folder, "env": environment(), **kwargs}
        words = [sys.executable, *map(str, words)]
        return popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs)

    def __call__(self, command: str, *args: object, ok: bool = True, **kwargs) -> str:
        process = self.start(command, *args, **kwargs)
        output, _ = process.communicate(timeout=300)
        assert (process.returncode == 0) == ok, output[-6000:]
        return output

    def train_words(self, name: str, *args: object, plugin: bool = True, without: str = "") -> list[object]:
        # Stock fairseq aborts now and then when it leaves while its thread reads ahead, see plugin/mends.
        user_dir = ["--user-dir", USER_DIR] if plugin else ["--data-buffer-size", 0]
        save = ["--save-dir", self.folder / name]
        return [self.data, *user_dir, *(w for w in TOY_MODEL + TOY_RUN if w != without), *save, *args]

    def train(self, name: str, *args: object, plugin: bool = True, without: str = "", ok: bool = True, **kwargs) -> str:
        return self("train", *self.train_words(name, *args, plugin=plugin, without=without), ok=ok, **kwargs)

    def stock_translations(self, checkpoint: Path) -> list[str]:
        """What fairseq-generate, without this plugin where it can, makes of the test set."""
        trusted = {**environment(), "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}  # what torch since 2.6 needs for any
        mended = ["--user-dir", USER_DIR] if sys.version_info < (3, 11) else []  # 0.12.2 cannot (plugin/mends)
        words = [self.data, "--path", checkpoint, "--cpu", "--required-batch-size-multiple", 1, *mended]
        output = self("generate", *words, "--beam", 1, "--max-len-b", 10, env=trusted)
        assert mended or USER_DIR.name not in output
        return [line for line in output.splitlines() if line.startswith("H-")]

    def checkpoint(self, name: str, file: str = "checkpoint_last.pt") -> dict:
        return torch.load(self.folder / name / file, weights_only=False)


def logged(output: str, kind: str = "train_inner") -> list[dict]:
    """The JSON log lines of one kind."""
    return [json.loads(line.split(" | ")[-1]) for line in output.splitlines() if f"| {kind} | {{" in line]


def assert_close(a: dict, b: dict) -> None:
    """Equal model states up to the rounding of another order of sums."""
    for name, weight in a.items():
        if not UNSET_IN_0_12_2.search(name):
            torch.testing.assert_close(weight, b[name], rtol=1e-3, atol=1e-4, msg=name)


def assert_same(a: object, b: object, path: str = "") -> None:
    """Equal bit for bit, through dicts and lists down to tensors."""
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), f"{path}: {(a != b).sum()} of {a.numel()} numbers differ"
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            if UNSET_IN_0_12_2.search(str(key)):
                continue
            assert_same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}/{index}")
    else:
        assert a == b, path


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


def on_two_processes(
    fairseq: Fairseq, name: str, *args: object, backend: str = "legacy_ddp", without: str = ""
) -> list[dict]:
    """The final weights of both ranks of one gloo run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in (0, 1):
        words = [RANK, fairseq.folder / f"{name}-{rank}.pt", *fairseq.train_words(name, *args, without=without)]
        words += ["--distributed-world-size", 2, "--distributed-rank", rank, "--distributed-no-spawn"]
        words += ["--distributed-init-method", f"tcp://127.0.0.1:{port}", "--distributed-backend", "gloo"]
        ranks.append(fairseq.python("-c", *words, "--ddp-backend", backend))
    outputs = [process.communicate(timeout=300)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], outputs[0][-4000:] + outputs[1][-4000:]
    return [torch.load(fairseq.folder / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1)]
