"""`wff evaluate`: every sentence of a test set translated, detokenised, and scored against the raw reference.

Given a run folder of `wff train`, it knows the test sets, the search settings of the recipe, and the checkpoints to
compare: the best, the last, the average of the latest. Given a checkpoint, it is told. Left out on purpose:
significance between systems, which is `wff report`; and labelled sentences, which are predicted and not translated
(`scoring/sentences/evaluate.py`).
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..data import DATASETS, NAMES, SENTENCES, lowercases, prepared, read_manifest
from ..data.recipe import Decode
from ..errors import UserError
from ..files import write_atomically
from ..forms import Content, read_json
from ..scoring.results import SCORE_FORM
from ..scoring.scores import all_scores, comet, read_lines
from ..scoring.sentences import evaluate as sentences
from ..scoring.translate import (
    Pieces,
    add_decode_arguments,
    decode_of,
    generate,
    raw_reference,
    refuse_missing,
    refuse_missing_checkpoint,
    translated,
)
from ..workspace.average import average, latest
from ..workspace.contents import MANIFEST, content_hash
from ..workspace.locks import alone_in
from ..workspace.machine import Machine
from ..workspace.progress import progress, say
from ..workspace.provenance import relocate
from ..workspace.runs import CHOICES, Run
from ..workspace.steps import DONE, OPEN, OTHER, once, read_stamp, state_of

HELP = """\
Translate whole test sets with the checkpoints of a run, and score them against the raw reference. Of a run on GLUE or
XNLI: predict the labels of every set, and score them by the task's measures."""
EXAMPLE = """wff evaluate runs/multi30k/clean/de-en/standard-1
  wff evaluate runs/glue/roberta/rte/standard-1 --choices best
  wff evaluate runs/a/checkpoint_best.pt --data BIN --reference raw/test.en --out runs/a/test"""

AVERAGED = 5


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
        enough = len(latest(run.folder, self.averaged, or_fewer=True)) == self.averaged
        return [choice for choice in CHOICES if enough or choice != "average"]


def evaluate_run(run: Run, machine: Machine, wanted: Wanted) -> dict[str, dict[str, Any]]:
    """The scores of a finished run by SUBSET.CHOICE, kept in its folder; one process at a time."""
    refuse_early(run, wanted)
    with alone_in(run.folder):
        return _evaluate_run(run, machine, wanted)


def _evaluate_run(run: Run, machine: Machine, wanted: Wanted) -> dict[str, dict[str, Any]]:
    if run.provenance()["dataset"] in SENTENCES:
        return sentences.evaluate_run(run, machine, wanted.choices)
    manifest = read_manifest(Path(run.provenance()["data"]))
    found = {}
    if wanted.choices is None and "average" not in wanted.of(run):
        say(f"{run.name}: fewer than {wanted.averaged} numbered checkpoints, no average")
    for name, (subset, about) in _scorings(run, wanted, manifest).items():
        work = partial(_score, run, machine, manifest, subset, about)
        once(run.folder, f"scoring-{name}", about, work, f"to score it anew type: rm {run.folder}/.scoring-*")
        if wanted.comet is not None:
            add = partial(_add_comet, run, machine, manifest, subset, about["choice"], wanted.comet)
            once(run.folder, f"comet-{name}", {"model": str(wanted.comet)}, add)
        found[name] = _scores(run, name)
    return found


def _scores(run: Run, name: str) -> Content:
    """What scoring left, by SUBSET.CHOICE."""
    remedy = f"to score it anew type: rm {run.folder}/.scoring-*"
    return read_json(run.folder / "scores" / f"{name}.json", SCORE_FORM, remedy)


