"""`wff evaluate`: every sentence of a test set translated, detokenised, and scored against the raw reference.

Given a run folder of `wff train`, it knows the test sets, the search settings of the recipe, and the checkpoints to
compare: the best, the last, the average of the latest. Given a checkpoint, it is told. Left out on purpose:
significance between systems, which is `wff report`; and labelled sentences, which are predicted and not translated
(`sentences/evaluate.py`).
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..data import DATASETS, MANIFEST, NAMES, SENTENCES, read_manifest
from ..errors import UserError
from ..files import write_atomically
from ..locks import alone_in
from .average import average, latest
from .machine import Machine
from .runs import CHOICES, Run, once, progress, say, translated
from .scores import all_scores, comet, read_lines, refuse_processed
from .sentences import evaluate as sentences
from .translate import Decode, Pieces, generate

HELP = """\
Translate whole test sets with the checkpoints of a run, and score them against the raw reference. Of a run on GLUE or
XNLI: predict the labels of every set, and score them by the task's measures."""
EXAMPLE = """wff evaluate runs/multi30k/clean/de-en/standard-1
  wff evaluate runs/glue/roberta/rte/standard-1 --choices best
  wff evaluate runs/a/checkpoint_best.pt --data BIN --reference raw/test.en --out runs/a/test"""

AVERAGED = 5


def decode_of(args: argparse.Namespace, default: Decode = Decode()) -> Decode:  # noqa: B008
    """What `add_decode_arguments` asked for, and else the default."""
    given = {name: getattr(args, name) for name in Decode.__dataclass_fields__}
    return replace(default, **{name: value for name, value in given.items() if value is not None})


def usual_decode(dataset: str) -> Decode:
    """As the runs of a data set are searched; labels are not."""
    return DATASETS[dataset].decode if dataset in DATASETS else Decode()


def choices_of(args: argparse.Namespace) -> list[str] | None:
    """What --choices names; None: it was left out."""
    choices = args.choices.split(",") if args.choices else None
    for choice in choices or ():
        if choice not in CHOICES:
            raise UserError(f"there is no choice {choice!r}; type --choices with some of {','.join(CHOICES)}")
    return choices


def refuse_missing(data: Path) -> None:
    """--data must be what fairseq-preprocess made."""
    if not data.is_dir():
        raise UserError(f"there is no binarised folder {data}; make it with fairseq-preprocess")


@dataclass(frozen=True)
class Wanted:
    """What is asked of a finished run: which checkpoints (None: all that there are), searched how."""

    choices: Sequence[str] | None
    decode: Decode
    averaged: int = AVERAGED
    comet: Path | None = None

    def of(self, run: Run) -> list[str]:
        """The choices that the checkpoints of `run` allow; those that were named must be there."""
        if self.choices is not None:
            return list(self.choices)
        if len(latest(run.folder, self.averaged, or_fewer=True)) < self.averaged:
            say(f"{run.name}: fewer than {self.averaged} numbered checkpoints, no average")
            return [choice for choice in CHOICES if choice != "average"]
        return list(CHOICES)


def evaluate_run(run: Run, machine: Machine, wanted: Wanted) -> dict[str, dict[str, Any]]:
    """The scores of a finished run by SUBSET.CHOICE, kept in its folder; one process at a time."""
    with alone_in(run.folder):
        return _evaluate_run(run, machine, wanted)


def _evaluate_run(run: Run, machine: Machine, wanted: Wanted) -> dict[str, dict[str, Any]]:
    if not run.trained:
        raise UserError(f"{run.folder} is not trained to its end; type: {run.provenance()['command']}")
    if run.provenance()["dataset"] in SENTENCES:
        return sentences.evaluate_run(run, machine, wanted.choices)
    manifest = read_manifest(Path(run.provenance()["data"]))
    found = {}
    for choice in wanted.of(run):
        about = {"choice": choice, "decode": asdict(wanted.decode)}
        if choice == "average":
            about["averaged"] = wanted.averaged
        for subset in manifest["tests"]:
            name = f"{subset}.{choice}"
            work = partial(_score, run, machine, manifest, subset, about)
            once(run.folder, f"scoring-{name}", about, work, f"to score it anew type: rm {run.folder}/.scoring-*")
            if wanted.comet is not None:
                add = partial(_add_comet, run, machine, manifest, subset, choice, wanted.comet)
                once(run.folder, f"comet-{name}", {"model": str(wanted.comet)}, add)
            found[name] = json.loads((run.folder / "scores" / f"{name}.json").read_text(encoding="utf-8"))
    return found


def _score(run: Run, machine: Machine, manifest: Mapping[str, Any], subset: str, about: Mapping[str, Any]) -> None:
    """Translate one test set with one checkpoint, and leave hypotheses and scores."""
    folder = Path(run.provenance()["data"])
    if about["choice"] == "average":
        average(latest(run.folder, about["averaged"]), run.folder / "checkpoints/checkpoint_average.pt")
    reference = folder / manifest["tests"][subset]
    about = {"subset": subset, "recipe": manifest["recipe"], **about}
    translated(run, machine, folder / "bin", subset, reference, manifest["target"], about, _pieces(manifest))


