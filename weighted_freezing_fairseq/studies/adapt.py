"""A model of one domain adapted to another, and what it forgets, on the embedded corpus.

A parent is trained on sentences of some kinds, then fine-tuned on sentences of others: plainly, and with the methods
that spare or choose weights by their Fisher information (one YAML a method, in configs/adapt). One table holds BLEU on
the old and on the new domain, how many weights changed, and how small `wff pack` stores the result. Subwords and
dictionary stay the parent's, as for any adapted model.
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
from .training import filled_in, refuse_invalid_settings

OLD = ("date", "time", "relative", "number", "money", "measure", "language", "territory", "city")
NEW = ("percent", "currency")
PARENT = "parent"


def adapt(
    study: EmbeddedStudy, methods: Sequence[str] | None, density: float, samples: int, parent_config: Path
) -> str:
    """Train a parent on the old domain for each seed, and adapt it to the new one; returns the table, written too.

    Args:
        methods: each has a YAML in the study's configs (default: all that have one).
        density: of the mask for fish_mask.
        samples: sentences that Fisher information is measured on.
        parent_config: the YAML of the parents.
    """
    methods = methods_in(study.configs) if methods is None else methods
    refuse_unknown_methods(methods, study.configs)
    configs = {method: study.configs / f"{method}.yaml" for method in methods}
    refuse_invalid_settings(parent_config, *configs.values())
    parents, children = study.runs([PARENT]), study.runs(methods)
    machine = study.machine(len(children))

    def adapt_child(run: Run) -> None:
        parent = parents[run.seed - 1]
        fisher = parent.folder / "fisher.pt"
        measured = {"fisher": fisher, "ewc_anchor": fisher, "fish_mask": parent.folder / "mask.pt"}
        start = {"checkpoint": {"finetune_from_model": str(parent.checkpoint)}}
        study.train(run, configs[run.method], new, machine, {**start, **filled_in(configs[run.method], measured)})

    with study.alone():
        old = study.prepare("old", OLD)
        new = study.prepare("new", NEW, like=old)
        say(f"training {len(parents)} parents on {', '.join(OLD)}")
        machine.map(lambda run: study.train(run, parent_config, old, machine), parents)
        machine.map(lambda run: _measure(run, old, new, density, samples, machine), parents)
        say(f"adapting {len(children)} times to {', '.join(NEW)}")
        machine.map(adapt_child, children)
        runs = [*parents, *children]
        by_domain = [
            machine.map(lambda run, data=data, name=name: evaluate(run, data, machine, name), runs)
            for name, data in (("old", old), ("new", new))
        ]
        packed = {run: _packed(run, parents[run.seed - 1], machine) for run in children}
        text, rows = table(dict(zip(runs, zip(*by_domain, strict=True), strict=True)), packed, study.pair)
        study.write_results(text, rows)
    return text


def _measure(
    parent: Run, old: PreparedCorpus, new: PreparedCorpus, density: float, samples: int, machine: Machine
) -> None:
    """Measure Fisher information of the parent on the old domain, and a mask of what matters on the new one."""
    for name, data, more in (("fisher", old, []), ("mask", new, ["--mask-density", density])):
        goal = parent.folder / f"{name}.pt"

        def work(goal: Path = goal, data: PreparedCorpus = data, more: Sequence[Any] = more, name: str = name) -> None:
            say(f"{parent.name}: Fisher information on the {data.folder.name} domain ({name})")
            words = ["fisher", parent.checkpoint, "--data", data.binarised, "--out", goal, "--samples", samples]
            wff([*words, "--device", machine.device, *more], machine.threads)

        once(parent.folder, name, {"samples": samples, "more": more}, work)


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
        of_method = [run for run in scores if run.method == method]
        reports = [packed[run] for run in of_method if run in packed]
        changed, size = (
            f"{100 * max(r[key] for r in reports):.2f} %" if reports else "-"
            for key in ("density", "file_over_base_model")
        )
        old, new = (mean([scores[run][domain].bleu for run in of_method]) for domain in (0, 1))
        seeds = " ".join(str(run.seed) for run in of_method)
        lines.append(f"| `{method}` | {old} | {new} | {changed} | {size} | {seeds} |")
    old_score, new_score = next(iter(scores.values()))
    lines += [
        "",
        f"BLEU: `{old_score.bleu_signature}`  ",
        f"old: {', '.join(OLD)}; {old_score.sentences} test sentences. new: {', '.join(NEW)}; {new_score.sentences}. "
        f"`{PARENT}` has seen the old domain only. Beam {DECODE.beam}, last checkpoint.",
    ]
    return "\n".join(lines), rows