def refuse_early(run: Run, wanted: Wanted) -> None:
    """What makes scoring impossible, before the first set is translated."""
    if not run.trained:
        raise UserError(f"{run.folder} is not trained to its end; type: {run.provenance()['command']}")
    if run.provenance()["dataset"] in SENTENCES:
        sentences.refuse_early(run, wanted.choices)
    folder = Path(run.provenance()["data"])
    if not (folder / MANIFEST).is_file():
        raise UserError(
            f"{run.folder} was trained on {folder}, which has no {MANIFEST}; if the data was moved, give the folder "
            f"that wff prepare made: wff evaluate {run.folder} --data DIR"
        )
    if run.provenance()["dataset"] in SENTENCES:
        return
    manifest = read_manifest(folder)
    scorings = _scorings(run, wanted, manifest)
    to_do = [both for name, both in scorings.items() if state_of(run.folder, f"scoring-{name}", both[1]) == OPEN]
    for choice in {about["choice"] for _, about in to_do} - {"average"}:
        refuse_missing_checkpoint(run.folder / f"checkpoints/checkpoint_{choice}.pt")
    for subset in dict.fromkeys(subset for subset, _ in to_do):
        remedy = f"move {folder} away and make it again: wff prepare {manifest['dataset']} --pairs {manifest['pair']}"
        raw_reference(folder / "bin", subset, folder / manifest["tests"][subset], remedy)


def state_of_scores(run: Run, data: Path, wanted: Wanted) -> str:
    """DONE, OPEN or OTHER, as `evaluate_run` will find all scores that are wanted of a finished run on `data`."""
    if run.provenance()["dataset"] in SENTENCES:
        steps = sentences.steps_of(wanted.choices)
    else:
        manifest = read_manifest(data)
        steps = {name: about for name, (_, about) in _scorings(run, wanted, manifest).items()}
    states = {state_of(run.folder, f"scoring-{name}", about) for name, about in steps.items()}
    return next((state for state in (OTHER, OPEN) if state in states), DONE)


