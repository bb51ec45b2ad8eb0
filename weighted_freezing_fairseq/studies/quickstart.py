"""`wff quickstart`: compare methods on the embedded corpus, from raw text to a table and a page.

The steps are those of `embedded.py` and `training.py`; each method has a YAML in configs/toy, or in configs/adapt if it
starts from a trained model. The small corpus is one on which standard training overfits, so each run is scored with its
best checkpoint on the validation set. The scores say nothing about the papers' claims.
"""

import csv
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..data.embedded import CorpusSize
from ..figures import registry
from ..report import page
from ..scoring.scores import Score
from ..workspace.commands import wff
from ..workspace.configs import CONFIGS, config_path, settings_of
from ..workspace.locks import lock_folder
from ..workspace.machine import Machine, threads_per_job
from ..workspace.progress import say
from ..workspace.runs import Run
from ..workspace.steps import once
from ..workspace.tables import mean
from .embedded import EmbeddedStudy, PreparedCorpus, evaluate, refuse_unknown_methods, score_notes
from .training import fill_open_settings, measured_parent_files, needs_parent, refuse_invalid_settings

ROUNDS = 21  # of updates side by side; fewer where only a fraction of the corpus is used
IMPORTANCE_EVERY = 20  # updates, for the page: twenty times in a run on the small corpus
CHOICE = "best"  # of the checkpoints: the lowest validation loss

# What each method of configs/toy and configs/adapt is for.
PURPOSES = {
    "standard": "is the baseline",
    "alignreg": "prunes a model while it trains, near a reference",
    "cautious": "skips what of an update opposes the gradient, as a control without settings",
    "cautious_decay": "decays only the weights that the update does not move away from zero",
    "ewc": "holds weights near earlier ones by how important they are",
    "fish_mask": "trains few important weights of a trained model",
    "gmt": "lets through only the largest gradients of each tensor",
    "intra_distillation": "makes passes with different dropout agree, against overfitting",
    "intra_distillation_js": "is the same with the Jensen-Shannon divergence",
    "lfr_cm": "trains what a trained model can change without forgetting",
    "lisa": "trains a few layers at a time, drawn anew now and then, in less memory",
    "magma": "updates each tensor at random, less where its gradient and momentum disagree",
    "mofo": "moves in each update only what has the largest momentum, to stay near the start",
    "r_drop": "makes two passes with different dropout agree, against overfitting",
    "sage": "takes larger steps where a weight's importance varies, so that more weights contribute",
    "self_distillation": "learns from a trained model of its own shape",
    "spg": "slows down what mattered to a trained model, by how much it did",
    "switch_transformer": "adds experts: more weights at the same arithmetic",
    "weighted_freeze": "freezes important weights more often, so that the others learn more",
}


def compare(study: EmbeddedStudy, methods: Sequence[str]) -> tuple[str, Path]:
    """Train, score and measure standard training and `methods`; returns the table and the path of the page.

    Args:
        methods: each has a YAML in the study's configs, or in configs/adapt if it starts from standard.
    """
    folders = (study.configs, CONFIGS / "adapt")
    methods = ["standard", *(method for method in methods if method != "standard")]
    refuse_unknown_methods(methods, *folders)
    configs = {method: config_path(method, *folders) for method in methods}
    refuse_invalid_settings(*configs.values())
    runs = study.runs(methods)
    machine = study.machine(len(runs))
    with study.lock():
        data = study.prepare()
        say(f"training {len(runs)} runs on {machine}")
        _train_all(study, runs, configs, data, machine)
        evaluated = machine.map(lambda run: evaluate(run, data, machine, choice=CHOICE), runs)
        scores = dict(zip(runs, evaluated, strict=True))
        rounds = max(3, round(ROUNDS * study.corpus_fraction))
        cost_folder = study.out / f"cost-{hashlib.sha256(','.join(methods).encode()).hexdigest()[:8]}"
        text, rows = table(scores, cost(cost_folder, methods, folders, machine.device, rounds), study)
        study.write_results(text, rows)
        registry.make("curves", {run.folder.name: run.folder for run in runs}, study.folder, ("png",))
        by_method = sorted(runs, key=lambda run: methods.index(run.method))
        inputs = page.PageInputs.find([*(run.folder for run in by_method), cost_folder], None)
        return text, page.write(inputs, study.folder / page.PAGE)


