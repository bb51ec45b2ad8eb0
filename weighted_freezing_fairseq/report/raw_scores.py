"""The scores of each run on each test set, from which the tables are computed, for other programs."""

from collections.abc import Sequence
from typing import Any

from ..data.fetch import sha256
from ..figures.training_logs import RunFiles, losses_at_best
from ..scoring.scored_runs import ScoredRun, read_scores


def raw_scores(scored: Sequence[ScoredRun]) -> list[dict[str, Any]]:
    """A row for each run and test set: what was run, all its scores, its losses, and a hash of its output."""
    found = [(run, _scores(run)) for run in scored]
    losses = {folder: losses_at_best(RunFiles(folder).history()) for folder in {run.folder for run in scored}}
    metrics = dict.fromkeys(name for _, scores in found for name in scores)
    return [
        {
            "dataset": run.setting.dataset,
            "recipe": run.setting.recipe,
            "training": run.setting.training,
            "pair": run.setting.pair,
            "test": run.setting.test,
            "choice": run.setting.choice,
            "method": run.method,
            "changed": " ".join(run.changed),
            "seed": run.seed,
            **{name: scores.get(name, "") for name in metrics},
            **losses[run.folder],
            "updates": run.updates,
            "seconds": run.seconds,
            "device": run.device,
            "commit": run.commit,
            "sentences": run.setting.sentences,
            "decode": run.setting.decode,
            "signature": run.setting.signature,
            "output_sha256": sha256(run.hypotheses) if run.hypotheses.is_file() else "",
        }
        for run, scores in found
    ]


def _scores(run: ScoredRun) -> dict[str, float]:
    """Each score by its name: of labels those of the task, else BLEU, lowercased BLEU and chrF."""
    content = read_scores(run.hypotheses.with_suffix("").with_suffix(".json"))
    if "scores" in content:
        return dict(content["scores"])
    return {name: content[name] for name in ("bleu", "bleu_lowercased", "chrf") if name in content}
