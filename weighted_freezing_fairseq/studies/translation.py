"""Translation as the task of a study: what a language pair decides of a training, and how its runs are scored.

Every test set of the data is translated with each checkpoint by the recipe's search, and scored against the raw
reference. Left out on purpose: significance between systems, which is `wff report`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..data import lowercases
from ..data.recipe import Dataset
from ..errors import UserError
from ..files import write_atomically
from ..scoring.scored_runs import read_scores
from ..scoring.scores import comet, read_lines
from ..scoring.translate import Pieces, raw_reference, refuse_missing_checkpoint, translated
from ..workspace.machine import Machine, cores
from ..workspace.progress import say
from ..workspace.runs import CHOICES, Run
from ..workspace.steps import OPEN, once, state_of
from .prepare import pair_jobs, prepare_pairs
from .scorings import Scoring, Wanted, data_of, manifest_of
from .training import filled_in, merged, needs_another_run


@dataclass(frozen=True)
class TranslationTask:
    """The language pairs of one corpus."""

    dataset: Dataset

    # Training --------------------------------------------------------------------------------------------------------

    @property
    def default_recipe(self) -> str:
        """The first of the data set."""
        return self.dataset.recipes[0]

    @property
    def options(self) -> tuple[str, ...]:
        """What `wff train` is given for this task alone."""
        return ()

    def pair(self, word: str | None) -> str:
        """The pair that a user typed (default: the first)."""
        pair = word or self.dataset.pairs[0]
        if pair not in self.dataset.pairs:
            raise UserError(f"{self.dataset.name} has no pair {pair!r}; type --pair {' or '.join(self.dataset.pairs)}")
        return pair

    def languages(self, pair: str) -> str | None:
        """The pair as fairseq's task takes it."""
        return pair

    def prepare(self, pairs: Sequence[str], recipe: str, out: Path, archives: Sequence[Path]) -> list[str]:
        """`wff prepare` of these pairs; returns a line about each."""
        return prepare_pairs(pair_jobs(self.dataset, recipe, pairs, out), out, archives, cores())

    def starts_from_a_run(self, config: Path) -> bool:
        """Whether a YAML leaves open what another run has: a teacher, weights to start from, Fisher information."""
        return needs_another_run(config)

    def settings(
        self, config: Path, files: Mapping[str, Any], manifest: Mapping[str, Any], changed: Sequence[str]
    ) -> dict[str, Any]:
        """The settings beside the YAML: `files` of another run, how the data becomes text, what the user changed."""
        from omegaconf import OmegaConf

        settings = filled_in(config, files)
        # DEVIATION: the scripts of Li et al. choose the checkpoint by the BLEU of pieces of SentencePiece, from which
        # they remove the marks of BPE, of which there are none. Here it is the BLEU of text, as the recipe of the data
        # has it.
        if OmegaConf.load(config).task.get("eval_bleu"):
            pieces = pieces_of(manifest)
            settings["task"] = {
                "eval_bleu_remove_bpe": pieces.remove_bpe,
                "eval_bleu_detok": pieces.tokenizer or "space",
            }
        return merged(settings, changed)

    # Scoring ---------------------------------------------------------------------------------------------------------

    def scorings(self, run: Run, wanted: Wanted, manifest: Mapping[str, Any]) -> list[Scoring]:
        """A step for each test set and checkpoint."""
        decode = asdict(replace(self.dataset.decode, **wanted.search))
        scorings = []
        for choice in _choices(run, wanted):
            settings = {"choice": choice, "decode": decode}
            if choice == "average":
                settings["averaged"] = wanted.averaged
            scorings += [Scoring(f"{subset}.{choice}", choice, (subset,), settings) for subset in manifest["tests"]]
        return scorings

    def refuse_early(self, run: Run, wanted: Wanted) -> None:
        """Checkpoints and references must be there before the first set is translated."""
        folder, manifest = data_of(run), manifest_of(run)
        scorings = self.scorings(run, wanted, manifest)
        to_do = [step for step in scorings if state_of(run.folder, f"scoring-{step.name}", step.settings) == OPEN]
        for choice in {step.choice for step in to_do} - {"average"}:
            refuse_missing_checkpoint(run.folder / f"checkpoints/checkpoint_{choice}.pt")
        remedy = f"move {folder} away and make it again: wff prepare {manifest['dataset']} --pairs {manifest['pair']}"
        for subset in dict.fromkeys(subset for step in to_do for subset in step.subsets):
            raw_reference(folder / "bin", subset, folder / manifest["tests"][subset], remedy)

    def score(self, run: Run, machine: Machine, wanted: Wanted, remedy: str) -> list[Scoring]:
        """Do every step that is not done yet; returns all of them."""
        manifest = manifest_of(run)
        if wanted.choices is None and "average" not in _choices(run, wanted):
            say(f"{run.name}: fewer than {wanted.averaged} numbered checkpoints, no average")
        scorings = self.scorings(run, wanted, manifest)
        for step in scorings:
            work = partial(_translate, run, machine, manifest, step)
            once(run.folder, f"scoring-{step.name}", dict(step.settings), work, remedy)
            if wanted.comet is not None:
                add = partial(_add_comet, run, machine, manifest, step, wanted.comet)
                once(run.folder, f"comet-{step.name}", {"model": str(wanted.comet)}, add)
        return scorings


def _choices(run: Run, wanted: Wanted) -> list[str]:
    """The checkpoints that were named, or all that the run allows."""
    if wanted.choices is not None:
        return list(wanted.choices)
    from ..workspace.average import latest  # torch

    enough = len(latest(run.folder, wanted.averaged, or_fewer=True)) == wanted.averaged
    return [choice for choice in CHOICES if enough or choice != "average"]


def _translate(run: Run, machine: Machine, manifest: Mapping[str, Any], step: Scoring) -> None:
    """Translate one test set with one checkpoint, and write hypotheses and scores."""
    [subset], folder = step.subsets, data_of(run)
    if step.choice == "average":
        from ..workspace.average import average, latest  # torch

        average(latest(run.folder, step.settings["averaged"]), run.folder / "checkpoints/checkpoint_average.pt")
    about = {"subset": subset, "recipe": manifest["recipe"], **text_of(manifest), **step.settings}
    reference = folder / manifest["tests"][subset]
    translated(run, machine, folder / "bin", subset, reference, manifest["target"], about, pieces_of(manifest))


def _add_comet(run: Run, machine: Machine, manifest: Mapping[str, Any], step: Scoring, model: Path) -> None:
    """COMET of translations that are there, beside their other scores."""
    [goal], [subset] = step.files(run).values(), step.subsets
    reference = data_of(run) / manifest["tests"][subset]
    texts = [reference.with_suffix(f".{manifest['source']}"), goal.with_suffix(".hyp.txt"), reference]
    scores = read_scores(goal) | comet(model, *map(read_lines, texts), machine.gpus)
    write_atomically(goal, json.dumps(scores, indent=2) + "\n")


def text_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What scores record of the text: whether its translations compare by lowercased BLEU."""
    return {"lowercased_text": lowercases(manifest["dataset"], manifest["recipe"])}


def pieces_of(manifest: Mapping[str, Any]) -> Pieces:
    """How the subwords of prepared data become text."""
    return Pieces(manifest["generate"]["remove_bpe"], manifest["generate"]["tokenizer"])