def _add_comet(run: Run, machine: Machine, manifest: Mapping[str, Any], subset: str, choice: str, model: Path) -> None:
    """COMET of translations that are there, beside their other scores."""
    goal = run.folder / "scores" / f"{subset}.{choice}.json"
    reference = Path(run.provenance()["data"]) / manifest["tests"][subset]
    texts = [reference.with_suffix(f".{manifest['source']}"), goal.with_suffix(".hyp.txt"), reference]
    found = json.loads(goal.read_text(encoding="utf-8")) | comet(model, *map(read_lines, texts), machine.gpus)
    write_atomically(goal, json.dumps(found, indent=2) + "\n")


def _pieces(manifest: Mapping[str, Any]) -> Pieces:
    return Pieces(manifest["generate"]["remove_bpe"], manifest["generate"]["tokenizer"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to translate, how, and where to put it."""
    parser.add_argument("run_or_checkpoint", nargs="+", type=Path, metavar="RUN", help="run folders, or checkpoints")
    parser.add_argument("--choices", help="of a run folder: some of best,last,average (default: all that there are)")
    parser.add_argument(
        "--average-last", type=int, default=AVERAGED, metavar="N",
        help=f"how many of the latest checkpoints are averaged (default {AVERAGED})",
    )  # fmt: skip
    parser.add_argument("--comet", type=Path, metavar="MODEL.ckpt", help="of a run folder: COMET by this model, too")
    of_checkpoint = parser.add_argument_group("of checkpoints")
    of_checkpoint.add_argument("--data", type=Path, metavar="BIN", help="binarised folder")
    of_checkpoint.add_argument(
        "--reference", type=Path, help="raw reference, one sentence a line (default: that of wff prepare)"
    )
    of_checkpoint.add_argument("--subset", default="test", help="set to translate (default test)")
    of_checkpoint.add_argument("--out", type=Path, help="folder for NAME.hyp.txt and NAME.score.json of each")
    add_decode_arguments(
        parser.add_argument_group("search", "default: beam 5, or what the recipe of a run folder says")
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default=None, help="default: a GPU where there is one")
    parser.add_argument("--json", action="store_true", help="scores as JSON on standard output")


def add_decode_arguments(parser: argparse._ActionsContainer) -> None:
    """How to search."""
    parser.add_argument("--beam", type=int, help="beam size")
    parser.add_argument("--lenpen", type=float, help="length penalty")
    parser.add_argument("--max-len-a", type=float, help="longest target: a * source length + b")
    parser.add_argument("--max-len-b", type=int)


def run(args: argparse.Namespace) -> int:
    choices = choices_of(args)
    machine = Machine.of(args.device, 1, 1)
    scores: dict[str, Any] = {}
    for given in args.run_or_checkpoint:
        if given.is_dir():
            own = Run.of(given)
            dataset = own.provenance()["dataset"]
            if dataset not in NAMES:
                raise UserError(f"{given} is scored by the recipe that trained it; type: {own.provenance()['command']}")
            decode = decode_of(args, usual_decode(dataset))
            for name, found in evaluate_run(
                own, machine, Wanted(choices, decode, args.average_last, args.comet)
            ).items():
                scores[f"{given}/scores/{name}"] = found
        else:
            scores[str(given)] = _evaluate_checkpoint(given, args, machine)
    if args.json:
        print(json.dumps(scores, indent=2))
        return 0
    for name, found in scores.items():
        if "metric" in found:
            print(f"{name}  {sentences.shown(found)}")
            continue
        print(f"{name}  BLEU {found['bleu']:.2f}  chrF {found['chrf']:.2f}  {found['sentences']} sentences")
        print(f"  BLEU|{found['bleu_signature']}\n  chrF|{found['chrf_signature']}")
        print(f"  lowercased BLEU {found['bleu_lowercased']:.2f}; legacy, do not compare: ", end="")
        print(", ".join(f"{key} {value:.2f}" for key, value in found["legacy"].items()))
    return 0


def _evaluate_checkpoint(checkpoint: Path, args: argparse.Namespace, machine: Machine) -> dict[str, Any]:
    if args.data is None:
        raise UserError(f"{checkpoint} is no run folder; give --data BIN and --reference FILE with a checkpoint")
    refuse_missing(args.data)
    prepared = args.data.resolve().parent
    pieces, reference, language = Pieces(), args.reference, ""
    if (prepared / MANIFEST).is_file():
        manifest = read_manifest(prepared)
        pieces = _pieces(manifest)
        language = manifest["target"]
        if reference is None and args.subset in manifest["tests"]:
            reference = prepared / manifest["tests"][args.subset]
    if reference is None:
        raise UserError("give --reference the raw text of the target side, one sentence a line")
    lines = read_lines(reference)
    refuse_processed(lines, reference)
    watch = progress(checkpoint.name, max(1, len(lines)))
    made = generate(checkpoint, args.data, args.subset, decode_of(args), machine, pieces, watch)
    found = all_scores(made, lines, language or reference.suffix.lstrip("."))
    if args.out:
        several = len(args.run_or_checkpoint) > 1
        name = f"{checkpoint.parent.name}-{checkpoint.stem}" if several else checkpoint.stem
        write_atomically(args.out / f"{name}.hyp.txt", "".join(f"{line}\n" for line in made))
        write_atomically(args.out / f"{name}.score.json", json.dumps(found, indent=2) + "\n")
    return found
