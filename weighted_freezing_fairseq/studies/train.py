"""`wff train`: one cell of a table, a data set, a recipe, a pair, a method and a seed, trained to its end.

The training is that of configs/DATASET/METHOD.yaml, by fairseq-hydra-train; here it meets the data that `wff prepare`
made, the machine, and the runs that it starts from. A run folder carries all that is needed to tell where its scores
come from. Called again after a kill or a requeue it goes on. Left out on purpose: the steps themselves (`training.py`),
and what a task of labelled sentences has in place of a pair (`sentences/train.py`).
"""

import argparse
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import DATASETS, NAMES, SENTENCES, Dataset, prepared, read_manifest
from ..data.sentences import SentenceData
from ..errors import UserError
from ..workspace.configs import CONFIGS, config_path, open_settings
from ..workspace.locks import alone_in
from ..workspace.machine import PRECISIONS, Machine
from ..workspace.provenance import relocate
from ..workspace.runs import Run
from ..workspace.steps import OPEN, state_of
from .training import (
    files_in,
    filled_in,
    found_in,
    needs_another_run,
    refuse_invalid_settings,
    stamp_of,
    train,
    training_settings,
)

HELP = "Train one method on prepared data; called again, it goes on where it was."
EXAMPLE = """wff train multi30k --pair de-en --method weighted_freeze --seed 1
  wff train glue --task RTE --method weighted_freeze --seed 1 --encoder ~/roberta.base"""

# The run of the same seed in which a method finds what its YAML leaves open, if that is not standard.
_PARENT = {"self_distillation_twice": "self_distillation"}


