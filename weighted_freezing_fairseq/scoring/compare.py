"""Two systems on one test set, sentence by sentence: where the second is better, where it is worse, and by how much."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from ..errors import UserError
from ..workspace.progress import say
from ..workspace.runs import Run
from .published import BASELINE
from .results import Result, baseline_of, results
from .scored_runs import ScoredRun, Setting, collect, rescore_command
from .scores import read_lines
from .significance import PValues


@dataclass(frozen=True)
class Sentence:
    """One sentence of the test set, with both translations and their sentence-level scores.

    Args:
        number: its line in the test set, from 1.
        source: None where the source text is not beside the reference.
    """

    number: int
    source: str | None
    reference: str
    translations: tuple[str, str]
    scores: tuple[float, float]

    @property
    def difference(self) -> float:
        """By how much the second system scores higher."""
        return self.scores[1] - self.scores[0]


@dataclass(frozen=True)
class Comparison:
    """The sentences of a test set, those first where the second system gains most over the first.

    Args:
        names, folders: of the systems.
        metric: of the sentences, with its signature.
        test: the data set, the recipe and the test set, for a reader.
        subset, choice: the options of `wff compare` for this test set and these checkpoints.
        scores: of the whole set, by the measure that is reported and tested, which is called `measure`.
        p_values: of their difference; None for systems that were chosen by their scores.
    """

    names: tuple[str, str]
    folders: tuple[Path, Path]
    subset: str
    choice: str
    test: str
    metric: str
    measure: str
    signature: str
    scores: tuple[float, float]
    p_values: PValues | None
    sentences: tuple[Sentence, ...]

    @property
    def better(self) -> int:
        """In how many sentences the second system scores higher."""
        return sum(sentence.difference > 0 for sentence in self.sentences)

    def gains(self, most: int) -> tuple[Sentence, ...]:
        """At most `most` sentences in which the second system gains most."""
        return tuple(sentence for sentence in self.sentences[:most] if sentence.difference > 0)

    def losses(self, most: int) -> tuple[Sentence, ...]:
        """At most `most` sentences in which the second system loses most."""
        return tuple(sentence for sentence in self.sentences[::-1][:most] if sentence.difference < 0)

    @property
    def worse(self) -> int:
        """In how many sentences the second system scores lower."""
        return sum(sentence.difference < 0 for sentence in self.sentences)


def compare(
    folders: Sequence[Path], subset: str = "test", choice: str | None = None, data: Path | None = None
) -> Comparison:
    """Compare the translations of two run folders by sentence-level chrF.

    Args:
        subset: the test set.
        choice: of the checkpoints that were scored: best, last or average; None: the first of them in both runs.
        data: the prepared data, if the references are not where they were.
    """
    first, second = (_scored(folder, subset, choice, data) for folder in folders)
    if first.setting != second.setting:
        raise UserError(
            f"{first.folder} and {second.folder} cannot be compared: {_differences(first, second)}; give runs on the "
            "same data, scored alike"
        )
    if not first.setting.translated:
        raise UserError(f"{first.folder} predicts labels; wff compare is for translations")
    return _compared(first, second, tested=True)


def best_with_standard(scored: Iterable[ScoredRun]) -> list[Comparison]:
    """On each test set, standard training compared with the method of the best mean score, by one seed of both.

    Methods without a single standard training to compare with are left out, as in the score tables. The difference is
    not tested: the method is the best of several, which a p-value of its own would not take into account.
    """
    comparisons = []
    all_results = results(scored)[0]
    pairs: dict[Setting, list[tuple[Result, Result]]] = {}
    for result in all_results:
        baseline = baseline_of(result, all_results)[0] if result.method != BASELINE else None
        files = [path for x in (baseline, result) if x for run in x.runs for path in (run.reference, run.hypotheses)]
        if baseline and result.setting.translated and all(path.is_file() for path in files):
            pairs.setdefault(result.setting, []).append((baseline, result))
    for setting, of_setting in pairs.items():
        standard, best = max(of_setting, key=lambda pair: mean(run.score for run in pair[1].runs))
        seed = next(seed for seed in standard.seeds if seed in best.seeds)
        first, second = (next(run for run in result.runs if run.seed == seed) for result in (standard, best))
        say(f"{setting.name}: comparing {best.method} with {BASELINE} sentence by sentence")
        comparisons.append(_compared(first, second, tested=False))
    return comparisons


def _compared(first: ScoredRun, second: ScoredRun, tested: bool) -> Comparison:
    """The sentences of two runs that were scored alike."""
    from sacrebleu.metrics import CHRF

    reference = read_lines(first.reference)
    translations = [read_lines(run.hypotheses) for run in (first, second)]
    for run, lines in zip((first, second), translations, strict=True):
        if len(lines) != len(reference):
            raise UserError(
                f"{run.hypotheses} has {len(lines)} lines, and {first.reference} {len(reference)}; "
                f"type: {rescore_command([run.folder])}"
            )
    source = first.reference.with_suffix(f".{first.setting.pair.split('-')[0]}")
    sources = read_lines(source) if source.is_file() and source != first.reference else [None] * len(reference)
    chrf = CHRF()
    rows = zip(sources, reference, zip(*translations, strict=True), strict=True)
    sentences = [
        Sentence(
            number,
            of_source,
            of_reference,
            pair,
            tuple(chrf.sentence_score(text, [of_reference]).score for text in pair),
        )
        for number, (of_source, of_reference, pair) in enumerate(rows, 1)
    ]
    return Comparison(
        names=_names(first, second),
        folders=(first.folder, second.folder),
        subset=first.setting.subset,
        choice=first.setting.choice,
        test=first.setting.name,
        metric=f"chrF|{chrf.get_signature()}",
        measure=first.setting.metrics[0],
        signature=first.setting.signature,
        scores=(first.score, second.score),
        p_values=first.setting.scorer.p_values(*translations, reference) if tested else None,
        sentences=tuple(sorted(sentences, key=lambda sentence: (-sentence.difference, sentence.number))),
    )


def _scored(folder: Path, subset: str, choice: str | None, data: Path | None) -> ScoredRun:
    """The score of one run on one test set."""
    Run.load(folder)
    runs = [run for run in collect([folder], choice, data)[0] if run.folder == folder.resolve()]
    for run in runs:
        if subset in (run.setting.subset, run.setting.test):
            return run
    if runs:
        known = ", ".join(sorted(run.setting.test for run in runs))
        raise UserError(f"{folder} has no scores of {subset!r}; type --subset with one of: {known}")
    raise UserError(f"{folder} is not a scored run folder; type: wff evaluate {folder}")


def _names(first: ScoredRun, second: ScoredRun) -> tuple[str, str]:
    """Method and seed; the paths where these are the same."""
    names = tuple(f"{run.method}, seed {run.seed}" for run in (first, second))
    return (names[0], names[1]) if names[0] != names[1] else (str(first.folder), str(second.folder))


def _differences(first: ScoredRun, second: ScoredRun) -> str:
    """What the settings of two runs do not share."""
    fields = vars(first.setting)
    return ", ".join(
        f"{name} is {value!r} and {getattr(second.setting, name)!r}"
        for name, value in fields.items()
        if value != getattr(second.setting, name)
    )
