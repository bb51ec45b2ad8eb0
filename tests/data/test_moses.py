"""Moses' tokens: those of sacremoses, whatever the text."""

from functools import cache

import miniature
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacremoses import MosesDetokenizer, MosesTokenizer

from weighted_freezing_fairseq.data.moses import detokenised, tokenised

LANGUAGES = ["ar", "de", "es", "fa", "he", "it", "nl", "pl", "en"]
# What a step looks for, and words around it.
ODD = ["Dr. No. z.B. U.S. etc. so, Nr. 5.", "a.m. x.Y. 1. ß. …", "", " ", "Wait... what?! [a] | & < >", "tel. ar. ق."]
ODD += [
    "No. 5 Nr. a. b. C. .",
    "he said '.",
    "it's 'quoted'. '",
    "1,5 a,b ,c d,",
    "DOTMULTI .. ...",
    "a\u00a0b\tc\x01d",
    "p. 12",
]
PARTS = [
    *"aZß5٣ ,.'`-&|<>[]\"/:;!?…“’°\u00a0\t\x01\u200c漢ق",
    "..",
    "...",
    ".'",
    "Dr",
    "No",
    "e.g",
    "DOTMULTI",
    " a.",
    " B. ",
    "'s",
]


@cache
def plain(language):
    return MosesTokenizer(lang=language), MosesDetokenizer(lang=language)


def same(text, language):
    tokenizer, detokenizer = plain(language)
    tokens = tokenised(text, language)
    assert tokens == tokenizer.tokenize(text, return_str=True)
    assert detokenised(tokens, language) == detokenizer.detokenize(tokens.split())


@pytest.mark.parametrize("language", LANGUAGES)
def test_real_sentences_and_odd_ones(language):
    texts = miniature.sentences("de" if language == "en" else language, 30)[language]
    for text in [*texts, *(f"{text} p.m. {text}." for text in texts), *ODD]:
        same(text, language)


@settings(max_examples=150)
@given(st.lists(st.sampled_from(PARTS), max_size=30).map("".join), st.sampled_from(["de", "en", "it"]))
def test_any_text(text, language):
    same(text, language)
