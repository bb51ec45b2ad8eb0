"""Two systems on one test set, sentence by sentence: where the second is better, where it is worse, and by how much."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean

from ..errors import UserError
from ..workspace.progress import say
from ..workspace.runs import Run
from .published import BASELINE
from .results import Result, results
from .scored_runs import ScoredRun, Setting, collect, rescore_command
from .scores import read_lines
from .significance import PValues, cached_p_values


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
        scores: of the whole set, by the measure that is reported and tested, which is called `measure`.
        p_values: of their difference.
    """

    names: tuple[str, str]
    folders: tuple[Path, Path]
    test: str
    metric: str
    measure: str
    signature: str
    scores: tuple[float, float]
    p_values: PValues
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
    return _compared(first, second, first.setting.scorer.p_values)


def best_with_standard(scored: Iterable[ScoredRun], cache: Path) -> list[Comparison]:
    """On each test set, standard training compared with the method of the best mean score, by one seed of both.

    Args:
        scored: runs; those of other settings are not compared.
        cache: file of p-values.
    """
    comparisons = []
    by_setting: dict[Setting, list[Result]] = {}
    for result in results(scored)[0]:
        files = (path for run in result.runs for path in (run.reference, run.hypotheses))
        if result.setting.translated and all(path.is_file() for path in files):
            by_setting.setdefault(result.setting, []).append(result)
    for of_setting in by_setting.values():
        standard = next((result for result in of_setting if result.method == BASELINE), None)
        others = [x for x in of_setting if standard and x.method != BASELINE and {*x.seeds} & {*standard.seeds}]
        if standard and others:
            best = max(others, key=lambda result: mean(run.score for run in result.runs))
            seed = next(seed for seed in standard.seeds if seed in best.seeds)
            first, second = (next(run for run in result.runs if run.seed == seed) for result in (standard, best))
            say(f"{first.setting.name}: comparing {best.method} with {BASELINE} sentence by sentence")
            p_values = partial(cached_p_values, cache=cache, scorer=first.setting.scorer)
            comparisons.append(_compared(first, second, p_values))
    return comparisons


def _compared(
    first: ScoredRun, second: ScoredRun, p_values: Callable[[Sequence[str], Sequence[str], Sequence[str]], PValues]
) -> Comparison:
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
        test=first.setting.name,
        metric=f"chrF|{chrf.get_signature()}",
        measure=first.setting.metrics[0],
        signature=first.setting.signature,
        scores=(first.score, second.score),
        p_values=p_values(*translations, reference),
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
