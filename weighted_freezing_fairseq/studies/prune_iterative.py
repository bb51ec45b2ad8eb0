"""A trained model, pruned step by step by every method, with and without weight alignment.

The MT form of O'Neill et al. 2021, Table 1: a parent is trained as ever, then tuned on while it is pruned, and scored
at one sparsity. The row without pruning is tuned for as long, so that what differs is the pruning. Pruning at
once, without training on, is `wff prune`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..scoring.scores import Score
from ..workspace.checkpoints import read_checkpoint
from ..workspace.progress import say
from ..workspace.runs import Run
from ..workspace.tables import mean
from .embedded import EmbeddedStudy, evaluate, note_on, score_columns
from .training import refuse_invalid_settings

PARENT, NONE = "parent", "none"
ALIGNMENTS = (NONE, "cosine", "frobenius")
_YAML = "alignreg.yaml"


def prune(
    study: EmbeddedStudy, methods: Sequence[str], alignments: Sequence[str], sparsity: float, parent_config: Path
) -> str:
    """Train a parent for each seed and prune it in every way; returns the table, which is written too.

    Args:
        alignments: each one of `ALIGNMENTS`, with a lambda if wanted, as in cosine@0.5.
        sparsity: the share of weights that is pruned in the end.
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

    with study.alone():
        data = study.prepare()
        say(f"training {len(parents)} parents, {machine.jobs} at a time, on {machine.device}")
        scores = dict(zip(parents, machine.map(train_parent, parents), strict=True))
        say(f"pruning {len(children)} times to {100 * sparsity:g} % while training on")
        scores |= dict(zip(children, machine.map(prune_child, children), strict=True))
        shares = {run: pruned_share(run.checkpoint) for run in children}
        text, rows = table(scores, shares, children, study.pair)
        study.write_results(text, rows)
    return text


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
    pruning = rest["extra_state"].get("guided_criterion", {}).get("pruning")
    if pruning is None:
        return 0.0
    weights = [tensors[name] for name in pruning["masks"]]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


def table(
    scores: dict[Run, Score], shares: dict[Run, float], children: dict[Run, tuple[str, str]], pair: str
) -> tuple[str, list[dict[str, Any]]]:
    """The result as Markdown (a row a method, a column an alignment, means over seeds) and as rows (one a run)."""
    cells = {run: children.get(run, (PARENT, NONE)) for run in scores}
    rows = [
        {
            "pair": pair, "prune": cells[run][0], "alignreg": cells[run][1], "seed": run.seed,
            "sparsity": f"{shares.get(run, 0):.6f}", **score_columns(score),
        }
        for run, score in scores.items()
    ]  # fmt: skip
    kinds = list(dict.fromkeys(kind for _, kind in cells.values()))
    lines = [
        f"| pruning ({pair}) | zeros | " + " | ".join(f"BLEU, alignreg {kind}" for kind in kinds) + " | seeds |",
        "|---" * (len(kinds) + 3) + "|",
    ]
    for method in dict.fromkeys(method for method, _ in cells.values()):
        of_method = [run for run in scores if cells[run][0] == method]
        bleu = {k: [scores[run].bleu for run in of_method if cells[run][1] == k] for k in kinds}
        columns = " | ".join(mean(values) if values else "-" for values in bleu.values())
        zeros = max(shares.get(run, 0) for run in of_method)
        seeds = " ".join(map(str, sorted({run.seed for run in of_method})))
        lines.append(f"| `{method}` | {100 * zeros:.2f} % | {columns} | {seeds} |")
    return "\n".join([*lines, *note_on(next(iter(scores.values())))]), rows
