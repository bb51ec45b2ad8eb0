"""`wff prune-iterative`: prune a trained model step by step, by several methods, with and without weight alignment.

The form of O'Neill et al. 2022, Table 1, for machine translation: a parent is trained as usual, then trained further
while it is pruned, and scored. The row without pruning is trained further for as long, so that rows differ by pruning
alone. With `zero_shot`, the form of their question: the parent translates all languages, it is tuned and pruned on one
pair, and scored on all. Pruning without further training is `wff prune`.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.embedded import MANY_TO_ONE, PAIRS
from ..errors import UserError
from ..scoring.scores import Score, read_lines, score
from ..workspace.machine import Machine
from ..workspace.progress import say
from ..workspace.runs import Run
from ..workspace.tables import mean
from .embedded import EmbeddedStudy, PreparedCorpus, evaluate, score_columns, score_notes
from .training import refuse_invalid_settings

PARENT, NONE = "parent", "none"
ALIGNMENTS = (NONE, "cosine", "frobenius")
_YAML = "alignreg.yaml"

Scores = Mapping[str, Score]  # by language pair


@dataclass(frozen=True)
class Child:
    """How a parent is trained further: what is pruned, how much, and what its weights are kept near."""

    method: str
    alignment: str = NONE
    sparsity: float = 0.0

    @property
    def name(self) -> str:
        """The name of its runs, without the seed."""
        return f"{self.method}+{self.alignment}" + (f"+{self.sparsity:g}" if self.sparsity else "")

    @property
    def criterion(self) -> dict[str, Any]:
        """The settings of the criterion."""
        target = {"prune_target": self.sparsity} if self.sparsity else {}
        return {"prune": self.method, **alignment(self.alignment), **target}


def prune(
    study: EmbeddedStudy,
    methods: Sequence[str],
    alignments: Sequence[str],
    sparsities: Sequence[float],
    parent_config: Path,
    zero_shot: bool = False,
) -> str:
    """Train a parent for each seed and prune it by each method and alignment; writes and returns the table.

    Args:
        alignments: each one of `ALIGNMENTS`, optionally with a lambda, as in cosine@0.5.
        sparsities: fractions of weights that are pruned in the end.
        parent_config: the YAML of the parents.
        zero_shot: train the parents on all pairs, and score every run on all of them.
    """
    for spec in alignments:
        alignment(spec)
    config = study.configs / _YAML
    if not config.is_file():
        raise UserError(f"there is no {config}; give --configs a folder with {_YAML}")
    refuse_invalid_settings(parent_config, config)
    dense = [Child(NONE, spec) for spec in (alignments if zero_shot else (NONE,))]
    pruned = [Child(method, spec, share) for method in methods for share in sparsities for spec in alignments]
    parents = {run.seed: run for run in study.runs([PARENT])}
    children = {
        Run(child.name, seed, study.folder / f"{child.name}-{seed}"): child
        for seed in parents
        for child in (*dense, *pruned)
    }
    machine = study.machine(len(children))

    def train_parent(run: Run) -> Scores:
        study.train(run, parent_config, everything, machine)
        return scores_by_pair(run, everything, machine)

    def prune_child(run: Run) -> Scores:
        start = {"finetune_from_model": str(parents[run.seed].checkpoint)}
        study.train(run, config, tuned, machine, {"criterion": children[run].criterion, "checkpoint": start})
        return scores_by_pair(run, everything, machine)

    with study.lock():
        everything = study.prepare("all", pair=MANY_TO_ONE) if zero_shot else study.prepare()
        tuned = study.prepare("tuned", vocabulary=everything) if zero_shot else everything
        say(f"training {len(parents)} parents on {everything.pair}, {machine.jobs} at a time, on {machine.device}")
        scores = dict(zip(parents.values(), machine.map(train_parent, parents.values()), strict=True))
        say(f"pruning {len(children)} times during further training on {tuned.pair}")
        scores |= dict(zip(children, machine.map(prune_child, children), strict=True))
        zeros = {run: zero_fraction(run.checkpoint) for run in children}
        text, rows = table(scores, zeros, children, study.pair)
        study.write_results(text, rows)
    return text


def scores_by_pair(run: Run, data: PreparedCorpus, machine: Machine) -> Scores:
    """The scores of a run on the test set; of all pairs together, on the part of each pair."""
    whole = evaluate(run, data, machine)
    if data.pair != MANY_TO_ONE:
        return {data.pair: whole}
    texts = [read_lines(path) for path in (run.folder / "scores/test.last.hyp.txt", data.reference)]
    size = whole.sentences // len(PAIRS)  # every pair's test set has the same size
    parts = ([lines[n * size : (n + 1) * size] for lines in texts] for n in range(len(PAIRS)))
    return {pair: score(*part) for pair, part in zip(PAIRS, parts, strict=True)}


def alignment(spec: str) -> dict[str, Any]:
    """The settings of an alignment such as `cosine`, or `cosine@0.5` with a lambda; UserError for any other text."""
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


def zero_fraction(checkpoint: Path) -> float:
    """The fraction of exact zeros among the weights that a run prunes, counted in its checkpoint."""
    from ..workspace.checkpoints import read_checkpoint  # torch

    rest, tensors = read_checkpoint(checkpoint)
    pruning = rest["extra_state"].get("guided_criterion", {}).get("pruning")
    if pruning is None:
        return 0.0
    weights = [tensors[name] for name in pruning["masks"]]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


def table(
    scores: Mapping[Run, Scores], zeros: Mapping[Run, float], children: Mapping[Run, Child], pair: str
) -> tuple[str, list[dict[str, Any]]]:
    """The result as Markdown (a row a method and sparsity, a column an alignment, means over seeds), and as rows.

    With scores of other pairs, on which no child was tuned, a second table has their mean.

    Args:
        zeros: `zero_fraction` of each child.
        children: how each run that is no parent was trained.
        pair: what the children were tuned on.
    """
    made = {run: children.get(run, Child(PARENT)) for run in scores}
    rows = [
        {
            "tuned": pair, "pair": of_pair, "prune": made[run].method, "alignreg": made[run].alignment,
            "seed": run.seed, "sparsity": f"{zeros.get(run, 0):.6f}", **score_columns(found),
        }
        for run, by_pair in scores.items()
        for of_pair, found in by_pair.items()
    ]  # fmt: skip
    tuned = {run: by_pair[pair].bleu for run, by_pair in scores.items()}
    others = [other for other in next(iter(scores.values())) if other != pair]
    blocks = [_grid(f"pruning ({pair})", tuned, zeros, made)]
    if others:
        means = {run: statistics.mean(by_pair[other].bleu for other in others) for run, by_pair in scores.items()}
        blocks.append(_grid(f"mean of {', '.join(others)}, not tuned on", means, zeros, made))
    notes = score_notes(next(iter(scores.values()))[pair])
    return "\n".join(["\n\n".join(blocks), *notes]), rows


def _grid(title: str, bleu: Mapping[Run, float], zeros: Mapping[Run, float], made: Mapping[Run, Child]) -> str:
    kinds = list(dict.fromkeys(child.alignment for child in made.values()))
    lines = [
        f"| {title} | zeros | " + " | ".join(f"BLEU, alignreg {kind}" for kind in kinds) + " | seeds |",
        "|---" * (len(kinds) + 3) + "|",
    ]
    for method, sparsity in dict.fromkeys((child.method, child.sparsity) for child in made.values()):
        runs = [run for run in bleu if (made[run].method, made[run].sparsity) == (method, sparsity)]
        values = [[bleu[run] for run in runs if made[run].alignment == kind] for kind in kinds]
        columns = " | ".join(mean(column) if column else "-" for column in values)
        seeds = " ".join(map(str, sorted({run.seed for run in runs})))
        lines.append(f"| `{method}` | {100 * max(zeros.get(run, 0) for run in runs):.2f} % | {columns} | {seeds} |")
    return "\n".join(lines)
