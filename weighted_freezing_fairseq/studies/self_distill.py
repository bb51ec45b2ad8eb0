"""`wff self-distill`: a model taught by a model of its own kind, round after round, on the embedded corpus.

Round 0 is standard training; a student of round n learns from the targets and from what the model of round n - 1 thinks
of them (Xu et al. 2022, section 2.3 and Table 1). A student starts from a random seed of its own, as in Furlanello et
al. 2018. Left out on purpose: their ensemble of all rounds when translating, which is fairseq-generate --path A:B.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..scoring.scores import Score
from ..workspace.locks import alone_in
from ..workspace.machine import Machine
from ..workspace.progress import say
from ..workspace.runs import Run
from ..workspace.tables import mean, write_tables
from .embedded import (
    add_run_arguments,
    evaluate,
    note_on,
    on_embedded,
    prepare,
    refuse_wrong,
)
from .training import refuse_invalid_settings, train

HELP = """\
Train a model, then students of the same shape, each taught by the model of the round before, and score every round on
the embedded corpus. With --ensemble all earlier rounds teach, their probabilities averaged."""
EXAMPLE = "wff self-distill --pair de-en --rounds 2 --seeds 3 --out runs/self_distill"

STANDARD, STUDENT = "standard", "self_distillation"
SEEDS_APART = 1000  # between the random seeds of two rounds


def generations(seed: int, rounds: int, folder: Path) -> list[Run]:
    """The runs that begin with one seed, teachers first."""
    return [Run(f"round-{n}", seed + SEEDS_APART * n, folder / f"round-{n}-{seed}") for n in range(rounds + 1)]


def teachers_of(n: int, runs: Sequence[Run], ensemble: bool) -> Sequence[Run]:
    """Whom the student of round n learns from, among its generations."""
    return runs[:n] if ensemble else runs[max(n - 1, 0) : n]


def table(scores: Sequence[dict[Run, Score]], ensemble: bool, pair: str) -> tuple[str, list[dict[str, Any]]]:
    """The result as Markdown (means over seeds) and as rows (one a run); `scores` has a seed's generations in each."""
    lines = [f"| round ({pair}) | taught by | BLEU | chrF | seeds |", "|---|---|---|---|---|"]
    rows = []
    for n, of_round in enumerate(zip(*(each.items() for each in scores), strict=True)):
        taught_by = " and ".join(run.method.replace("-", " ") for run in teachers_of(n, list(scores[0]), ensemble))
        bleu, chrf = (mean([getattr(found, key) for _, found in of_round]) for key in ("bleu", "chrf"))
        seeds = " ".join(str(run.seed) for run, _ in of_round)
        lines.append(f"| {n} | {taught_by or '-'} | {bleu} | {chrf} | {seeds} |")
        rows += [
            {
                "pair": pair, "round": n, "seed": run.seed, "taught_by": taught_by,
                "bleu": f"{found.bleu:.2f}", "chrf": f"{found.chrf:.2f}", "sentences": found.sentences,
                "bleu_signature": found.bleu_signature, "chrf_signature": found.chrf_signature,
            }
            for run, found in of_round
        ]  # fmt: skip
    return "\n".join([*lines, *note_on(next(iter(scores[0].values())))]), rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How often, who teaches, and where."""
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="students after one another (default 2)")
    parser.add_argument("--ensemble", action="store_true", help="all earlier rounds teach, not the last one alone")
    add_run_arguments(parser, seeds="all rounds for seeds 1 to N", out="runs/self_distill", configs="toy")


def run(args: argparse.Namespace) -> int:
    """The whole way; ends with the table on standard output."""
    refuse_wrong(args)
    if args.rounds < 1:
        raise UserError("--rounds must be at least 1; type --rounds 2")
    yamls = {method: args.configs.resolve() / f"{method}.yaml" for method in (STANDARD, STUDENT)}
    for path in yamls.values():
        if not path.is_file():
            raise UserError(f"there is no {path}; give --configs a folder with {STANDARD}.yaml and {STUDENT}.yaml")
    refuse_invalid_settings(*yamls.values())
    folder = args.out.resolve() / args.pair
    data, reference = folder / "bin", folder / "raw" / f"test.{args.pair.split('-')[1]}"
    machine = Machine.of(args.device, args.jobs, args.seeds)

    def work(seed: int) -> dict[Run, Score]:
        scores = {}
        runs = generations(seed, args.rounds, folder)
        for n, student in enumerate(runs):
            teacher = ":".join(str(run.checkpoint) for run in teachers_of(n, runs, args.ensemble))
            more = {"criterion": {"teacher": teacher}} if n else {}
            config = yamls[STUDENT if n else STANDARD]
            train(student, config, data, args.pair, machine, on_embedded(args, folder), more)
            scores[student] = evaluate(student, data, reference, machine)
        return scores

    with alone_in(folder):
        prepare(args.pair, folder, args.corpus_fraction)
        say(f"{args.rounds} rounds of students for {args.seeds} seeds, {machine.jobs} at a time, on {machine.device}")
        text, rows = table(machine.map(work, range(1, args.seeds + 1)), args.ensemble, args.pair)
        write_tables(folder, text, rows)
    print(text)
    print(f"\nTables and logs: {folder}/ (table.md, table.csv, */train.log)")
    return 0