def _train_all(
    study: EmbeddedStudy, runs: Sequence[Run], configs: dict[str, Path], data: PreparedCorpus, machine: Machine
) -> None:
    """Train every run; those that start from the standard run of their seed, or learn from it, are trained after it."""

    def train(run: Run) -> None:
        parent, config = next(r for r in runs if (r.method, r.seed) == ("standard", run.seed)), configs[run.method]
        files = measured_parent_files(parent, CHOICE, config, data.binarised, machine)
        overrides = {"optimization": {"max_update": updates(config, study.size)}}
        logging = {"common": {"log_importance": IMPORTANCE_EVERY}}
        study.train(run, config, data, machine, {**fill_open_settings(config, files), **overrides, **logging})

    children = [run for run in runs if needs_parent(configs[run.method])]
    machine.map(train, [run for run in runs if run not in children])
    machine.map(train, children)


def updates(config: Path, size: CorpusSize) -> int:
    """The updates of a training: those of its YAML, but no more than fit the corpus."""
    planned: int = settings_of(config).optimization.max_update
    return planned if size.max_update is None else min(planned, size.max_update)


def cost(
    folder: Path, methods: Sequence[str], config_folders: Sequence[Path], device: str, rounds: int
) -> dict[str, dict[str, str]]:
    """Rows of the bench.csv in `folder` by method; measured where it is missing, all methods in one process."""

    def work() -> None:
        say("measuring update time and memory of all methods side by side")
        words = ["bench", "--methods", ",".join(methods), "--size", "toy", "--out", folder]
        words += [word for configs in config_folders for word in ("--configs", configs)]
        wff([*words, "--device", device, "--rounds", rounds], threads_per_job(1))

    with lock_folder(folder):  # other language pairs share it
        once(folder, "cost", {"methods": list(methods), "device": device, "rounds": rounds}, work)
    with (folder / "bench.csv").open(newline="", encoding="utf-8") as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def table(
    scores: dict[Run, Score], costs: dict[str, dict[str, str]], study: EmbeddedStudy
) -> tuple[str, list[dict[str, Any]]]:
    """The result as Markdown (means over seeds), and as rows, one a run."""
    rows = [
        {
            "pair": study.pair, "method": run.method, "seed": run.seed,
            "bleu": f"{score.bleu:.2f}", "chrf": f"{score.chrf:.2f}",
            "time_ratio": f"{float(costs[run.method]['time_ratio']):.3f}",
            "memory_ratio": f"{float(costs[run.method]['memory_ratio']):.3f}",
            "sentences": score.sentences, "bleu_signature": score.bleu_signature,
            "chrf_signature": score.chrf_signature,
        }
        for run, score in scores.items()
    ]  # fmt: skip
    lines = [
        f"| method ({study.pair}) | BLEU | chrF | update time | peak memory | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(run.method for run in scores):
        by_seed = {run.seed: score for run, score in scores.items() if run.method == method}
        measured = costs[method]
        time, low, high = (float(measured[key]) for key in ("time_ratio", "time_low", "time_high"))
        lines.append(
            f"| `{method}` | {mean([s.bleu for s in by_seed.values()])} | {mean([s.chrf for s in by_seed.values()])} "
            f"| {time:.3f} [{low:.3f}, {high:.3f}] "
            f"| {float(measured['memory_ratio']):.3f} | {' '.join(map(str, by_seed))} |"
        )
    lines += score_notes(next(iter(scores.values())), f"{CHOICE} checkpoint on validation")
    lines[-1] += (
        " Update time and peak memory are ratios to standard training, measured side by side (median and quartiles; "
        "memory: weights, optimizer state and the transient peak of one update)."
    )
    lines += ["", reading(dict.fromkeys(run.method for run in scores), study)]
    return "\n".join(lines), rows


def reading(methods: Iterable[str], study: EmbeddedStudy) -> str:
    """The line under the table: what the methods are for, what to expect, and what the table does not decide."""
    purposes = "; ".join(f"`{method}` {PURPOSES[method]}" for method in methods if method in PURPOSES)
    pairs = round(study.corpus_fraction * study.size.train)
    return (
        f"How to read it: {purposes}. On {pairs:,} training pairs {study.size.expect}. One seed decides nothing: type "
        "--seeds 1-3 for more, and compare the differences with ±."
    )
