"""`wff prune-iterative`: a trained model, pruned step by step by every method, with and without weight alignment.

The MT form of O'Neill et al. 2021, Table 1: a parent is trained as ever, then tuned on while it is pruned, and scored
at one sparsity. The row without pruning is tuned for as long, so that what differs is the pruning. Left out on purpose:
pruning at once, without training on, which is `wff prune`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.pruning import METHODS
from ..errors import UserError, check_fraction
from ..scoring.scores import Score
from ..workspace.checkpoints import read_checkpoint
from ..workspace.configs import CONFIGS
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

HELP = "Train a model, prune it step by step with several methods while it trains on, and score all at one sparsity."
EXAMPLE = "wff prune-iterative --pair de-en --methods magnitude,lamp,random --sparsity 0.7 --out runs/prune"

PARENT, NONE = "parent", "none"
ALIGNMENTS = (NONE, "cosine", "frobenius")
_YAML = "alignreg.yaml"


def alignment(spec: str) -> dict[str, Any]:
    """Settings of `cosine`, or of `cosine@0.5`, with a lambda in place of the YAML's; anything else is refused."""
    kind, at, strength = spec.partition("@")
    try:
        settings = {"alignreg": kind} | ({"alignreg_lambda": float(strength)} if at else {})
    except ValueError:
        kind = ""
    if kind not in ALIGNMENTS or settings.get("alignreg_lambda", 0) < 0 or (at and kind == NONE):
        raise UserError(
            f"unknown {spec!r} in --alignreg; type --alignreg with some of: {','.join(ALIGNMENTS)}, or with a lambda, "
            "as in cosine@0.5"
        )
    return settings


def pruned_share(checkpoint: Path) -> float:
    """The share of exact zeros among the weights that a run prunes, counted in its checkpoint."""
    rest, tensors = read_checkpoint(checkpoint)
    own = rest["extra_state"].get("guided_criterion", {}).get("pruning")
    if own is None:
        return 0.0
    weights = [tensors[name] for name in own["masks"]]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


def main_steps(
    args: argparse.Namespace, methods: Sequence[str], alignments: Sequence[str], parent_config: Path, folder: Path
) -> str:
    """From nothing to the table."""
    data, reference = folder / "bin", folder / "raw" / f"test.{args.pair.split('-')[1]}"
    parents = [Run(PARENT, seed, folder / f"{PARENT}-{seed}") for seed in range(1, args.seeds + 1)]
    cells = [(NONE, NONE), *((method, kind) for method in methods for kind in alignments)]
    children = {
        Run(f"{method}+{kind}", parent.seed, folder / f"{method}+{kind}-{parent.seed}"): (method, kind)
        for parent in parents
        for method, kind in cells
    }
    machine = Machine.of(args.device, args.jobs, len(children))
    prepare(args.pair, folder, args.corpus_fraction)
    say(f"training {len(parents)} parents, {machine.jobs} at a time, on {machine.device}")

    def begin(run: Run) -> Score:
        train(run, parent_config, data, args.pair, machine, on_embedded(args, folder))
        return evaluate(run, data, reference, machine)

    scores = dict(zip(parents, machine.map(begin, parents), strict=True))
    say(f"pruning {len(children)} times to {100 * args.sparsity:g} % while training on")

    def prune(run: Run) -> Score:
        method, kind = children[run]
        criterion = {"prune": method, **alignment(kind), "prune_target": args.sparsity}
        start = {"finetune_from_model": str(parents[run.seed - 1].checkpoint)}
        more = {"criterion": criterion, "checkpoint": start}
        train(run, args.configs.resolve() / _YAML, data, args.pair, machine, on_embedded(args, folder), more)
        return evaluate(run, data, reference, machine)

    scores |= dict(zip(children, machine.map(prune, children), strict=True))
    shares = {run: pruned_share(run.checkpoint) for run in children}
    text, rows = table(scores, shares, children, args.pair)
    write_tables(folder, text, rows)
    return text


def table(
    scores: dict[Run, Score], shares: dict[Run, float], children: dict[Run, tuple[str, str]], pair: str
) -> tuple[str, list[dict[str, Any]]]:
    """The result as Markdown (a row a method, a column an alignment, means over seeds) and as rows (one a run)."""
    cells = {run: children.get(run, (PARENT, NONE)) for run in scores}
    rows = [
        {
            "pair": pair, "prune": cells[run][0], "alignreg": cells[run][1], "seed": run.seed,
            "sparsity": f"{shares.get(run, 0):.6f}", "bleu": f"{found.bleu:.2f}", "chrf": f"{found.chrf:.2f}",
            "sentences": found.sentences,
            "bleu_signature": found.bleu_signature, "chrf_signature": found.chrf_signature,
        }
        for run, found in scores.items()
    ]  # fmt: skip
    kinds = list(dict.fromkeys(kind for _, kind in cells.values()))
    lines = [
        f"| pruning ({pair}) | zeros | " + " | ".join(f"BLEU, alignreg {kind}" for kind in kinds) + " | seeds |",
        "|---" * (len(kinds) + 3) + "|",
    ]
    for method in dict.fromkeys(method for method, _ in cells.values()):
        mine = [run for run in scores if cells[run][0] == method]
        bleu = {k: [scores[run].bleu for run in mine if cells[run][1] == k] for k in kinds}
        columns = " | ".join(mean(values) if values else "-" for values in bleu.values())
        zeros = max(shares.get(run, 0) for run in mine)
        seeds = " ".join(map(str, sorted({run.seed for run in mine})))
        lines.append(f"| `{method}` | {100 * zeros:.2f} % | {columns} | {seeds} |")
    return "\n".join([*lines, *note_on(next(iter(scores.values())))]), rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to compare, how far to prune, and where."""
    parser.add_argument(
        "--methods", default=",".join(METHODS), help=f"comma-separated (default: all: {', '.join(METHODS)})"
    )
    parser.add_argument(
        "--alignreg",
        default=",".join(ALIGNMENTS),
        help=f"comma-separated, each with a lambda if wanted, as in cosine@0.5 (default: {','.join(ALIGNMENTS)})",
    )
    parser.add_argument("--sparsity", type=float, default=0.7, help="share of weights that is pruned (default 0.7)")
    parser.add_argument("--parent-config", type=Path, help="how parents train (default: configs/toy/standard.yaml)")
    add_run_arguments(parser, seeds="parents and children of seeds 1 to N", out="runs/prune", configs="prune")


def run(args: argparse.Namespace) -> int:
    """The whole way; ends with the table on standard output."""
    refuse_wrong(args)
    check_fraction("--sparsity", args.sparsity, 0.7)
    methods, kinds = args.methods.split(","), args.alignreg.split(",")
    for name in methods:
        if name not in METHODS:
            raise UserError(f"unknown {name!r} in --methods; type --methods with some of: {','.join(METHODS)}")
    for kind in kinds:
        alignment(kind)
    if not (args.configs / _YAML).is_file():
        raise UserError(f"there is no {args.configs / _YAML}; give --configs a folder with {_YAML}")
    parent_config = (args.parent_config or CONFIGS / "toy/standard.yaml").resolve()
    refuse_invalid_settings(parent_config, args.configs.resolve() / _YAML)
    folder = args.out.resolve() / args.pair
    with alone_in(folder):
        text = main_steps(args, methods, kinds, parent_config, folder)
    print(text)
    print(f"\nTables, checkpoints and logs: {folder}/ (table.md, table.csv, */train.log)")
    return 0