@dataclass(frozen=True)
class Study:
    """What the cells of one matrix share: the prepared data, the YAMLs, the folder of the runs, changed settings."""

    dataset: Dataset | SentenceData
    recipe: str
    data: Path
    configs: Path
    runs: Path
    changed: tuple[str, ...] = ()

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Study":
        """What `add_study_arguments` asked for."""
        dataset = DATASETS.get(args.dataset) or SENTENCES[args.dataset]
        configs = (args.configs or CONFIGS / args.dataset).resolve()
        recipe = args.recipe or dataset.recipes[0]
        if recipe not in dataset.recipes:
            raise UserError(f"{args.dataset} has no recipe {recipe!r}; type --recipe {' or '.join(dataset.recipes)}")
        data = (args.data or Path("data") / args.dataset).resolve()
        return cls(dataset, recipe, data, configs, (args.out or Path("runs") / configs.name).resolve(), tuple(args.set))

    def pair(self, word: str | None) -> str:
        """The pair, or the task, that a user typed (default: the first)."""
        pair = word or self.dataset.pairs[0]
        if pair not in self.dataset.pairs:
            raise UserError(f"{self.dataset.name} has no pair {pair!r}; type --pair {' or '.join(self.dataset.pairs)}")
        return pair

    def run(self, pair: str, method: str, seed: int) -> Run:
        """The run of one cell."""
        return Run(method, seed, self.runs / self.recipe / pair / f"{method}-{seed}")

    def parent(self, pair: str, run: Run) -> Run | None:
        """The run that this one needs first, if its YAML leaves something open."""
        if not needs_another_run(self._config(run)):
            return None
        return self.run(pair, _PARENT.get(run.method, "standard"), run.seed)

    def _config(self, run: Run) -> Path:
        return config_path(run.method, self.configs)

    def refuse_invalid(self, method: str) -> None:
        """The YAML of a method must be one that can be trained, with what the user changed in it."""
        refuse_invalid_settings(config_path(method, self.configs), changed=merged({}, self.changed))

    def train(self, pair: str, run: Run, machine: Machine) -> None:
        """One cell, to its end."""
        if not run.trained:
            self.refuse_invalid(run.method)  # now, and not after hours of what it starts from
        folder = prepared(self.data, self.recipe, pair)
        manifest = read_manifest(folder)
        config = self._config(run)
        found: dict[str, Path] = {}
        parent = self.parent(pair, run)
        if parent is not None:
            if not parent.trained:
                raise UserError(
                    f"{run.method} starts from {parent.folder}, which is not trained; type: "
                    + self.command(pair, parent)
                )
            found = found_in(parent, "best", config, folder / "bin", machine)
        more = self._settings(config, found, manifest)
        for section, key in open_settings(config):
            if key not in more.get(section, {}):
                raise UserError(f"{config} leaves {section}.{key} open; add --set {section}.{key}=VALUE")
        with alone_in(run.folder):
            train(run, config, folder / "bin", self._languages(pair), machine, self._about(pair, run, folder), more)
            relocate(run, self._about(pair, run, folder))

    def state(self, pair: str, run: Run) -> str:
        """DONE, OPEN or OTHER, as `train` will find the training; nothing is measured or written for it."""
        begun = state_of(run.folder, "training", {}) != OPEN
        return state_of(run.folder, "training", self.stamp(pair, run)) if begun else OPEN

    def stamp(self, pair: str, run: Run) -> dict[str, Any]:
        """What the stamp of a training holds; nothing is measured for it."""
        folder, config, parent = prepared(self.data, self.recipe, pair), self._config(run), self.parent(pair, run)
        found = {} if parent is None else files_in(parent, "best", config)
        more = self._settings(config, found, read_manifest(folder))
        given = training_settings(run, config, folder / "bin", self._languages(pair), more)
        return stamp_of(given)

    def _settings(self, config: Path, found: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
        """What is given beside the YAML: what was found for it, how its data becomes text, what the user changed."""
        from omegaconf import OmegaConf

        settings = filled_in(config, found)
        # DEVIATION: the scripts of Li et al. choose the checkpoint by the BLEU of pieces of SentencePiece, from which
        # they remove the marks of BPE, of which there are none. Here it is the BLEU of text, as the recipe of the data
        # has it.
        if OmegaConf.load(config).task.get("eval_bleu"):
            made = manifest["generate"]
            text = {"eval_bleu_remove_bpe": made["remove_bpe"], "eval_bleu_detok": made["tokenizer"] or "space"}
            settings["task"] = text
        return merged(settings, self.changed)

    def _languages(self, pair: str) -> str | None:
        """The pair, where it is one."""
        return pair

    def command(self, pair: str, run: Run) -> str:
        """What a user types for this cell alone."""
        words = ["wff", "train", self.dataset.name, "--recipe", self.recipe, "--pair", pair, "--method", run.method]
        words += ["--seed", run.seed, "--data", self.data, "--configs", self.configs, "--out", self.runs]
        return shlex.join(map(str, [*words, *(word for setting in self.changed for word in ("--set", setting))]))

    def _about(self, pair: str, run: Run, folder: Path) -> dict[str, Any]:
        return {
            "dataset": self.dataset.name, "recipe": self.recipe, "pair": pair, "data": str(folder),
            "changed": list(self.changed), "command": self.command(pair, run),
        }  # fmt: skip


def merged(settings: Mapping[str, Any], changed: tuple[str, ...]) -> dict[str, Any]:
    """`settings` with what a user changed as section.key=value."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    for each in changed:
        name, equals, _ = each.partition("=")
        if not equals or "." not in name:
            raise UserError(
                f"--set {each} is not of the form section.key=value; type --set optimization.max_update=1000"
            )
        try:
            OmegaConf.from_dotlist([each])
        except (YAMLError, OmegaConfBaseException) as error:
            why = " ".join(str(error).split())
            raise UserError(f"--set {each} has no valid value ({why}); type --set 'optimization.lr=[0.1]'") from None
    found: Any = OmegaConf.to_container(OmegaConf.merge(dict(settings), OmegaConf.from_dotlist(list(changed))))
    return found


def add_study_arguments(parser: argparse.ArgumentParser) -> None:
    """What a matrix of trainings is about, and what it runs on."""
    parser.add_argument("dataset", choices=NAMES, metavar="DATASET", help=", ".join(NAMES))
    parser.add_argument("--recipe", help="of wff prepare (default: the first of its list)")
    parser.add_argument(
        "--encoder", type=Path, metavar="DIR", help="of glue and xnli: folder whose model.pt training starts from"
    )
    parser.add_argument("--data", type=Path, help="what wff prepare left (default data/DATASET)")
    parser.add_argument(
        "--configs", type=Path, help="folder of METHOD.yaml (default: configs/DATASET of the repository)"
    )
    parser.add_argument("--out", type=Path, metavar="RUNS", help="folder of the runs (default runs/DATASET)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="change a setting of the YAML; repeat for several",
    )  # fmt: skip
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: GPUs where there are some")
    parser.add_argument("--gpus", type=int, default=1, help="for each run; its batch stays that of one (default 1)")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="auto: bf16 or fp16 on a GPU")
    parser.add_argument(
        "--tokens-per-gpu", "--sentences-per-gpu", type=int, metavar="N",
        help="at most so many at once, in the unit of the YAML's batch, which stays",
    )  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One cell."""
    add_study_arguments(parser)
    parser.add_argument("--pair", "--task", help="default: the first of the data set")
    parser.add_argument("--method", default="standard", help="default standard")
    parser.add_argument("--seed", type=int, default=1, help="default 1")
    parser.add_argument("--dry-run", action="store_true", help="say what would be trained, and where")


def study_of(args: argparse.Namespace) -> Study:
    """The study of pairs, or of tasks."""
    if args.dataset in SENTENCES:
        from .sentences.train import SentenceStudy  # which builds on this module

        return SentenceStudy.of(args)
    if args.encoder:
        raise UserError(f"--encoder is for {' and '.join(SENTENCES)}; leave it out")
    return Study.of(args)


def run(args: argparse.Namespace) -> int:
    study = study_of(args)
    pair = study.pair(args.pair)
    mine = study.run(pair, args.method, args.seed)
    config = config_path(args.method, study.configs)
    machine = Machine.of(args.device, 1, 1, args.gpus, args.precision, args.tokens_per_gpu)
    if args.dry_run:
        study.refuse_invalid(args.method)
        print(f"{mine.name}: {config} on {prepared(study.data, study.recipe, pair)}\nin {mine.folder}, on {machine}")
        return 0
    study.train(pair, mine, machine)
    print(f"{mine.folder}\nnext: wff evaluate {mine.folder}")
    return 0
