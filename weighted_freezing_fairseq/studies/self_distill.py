"""`wff self-distill`: train students of a model's own shape, each taught by the previous round, on the embedded corpus.

Round 0 is standard training; the student of round n learns from the targets and from the predictions of the model of
round n - 1 (Xu et al. 2022, section 2.3 and Table 1). Each round has a random seed of its own, as in Furlanello et al.
2018. Their ensemble of all rounds in translation is `fairseq-generate --path A:B`.
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

STANDARD, STUDENT = "standard", "self_distillation"
SEEDS_APART = 1000  # between the random seeds of two rounds


def distil(study: EmbeddedStudy, rounds: int, ensemble: bool) -> str:
    """Train and score the standard model and `rounds` students for each seed; writes and returns the table.

    Args:
        ensemble: all earlier rounds teach, not only the last one.
    """
    configs = {method: study.configs / f"{method}.yaml" for method in (STANDARD, STUDENT)}
    for path in configs.values():
        if not path.is_file():
            raise UserError(f"there is no {path}; give --configs a folder with {STANDARD}.yaml and {STUDENT}.yaml")
    refuse_invalid_settings(*configs.values())
    machine = study.machine(len(study.seeds))

    def train_rounds(seed: int) -> dict[Run, Score]:
        scores = {}
        runs = generations(seed, rounds, study.folder)
        for n, run in enumerate(runs):
            teacher = ":".join(str(teacher.checkpoint) for teacher in teachers_of(n, runs, ensemble))
            overrides = {"criterion": {"teacher": teacher}} if n else {}
            study.train(run, configs[STUDENT if n else STANDARD], data, machine, overrides)
            scores[run] = evaluate(run, data, machine)
        return scores

    with study.lock():
        data = study.prepare()
        say(f"{rounds} rounds of students for {len(study.seeds)} seeds, {machine.jobs} at a time, on {machine.device}")
        text, rows = table(machine.map(train_rounds, study.seeds), ensemble, study.pair)
        study.write_results(text, rows)
    return text


def generations(seed: int, rounds: int, folder: Path) -> list[Run]:
    """The runs of all rounds that start with one seed, in order."""
    return [Run(f"round-{n}", seed + SEEDS_APART * n, folder / f"round-{n}-{seed}") for n in range(rounds + 1)]


def teachers_of(n: int, runs: Sequence[Run], ensemble: bool) -> Sequence[Run]:
    """The teachers of round n, among the runs of all rounds."""
    return runs[:n] if ensemble else runs[max(n - 1, 0) : n]


def table(scores: Sequence[dict[Run, Score]], ensemble: bool, pair: str) -> tuple[str, list[dict[str, Any]]]:
    """The result as Markdown (means over seeds), and as rows, one a run.

    scores: for each seed, the scores of all rounds in order.
    """
    lines = [f"| round ({pair}) | taught by | BLEU | chrF | seeds |", "|---|---|---|---|---|"]
    rows = []
    for n, scored_runs in enumerate(zip(*(by_run.items() for by_run in scores), strict=True)):
        taught_by = " and ".join(run.method.replace("-", " ") for run in teachers_of(n, list(scores[0]), ensemble))
        bleu, chrf = (mean([getattr(score, key) for _, score in scored_runs]) for key in ("bleu", "chrf"))
        seeds = " ".join(str(run.seed) for run, _ in scored_runs)
        lines.append(f"| {n} | {taught_by or '-'} | {bleu} | {chrf} | {seeds} |")
        rows += [
            {"pair": pair, "round": n, "seed": run.seed, "taught_by": taught_by, **score_columns(score)}
            for run, score in scored_runs
        ]
    return "\n".join([*lines, *score_notes(next(iter(scores[0].values())))]), rows
