"""Translation as the task of a study: what depends on a language pair in training and in scoring.

Every test set of the data is translated with each checkpoint by the recipe's search, and scored against the raw
reference.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from ..data import lowercases, prepare_command, prepared, read_manifest
from ..data.recipe import OWN, Dataset
from ..errors import UserError
from ..files import write_atomically
from ..scoring.scored_runs import read_scores
from ..scoring.scores import comet, read_lines
from ..scoring.translate import pieces_of, raw_reference, refuse_missing_checkpoint, translate_and_score
from ..workspace.machine import Machine, cores
from ..workspace.progress import say
from ..workspace.runs import CHOICES, Run
from ..workspace.steps import OPEN, once, state_of
from .own import refuse_pairs
from .prepare import pair_jobs, prepare_pairs
from .scorings import ScoringOptions, ScoringStep, TrainingData
from .training import fill_open_settings, merge_assignments, needs_parent


@dataclass(frozen=True)
class TranslationTask:
    """The language pairs of one corpus."""

    dataset: Dataset

    # The method of the run that a method starts from, where that is not standard; and the density of its mask.
    parent_methods: ClassVar[Mapping[str, str]] = MappingProxyType({"self_distillation_twice": "self_distillation"})
    mask_density: ClassVar[float] = 0.05

    # Training --------------------------------------------------------------------------------------------------------

    @property
    def default_recipe(self) -> str:
        """The first recipe of the data set; of own corpora, the default of `wff prepare own --name`."""
        return self.dataset.recipes[0] if self.dataset.recipes else OWN

    @property
    def train_options(self) -> tuple[str, ...]:
        """Options of `wff train` that only this task has."""
        return ()

    def pair(self, word: str | None) -> str:
        """The language pair that a user typed (default: the first); of own corpora, any."""
        if not self.dataset.pairs:
            if word is None:
                raise UserError(f"--pair must be SOURCE-TARGET, as it was given to wff prepare {self.dataset.name}")
            refuse_pairs([word])
            return word
        pair = word or self.dataset.pairs[0]
        if pair not in self.dataset.pairs:
            raise UserError(f"{self.dataset.name} has no pair {pair!r}; type --pair {' or '.join(self.dataset.pairs)}")
        return pair

    def languages(self, pair: str) -> str | None:
        """The languages of fairseq's task."""
        return pair

    def prepare(self, pairs: Sequence[str], recipe: str, out: Path, archives: Sequence[Path]) -> list[str]:
        """Prepare these pairs as `wff prepare` does; returns a line about each. Own corpora must be there."""
        if self.dataset.name == OWN:
            return [f"{pair}: {read_manifest(prepared(out, recipe, pair))['what']}" for pair in pairs]
        return prepare_pairs(pair_jobs(self.dataset, recipe, pairs, out), out, archives, cores())

    def needs_parent(self, config: Path, assignments: Sequence[str]) -> bool:
        """Whether a YAML and `assignments` leave open a teacher, weights to start from, or Fisher information."""
        return needs_parent(config, assignments)

    def settings(
        self, config: Path, files: Mapping[str, Any], manifest: Mapping[str, Any], assignments: Sequence[str]
    ) -> dict[str, Any]:
        """The settings in place of the YAML's: `files` of the parent, what depends on the data, and `assignments`."""
        from omegaconf import OmegaConf

        cfg, settings = OmegaConf.load(config), fill_open_settings(config, files)
        shared = (cfg.get("model") or {}).get("share_all_embeddings")
        if shared and manifest.get("steps", {}).get("dictionary") == "separate":
            settings["model"] = {"share_all_embeddings": False, "share_decoder_input_output_embed": True}
        # DEVIATION: the scripts of Li et al. choose the checkpoint by the BLEU of pieces of SentencePiece, from which
        # they remove the marks of BPE, of which there are none. Here it is the BLEU of text, as the recipe of the data
        # has it.
        if cfg.task.get("eval_bleu"):
            pieces = pieces_of(manifest)
            settings["task"] = {
                "eval_bleu_remove_bpe": pieces.remove_bpe,
                "eval_bleu_detok": pieces.tokenizer or "space",
            }
        return merge_assignments(settings, assignments)

    # Scoring ---------------------------------------------------------------------------------------------------------

    def scoring_steps(self, run: Run, options: ScoringOptions, manifest: Mapping[str, Any]) -> list[ScoringStep]:
        """A step for each checkpoint and test set."""
        decode = asdict(replace(self.dataset.decode, **options.search))
        steps = []
        for choice in _choices(run, options):
            settings = {"choice": choice, "decode": decode}
            if choice == "average":
                settings["averaged"] = options.averaged
            steps += [ScoringStep(f"{subset}.{choice}", choice, (subset,), settings) for subset in manifest["tests"]]
        return steps

    def checked_data(self, run: Run, options: ScoringOptions) -> TrainingData:
        """The data of a run, after checking that the checkpoints and references of all open steps are there."""
        data = TrainingData.of(run)
        folder, manifest = data.folder, data.manifest
        steps = [
            step
            for step in self.scoring_steps(run, options, manifest)
            if state_of(run.folder, f"scoring-{step.name}", step.settings) == OPEN
        ]
        for choice in {step.choice for step in steps} - {"average"}:
            refuse_missing_checkpoint(run.folder / f"checkpoints/checkpoint_{choice}.pt")
        command = prepare_command(manifest["dataset"], manifest["recipe"], manifest["pair"])
        remedy = f"move {folder} away and make it again: {command}"
        for subset in dict.fromkeys(subset for step in steps for subset in step.subsets):
            raw_reference(folder / "bin", subset, folder / manifest["tests"][subset], remedy)
        return data

    def score(
        self, run: Run, data: TrainingData, machine: Machine, options: ScoringOptions, remedy: str
    ) -> list[ScoringStep]:
        """Do every step that is not done; returns all steps. `remedy`: what to type where one has other settings."""
        if options.choices is None and "average" not in _choices(run, options):
            say(f"{run.name}: fewer than {options.averaged} numbered checkpoints, no average")
        steps = self.scoring_steps(run, options, data.manifest)
        for step in steps:
            work = partial(_translate, run, data, machine, step)
            once(run.folder, f"scoring-{step.name}", dict(step.settings), work, remedy)
            if options.comet is not None:
                add = partial(_add_comet, run, data, machine, step, options.comet)
                once(run.folder, f"comet-{step.name}", {"model": str(options.comet)}, add)
        return steps


