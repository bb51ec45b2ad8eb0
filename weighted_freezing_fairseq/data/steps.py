"""The text steps of a recipe, a chunk of sentence pairs at a time: Moses' tokens, length, case.

Pure functions that a process of the pool can be sent. The length cleaning is that of Moses' clean-corpus-n. Left out on
purpose: files (`folder.py`), how tokens are made (`moses.py`), and subwords (`subwords.py`).
"""

import importlib.util
from collections.abc import Sequence

from ..errors import UserError
from .moses import detokenised, tokenised
from .parts import Pair
from .recipe import Recipe

LONGEST_WORD = 1000  # characters; Moses' alignment tools broke on more


def training(recipe: Recipe, languages: Sequence[str], pairs: Sequence[Pair]) -> list[tuple[str, Pair]]:
    """For each pair of the training set why it is dropped ("": it is not), and its text."""
    return [_training(recipe, languages, pair) for pair in pairs]


def _training(recipe: Recipe, languages: Sequence[str], pair: Pair) -> tuple[str, Pair]:
    if recipe.longest is None:
        return ("" if all(pair) else "an empty side"), pair
    tokens = [tokenised(text, language) for text, language in zip(pair, languages, strict=True)]
    reason = too_odd(*(side.split() for side in tokens), recipe.longest, recipe.ratio)
    if reason or recipe.form == "untouched":
        return reason, pair
    one, other = (_shaped(recipe, side, language) for side, language in zip(tokens, languages, strict=True))
    return reason, (one, other)


def _shaped(recipe: Recipe, tokens: str, language: str) -> str:
    """Tokens as the recipe has its training text."""
    text = tokens.lower() if recipe.lowercased else tokens
    return detokenised(text, language) if recipe.form == "detokenised" else text


def evaluation(recipe: Recipe, languages: Sequence[str], pairs: Sequence[Pair]) -> list[Pair]:
    """The text of pairs of a test set, of which none is dropped."""
    source, target = languages
    return [(_side(recipe, one, source), _side(recipe, other, target)) for one, other in pairs]


def _side(recipe: Recipe, text: str, language: str) -> str:
    if recipe.straight_apostrophes:
        text = text.replace("\u2019", "'")
    if recipe.form == "tokenised":
        text = tokenised(text, language)
    return text.lower() if recipe.lowercased else text


def too_odd(source: Sequence[str], target: Sequence[str], longest: int, ratio: float) -> str:
    """Why Moses' clean-corpus-n would drop a pair of these tokens, in the order in which it looks; "": it would not."""
    if not source or not target:
        return "an empty side"
    if max(len(source), len(target)) > longest:
        return f"more than {longest} tokens"
    if len(source) > ratio * len(target) or len(target) > ratio * len(source):
        return f"a length ratio above {ratio}"
    if any(len(token) > LONGEST_WORD for side in (source, target) for token in side):
        return f"a word of more than {LONGEST_WORD:,} characters"
    return ""


def refuse_without_packages(recipe: Recipe) -> None:
    """Say what to install before hours of work."""
    needed = ["subword_nmt" if recipe.subwords == "bpe" else "sentencepiece"]
    needed += ["sacremoses"] if recipe.longest is not None else []
    missing = [name.replace("_", "-") for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"this recipe needs {' and '.join(missing)}; type: pip install {' '.join(missing)}")
