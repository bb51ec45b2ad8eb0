"""`wff quickstart`: from nothing to a table, on the embedded corpus, through the path that any corpus takes.

The steps are those of `embedded.py` and `training.py`, with one YAML for each method in configs/toy, or in
configs/adapt for those that start from a trained model; then cost side by side, table, curves, and all of it on one
page. Its scores show that the pipeline works; they say nothing about the papers' claims.
"""

import argparse
import csv
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..figures import registry
from ..report import page
from ..scoring.scores import Score
from ..workspace.commands import wff
from ..workspace.configs import CONFIGS, config_path
from ..workspace.locks import alone_in
from ..workspace.machine import Machine, threads_each
from ..workspace.progress import say
from ..workspace.runs import Run
from ..workspace.steps import once
from ..workspace.tables import mean, write_tables
from .embedded import (
    add_run_arguments,
    evaluate,
    note_on,
    on_embedded,
    prepare,
    refuse_unknown_methods,
    refuse_wrong,
)
from .training import (
    filled_in,
    found_in,
    needs_another_run,
    refuse_invalid_settings,
    train,
)

HELP = "Train, translate, score and measure methods side by side on the embedded corpus."
ROUNDS = 21  # of updates side by side; fewer where only a share of the corpus is used
IMPORTANCE_EVERY = 40  # updates, for the page: twenty times in the 800 of a toy run
EXAMPLE = "wff quickstart --pair de-en --methods standard,weighted_freeze --seeds 3 --out runs/quickstart"


def cost(
    out: Path, methods: Sequence[str], folders: Sequence[Path], device: str, rounds: int
) -> dict[str, dict[str, str]]:
    """Rows of bench.csv by method: whole updates of all methods, interleaved in one process."""
    folder = _cost_folder(out, methods)

    def work() -> None:
        say("measuring update time and memory of all methods side by side")
        words = ["bench", "--methods", ",".join(methods), "--size", "toy", "--out", folder]
        words += [word for each in folders for word in ("--configs", each)]
        wff([*words, "--device", device, "--rounds", rounds], threads_each(1))

    with alone_in(folder):  # other pairs share it
        once(folder, "cost", {"methods": list(methods), "device": device, "rounds": rounds}, work)
    with (folder / "bench.csv").open(newline="", encoding="utf-8") as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def _cost_folder(out: Path, methods: Sequence[str]) -> Path:
    return out / f"cost-{hashlib.sha256(','.join(methods).encode()).hexdigest()[:8]}"


def table(scores: dict[Run, Score], costs: dict[str, dict[str, str]], pair: str) -> tuple[str, list[dict[str, Any]]]:
    """The result as Markdown (means over seeds) and as rows (one a run)."""
    rows = [
        {
            "pair": pair, "method": run.method, "seed": run.seed,
            "bleu": f"{found.bleu:.2f}", "chrf": f"{found.chrf:.2f}",
            "update_time_ratio": f"{float(costs[run.method]['time_ratio']):.3f}",
            "peak_memory_ratio": f"{float(costs[run.method]['memory_ratio']):.3f}",
            "sentences": found.sentences, "bleu_signature": found.bleu_signature,
            "chrf_signature": found.chrf_signature,
        }
        for run, found in scores.items()
    ]  # fmt: skip
    lines = [
        f"| method ({pair}) | BLEU | chrF | update time | peak memory | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(run.method for run in scores):
        mine = {run.seed: found for run, found in scores.items() if run.method == method}
        spent = costs[method]
        lines.append(
            f"| `{method}` | {mean([s.bleu for s in mine.values()])} | {mean([s.chrf for s in mine.values()])} "
            f"| {float(spent['time_ratio']):.3f} [{float(spent['time_low']):.3f}, {float(spent['time_high']):.3f}] "
            f"| {float(spent['memory_ratio']):.3f} | {' '.join(map(str, mine))} |"
        )
    lines += note_on(next(iter(scores.values())))
    lines[-1] += (
        " Update time and peak memory are ratios to standard training, measured side by side (median and quartiles; "
        "memory: weights, optimizer state and the transient peak of one update)."
    )
    return "\n".join(lines), rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to compare, and where."""
    parser.add_argument(
        "--methods",
        default="standard,weighted_freeze",
        help="comma-separated; each has a YAML in --configs, or in configs/adapt: then it starts from standard",
    )
    add_run_arguments(parser, seeds="train with seeds 1 to N", out="runs/quickstart", configs="toy")


def run(args: argparse.Namespace) -> int:
    """The whole way; ends with the table on standard output."""
    refuse_wrong(args)
    folders = (args.configs.resolve(), CONFIGS / "adapt")
    methods = ["standard", *(m for m in args.methods.split(",") if m != "standard")]
    refuse_unknown_methods(methods, *folders)
    refuse_invalid_settings(*(config_path(method, *folders) for method in methods))
    out = args.out.resolve()
    folder = out / args.pair
    data, reference = folder / "bin", folder / "raw" / f"test.{args.pair.split('-')[1]}"
    runs = [Run(m, seed, folder / f"{m}-{seed}") for seed in range(1, args.seeds + 1) for m in methods]
    machine = Machine.of(args.device, args.jobs, len(runs))

    with alone_in(folder):
        prepare(args.pair, folder, args.corpus_fraction)
        say(f"training {len(runs)} runs on {machine}")
        _train_all(runs, folders, data, on_embedded(args, folder), machine)
        found = machine.map(lambda r: evaluate(r, data, reference, machine), runs)
        costs = cost(out, methods, folders, machine.device, max(3, round(ROUNDS * args.corpus_fraction)))
        text = _write_results(dict(zip(runs, found, strict=True)), costs, folder, args.pair)
        by_method = sorted(runs, key=lambda run: methods.index(run.method))
        subject = page.Subject.of([*(run.folder for run in by_method), _cost_folder(out, methods)], None)
        report = page.write(subject, folder / page.PAGE)
    print(text)
    print(f"\nTables, learning curves and logs: {folder}/ (table.md, table.csv, curves.png, */train.log)")
    print(f"TensorBoard: tensorboard --logdir {folder}")
    print(f"All of it on one page, for any browser: {report}")
    return 0


def _train_all(
    runs: Sequence[Run], folders: Sequence[Path], data: Path, about: Mapping[str, Any], machine: Machine
) -> None:
    """Every run; those that are taught by the standard run of their seed, or start from it, come after it."""
    yamls = {run: config_path(run.method, *folders) for run in runs}
    later = [run for run in runs if needs_another_run(yamls[run])]

    def work(run: Run) -> None:
        parent = next(other for other in runs if (other.method, other.seed) == ("standard", run.seed))
        found = found_in(parent, "last", yamls[run], data, machine)
        more = {**filled_in(yamls[run], found), "common": {"log_importance": IMPORTANCE_EVERY}}
        train(run, yamls[run], data, about["pair"], machine, about, more)

    machine.map(work, [run for run in runs if run not in later])
    machine.map(work, later)


def _write_results(scores: dict[Run, Score], costs: dict[str, dict[str, str]], folder: Path, pair: str) -> str:
    """table.md, table.csv, curves.csv and curves.png; returns the table."""
    text, rows = table(scores, costs, pair)
    write_tables(folder, text, rows)
    registry.make("curves", {run.folder.name: run.folder for run in scores}, folder, ("png",))
    return text
