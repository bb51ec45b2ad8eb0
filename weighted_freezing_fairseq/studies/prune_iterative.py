"""`wff prune-iterative`: prune a trained model step by step, by several methods, with and without weight alignment.

The form of O'Neill et al. 2021, Table 1, for machine translation: a parent is trained as usual, then trained further
while it is pruned, and scored at one sparsity. The row without pruning is trained further for as long, so that rows
differ by pruning alone. Pruning without further training is `wff prune`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..scoring.scores import Score
from ..workspace.progress import say
from ..workspace.runs import Run
from ..workspace.tables import mean
from .embedded import EmbeddedStudy, evaluate, score_columns, score_notes
from .training import refuse_invalid_settings

PARENT, NONE = "parent", "none"
ALIGNMENTS = (NONE, "cosine", "frobenius")
_YAML = "alignreg.yaml"


def prune(
    study: EmbeddedStudy, methods: Sequence[str], alignments: Sequence[str], sparsity: float, parent_config: Path
) -> str:
    """Train a parent for each seed and prune it by each method and alignment; writes and returns the table.

    Args:
        alignments: each one of `ALIGNMENTS`, optionally with a lambda, as in cosine@0.5.
        sparsity: fraction of weights that is pruned in the end.
        parent_config: the YAML of the parents.
    """
    for spec in alignments:
        alignment(spec)
    config = study.configs / _YAML
    if not config.is_file():
        raise UserError(f"there is no {config}; give --configs a folder with {_YAML}")
    refuse_invalid_settings(parent_config, config)
    parents = study.runs([PARENT])
    cells = [(NONE, NONE), *((method, spec) for method in methods for spec in alignments)]
    children = {
        Run(f"{method}+{spec}", parent.seed, study.folder / f"{method}+{spec}-{parent.seed}"): (method, spec)
        for parent in parents
        for method, spec in cells
    }
    machine = study.machine(len(children))

    def train_parent(run: Run) -> Score:
        study.train(run, parent_config, data, machine)
        return evaluate(run, data, machine)

    def prune_child(run: Run) -> Score:
        method, spec = children[run]
        criterion = {"prune": method, **alignment(spec), "prune_target": sparsity}
        start = {"finetune_from_model": str(parents[run.seed - 1].checkpoint)}
        study.train(run, config, data, machine, {"criterion": criterion, "checkpoint": start})
        return evaluate(run, data, machine)

    with study.lock():
        data = study.prepare()
        say(f"training {len(parents)} parents, {machine.jobs} at a time, on {machine.device}")
        scores = dict(zip(parents, machine.map(train_parent, parents), strict=True))
        say(f"pruning {len(children)} times to {100 * sparsity:g} % during further training")
        scores |= dict(zip(children, machine.map(prune_child, children), strict=True))
        zeros = {run: zero_fraction(run.checkpoint) for run in children}
        text, rows = table(scores, zeros, children, study.pair)
        study.write_results(text, rows)
    return text


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
    scores: dict[Run, Score], zeros: dict[Run, float], children: dict[Run, tuple[str, str]], pair: str
) -> tuple[str, list[dict[str, Any]]]:
    """The result as Markdown (a row a method, a column an alignment, means over seeds), and as rows, one a run.

    Args:
        zeros: `zero_fraction` of each child.
        children: the method and alignment of each child.
    """
    cells = {run: children.get(run, (PARENT, NONE)) for run in scores}
    rows = [
        {
            "pair": pair, "prune": cells[run][0], "alignreg": cells[run][1], "seed": run.seed,
            "sparsity": f"{zeros.get(run, 0):.6f}", **score_columns(score),
        }
        for run, score in scores.items()
    ]  # fmt: skip
    kinds = list(dict.fromkeys(kind for _, kind in cells.values()))
    lines = [
        f"| pruning ({pair}) | zeros | " + " | ".join(f"BLEU, alignreg {kind}" for kind in kinds) + " | seeds |",
        "|---" * (len(kinds) + 3) + "|",
    ]
    for method in dict.fromkeys(method for method, _ in cells.values()):
        runs = [run for run in scores if cells[run][0] == method]
        bleu = [[scores[run].bleu for run in runs if cells[run][1] == kind] for kind in kinds]
        columns = " | ".join(mean(values) if values else "-" for values in bleu)
        seeds = " ".join(map(str, sorted({run.seed for run in runs})))
        lines.append(f"| `{method}` | {100 * max(zeros.get(run, 0) for run in runs):.2f} % | {columns} | {seeds} |")
    return "\n".join([*lines, *score_notes(next(iter(scores.values())))]), rows
