"""`wff adapt`: a model of one domain adapted to another, and what it forgets, on the embedded corpus.

A parent is trained on sentences of some kinds, then fine-tuned on sentences of others: plainly, and with the methods
that spare or choose weights by their Fisher information (one YAML a method, in configs/adapt). One table holds BLEU on
the old and on the new domain, how many weights changed, and how small `wff pack` stores the result. Subwords and
dictionary stay the parent's, as for any adapted model.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import check_fraction
from ..files import write_atomically
from ..forms import NUMBER, read_json
from ..scoring.scores import Score
from ..workspace.commands import wff
from ..workspace.configs import CONFIGS, methods_in
from ..workspace.locks import alone_in
from ..workspace.machine import Machine
from ..workspace.progress import say
from ..workspace.runs import Run
from ..workspace.steps import once
from ..workspace.tables import mean, write_tables
from .embedded import (
    DECODE,
    add_run_arguments,
    evaluate,
    on_embedded,
    prepare,
    refuse_unknown_methods,
    refuse_wrong,
)
from .training import filled_in, refuse_invalid_settings, train

HELP = "Adapt a model to a new domain with several methods, and measure what it learns and what it forgets."
EXAMPLE = "wff adapt --pair de-en --methods standard,ewc,fish_mask,lfr_cm --seeds 3 --out runs/adapt"

OLD = ("date", "time", "relative", "number", "money", "measure", "language", "territory", "city")
NEW = ("percent", "currency")
PARENT = "parent"


def main_steps(
    args: argparse.Namespace, methods: Sequence[str], configs: Path, parent_config: Path, folder: Path
) -> str:
    """From nothing to the table."""
    old, new = folder / "old", folder / "new"
    parents = [Run(PARENT, seed, folder / f"{PARENT}-{seed}") for seed in range(1, args.seeds + 1)]
    children = [Run(m, p.seed, folder / f"{m}-{p.seed}") for p in parents for m in methods]
    machine = Machine.of(args.device, args.jobs, len(children))
    prepare(args.pair, old, args.corpus_fraction, OLD)
    prepare(args.pair, new, args.corpus_fraction, NEW, like=old)
    say(f"training {len(parents)} parents on {', '.join(OLD)}")

    def begin(run: Run) -> None:
        train(run, parent_config, old / "bin", args.pair, machine, on_embedded(args, old))

    machine.map(begin, parents)
    machine.map(lambda run: _measure(run, old, new, args, machine), parents)
    say(f"adapting {len(children)} times to {', '.join(NEW)}")

    def adapt(run: Run) -> None:
        parent = parents[run.seed - 1]
        config = configs / f"{run.method}.yaml"
        fisher = parent.folder / "fisher.pt"
        measured = filled_in(config, {"fisher": fisher, "ewc_anchor": fisher, "fish_mask": parent.folder / "mask.pt"})
        start = {"checkpoint": {"finetune_from_model": str(parent.checkpoint)}}
        train(run, config, new / "bin", args.pair, machine, on_embedded(args, new), {**start, **measured})

    machine.map(adapt, children)
    target = args.pair.split("-")[1]
    runs = [*parents, *children]
    scores = {
        name: machine.map(lambda run, d=d, n=name: evaluate(run, d / "bin", d / f"raw/test.{target}", machine, n), runs)
        for name, d in (("old", old), ("new", new))
    }
    packed = {run: _packed(run, parents[run.seed - 1], machine) for run in children}
    found = {run: (scores["old"][i], scores["new"][i]) for i, run in enumerate(runs)}
    text, rows = table(found, packed, args.pair)
    write_tables(folder, text, rows)
    return text


def _measure(parent: Run, old: Path, new: Path, args: argparse.Namespace, machine: Machine) -> None:
    """Fisher information of the parent: on the old domain, and a mask of what matters on the new."""
    for name, data, more in (("fisher", old, []), ("mask", new, ["--mask-density", args.density])):
        goal = parent.folder / f"{name}.pt"

        def work(goal: Path = goal, data: Path = data, more: Sequence[Any] = more, name: str = name) -> None:
            say(f"{parent.name}: Fisher information on the {data.name} domain ({name})")
            words = ["fisher", parent.checkpoint, "--data", data / "bin", "--out", goal, "--samples", args.samples]
            wff([*words, "--device", machine.device, *more], machine.threads)

        once(parent.folder, name, {"samples": args.samples, "more": more}, work)


def _packed(run: Run, parent: Run, machine: Machine) -> dict[str, Any]:
    """The report of `wff pack` on a child."""
    report = run.folder / "packed.json"

    def work() -> None:
        words = ["pack", parent.checkpoint, run.checkpoint, "--out", run.folder / "packed.wff", "--json"]
        write_atomically(report, wff(words, machine.threads))

    once(run.folder, "packing", {}, work)
    form = {"density": NUMBER, "file_over_base_model": NUMBER}
    return read_json(report, form, f"to pack it again, type: rm {run.folder}/.packing.json")


def table(
    scores: dict[Run, tuple[Score, Score]], packed: dict[Run, dict[str, Any]], pair: str
) -> tuple[str, list[dict[str, Any]]]:
    """The result as Markdown (means over seeds) and as rows (one a run)."""
    rows = [
        {
            "pair": pair, "method": run.method, "seed": run.seed,
            "bleu_old": f"{old.bleu:.2f}", "bleu_new": f"{new.bleu:.2f}",
            "chrf_old": f"{old.chrf:.2f}", "chrf_new": f"{new.chrf:.2f}",
            "changed_fraction": f"{packed[run]['density']:.6f}" if run in packed else "0",
            "packed_fraction": f"{packed[run]['file_over_base_model']:.6f}" if run in packed else "0",
            "sentences_old": old.sentences, "sentences_new": new.sentences,
            "bleu_signature": old.bleu_signature, "chrf_signature": old.chrf_signature,
        }
        for run, (old, new) in scores.items()
    ]  # fmt: skip
    lines = [
        f"| method ({pair}) | BLEU old | BLEU new | weights changed | packed, of the model | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(run.method for run in scores):
        mine = [run for run in scores if run.method == method]
        reports = [packed[run] for run in mine if run in packed]
        changed, size = (
            f"{100 * max(r[key] for r in reports):.2f} %" if reports else "-"
            for key in ("density", "file_over_base_model")
        )
        lines.append(
            f"| `{method}` | {mean([scores[r][0].bleu for r in mine])} | {mean([scores[r][1].bleu for r in mine])} "
            f"| {changed} | {size} | {' '.join(str(r.seed) for r in mine)} |"
        )
    old, new = next(iter(scores.values()))
    lines += [
        "",
        f"BLEU: `{old.bleu_signature}`  ",
        f"old: {', '.join(OLD)}; {old.sentences} test sentences. new: {', '.join(NEW)}; {new.sentences}. "
        f"`{PARENT}` has seen the old domain only. Beam {DECODE.beam}, last checkpoint.",
    ]
    return "\n".join(lines), rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to compare, and where."""
    parser.add_argument("--methods", help="comma-separated; each has a YAML in --configs (default: all of them)")
    parser.add_argument("--density", type=float, default=0.05, help="of the mask for fish_mask (default 0.05)")
    parser.add_argument("--samples", type=int, default=1000, help="sentences to measure Fisher information on")
    parser.add_argument("--parent-config", type=Path, help="how parents train (default: configs/toy/standard.yaml)")
    add_run_arguments(parser, seeds="parents and children of seeds 1 to N", out="runs/adapt", configs="adapt")


def run(args: argparse.Namespace) -> int:
    """The whole way; ends with the table on standard output."""
    refuse_wrong(args)
    check_fraction("--density", args.density, 0.05, one=True)
    configs = args.configs.resolve()
    methods = args.methods.split(",") if args.methods else methods_in(configs)
    refuse_unknown_methods(methods, configs)
    parent_config = (args.parent_config or CONFIGS / "toy/standard.yaml").resolve()
    refuse_invalid_settings(parent_config, *(configs / f"{method}.yaml" for method in methods))
    folder = args.out.resolve() / args.pair
    with alone_in(folder):
        text = main_steps(args, methods, configs, parent_config, folder)
    print(text)
    print(f"\nTables, Fisher information, masks, packed runs and logs: {folder}/ (table.md, table.csv, */train.log)")
    return 0