def _scorings(run: Run, wanted: Wanted, manifest: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Test set and settings of every translation that is wanted of a run, by SUBSET.CHOICE."""
    found = {}
    for choice in wanted.of(run):
        about = {"choice": choice, "decode": asdict(wanted.decode)}
        if choice == "average":
            about["averaged"] = wanted.averaged
        found.update({f"{subset}.{choice}": (subset, about) for subset in manifest["tests"]})
    return found


def _score(run: Run, machine: Machine, manifest: Mapping[str, Any], subset: str, about: Mapping[str, Any]) -> None:
    """Translate one test set with one checkpoint, and leave hypotheses and scores."""
    folder = Path(run.provenance()["data"])
    if about["choice"] == "average":
        average(latest(run.folder, about["averaged"]), run.folder / "checkpoints/checkpoint_average.pt")
    reference = folder / manifest["tests"][subset]
    about = {"subset": subset, "recipe": manifest["recipe"], **_on_text(manifest), **about}
    translated(run, machine, folder / "bin", subset, reference, manifest["target"], about, _pieces(manifest))


def _add_comet(run: Run, machine: Machine, manifest: Mapping[str, Any], subset: str, choice: str, model: Path) -> None:
    """COMET of translations that are there, beside their other scores."""
    goal = run.folder / "scores" / f"{subset}.{choice}.json"
    reference = Path(run.provenance()["data"]) / manifest["tests"][subset]
    texts = [reference.with_suffix(f".{manifest['source']}"), goal.with_suffix(".hyp.txt"), reference]
    found = _scores(run, f"{subset}.{choice}") | comet(model, *map(read_lines, texts), machine.gpus)
    write_atomically(goal, json.dumps(found, indent=2) + "\n")


def _on_text(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What scores keep of the text: whether its translations compare by lowercased BLEU."""
    return {"lowercased_text": lowercases(manifest["dataset"], manifest["recipe"])}


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
    of_checkpoint.add_argument(
        "--data", type=Path, metavar="BIN",
        help="binarised folder; of a run folder whose data was moved: what wff prepare made (data/DATASET)",
    )  # fmt: skip
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


def run(args: argparse.Namespace) -> int:
    choices = choices_of(args)
    machine = Machine.of(args.device, 1, 1)
    # Each refuses what is wrong when it is made, so that nothing is translated before an error.
    works = [
        _of_run(path, args, choices, machine) if path.is_dir() else _of_checkpoint(path, args, machine)
        for path in args.run_or_checkpoint
    ]
    scores = {name: found for work in works for name, found in work().items()}
    if args.json:
        print(json.dumps(scores, indent=2))
        return 0
    for name, found in scores.items():
        if "metric" in found:
            print(f"{name}  {sentences.shown(found)}")
            continue
        print(f"{name}  BLEU {found['bleu']:.2f}  chrF {found['chrf']:.2f}  {found['sentences']} sentences")
        print(f"  BLEU|{found['bleu_signature']}\n  chrF|{found['chrf_signature']}")
        print(f"  lowercased BLEU {found['bleu_lowercased']:.2f}|{found['bleu_lowercased_signature']}")
        if found.get("lowercased_text"):
            print("  the recipe lowercases its text: beside the papers' figures goes the lowercased BLEU")
        print("  legacy, do not compare: ", end="")
        print(", ".join(f"{key} {value:.2f}" for key, value in found["legacy"].items()))
    return 0


def _of_run(
    path: Path, args: argparse.Namespace, choices: Sequence[str] | None, machine: Machine
) -> Callable[[], dict[str, Any]]:
    """The work on a run folder."""
    own = Run.of(path)
    about = own.provenance()
    if about["dataset"] not in NAMES:
        raise UserError(f"{path} is scored by the recipe that trained it; type: {about['command']}")
    if args.data is not None:
        _move_data(own, prepared(args.data.resolve(), about["recipe"], about["pair"]))
    decode = decode_of(args, usual_decode(about["dataset"]))
    wanted = Wanted(choices, decode, args.average_last, args.comet)
    refuse_early(own, wanted)
    return lambda: {f"{path}/scores/{name}": found for name, found in evaluate_run(own, machine, wanted).items()}


def _move_data(run: Run, folder: Path) -> None:
    """Note that the data of a run lies in `folder` now, if it is that data."""
    read_manifest(folder)
    stamp = run.folder / ".training.json"
    known = read_stamp(stamp).get("contents", {}) if stamp.is_file() else {}
    if known.get("task.data", now := content_hash(folder / "bin")) != now:
        raise UserError(
            f"{run.folder} was not trained on {folder}; give --data the folder that wff prepare made for it"
        )
    relocate(run, {"data": str(folder)})


def _of_checkpoint(checkpoint: Path, args: argparse.Namespace, machine: Machine) -> Callable[[], dict[str, Any]]:
    """The work on a checkpoint."""
    if args.data is None:
        raise UserError(f"{checkpoint} is no run folder; give --data BIN and --reference FILE with a checkpoint")
    refuse_missing(args.data)
    folder = args.data.resolve().parent
    pieces, reference, language, about = Pieces(), args.reference, "", {}
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        pieces = _pieces(manifest)
        language = manifest["target"]
        about = _on_text(manifest)
        if reference is None and args.subset in manifest["tests"]:
            reference = folder / manifest["tests"][args.subset]
    if reference is None:
        raise UserError("give --reference the raw text of the target side, one sentence a line")
    refuse_missing_checkpoint(checkpoint)
    lines = raw_reference(args.data, args.subset, reference)
    language = language or reference.suffix.lstrip(".")

    def work() -> dict[str, Any]:
        watch = progress(checkpoint.name, max(1, len(lines)))
        made = generate(checkpoint, args.data, args.subset, decode_of(args), machine, pieces, watch)
        found = {**about, **all_scores(made, lines, language)}
        if args.out:
            several = len(args.run_or_checkpoint) > 1
            name = f"{checkpoint.parent.name}-{checkpoint.stem}" if several else checkpoint.stem
            write_atomically(args.out / f"{name}.hyp.txt", "".join(f"{line}\n" for line in made))
            write_atomically(args.out / f"{name}.score.json", json.dumps(found, indent=2) + "\n")
        return {str(checkpoint): found}

    return work
