"""`wff adapt`: adapt a model of one domain to another with several methods, and measure what it forgets.

A parent is trained on some kinds of sentences of the embedded corpus, then fine-tuned on others: plainly, and with the
methods that protect or select weights by their Fisher information (one YAML a method, in configs/adapt). Subwords and
dictionary are the parent's. The table shows BLEU on the old and the new domain, the fraction of weights that changed,
and the size of the child as `wff pack` stores it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import write_atomically
from ..forms import NUMBER, read_json
from ..scoring.scores import Score
from ..workspace.commands import wff
from ..workspace.configs import methods_in
from ..workspace.machine import Machine
from ..workspace.progress import say
from ..workspace.runs import Run
from ..workspace.steps import once
from ..workspace.tables import mean
from .embedded import DECODE, EmbeddedStudy, PreparedCorpus, evaluate, refuse_unknown_methods
from .training import fill_open_settings, refuse_invalid_settings

OLD = ("date", "time", "relative", "number", "money", "measure", "language", "territory", "city")
NEW = ("percent", "currency")
PARENT = "parent"


def adapt(
    study: EmbeddedStudy, methods: Sequence[str] | None, density: float, samples: int, parent_config: Path
) -> str:
    """Train a parent for each seed on the old domain and adapt it to the new one; writes and returns the table.

    Args:
        methods: each has a YAML in the study's configs (default: all that have one).
        density: of the mask for fish_mask.
        samples: number of sentences that Fisher information is measured on.
        parent_config: the YAML of the parents.
    """
    methods = methods_in(study.configs) if methods is None else methods
    refuse_unknown_methods(methods, study.configs)
    configs = {method: study.configs / f"{method}.yaml" for method in methods}
    refuse_invalid_settings(parent_config, *configs.values())
    parents, children = {run.seed: run for run in study.runs([PARENT])}, study.runs(methods)
    machine = study.machine(len(children))

    def train_parent(run: Run) -> None:
        study.train(run, parent_config, old, machine)
        _measure(run, "fisher", old, [], samples, machine)
        _measure(run, "mask", new, ["--mask-density", density], samples, machine)

    def adapt_child(run: Run) -> None:
        parent, config = parents[run.seed], configs[run.method]
        fisher = parent.folder / "fisher.pt"
        files = {"fisher": fisher, "ewc_anchor": fisher, "fish_mask": parent.folder / "mask.pt"}
        start = {"checkpoint": {"finetune_from_model": str(parent.checkpoint)}}
        study.train(run, config, new, machine, {**start, **fill_open_settings(config, files)})

    def evaluate_domains(run: Run) -> tuple[Score, Score]:
        return evaluate(run, old, machine, "old"), evaluate(run, new, machine, "new")

    with study.lock():
        old = study.prepare("old", OLD)
        new = study.prepare("new", NEW, vocabulary=old)
        say(f"training {len(parents)} parents on {', '.join(OLD)}")
        machine.map(train_parent, parents.values())
        say(f"adapting {len(children)} times to {', '.join(NEW)}")
        machine.map(adapt_child, children)
        runs = [*parents.values(), *children]
        scores = machine.map(evaluate_domains, runs)
        packed = {run: _pack(run, parents[run.seed], machine) for run in children}
        text, rows = table(dict(zip(runs, scores, strict=True)), packed, study.pair)
        study.write_results(text, rows)
    return text


def _measure(parent: Run, name: str, data: PreparedCorpus, options: list[Any], samples: int, machine: Machine) -> None:
    """Write NAME.pt of the parent with `wff fisher`: its Fisher information on `data`, or a mask."""

    def work() -> None:
        say(f"{parent.name}: Fisher information on the {data.folder.name} domain ({name})")
        words = ["fisher", parent.checkpoint, "--data", data.binarised, "--out", parent.folder / f"{name}.pt"]
        wff([*words, "--samples", samples, "--device", machine.device, *options], machine.threads)

    once(parent.folder, name, {"samples": samples, "more": options}, work)


def _pack(run: Run, parent: Run, machine: Machine) -> dict[str, Any]:
    """Store a child with `wff pack`; returns the report."""
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
    """The result as Markdown (means over seeds), and as rows, one a run.

    Args:
        scores: on the old and the new domain.
        packed: report of `wff pack` for each child.
    """
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
        runs = [run for run in scores if run.method == method]
        reports = [packed[run] for run in runs if run in packed]
        changed, size = (
            f"{100 * max(report[key] for report in reports):.2f} %" if reports else "-"
            for key in ("density", "file_over_base_model")
        )
        old, new = (mean([scores[run][domain].bleu for run in runs]) for domain in (0, 1))
        seeds = " ".join(str(run.seed) for run in runs)
        lines.append(f"| `{method}` | {old} | {new} | {changed} | {size} | {seeds} |")
    old_score, new_score = next(iter(scores.values()))
    lines += [
        "",
        f"BLEU: `{old_score.bleu_signature}`  ",
        f"old: {', '.join(OLD)}; {old_score.sentences} test sentences. new: {', '.join(NEW)}; {new_score.sentences}. "
        f"`{PARENT}` has seen the old domain only. Beam {DECODE.beam}, last checkpoint.",
    ]
    return "\n".join(lines), rows
