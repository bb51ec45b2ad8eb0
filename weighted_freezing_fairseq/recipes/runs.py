"""The steps that recipes on the embedded corpus share: raw text to a trained and scored run.

Raw text -> SentencePiece learnt on train only -> fairseq-preprocess -> fairseq-hydra-train -> fairseq-generate ->
sacreBLEU against the raw reference. Each step leaves a stamp with its settings, so that a second call reuses what is
done, and a killed one goes on.
"""

import argparse
import csv
import io
import json
import shlex
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from .. import hydra_train
from ..configs import CONFIGS, methods_in, open_settings, settings_of
from ..data import subwords
from ..errors import UserError
from ..files import whole_folder, write_atomically
from ..forms import Content, read_json
from ..user_dir import PACKAGE, USER_DIR
from . import corpus
from .commands import Reason, reason, refuse_when_stopping, started
from .contents import same_settings, with_contents
from .machine import Machine, environment
from .scores import Score, all_scores, read_lines
from .translate import Decode, Pieces, generate, raw_reference

PIECES = 2000
PROVENANCE = "provenance.json"
_PROVENANCE_FORM = {
    **dict.fromkeys(("dataset", "recipe", "pair", "method", "data", "config", "command"), str),
    "seed": int,
    "commit": (str, type(None)),
    "changed": [str],
    "versions": {str: str},
    "sittings": [{"device": str}],
}
CHOICES = ("best", "last", "average")  # checkpoints to translate with; the first that there is counts
DECODE = Decode(beam=4, max_len_a=1.2, max_len_b=10)
_say_lock = threading.Lock()
_started = time.monotonic()


@dataclass(frozen=True)
class Run:
    """One training: a method, a seed, a folder."""

    method: str
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """For a reader."""
        return f"{self.method}, seed {self.seed}"

    @classmethod
    def of(cls, folder: Path) -> "Run":
        """The run that `wff train` made in `folder`."""
        if not (folder / PROVENANCE).is_file():
            raise UserError(f"{folder} is no run folder: it has no {PROVENANCE}; give one that wff train made")
        own = read_provenance(folder)
        return cls(own["method"], own["seed"], folder.resolve())

    @property
    def checkpoint(self) -> Path:
        """Its last weights."""
        return self.folder / "checkpoints/checkpoint_last.pt"

    @property
    def trained(self) -> bool:
        """Whether its training came to its end."""
        return (self.folder / ".training.json").is_file()

    def provenance(self) -> dict[str, Any]:
        """What was trained, from what, by which command (contract: see `train.py`)."""
        return read_provenance(self.folder)


def read_provenance(folder: Path) -> Content:
    """provenance.json of a run folder."""
    return read_json(folder / PROVENANCE, _PROVENANCE_FORM, f"train it again, or move {folder} away")


def say(text: str) -> None:
    """One line of progress with the time since the start."""
    with _say_lock:
        print(f"[{time.monotonic() - _started:5.0f} s] {text}", file=sys.stderr, flush=True)


DONE, OPEN, OTHER = "done", "open", "other"


def state_of(folder: Path, name: str, settings: Mapping[str, Any]) -> str:
    """DONE where `folder` has the step `name` with these settings, OTHER where it was begun with others, else OPEN."""
    settings = json.loads(json.dumps(settings, default=str))
    for stamp, state in ((folder / f".{name}.json", DONE), (folder / f".{name}.begun.json", OPEN)):
        if stamp.is_file():
            return state if same_settings(json.loads(stamp.read_text(encoding="utf-8")), settings) else OTHER
    return OPEN


def once(
    folder: Path,
    name: str,
    settings: dict[str, Any],
    work: Callable[[], None],
    remedy: str = "give another --out, or move that folder away",
) -> None:
    """Do `work` unless `folder` has it done with the same settings; other settings are the user's to sort out."""

    def claim_and_work(claim: Callable[[], None]) -> None:
        claim()
        work()

    once_claimed(folder, name, settings, claim_and_work, remedy)


def once_claimed(
    folder: Path,
    name: str,
    settings: dict[str, Any],
    work: Callable[[Callable[[], None]], None],
    remedy: str = "give another --out, or move that folder away",
) -> None:
    """The same; other settings are refused from when `work` calls the function that it gets, not from its start."""
    stamp, begun = folder / f".{name}.json", folder / f".{name}.begun.json"
    state = state_of(folder, name, settings)
    if state == DONE:
        say(f"{folder.name}: {name} is done already")
        return
    if state == OTHER:
        raise UserError(f"{folder} holds a {'' if stamp.is_file() else 'half-done '}{name} of other settings; {remedy}")

    def claim() -> None:
        write_atomically(begun, json.dumps(settings, default=str))

    work(claim)
    begun.replace(stamp)


