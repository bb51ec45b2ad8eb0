#!/usr/bin/env python3
"""Tune the methods of the low-resource study: three values of each method's main setting, seed 1, validation set only.

A run is trained by `wff train`, and its best checkpoint by validation loss is scored on the validation set by
`wff evaluate`; the test sets are not read. The value with the highest BLEU goes into configs/lowresource by hand. A
second call skips finished runs; after a kill it resumes.

    .venv/bin/python scripts/lowresource/tune.py [--methods sage,ewc] [--jobs 2]

CSV: a line for each run, written again whenever one ends: method, setting, value, BLEU, best validation nll in bits,
training nll and update at that time, SHA-256 of the translations, commit.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from weighted_freezing_fairseq.figures.training_logs import losses_at_best, read_log
from weighted_freezing_fairseq.files import write_atomically
from weighted_freezing_fairseq.workspace.tables import as_csv

ROOT = Path(__file__).resolve().parents[2]
WFF = [sys.executable, "-m", "weighted_freezing_fairseq"]
RATES = ("optimization.lr", ("[0.002]", "[0.004]", "[0.008]"))
GRID = {
    "standard": ("model.dropout", ("0.1", "0.2", "0.3")),
    "intra_distillation": ("criterion.alpha", ("1", "5", "10")),
    "intra_distillation_js": ("criterion.alpha", ("1", "5", "10")),
    "r_drop": ("criterion.alpha", ("1", "5", "10")),
    "self_distillation": ("criterion.teacher_weight", ("0.5", "1", "2")),
    "ewc": ("criterion.ewc_lambda", ("1000", "10000", "100000")),
    "switch_transformer": ("model.switch_experts", ("2", "4", "8")),
    **dict.fromkeys(("sage", "sage_light", "cautious", "magma"), RATES),
    **dict.fromkeys(("weighted_freeze", "weighted_freeze_smooth", "weighted_freeze_random"), RATES),
}
TEACHER = ("standard", "0.2")  # of self_distillation
LOCK = threading.Lock()  # of the CSV


@dataclass(frozen=True)
class Result:
    """A line of the CSV."""

    method: str
    setting: str
    value: str
    bleu: float
    best_update: float | None
    valid_nll: float | None
    train_nll: float | None
    output_sha256: str
    commit: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(GRID), help="comma-separated")
    parser.add_argument("--data", type=Path, default=Path("data/lowresource-3000"), help="folder that wff prepare made")
    parser.add_argument("--out", type=Path, default=Path("runs/lowresource-tune"), help="folder of the runs")
    parser.add_argument("--csv", type=Path, default=Path("runs/lowresource-tune/tuning.csv"), help="table to write")
    parser.add_argument("--set", action="append", default=[], help="SECTION.KEY=VALUE for all runs; may be repeated")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="runs at once, a core each")
    args = parser.parse_args()
    if unknown := [method for method in args.methods if method not in GRID]:
        parser.error(f"there is no grid for {', '.join(unknown)}; choose from {','.join(GRID)}")
    if "self_distillation" in args.methods and not best_of(run_of(*TEACHER, args.out)).is_file():
        args.methods.insert(0, "standard")
    args.methods = sorted(set(args.methods), key=list(GRID).index)
    cells = [(method, value) for method in args.methods for value in GRID[method][1]]
    with ThreadPoolExecutor(args.jobs) as pool:
        teachers = [pool.submit(tune, *cell, args) for cell in cells if cell[0] == "standard"]
        for teacher in teachers:
            teacher.result()
        others = [pool.submit(tune, *cell, args) for cell in cells if cell[0] != "standard"]
        for other in others:
            other.result()


def run_of(method: str, value: str, out: Path) -> Path:
    """The run folder of a value; `wff train` puts it into its own folder, since no two values share one."""
    return out / method / value.strip("[]") / "clean/de-en" / f"{method}-1"


def best_of(run: Path) -> Path:
    return run / "checkpoints/checkpoint_best.pt"


def tune(method: str, value: str, args: argparse.Namespace) -> None:
    """Train and score one value, unless that is done, and write the CSV again."""
    run, setting = run_of(method, value, args.out), GRID[method][0]
    words = ["train", "multi30k", "--method", method, "--data", args.data, "--configs", ROOT / "configs/lowresource"]
    words += ["--out", run.parents[2], "--device", "cpu"]
    words += [word for assignment in (*args.set, f"{setting}={value}") for word in ("--set", assignment)]
    if method == "self_distillation":
        teacher = best_of(run_of(*TEACHER, args.out)).resolve()
        words += ["--set", f"criterion.teacher={teacher}"]
    call(words, run)
    corpus = args.data / "clean/de-en"
    if not score_of(run).is_file():
        words = ["evaluate", best_of(run), "--data", corpus / "bin", "--reference", corpus / "raw/valid.en"]
        call([*words, "--subset", "valid", "--out", run / "valid", "--device", "cpu"], run)
    write_csv(args)
    print(f"{method}, {setting}={value}: {json.loads(score_of(run).read_text())['bleu']:.2f} BLEU", flush=True)


def call(words: list[object], run: Path) -> None:
    """Run `wff`, its output in a log beside the run."""
    log = run.parents[2] / "tune.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as output:
        done = subprocess.run(
            [*WFF, *map(str, words)], stdout=output, stderr=output, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    if done.returncode:
        raise SystemExit(f"wff {words[0]} failed, see {log}")


def score_of(run: Path) -> Path:
    """The score on the validation set; a file that does not exist where there is none."""
    return next((run / "valid").glob("*.score.json"), run / "valid/none")


def write_csv(args: argparse.Namespace) -> None:
    """Write the results of all runs that have one."""
    results = [
        result_of(method, value, run)
        for method, (_, values) in GRID.items()
        for value in values
        if score_of(run := run_of(method, value, args.out)).is_file()
    ]
    with LOCK:
        write_atomically(args.csv, as_csv([asdict(result) for result in results]))


def result_of(method: str, value: str, run: Path) -> Result:
    translations = next((run / "valid").glob("*.hyp.txt")).read_bytes()
    return Result(
        method=method,
        setting=GRID[method][0],
        value=value.strip("[]"),
        bleu=round(json.loads(score_of(run).read_text())["bleu"], 2),
        **losses_at_best(read_log(run / "train.log")),
        output_sha256=hashlib.sha256(translations).hexdigest(),
        commit=json.loads((run / "provenance.json").read_text())["commit"],
    )


if __name__ == "__main__":
    main()
