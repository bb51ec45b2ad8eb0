"""Runs of the real fairseq commands on a toy model, and what tests ask of their logs and checkpoints."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import torch

USER_DIR = Path(__file__).resolve().parents[1] / "weighted_freezing_fairseq"

TOY_MODEL = """--arch transformer_iwslt_de_en --share-decoder-input-output-embed
  --encoder-layers 1 --encoder-embed-dim 16 --encoder-ffn-embed-dim 32 --encoder-attention-heads 2
  --decoder-layers 1 --decoder-embed-dim 16 --decoder-ffn-embed-dim 32 --decoder-attention-heads 2""".split()
TOY_RUN = """--lr 0.01 --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --max-tokens 120
  --required-batch-size-multiple 1 --num-workers 0 --cpu --log-format json --log-interval 1
  --no-epoch-checkpoints --disable-validation --dropout 0.1""".split()


# fairseq 0.12.2 saves a number that it never sets, and copies of weights that it makes when it loads a checkpoint.
_UNSET_IN_0_12_2 = re.compile(r"embed_positions\._float_tensor|encoder\.layers\.\d+\.(in_proj|out_proj|fc1|fc2)_")


def environment() -> dict[str, str]:
    # The plugin, loaded into this process by other tests, tells older torch through this variable to load safely.
    inherited = {key: value for key, value in os.environ.items() if key != "TORCH_FORCE_WEIGHTS_ONLY_LOAD"}
    return {**inherited, "OMP_NUM_THREADS": "1"}


class Fairseq:
    """The real fairseq commands, as subprocesses."""

    def __init__(self, data: Path, folder: Path) -> None:
        self.data, self.folder = data, folder

    def start(self, command: str, *args: object, **kwargs) -> subprocess.Popen:
        words = [sys.executable, "-m", f"fairseq_cli.{command}", *map(str, args)]
        kwargs = {"cwd": self.folder, "env": environment(), **kwargs}
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs)

    def __call__(self, command: str, *args: object, ok: bool = True, **kwargs) -> str:
        process = self.start(command, *args, **kwargs)
        output, _ = process.communicate(timeout=300)
        assert (process.returncode == 0) == ok, output[-6000:]
        return output

    def train_words(self, name: str, *args: object, plugin: bool = True) -> list[object]:
        # Stock fairseq aborts now and then when it leaves while its thread reads ahead, see compat.py.
        user_dir = ["--user-dir", USER_DIR] if plugin else ["--data-buffer-size", 0]
        save = ["--save-dir", self.folder / name]
        return [self.data, *user_dir, *TOY_MODEL, *TOY_RUN, *save, *args]

    def train(self, name: str, *args: object, plugin: bool = True, ok: bool = True, **kwargs) -> str:
        return self("train", *self.train_words(name, *args, plugin=plugin), ok=ok, **kwargs)

    def checkpoint(self, name: str, file: str = "checkpoint_last.pt") -> dict:
        return torch.load(self.folder / name / file, weights_only=False)


def logged(output: str, kind: str = "train_inner") -> list[dict]:
    """The JSON log lines of one kind."""
    return [json.loads(line.split(" | ")[-1]) for line in output.splitlines() if f"| {kind} | {{" in line]


def assert_close(a: dict, b: dict) -> None:
    """Equal model states up to the rounding of another order of sums."""
    for name, weight in a.items():
        if not _UNSET_IN_0_12_2.search(name):
            torch.testing.assert_close(weight, b[name], rtol=1e-3, atol=1e-4, msg=name)


def assert_same(a: object, b: object, path: str = "") -> None:
    """Equal bit for bit, through dicts and lists down to tensors."""
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), f"{path}: {(a != b).sum()} of {a.numel()} numbers differ"
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            if _UNSET_IN_0_12_2.search(str(key)):
                continue
            assert_same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}/{index}")
    else:
        assert a == b, path