def prepare(
    pair: str, folder: Path, fraction: float, kinds: Sequence[str] | None = None, like: Path | None = None
) -> None:
    """Corpus, subwords, binarised data in `folder`; with subwords and dictionary of the folder `like`, if given.

    fraction: of the corpus's size, in every split.
    """
    source, target = pair.split("-")
    raw = folder / "raw"
    say(f"{folder.name}: writing the corpus")
    corpus.write(pair, raw, sizes={split: round(fraction * size) for split, size in corpus.SIZES.items()}, kinds=kinds)
    versions = {"pieces": PIECES, "corpus": read_lines(raw / corpus.MANIFEST)}
    if like is not None:
        versions["like"] = read_lines(like / "raw" / corpus.MANIFEST)
    once(folder, "subwords", versions, lambda: _segment(folder, raw, (source, target), like))
    once(folder, "binarised", versions, lambda: _binarise(folder, source, target, like))


def _binarise(folder: Path, source: str, target: str, like: Path | None) -> None:
    """fairseq-preprocess, into a folder that appears when it is whole: fairseq refuses to go on in a half-made one."""
    if (folder / "bin").is_dir():
        return
    with whole_folder(folder / "bin") as half:
        words = ["--source-lang", source, "--target-lang", target, "--joined-dictionary", "--destdir", half]
        if like is not None:
            words += ["--srcdict", like / "bin" / f"dict.{source}.txt"]
        words += [w for split in corpus.SIZES for w in (f"--{split}pref", folder / "pieces" / split)]
        fairseq("preprocess", words, folder / "preprocess.log")


def _segment(folder: Path, raw: Path, languages: Sequence[str], like: Path | None) -> None:
    """Text in pieces of SentencePiece, which is learnt on the two sides of train unless another folder has it."""
    model = (like or folder) / "spm.model"
    if like is None:
        say(f"{folder.name}: learning {PIECES} subwords on train")
        subwords.learn_pieces([raw / f"train.{name}" for name in languages], model, PIECES, split_digits=True)
    for name in (f"{split}.{language}" for split in corpus.SIZES for language in languages):
        lines = subwords.pieces_of(str(model), model.stat().st_mtime_ns, read_lines(raw / name))
        write_atomically(folder / "pieces" / name, "".join(f"{line}\n" for line in lines))


def wff(words: Sequence[Any], threads: int) -> str:
    """What one of this package's own commands prints."""
    words = list(map(str, words))
    with started(
        PACKAGE.name, words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(threads)
    ) as process:
        printed, said = process.communicate()
    if process.returncode != 0:
        refuse_when_stopping()
        raise UserError(
            f"wff {words[0]} failed: {reason(said, process.returncode)}; type it by hand: wff {shlex.join(words)}"
        )
    return str(printed)


def fairseq(
    command: str,
    words: Sequence[Any],
    log: Path,
    env: Mapping[str, str] | None = None,
    watch: Callable[[str], None] | None = None,
) -> None:
    """One fairseq command with its output in `log`, each line also handed to `watch`; `env`: default, one thread."""
    log.parent.mkdir(parents=True, exist_ok=True)
    module = hydra_train.__name__ if command == "hydra_train" else f"fairseq_cli.{command}"
    why = Reason()
    with started(
        module, words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace",
        cwd=log.parent, env=env or environment(1),
    ) as process, log.open("a", encoding="utf-8") as file:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            file.flush()
            why.hear(line)
            if watch is not None:
                watch(line)
    if process.returncode != 0:
        refuse_when_stopping()
        raise UserError(
            f"fairseq-{command.replace('_', '-')} failed: {why.of(process.returncode)}; the whole log is {log}"
        )


def refuse_invalid_settings(*configs: Path, changed: Mapping[str, Any] | None = None) -> None:
    """Each YAML, with what is `changed` in it, must be one that fairseq can train with."""
    from ..plugin.settings import refuse_invalid

    for config in configs:
        settings = settings_of(config, changed or {})
        try:
            refuse_invalid(settings)
            for section, keys in (("dataset", ("max_tokens", "batch_size")), ("optimization", ("max_update",))):
                if not set(keys) & set(settings.get(section) or {}):
                    raise UserError(f"setting {' or '.join(f'{section}.{key}' for key in keys)} is missing")
        except UserError as error:
            raise UserError(f"{error}; correct {config}{', or --set' if changed else ''}") from None


def training_settings(run: Run, config: Path, data: Path, pair: str | None, more: Mapping[str, Any] | None) -> Any:
    """What is trained, not on what: a run that was stopped may go on on other GPUs, in another place."""
    languages = dict(zip(("source_lang", "target_lang"), pair.split("-"), strict=True)) if pair else {}
    own = {"task": {"data": str(data), **languages}, "common": {"seed": run.seed}}
    return settings_of(config, own, more or {})


