"""Studies on the embedded corpus: data, trainings and scores of one language pair.

The text is split by SentencePiece, learnt on the training set, and binarised by fairseq-preprocess. Test sets are
translated by fairseq-generate and scored by sacreBLEU against the raw reference. Each step is done once, so a study
that was killed resumes with the same command.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..data import embedded as corpus
from ..data import subwords
from ..data.embedded import FULL, CorpusSize
from ..data.recipe import Decode
from ..errors import UserError, did_you_mean
from ..files import atomic_folder, write_atomically
from ..scoring.scored_runs import read_scores
from ..scoring.scores import Score, read_lines
from ..scoring.translate import translate_and_score
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

DECODE = Decode(beam=4, max_len_a=1.2, max_len_b=10)


@dataclass(frozen=True)
class PreparedCorpus:
    """The folder of a prepared corpus, and its language pair."""

    folder: Path
    pair: str

    @property
    def binarised(self) -> Path:
        """The folder that fairseq trains on."""
        return self.folder / "bin"

    @property
    def reference(self) -> Path:
        """The raw target side of the test set."""
        return self.folder / "raw" / f"test.{self.pair.split('-')[1]}"


@dataclass(frozen=True)
class EmbeddedStudy:
    """The settings of a study on the embedded corpus, and the steps that all of these studies share.

    Args:
        pair: language pair.
        seeds: each is trained.
        out: absolute folder; the pair gets a sub-folder.
        configs: absolute folder of METHOD.yaml.
        corpus_fraction: fraction of each split that is used.
        device: where to train (auto: a GPU where there is one).
        jobs: number of trainings that run at once (None: one a core or GPU).
        command: arguments of `wff`, for provenance.json.
        size: of the corpus, of which `corpus_fraction` is used.
    """

    pair: str
    seeds: Sequence[int]
    out: Path
    configs: Path
    corpus_fraction: float = 1.0
    device: str = "auto"
    jobs: int | None = None
    command: Sequence[str] = ()
    size: CorpusSize = FULL

    @property
    def folder(self) -> Path:
        """The folder of the pair."""
        return self.out / self.pair

    def lock(self) -> AbstractContextManager[None]:
        """Lock the folder of the pair against other processes."""
        return lock_folder(self.folder)

    def runs(self, methods: Iterable[str]) -> list[Run]:
        """A run for each seed and method, ordered by seed."""
        methods = list(methods)
        return [Run(m, seed, self.folder / f"{m}-{seed}") for seed in self.seeds for m in methods]

    def machine(self, trainings: int) -> Machine:
        """The machine, divided among this number of trainings."""
        return Machine.of(self.device, self.jobs, trainings)

    def prepare(
        self,
        name: str = "",
        kinds: Sequence[str] | None = None,
        vocabulary: PreparedCorpus | None = None,
        pair: str | None = None,
    ) -> PreparedCorpus:
        """Write the corpus, split it into subwords and binarise it, in the sub-folder `name` of the pair's folder.

        Args:
            kinds: kinds of sentences (default: all).
            vocabulary: a prepared corpus to take subwords and dictionary from (default: learn them).
            pair: of the corpus (default: that of the study).
        """
        folder, pair = self.folder / name, pair or self.pair
        raw = folder / "raw"
        say(f"{folder.name}: writing the corpus")
        full = {**corpus.SIZES, "train": self.size.train}
        sizes = {split: round(self.corpus_fraction * size) for split, size in full.items()}
        corpus.write(pair, raw, sizes=sizes, kinds=kinds)
        settings = {"pieces": self.size.pieces, "corpus": read_lines(raw / corpus.MANIFEST)}
        if vocabulary is not None:
            settings["like"] = read_lines(vocabulary.folder / "raw" / corpus.MANIFEST)
        languages, parent = pair.split("-"), None if vocabulary is None else vocabulary.folder
        once(folder, "subwords", settings, lambda: _write_pieces(folder, languages, self.size.pieces, parent))
        once(folder, "binarised", settings, lambda: _binarise(folder, languages, parent))
        return PreparedCorpus(folder, pair)

    def train(
        self, run: Run, config: Path, data: PreparedCorpus, machine: Machine, overrides: Mapping[str, Any] | None = None
    ) -> None:
        """Train one run on `data` with the settings of `config` and these `overrides`."""
        provenance = {
            "dataset": EMBEDDED, "recipe": "generated", "pair": data.pair, "data": str(data.folder), "changed": [],
            "command": shlex.join(["wff", *self.command]),
        }  # fmt: skip
        train(run, config, data.binarised, data.pair, machine, provenance, overrides)

    def write_results(self, text: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write table.md and table.csv to the pair's folder."""
        write_tables(self.folder, text, rows)


