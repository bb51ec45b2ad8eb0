"""A comparison of two systems for a terminal, and as one HTML page that needs nothing but itself."""

from pathlib import Path

from ..files import write_atomically
from ..scoring.compare import Comparison, Sentence
from .grids import Grid
from .templates import rendered


def as_text(comparison: Comparison, most: int) -> str:
    """The scores of the whole set, and the `most` sentences of each side that differ most."""
    first, second = comparison.names
    count = len(comparison.sentences)
    equal = count - comparison.better - comparison.worse
    p = comparison.p_values
    tested = f" (p = {p.bootstrap:.4f} bootstrap, {p.randomisation:.4f} randomisation)" if p else ""
    lines = [
        f"{comparison.test}: {count:,} sentences",
        f"  {first}: {comparison.measure} {comparison.scores[0]:.2f}",
        f"  {second}: {comparison.measure} {comparison.scores[1]:.2f}{tested}",
        f"  {comparison.signature}",
        f"  {second} is better in {comparison.better:,} sentences, worse in {comparison.worse:,}, equal in {equal:,}, "
        f"by {comparison.metric}",
    ]
    best_and_worst = ("gains", comparison.gains(most)), ("loses", comparison.losses(most))
    for verb, sentences in best_and_worst:
        title = f"{second} {verb} most"
        lines += ["", f"{title}:"] if sentences else []
        for sentence in sentences:
            lines += ["", *_block(comparison, sentence)]
    return "\n".join(lines)


def _block(comparison: Comparison, sentence: Sentence) -> list[str]:
    scores = " -> ".join(f"{score:.1f}" for score in sentence.scores)
    rows = [("source", sentence.source), ("reference", sentence.reference)]
    rows += list(zip(comparison.names, sentence.translations, strict=True))
    width = max(len(name) for name, _ in rows)
    texts = [f"  {name:{width}}  {text}" for name, text in rows if text is not None]
    return [f"sentence {sentence.number}: chrF {scores} ({sentence.difference:+.1f})", *texts]


def write_page(comparison: Comparison, out: Path) -> None:
    """Every sentence side by side, with a field to search for words."""
    title = " and ".join(comparison.names)
    write_atomically(out, rendered("comparison.html.j2", comparison=comparison, scores=scores(comparison), title=title))


def scores(comparison: Comparison) -> Grid:
    """The scores of the whole set, for a page."""
    rows = [[name, f"{score:.2f}"] for name, score in zip(comparison.names, comparison.scores, strict=True)]
    notes = [f"`{comparison.signature}`"]
    if p := comparison.p_values:
        notes.append(
            f"p = {p.bootstrap:.4f} by paired bootstrap, {p.randomisation:.4f} by paired approximate randomisation"
        )
    notes.append(
        f"{comparison.names[1]} is better in {comparison.better:,} of {len(comparison.sentences):,} sentences, worse "
        f"in {comparison.worse:,}, by `{comparison.metric}`"
    )
    return Grid(comparison.test, ["system", comparison.measure], rows, notes)