def stamp_of(given: Any) -> dict[str, Any]:
    """The settings of a training as its stamp has them."""
    from omegaconf import OmegaConf

    return with_contents(OmegaConf.to_container(given))  # type: ignore[arg-type]


def train(
    run: Run, config: Path, data: Path, pair: str | None, machine: Machine, about: Mapping[str, Any],
    more: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """fairseq-hydra-train of one YAML (with `more` settings); fairseq itself goes on from the last checkpoint.

    The folder belongs to these settings, and has a provenance (`about`, see `provenance.note`), from the first update.

    pair: None where the task has no languages.
    """
    from omegaconf import OmegaConf

    from .provenance import note  # which builds on this module

    if not run.trained:
        refuse_invalid_settings(config, changed=more)
    given = training_settings(run, config, data, pair, more)
    unit = "max_tokens" if "max_tokens" in given.dataset else "batch_size"
    update_freq = given.optimization.get("update_freq", [1])[0]  # select: no default in omegaconf 2.0
    settings = OmegaConf.merge(
        given,
        machine.settings(given.dataset[unit], update_freq, unit),
        {
            "common": {"user_dir": str(USER_DIR), "tensorboard_logdir": str(run.folder / "tensorboard")},
            "checkpoint": {"save_dir": str(run.folder / "checkpoints")},
        },
    )
    total = settings.optimization.max_update
    begun = time.monotonic()

    def work(claim: Callable[[], None]) -> None:
        claimed, shown = False, begun

        def first_update() -> None:
            nonlocal claimed
            claimed = True
            note(run, about, config, machine)
            claim()

        def watch(line: str) -> None:
            nonlocal shown
            if hydra_train.FIRST_UPDATE in line and not claimed:
                first_update()
            elif "train_inner" in line and '"num_updates"' in line:
                values = json.loads(line[line.index("{") :])
                done, now = int(values["num_updates"]), time.monotonic()
                if done == total or now - shown > 10:
                    shown = now
                    say(f"{run.name}: update {done} of {total}, loss {values['loss']}, {values['ups']} updates/s")

        # The run folder keeps its complete settings: what was trained can be trained again from it alone.
        # Not called config.yaml: fairseq has one of its own, which would win.
        write_atomically(run.folder / "run.yaml", OmegaConf.to_yaml(settings))
        words = ["--config-dir", run.folder, "--config-name", "run", "hydra.run.dir=.", "hydra.output_subdir=null"]
        with machine.environment() as env:
            fairseq("hydra_train", words, run.folder / "train.log", env, watch)
        if not claimed:  # the last checkpoint left no update to make
            first_update()
        say(f"{run.name}: trained in {time.monotonic() - begun:.0f} s")

    once_claimed(run.folder, "training", stamp_of(given), work)


def filled_in(config: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a YAML leaves open, from what was `found` for them, as `train` takes them."""
    settings: dict[str, Any] = {}
    for section, key in open_settings(config):
        if key in found:
            settings.setdefault(section, {})[key] = str(found[key])
    return settings


# What may be found in another run, and what measures it there where that is a file of its own.
_FOUND: Mapping[str, Sequence[Any] | None] = {
    "teacher": None, "finetune_from_model": None, "fisher": (), "fish_mask": ("--mask-density", 0.05)
}  # fmt: skip


def needs_another_run(config: Path, but: Iterable[str] = ()) -> bool:
    """Whether a YAML leaves open what `found_in` finds, `but` for what is found elsewhere."""
    return any(key in _FOUND for _, key in open_settings(config) if key not in but)


def files_in(parent: Run, choice: str, config: Path) -> dict[str, Path]:
    """What a YAML may leave open, from the `choice` weights of another run: a teacher, a start, what matters there."""
    weights = parent.folder / f"checkpoints/checkpoint_{choice}.pt"
    keys = [key for _, key in open_settings(config) if key in _FOUND]
    return {key: weights if _FOUND[key] is None else parent.folder / f"{key}.pt" for key in keys}


def found_in(parent: Run, choice: str, config: Path, data: Path, machine: Machine) -> dict[str, Path]:
    """`files_in`, of which what is measured is measured if it is not there."""
    weights = parent.folder / f"checkpoints/checkpoint_{choice}.pt"
    found = files_in(parent, choice, config)
    for key in found:
        more = _FOUND[key]
        if more is not None and not found[key].is_file():
            say(f"{parent.name}: measuring Fisher information ({key})")
            words = ["fisher", weights, "--data", data, "--out", found[key], "--device", machine.device, *more]
            wff(words, machine.threads)
    return found


def evaluate(run: Run, data: Path, reference: Path, machine: Machine, name: str = "test") -> Score:
    """Translate and score the test set of `data` with the last weights of `run`; `name` is for several sets."""
    about = {"subset": name, "choice": "last", "decode": asdict(DECODE)}
    language = reference.suffix.lstrip(".")

    def work() -> None:
        translated(run, machine, data, "test", reference, language, about)

    once(run.folder, f"scoring-{name}.last", about, work)
    found = json.loads((run.folder / f"scores/{name}.last.json").read_text(encoding="utf-8"))
    return Score(**{field.name: found[field.name] for field in fields(Score)})


def translated(
    run: Run, machine: Machine, data: Path, split: str, reference: Path, language: str, about: Mapping[str, Any],
    pieces: Pieces = Pieces(),  # noqa: B008
) -> None:  # fmt: skip
    """Translate one set with one checkpoint, and leave translations and scores in the run's folder.

    about: subset (what the set is called), choice (of the checkpoint), decode; all of it is written with the scores.
    """
    lines = raw_reference(data, split, reference)
    subset, choice = about["subset"], about["choice"]
    checkpoint = run.folder / f"checkpoints/checkpoint_{choice}.pt"
    say(f"{run.name}: translating {subset} ({len(lines):,} sentences) with the {choice} checkpoint")
    watch = progress(run.name, len(lines))
    made = generate(checkpoint, data, split, Decode(**about["decode"]), machine, pieces, watch)
    found = {
        **about, "checkpoint": str(checkpoint.relative_to(run.folder)), "reference": str(reference),
        **all_scores(made, lines, language),
    }  # fmt: skip
    goal = run.folder / "scores" / f"{subset}.{choice}.json"
    write_atomically(goal.with_name(f"{subset}.{choice}.hyp.txt"), "".join(f"{line}\n" for line in made))
    write_atomically(goal, json.dumps(found, indent=2) + "\n")


def progress(name: str, total: int) -> Callable[[int], None]:
    """Says now and then how far a translation is."""
    shown = [0]

    def watch(done: int) -> None:
        if done * 10 // total > shown[0]:
            shown[0] = done * 10 // total
            say(f"{name}: {done:,} of {total:,} sentences")

    return watch


def note_on(found: Score) -> list[str]:
    """What a table of scores must say to be compared with another, as lines of Markdown."""
    return [
        "",
        f"BLEU: `{found.bleu_signature}`  ",
        f"chrF: `{found.chrf_signature}`  ",
        f"{found.sentences} test sentences, beam {DECODE.beam}, last checkpoint.",
    ]


def write_tables(folder: Path, text: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """table.md, and table.csv with `rows` of equal keys."""
    write_atomically(folder / "table.md", text + "\n")
    write_atomically(folder / "table.csv", as_csv(rows))


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """`rows` of equal keys under a line of their names."""
    lines = io.StringIO(newline="")
    writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return lines.getvalue()


def mean(values: Sequence[float]) -> str:
    """Mean, and standard deviation where there are several."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def add_run_arguments(parser: argparse.ArgumentParser, seeds: str, out: str, configs: str) -> None:
    """What every recipe on the embedded corpus is told: the pair, how often, where, and how much at once."""
    parser.add_argument("--pair", default="de-en", help=f"one of {', '.join(corpus.PAIRS)} (default de-en)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help=f"{seeds} (default 1)")
    parser.add_argument("--out", type=Path, default=Path(out), help=f"default {out}")
    parser.add_argument(
        "--configs", type=Path, default=CONFIGS / configs,
        help=f"folder of METHOD.yaml (default: configs/{configs} of the repository)",
    )  # fmt: skip
    parser.add_argument(
        "--corpus-fraction", type=float, default=1.0, metavar="F",
        help="use this share of the corpus, to see in less time that everything works (default 1)",
    )  # fmt: skip
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: a GPU where there is one")
    parser.add_argument("--jobs", type=int, help="trainings at once (default: one a core, or one a GPU)")


def refuse_unknown_methods(methods: Iterable[str], *folders: Path) -> None:
    """Each method must have a YAML in one of `folders`."""
    known = methods_in(*folders)
    for method in methods:
        if method not in known:
            raise UserError(f"no method {method!r} in {folders[0]}; type --methods with some of: {','.join(known)}")


def refuse_wrong(args: argparse.Namespace) -> None:
    """What `add_run_arguments` cannot know by itself."""
    if args.pair not in corpus.PAIRS:
        raise UserError(f"unknown pair {args.pair!r}; type --pair with one of: {', '.join(corpus.PAIRS)}")
    if args.seeds < 1:
        raise UserError("--seeds must be at least 1; type --seeds 1")
    if not 0.05 <= args.corpus_fraction <= 1:
        raise UserError(f"--corpus-fraction {args.corpus_fraction:g} is no share from 0.05 to 1; type 0.1")
    if args.jobs is not None and args.jobs < 1:
        raise UserError("--jobs must be at least 1; type --jobs 1, or leave it out")
