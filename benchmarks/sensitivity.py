"""Measure time and peak memory of `wff sensitivity` for a model of 275 M parameters, on a CPU.

The model is transformer_vaswani_wmt_en_de_big with a joint dictionary of 96,000 words, after one update on random
words: the cost does not depend on the values of its weights. The batches are few and short, to measure the statistics
over all parameters rather than forward and backward passes.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = 96_000
MODEL = "--arch transformer_vaswani_wmt_en_de_big --share-all-embeddings".split()
UPDATE = """--optimizer sgd --lr 0.1 --criterion label_smoothed_cross_entropy --max-tokens 100 --max-update 1 --cpu
  --required-batch-size-multiple 1 --num-workers 0 --disable-validation --no-save-optimizer-state
  --no-epoch-checkpoints""".split()


def run(*words: object) -> tuple[float, float]:
    """Run a Python module with arguments; returns seconds and peak memory in GB. If it fails, exit with its output."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([sys.executable, "-m", *map(str, words)], stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            output.seek(0)
            sys.exit(output.read().decode())
    return time.perf_counter() - start, usage.ru_maxrss / 1e6


def train(folder: Path) -> tuple[Path, Path]:
    """Train a model for one update; returns its checkpoint and its data."""
    rng = random.Random(1)
    dictionary = folder / "words.txt"
    dictionary.write_text("".join(f"w{number} 1\n" for number in range(WORDS)))
    for side in "xy":
        lines = (" ".join(f"w{rng.randrange(WORDS)}" for _ in range(rng.randint(5, 20))) for _ in range(200))
        (folder / f"train.{side}").write_text("".join(f"{line}\n" for line in lines))
    data = folder / "bin"
    words = ["-s", "x", "-t", "y", "--trainpref", folder / "train", "--srcdict", dictionary, "--joined-dictionary"]
    run("fairseq_cli.preprocess", *words, "--destdir", data)
    run("fairseq_cli.train", data, *MODEL, *UPDATE, "--save-dir", folder)
    return folder / "checkpoint_last.pt", data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=100)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, data = train(Path(folder))
        words = ["--data", data, "--out", Path(folder) / "out", "--device", "cpu", "--max-tokens", args.max_tokens]
        for count in (1, args.batches):
            options = [*words, "--batches", count, "--names", count]
            seconds, gigabytes = run("weighted_freezing_fairseq", "sensitivity", checkpoint, *options)
            print(f"{count} batches of {args.max_tokens} tokens: {seconds:.0f} s, {gigabytes:.1f} GB", flush=True)


if __name__ == "__main__":
    main()