def _choices(run: Run, options: ScoringOptions) -> list[str]:
    """The checkpoints that the user chose, or all that the run has."""
    if options.choices is not None:
        return list(options.choices)
    from ..workspace.average import latest  # torch

    enough = len(latest(run.folder, options.averaged, or_fewer=True)) == options.averaged
    return [choice for choice in CHOICES if enough or choice != "average"]


def _translate(run: Run, data: TrainingData, machine: Machine, step: ScoringStep) -> None:
    """Translate one test set with one checkpoint, and write translations and scores."""
    [subset], manifest = step.subsets, data.manifest
    if step.choice == "average":
        from ..workspace.average import average, latest  # torch

        average(latest(run.folder, step.settings["averaged"]), run.folder / "checkpoints/checkpoint_average.pt")
    record = {
        "subset": subset,
        "test_name": test_names(manifest)[subset],
        "recipe": manifest["recipe"],
        **text_of(manifest),
        **step.settings,
    }
    reference = data.folder / manifest["tests"][subset]
    binarised, language = data.folder / "bin", manifest["target"]
    translate_and_score(run, machine, binarised, subset, reference, language, record, pieces_of(manifest))


def _add_comet(run: Run, data: TrainingData, machine: Machine, step: ScoringStep, model: Path) -> None:
    """Add COMET to the scores of translations."""
    [path], [subset] = step.files(run).values(), step.subsets
    reference = data.folder / data.manifest["tests"][subset]
    texts = [reference.with_suffix(f".{data.manifest['source']}"), path.with_suffix(".hyp.txt"), reference]
    scores = read_scores(path) | comet(model, *map(read_lines, texts), machine.gpus)
    write_atomically(path, json.dumps(scores, indent=2) + "\n")


def test_names(manifest: Mapping[str, Any]) -> dict[str, str]:
    """What the user or the data set calls each test set of prepared data."""
    return {subset: manifest.get("test_names", {}).get(subset, subset) for subset in manifest["tests"]}


def text_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a file of scores records of the text: whether its translations compare by lowercased BLEU."""
    return {"lowercased_text": lowercases(manifest["dataset"], manifest["recipe"]) or manifest.get("lowercased", False)}
