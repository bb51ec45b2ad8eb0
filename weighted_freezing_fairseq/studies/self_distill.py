"""A model taught by a model of its own kind, round after round, on the embedded corpus.

Round 0 is standard training; a student of round n learns from the targets and from what the model of round n - 1 thinks
of them (Xu et al. 2022, section 2.3 and Table 1). A student starts from a random seed of its own, as in Furlanello et
al. 2018. Their ensemble of
all rounds when translating is `fairseq-generate --path A:B`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..scoring.scores import Score
from ..workspace.progress import say
from ..workspace.runs import Run
from ..workspace.tables import mean
from .embedded import EmbeddedStudy, evaluate, note_on, score_columns
from .training import refuse_invalid_settings

STANDARD, STUDENT = "standard", "self_distillation"
SEEDS_APART = 1000  # between the random seeds of two rounds


def distil(study: EmbeddedStudy, rounds: int, ensemble: bool) -> str:
    """Train and score the standard model and `rounds` students of every seed; returns the table, which is written too.

    Args:
        ensemble: all earlier rounds teach, not the last one alone.
    """
    yamls = {method: study.configs / f"{method}.yaml" for method in (STANDARD, STUDENT)}
    for path in yamls.values():
        if not path.is_file():
            raise UserError(f"there is no {path}; give --configs a folder with {STANDARD}.yaml and {STUDENT}.yaml")
    refuse_invalid_settings(*yamls.values())
    machine = study.machine(study.seeds)

    def train_rounds(seed: int) -> dict[Run, Score]:
        scores = {}
        runs = generations(seed, rounds, study.folder)
        for n, student in enumerate(runs):
            teacher = ":".join(str(run.checkpoint) for run in teachers_of(n, runs, ensemble))
            changed = {"criterion": {"teacher": teacher}} if n else {}
            study.train(student, yamls[STUDENT if n else STANDARD], data, machine, changed)
            scores[student] = evaluate(student, data, machine)
        return scores

    with study.alone():
        data = study.prepare()
        say(f"{rounds} rounds of students for {study.seeds} seeds, {machine.jobs} at a time, on {machine.device}")
        text, rows = table(machine.map(train_rounds, range(1, study.seeds + 1)), ensemble, study.pair)
        study.write_results(text, rows)
    return text


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
    for n, of_round in enumerate(zip(*(of_seed.items() for of_seed in scores), strict=True)):
        taught_by = " and ".join(run.method.replace("-", " ") for run in teachers_of(n, list(scores[0]), ensemble))
        bleu, chrf = (mean([getattr(score, key) for _, score in of_round]) for key in ("bleu", "chrf"))
        seeds = " ".join(str(run.seed) for run, _ in of_round)
        lines.append(f"| {n} | {taught_by or '-'} | {bleu} | {chrf} | {seeds} |")
        rows += [
            {
                "pair": pair, "round": n, "seed": run.seed, "taught_by": taught_by, **score_columns(score),
            }
            for run, score in of_round
        ]  # fmt: skip
    return "\n".join([*lines, *note_on(next(iter(scores[0].values())))]), rows
