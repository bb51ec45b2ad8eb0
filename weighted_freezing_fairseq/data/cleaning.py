"""Cleaning of sentence pairs by a recipe: Moses tokens, length limits, case. Works on chunks, in worker processes."""

import importlib.util
from collections.abc import Sequence

from ..errors import UserError
from .moses import detokenised, tokenised
from .parts import Pair
from .recipe import Recipe

LONGEST_WORD = 1000  # characters; longer words break Moses' alignment tools


def clean_training(recipe: Recipe, languages: Sequence[str], pairs: Sequence[Pair]) -> list[tuple[str, Pair]]:
    """Returns for each pair why it is dropped ("": it is kept), and its text."""
    return [_clean_pair(recipe, languages, pair) for pair in pairs]


def _clean_pair(recipe: Recipe, languages: Sequence[str], pair: Pair) -> tuple[str, Pair]:
    source, target = pair
    if recipe.longest is not None or recipe.form != "untouched":
        source, target = (tokenised(text, language) for text, language in zip(pair, languages, strict=True))
    if recipe.longest is not None:
        reason = reason_to_drop(source.split(), target.split(), recipe.longest, recipe.ratio)
    else:
        reason = "" if all(pair) else "an empty side"
    if reason:
        return reason, pair
    if recipe.form == "untouched":
        source, target = pair
    if recipe.lowercased:
        source, target = source.lower(), target.lower()
    if recipe.form == "detokenised":
        source, target = detokenised(source, languages[0]), detokenised(target, languages[1])
    return "", (source, target)


def clean_evaluation(recipe: Recipe, languages: Sequence[str], pairs: Sequence[Pair]) -> list[tuple[str, Pair]]:
    """Returns the text of validation or test pairs in the form of `clean_training`; no pair is dropped."""
    source, target = languages
    return [("", (_clean_side(recipe, pair[0], source), _clean_side(recipe, pair[1], target))) for pair in pairs]


def _clean_side(recipe: Recipe, text: str, language: str) -> str:
    if recipe.straight_apostrophes:
        text = text.replace("\u2019", "'")
    if recipe.form == "tokenised":
        text = tokenised(text, language)
    return text.lower() if recipe.lowercased else text


def reason_to_drop(source: Sequence[str], target: Sequence[str], longest: int, ratio: float) -> str:
    """Why Moses' clean-corpus-n drops a pair of these tokens ("": it keeps it); the order of the tests is the same."""
    if not source or not target:
        return "an empty side"
    if max(len(source), len(target)) > longest:
        return f"more than {longest} tokens"
    if len(source) > ratio * len(target) or len(target) > ratio * len(source):
        return f"a length ratio above {ratio}"
    if any(len(token) > LONGEST_WORD for side in (source, target) for token in side):
        return f"a word of more than {LONGEST_WORD:,} characters"
    return ""


def check_packages(recipe: Recipe) -> None:
    """Raises a UserError if a package that the recipe needs is not installed."""
    needed = ["subword_nmt" if recipe.subwords == "bpe" else "sentencepiece"]
    needed += ["sacremoses"] if recipe.longest is not None or recipe.form != "untouched" else []
    missing = [name.replace("_", "-") for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"this recipe needs {' and '.join(missing)}; type: pip install {' '.join(missing)}")
