"""The runner of the studies on the embedded corpus: data, trainings, scores and tables of one language pair.

Raw text -> SentencePiece learnt on train only -> fairseq-preprocess; after training, fairseq-generate -> sacreBLEU
against the raw reference. Each step is done once, so that a study that was killed goes on with the same command.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..data import embedded as corpus
from ..data import subwords
from ..data.recipe import Decode
from ..errors import UserError
from ..files import atomic_folder, write_atomically
from ..scoring.scored_runs import read_scores
from ..scoring.scores import Score, read_lines
from ..scoring.translate import translated
from ..workspace.commands import fairseq
from ..workspace.configs import methods_in
from ..workspace.locks import lock_folder
from ..workspace.machine import Machine
from ..workspace.progress import say
from ..workspace.provenance import EMBEDDED
from ..workspace.runs import Run
from ..workspace.steps import once
from ..workspace.tables import write_tables
from .training import train

PIECES = 2000
DECODE = Decode(beam=4, max_len_a=1.2, max_len_b=10)


@dataclass(frozen=True)
class PreparedCorpus:
    """One prepared corpus of a study: its folder, and the pair of languages."""

    folder: Path
    pair: str

    @property
    def binarised(self) -> Path:
        """What fairseq trains on."""
        return self.folder / "bin"

    @property
    def reference(self) -> Path:
        """The raw target side of the test set."""
        return self.folder / "raw" / f"test.{self.pair.split('-')[1]}"


@dataclass(frozen=True)
class EmbeddedStudy:
    """What a study on the embedded corpus was asked for, and the steps that all of these studies take.

    Args:
        pair, seeds: the languages, and the number of seeds, which are 1 to N.
        out: absolute folder, in which the pair gets one of its own.
        configs: absolute folder of METHOD.yaml.
        corpus_fraction: the share of the corpus that is used, in every split.
        device, jobs: where to train, and how many trainings at once; None: what the machine has.
        words: the command as it was typed, for provenance.json.
    """

    pair: str
    seeds: int
    out: Path
    configs: Path
    corpus_fraction: float = 1.0
    device: str | None = None
    jobs: int | None = None
    words: Sequence[str] = ()

    @property
    def folder(self) -> Path:
        """Where everything of this pair goes."""
        return self.out / self.pair

    def alone(self) -> AbstractContextManager[None]:
        """Hold the folder of the pair against other processes."""
        return lock_folder(self.folder)

    def runs(self, methods: Iterable[str]) -> list[Run]:
        """A run for each seed and method, all methods of a seed together."""
        names = list(methods)
        return [Run(m, seed, self.folder / f"{m}-{seed}") for seed in range(1, self.seeds + 1) for m in names]

    def machine(self, trainings: int) -> Machine:
        """The machine, shared by so many trainings."""
        return Machine.of(self.device, self.jobs, trainings)

    def prepare(
        self, name: str = "", kinds: Sequence[str] | None = None, like: PreparedCorpus | None = None
    ) -> PreparedCorpus:
        """The corpus, subwords and binarised data, in the sub-folder `name` of the pair's folder.

        Args:
            kinds: of sentences (default: all).
            like: another corpus, whose subwords and dictionary this one takes.
        """
        folder = self.folder / name
        raw = folder / "raw"
        say(f"{folder.name}: writing the corpus")
        sizes = {split: round(self.corpus_fraction * size) for split, size in corpus.SIZES.items()}
        corpus.write(self.pair, raw, sizes=sizes, kinds=kinds)
        settings = {"pieces": PIECES, "corpus": read_lines(raw / corpus.MANIFEST)}
        if like is not None:
            settings["like"] = read_lines(like.folder / "raw" / corpus.MANIFEST)
        source, target = self.pair.split("-")
        parent = like.folder if like is not None else None
        once(folder, "subwords", settings, lambda: _segment(folder, raw, (source, target), parent))
        once(folder, "binarised", settings, lambda: _binarise(folder, source, target, parent))
        return PreparedCorpus(folder, self.pair)

    def train(
        self, run: Run, config: Path, data: PreparedCorpus, machine: Machine, changed: Mapping[str, Any] | None = None
    ) -> None:
        """Train one run on `data`; `changed`: settings on top of its YAML."""
        about = {
            "dataset": EMBEDDED, "recipe": "generated", "pair": self.pair, "data": str(data.folder), "changed": [],
            "command": shlex.join(["wff", *self.words]),
        }  # fmt: skip
        train(run, config, data.binarised, self.pair, machine, about, changed)

    def write_results(self, text: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Leave table.md and table.csv in the pair's folder."""
        write_tables(self.folder, text, rows)


def evaluate(run: Run, data: PreparedCorpus, machine: Machine, name: str = "test") -> Score:
    """Translate and score the test set of `data` with the last weights of `run`; `name` tells several sets apart."""
    about = {"subset": name, "choice": "last", "decode": asdict(DECODE)}
    language = data.reference.suffix.lstrip(".")

    def work() -> None:
        translated(run, machine, data.binarised, "test", data.reference, language, about)

    once(run.folder, f"scoring-{name}.last", about, work)
    scores = read_scores(run.folder / f"scores/{name}.last.json")
    return Score(**{field.name: scores[field.name] for field in fields(Score)})


def note_on(score: Score) -> list[str]:
    """What a table of scores must say to be compared with another, as lines of Markdown."""
    return [
        "",
        f"BLEU: `{score.bleu_signature}`  ",
        f"chrF: `{score.chrf_signature}`  ",
        f"{score.sentences} test sentences, beam {DECODE.beam}, last checkpoint.",
    ]


def score_columns(score: Score) -> dict[str, Any]:
    """The columns of a score in table.csv."""
    return {
        "bleu": f"{score.bleu:.2f}", "chrf": f"{score.chrf:.2f}", "sentences": score.sentences,
        "bleu_signature": score.bleu_signature, "chrf_signature": score.chrf_signature,
    }  # fmt: skip


def refuse_unknown_methods(methods: Iterable[str], *folders: Path) -> None:
    """Each method must have a YAML in one of `folders`."""
    known = methods_in(*folders)
    for method in methods:
        if method not in known:
            raise UserError(f"no method {method!r} in {folders[0]}; type --methods with some of: {','.join(known)}")


def _binarise(folder: Path, source: str, target: str, like: Path | None) -> None:
    """fairseq-preprocess, into a folder that appears when it is whole: fairseq refuses to go on in a half-made one."""
    if (folder / "bin").is_dir():
        return
    with atomic_folder(folder / "bin") as half:
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
        lines = subwords.pieces_of(model, read_lines(raw / name))
        write_atomically(folder / "pieces" / name, "".join(f"{line}\n" for line in lines))
