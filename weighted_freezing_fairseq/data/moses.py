"""Moses' tokens, as sacremoses makes them, at some twenty times its speed.

sacremoses looks for every pattern in every line, and makes a set of all letters of Unicode for most words that end in a
full stop. Here a pattern is looked for where its character is. Tests compare with sacremoses itself, which gives the
tokens of Moses' Perl script. Left out on purpose: everything but tokens and back.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from sacremoses import MosesDetokenizer, MosesTokenizer


def tokenised(text: str, language: str) -> str:
    """Moses' tokens, special characters escaped, joined by spaces."""
    return _tokenizer(language).tokenize(text, return_str=True)


def detokenised(tokens: str, language: str) -> str:
    """Moses' tokens as text again."""
    return _detokenizer(language).detokenize(tokens.split())


class _Pattern(Protocol):
    def sub(self, by: Any, text: str) -> str: ...


class _Where:
    """A pattern that changes nothing where `worth_it` says so: then it is not looked for."""

    def __init__(self, pattern: re.Pattern[str], worth_it: Callable[[str], bool]) -> None:
        self.pattern, self.worth_it = pattern, worth_it

    def sub(self, by: Any, text: str) -> str:
        return self.pattern.sub(by, text) if self.worth_it(text) else text


def _holding(part: str, pattern: re.Pattern[str]) -> _Pattern:
    return _Where(pattern, lambda text: part in text)


def _step(part: str, step: tuple[re.Pattern[str], str]) -> tuple[_Pattern, str]:
    """One of sacremoses' steps, a pattern and what it becomes, where `part` is in the text."""
    return _holding(part, step[0]), step[1]


@cache
def _tokenizer(language: str) -> "MosesTokenizer":
    from sacremoses import MosesTokenizer as Moses

    class Tokenizer(Moses):
        _lower, _alpha = frozenset(Moses.IsLower), frozenset(Moses.IsAlpha)
        # The only white space that is printable is the space.
        DEDUPLICATE_SPACE = (
            _Where(Moses.DEDUPLICATE_SPACE[0], lambda text: "  " in text or not text.isprintable()),
            Moses.DEDUPLICATE_SPACE[1],
        )
        ASCII_JUNK = _Where(Moses.ASCII_JUNK[0], lambda text: not text.isprintable()), Moses.ASCII_JUNK[1]
        COMMA_SEPARATE_1 = _step(",", Moses.COMMA_SEPARATE_1)
        COMMA_SEPARATE_2 = _step(",", Moses.COMMA_SEPARATE_2)
        COMMA_SEPARATE_3 = _step(",", Moses.COMMA_SEPARATE_3)
        ENGLISH_SPECIFIC_APOSTROPHE = [_step("'", step) for step in Moses.ENGLISH_SPECIFIC_APOSTROPHE]
        FR_IT_SPECIFIC_APOSTROPHE = [_step("'", step) for step in Moses.FR_IT_SPECIFIC_APOSTROPHE]
        NON_SPECIFIC_APOSTROPHE = _step("'", Moses.NON_SPECIFIC_APOSTROPHE)
        TRAILING_DOT_APOSTROPHE = _step(".'", Moses.TRAILING_DOT_APOSTROPHE)
        MULTIDOT_RUN = _holding("..", Moses.MULTIDOT_RUN)
        MULTIDOT_MARKER = _holding("MULTI", Moses.MULTIDOT_MARKER)
        MOSES_ESCAPE_XML_REGEXES = [
            _step(step[0].pattern.removeprefix("\\"), step) for step in Moses.MOSES_ESCAPE_XML_REGEXES
        ]

        def islower(self, text: str) -> bool:
            return self._lower.issuperset(text)

        def isanyalpha(self, text: str) -> bool:
            return not self._alpha.isdisjoint(text)

        def handles_nonbreaking_prefixes(self, text: str) -> str:
            """A full stop belongs to its word or not: only such words, and the first letter after them, matter."""
            tokens = text.split()
            for number, (token, following) in enumerate(zip(tokens, [*tokens, ""][1:], strict=True)):
                if token.endswith("."):
                    alone = super().handles_nonbreaking_prefixes(f"{token} {following[:1]}")
                    tokens[number] = alone.removesuffix(f" {following[:1]}") if following else alone
            return " ".join(tokens)

    return Tokenizer(lang=language)


@cache
def _detokenizer(language: str) -> "MosesDetokenizer":
    from sacremoses import MosesDetokenizer

    return MosesDetokenizer(lang=language)