def evaluate(run: Run, data: PreparedCorpus, machine: Machine, name: str = "test", choice: str = "last") -> Score:
    """Translate the test set of `data` with a checkpoint of a run and score it.

    Args:
        name: of the test set, in the files.
        choice: of the run's checkpoints.
    """
    settings = {"subset": name, "choice": choice, "decode": asdict(DECODE)}
    language = data.reference.suffix.lstrip(".")
    once(
        run.folder,
        f"scoring-{name}.{choice}",
        settings,
        lambda: translate_and_score(run, machine, data.binarised, "test", data.reference, language, settings),
    )
    scores = read_scores(run.folder / f"scores/{name}.{choice}.json")
    return Score(**{field.name: scores[field.name] for field in fields(Score)})


def score_notes(score: Score, checkpoint: str = "last checkpoint") -> list[str]:
    """Lines of Markdown under a table of scores: the signatures, and what was translated with which checkpoint."""
    return [
        "",
        f"BLEU: `{score.bleu_signature}`  ",
        f"chrF: `{score.chrf_signature}`  ",
        f"{score.sentences} test sentences, beam {DECODE.beam}, {checkpoint}.",
    ]


def score_columns(score: Score) -> dict[str, Any]:
    """The columns of a score in table.csv."""
    return {
        "bleu": f"{score.bleu:.2f}", "chrf": f"{score.chrf:.2f}", "sentences": score.sentences,
        "bleu_signature": score.bleu_signature, "chrf_signature": score.chrf_signature,
    }  # fmt: skip


def refuse_unknown_methods(methods: Iterable[str], *folders: Path) -> None:
    """Raise UserError unless each method has a YAML in one of `folders`."""
    available = methods_in(*folders)
    for method in methods:
        if method not in available:
            hint = did_you_mean(method, available) or f"type --methods with some of: {','.join(available)}"
            raise UserError(f"no method {method!r} in {folders[0]}; {hint}")


def _write_pieces(folder: Path, languages: Sequence[str], pieces: int, parent: Path | None) -> None:
    """Split the text with the SentencePiece model of `parent`, or with one that is learnt on both sides of train."""
    raw, model = folder / "raw", (parent or folder) / "spm.model"
    if parent is None:
        say(f"{folder.name}: learning {pieces} subwords on train")
        subwords.learn_pieces([raw / f"train.{name}" for name in languages], model, pieces, split_digits=True)
    for name in (f"{split}.{language}" for split in corpus.SIZES for language in languages):
        lines = subwords.pieces_of(model, read_lines(raw / name))
        write_atomically(folder / "pieces" / name, "".join(f"{line}\n" for line in lines))


def _binarise(folder: Path, languages: Sequence[str], parent: Path | None) -> None:
    """Run fairseq-preprocess, which refuses a folder with some of its files, so they are written to a temporary one."""
    if (folder / "bin").is_dir():
        return
    source, target = languages
    with atomic_folder(folder / "bin") as part:
        words = ["--source-lang", source, "--target-lang", target, "--joined-dictionary", "--destdir", part]
        if parent is not None:
            words += ["--srcdict", parent / "bin" / f"dict.{target}.txt"]
        for split in corpus.SIZES:
            words += [f"--{split}pref", folder / "pieces" / split]
        fairseq("preprocess", words, folder / "preprocess.log")
