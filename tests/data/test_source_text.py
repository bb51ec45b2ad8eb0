"""A raw sentence goes through what the training data went through, whatever the recipe."""

import miniature
import pytest

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.data import DATASETS, read_manifest
from weighted_freezing_fairseq.data.source_text import SourceText, recipe_of


@pytest.mark.parametrize("recipe", DATASETS["iwslt14"].recipes)
def test_raw_text_becomes_the_pieces_that_were_prepared(recipe, tmp_path):
    archive = miniature.iwslt14(tmp_path / "archives", train=60, test=4)
    words = [
        "prepare",
        "iwslt14",
        "--langs",
        "de",
        "--recipe",
        recipe,
        "--archive",
        archive,
        "--pieces",
        150,
        "--jobs",
        1,
    ]
    assert main([*map(str, words), "--any-counts", "--out", str(tmp_path / "out")]) == 0
    folder = tmp_path / "out" / recipe / "de-en"
    manifest = read_manifest(folder)
    source = SourceText(("de", "en"), folder / manifest["subwords"], recipe_of(manifest))
    raw, pieces = ((folder / name / "test.de").read_text().splitlines() for name in ("raw", "pieces"))
    assert source.pieces(raw) == pieces and len(pieces) == 20
    assert source.is_bpe == (recipe == "fairseq")
    source.refuse_unusable()
