"""Each recipe against its description, line by line: the published scripts, a line of Python for a line of shell."""

import gzip
import json
import platform
import re
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import miniature
import pytest
from sacremoses import MosesDetokenizer, MosesTokenizer

from weighted_freezing_fairseq.data import DATASETS, archives, binary, fetch, folder, subwords
from weighted_freezing_fairseq.data.workers import Workers
from weighted_freezing_fairseq.errors import UserError

# Sentences that a step must do something to, put into the training set of every miniature.
ODD = [
    ("Bach & Söhne “sind” <da>, z.B. in 5. Zeile |.", "Bach & Sons “are” <there>, e.g. in line No. 5 |."),
    ("Ein [langer] Satz", "A [much] longer sentence that has far more words than it should have, and so it goes"),
    ("Das ist's", "That's it"),
    ("", "Nothing on the other side"),
    ("viele " * 176, "many " * 176),
    ("viele " * 175, "many " * 175),
    ("x" * 1001, "y" * 1001),
    ("eins zwei drei", "one two"),  # exactly 1.5
    ("eins zwei drei vier", "one two"),
    ("ÄRGER İ", "TROUBLE I"),
]
# The same for the test set.
APOSTROPHES = ("Das ist’s, wie’s & was", "That’s it, don’t you & me")


@pytest.fixture(scope="module")
def texts():
    made = miniature.iwslt14_texts("de", train=80, test=3)
    made["train"] = {
        side: made["train"][side] + [pair[number] for pair in ODD] for number, side in enumerate(("de", "en"))
    }
    for number, side in enumerate(("de", "en")):
        made["TED.tst2011"][side][1] = APOSTROPHES[number]
    return made


def job_of(tmp_path: Path, dataset: str, pair: str, recipe: str, any_counts: bool = True) -> folder.PairJob:
    data = DATASETS[dataset]
    return folder.PairJob(data, recipe, data.table[recipe], pair, tmp_path / recipe / pair, any_counts)


def texts_of(job: folder.PairJob, archive: Path, workers: Workers | None = None) -> list[dict]:
    """raw/ and text/ of a job, made from `archive`, which serves every need."""
    files = fetch.obtain(job.data.archives([job.pair]), job.folder / "none", [archive])
    sources = {need: folder.ArchiveFile(path, fetch.identity(path)) for need, path in files.items()}
    return [*folder.read_corpus(job, sources), *folder.clean(job, workers or Workers(1))]


def iwslt14(tmp_path: Path, texts, **changes) -> Path:
    """The archive of one pair, with members changed, or taken out (None)."""
    members = {**miniature.iwslt14_files("de", texts), **changes}
    path = tmp_path / "de-en.tgz"
    path.write_bytes(miniature.tgz({name: content for name, content in members.items() if content is not None}))
    return path


def written(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


# The scripts ---------------------------------------------------------------------------------------------------------


def prepared_training(lines: list[str], language: str) -> list[str]:
    """grep -v '<url>' ... | sed 's/<title>//g' ... | tokenizer.perl"""
    kept = [line for line in lines if not re.search("<(url|talkid|keywords|speaker|reviewer|translator)\\b", line)]
    bare = [re.sub("</?(title|description)>", "", line) for line in kept]
    tokenizer = MosesTokenizer(lang=language)
    return [tokenizer.tokenize(line, return_str=True) for line in bare]


def clean_corpus(de: list[str], en: list[str], longest: int = 175, ratio: float = 1.5) -> list[int]:
    """clean-corpus-n.perl -ratio 1.5 ... 1 175: the numbers of the lines that stay."""
    kept = []
    for number, (one, other) in enumerate(zip(de, en, strict=True)):
        a, b = len(one.split()), len(other.split())
        if not (a and b and a <= longest and b <= longest and a / b <= ratio and b / a <= ratio):
            continue
        if not re.search(r"\S{1001}", one) and not re.search(r"\S{1001}", other):
            kept.append(number)
    return kept


def by_hand(texts, language: str, recipe: str) -> dict[str, list[str]]:
    """train, valid and test of one side by the scripts of fairseq and of Xu et al."""
    tokens = {side: prepared_training(miniature.tags(texts["train"][side]).splitlines(), side) for side in ("de", "en")}
    kept = [tokens[language][number].lower() for number in clean_corpus(tokens["de"], tokens["en"])]
    test = [line for part in miniature.TESTS for line in texts[part][language]]
    test = [line.replace("’", "'") for line in test]
    if recipe == "fairseq":
        tokenizer = MosesTokenizer(lang=language)
        test = [tokenizer.tokenize(line, return_str=True) for line in test]
    else:
        detokenizer = MosesDetokenizer(lang=language)
        kept = [detokenizer.detokenize(line.split()) for line in kept]
    return {
        "valid": [line for number, line in enumerate(kept, 1) if number % 23 == 0],
        "train": [line for number, line in enumerate(kept, 1) if number % 23 != 0],
        "test": [line.lower() for line in test],
    }


@pytest.mark.parametrize("recipe", ["fairseq", "intra-distillation"])
def test_the_published_recipes_of_iwslt14(tmp_path, texts, recipe):
    job = job_of(tmp_path, "iwslt14", "de-en", recipe)
    rows = texts_of(job, iwslt14(tmp_path, texts))
    for side in ("de", "en"):
        for split, lines in by_hand(texts, side, recipe).items():
            assert written(job.folder / f"text/{split}.{side}") == lines, (split, side)
            assert len(written(job.folder / f"raw/{split}.{side}")) == len(lines)
        raw = [line for part in miniature.TESTS for line in texts[part][side]]
        assert written(job.folder / f"raw/test.{side}") == raw  # what is scored against: cased, apostrophes as they are
    dropped = next(row["dropped"] for row in rows if row["step"] == "text" and row["split"] == "train")
    lengths = {reason: times for reason, times in dropped.items() if reason != "a length ratio above 1.5"}
    assert lengths == {"an empty side": 1, "more than 175 tokens": 1, "a word of more than 1,000 characters": 1}


def test_all_recipes_of_iwslt14_keep_the_same_pairs(tmp_path, texts):
    archive = iwslt14(tmp_path, texts)
    jobs = [job_of(tmp_path, "iwslt14", "de-en", recipe) for recipe in DATASETS["iwslt14"].recipes]
    for job in jobs:
        texts_of(job, archive)
    assert [job.recipe_name for job in jobs] == ["clean", "intra-distillation", "fairseq"]
    for split in ("train", "valid", "test"):
        for side in ("de", "en"):
            assert len({(job.folder / f"raw/{split}.{side}").read_bytes() for job in jobs}) == 1
    assert not (jobs[0].folder / "text").exists() and jobs[0].text_folder == jobs[0].folder / "raw"


def test_the_clean_recipe_leaves_every_sentence_as_it_is(tmp_path, texts):
    job = job_of(tmp_path, "iwslt14", "de-en", "clean")
    texts_of(job, iwslt14(tmp_path, texts))
    given = list(zip(*([line.strip() for line in texts["train"][side]] for side in ("de", "en")), strict=True))
    kept = {
        split: list(zip(*(written(job.folder / f"raw/{split}.{side}") for side in ("de", "en")), strict=True))
        for split in ("train", "valid")
    }
    assert set(kept["train"] + kept["valid"]) <= set(given)
    stayed = [pair for pair in given if pair in kept["train"] + kept["valid"]]
    assert kept["valid"] == [pair for number, pair in enumerate(stayed, 1) if number % 23 == 0]
    assert (ODD[0][0], ODD[0][1]) in kept["train"] + kept["valid"]


def test_both_archives_of_german_give_the_same(tmp_path, texts):
    members = {"2014-01/texts/de/en/de-en.tgz": miniature.tgz(miniature.iwslt14_files("de", texts))}
    both = tmp_path / "2014-01.tgz"
    both.write_bytes(miniature.tgz(members))
    jobs = [job_of(tmp_path / name, "iwslt14", "de-en", "clean") for name in ("one", "all")]
    for job, archive in zip(jobs, (iwslt14(tmp_path, texts), both), strict=True):
        texts_of(job, archive)
    for path in (jobs[0].folder / "raw").iterdir():
        assert path.read_bytes() == (jobs[1].folder / "raw" / path.name).read_bytes()


def test_a_missing_tedx_is_told_and_the_others_stay(tmp_path, texts, capsys):
    tedx = {f"de-en/IWSLT14.TEDX.dev2012.de-en.{side}.xml": None for side in ("de", "en")}
    job = job_of(tmp_path, "iwslt14", "de-en", "clean")
    rows = texts_of(job, iwslt14(tmp_path, texts, **tedx))
    assert "de-en.tgz has no IWSLT14.TEDX.dev2012.de-en.de.xml, " in capsys.readouterr().err
    assert {"step": "unpacked", "split": "test", "missing": "TEDX.dev2012"} in rows
    assert len(written(job.folder / "raw/test.de")) == 12


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "de-en/IWSLT14.TED.tst2010.de-en.en.xml",
            None,
            r"holds no IWSLT14.TED.tst2010.de-en.en.xml .* --archive FILE",
        ),
        ("de-en/train.tags.de-en.de", "eins\n", r"train is misaligned: train.en has .* --archive FILE"),
        ("de-en/train.tags.de-en.de", None, r"holds no train.tags.de-en.de \(it has: de-en/README\)"),
        ("de-en/IWSLT14.TED.dev2010.de-en.de.xml", "<seg id='x'>", r"TED.dev2010 has 0 and 3 segments"),
    ],
)
def test_broken_archives_of_iwslt14_leave_no_folder_behind(tmp_path, texts, name, content, told):
    job = job_of(tmp_path, "iwslt14", "de-en", "clean")
    with pytest.raises(UserError, match=told):
        texts_of(job, iwslt14(tmp_path, texts, **{name: content}))
    assert not (job.folder / "raw").exists()


def test_after_a_refusal_another_archive_may_be_given(tmp_path, texts):
    job = job_of(tmp_path, "iwslt14", "de-en", "clean")
    empty = {f"de-en/train.tags.de-en.{side}": "\n" * 50 for side in ("de", "en")}
    for changes in ({"de-en/train.tags.de-en.de": None}, {"de-en/train.tags.de-en.de": "eins\n"}, empty):
        with pytest.raises(UserError, match="--archive FILE"):
            texts_of(job, iwslt14(tmp_path, texts, **changes))
    texts_of(job, iwslt14(tmp_path, texts))
    assert (job.folder / "raw/train.de").is_file()
    with pytest.raises(UserError, match="holds the step unpacked of other settings; give another --out, or move"):
        texts_of(job, iwslt14(tmp_path, texts, **{"de-en/README": "another"}))


def test_a_folder_of_a_version_that_kept_entities_is_refused(tmp_path, texts):
    job = job_of(tmp_path, "iwslt14", "de-en", "clean")
    archive = iwslt14(tmp_path, texts)
    texts_of(job, archive)
    now = {"tags": "entities resolved"}
    for stamp in (job.folder / ".unpacked.json", job.folder / ".text.json"):
        settings = json.loads(stamp.read_text())
        assert settings.pop("reading") == now
        stamp.write_text(json.dumps(settings))
    with pytest.raises(UserError, match="holds the step unpacked of other settings; give another --out, or move"):
        texts_of(job, archive)
    for manifest in ({}, {"reading": {"tags": "another"}}):
        (job.folder / "manifest.json").write_text(json.dumps({**job.settings, "reading": None, **manifest}))
        with pytest.raises(UserError, match="made with other settings .* instead of .*entities resolved.*--out"):
            job.is_done()
    (job.folder / "manifest.json").write_text(json.dumps({**job.settings, "sha256": {}}))
    assert job.is_done()
    plain = (job_of(tmp_path, *of) for of in (("wmt17", "en-de", "clean"), ("multi30k", "de-en", "clean")))
    assert not any("reading" in other.settings for other in plain)  # was never read in another way


def test_the_archive_of_another_pair_is_refused(tmp_path):
    path = tmp_path / "x.tgz"
    path.write_bytes(miniature.tgz({"fr-en/train.tags.fr-en.fr": "un\n"}))
    with pytest.raises(
        UserError, match=r"holds no train.tags.de-en.de \(it has: fr-en/train.tags.fr-en.fr\); is it of"
    ):
        texts_of(job_of(tmp_path, "iwslt14", "de-en", "clean"), path)


def test_broken_lines_are_counted_in_the_rows_and_told(tmp_path, texts, capsys):
    broken = b"a\rb\nc\0d\n\xff\n" + "e\u2028f\n\n".encode()
    job = job_of(tmp_path, "iwslt14", "de-en", "clean")
    changes = {"de-en/train.tags.de-en.de": b"\xef\xbb\xbf" + broken * 30, "de-en/train.tags.de-en.en": "g h\n" * 150}
    rows = texts_of(job, iwslt14(tmp_path, texts, **changes))
    found = {"NUL": 30, "byte order mark": 1, "invalid UTF-8": 30, "line end inside a line": 60}
    assert next(row for row in rows if row["step"] == "read")["found"] == found
    assert "de-en: train: 30 x NUL, 1 x byte order mark, 30 x invalid UTF-8, 60 x line end" in capsys.readouterr().err
    dropped = next(row["dropped"] for row in rows if row["step"] == "text")
    assert dropped == {"a length ratio above 1.5": 60, "an empty side": 30}
    assert len(written(job.folder / "raw/train.de")) + len(written(job.folder / "raw/valid.de")) == 60


@pytest.mark.parametrize("recipe", ["intra-distillation", "clean"])
def test_the_recipes_of_wmt17(tmp_path, recipe):
    archives = miniature.wmt17(tmp_path / "archives", each=40, news=6)
    job = job_of(tmp_path, "wmt17", "en-de", recipe)
    rows = texts_of(job, archives)
    everything = miniature.sentences("de", 4 * 40 + 12)
    number = 4 * 40 if recipe == "clean" else 3 * 40
    pairs = list(zip(everything["en"][:number], everything["de"][:number], strict=True))
    tokens = [
        [MosesTokenizer(lang=side).tokenize(line, return_str=True) for line in column]
        for side, column in zip(("en", "de"), zip(*pairs, strict=True), strict=True)
    ]
    kept = [pairs[index] for index in clean_corpus(*tokens, longest=256)]
    apart = [] if recipe == "clean" else kept[99::100]
    read = {
        split: list(zip(*(written(job.folder / f"raw/{split}.{side}") for side in ("en", "de")), strict=True))
        for split in ("train", "valid", "test")
    }
    news = list(zip(everything["en"][160:], everything["de"][160:], strict=True))
    assert read["train"] == [pair for pair in kept if pair not in apart]
    assert read["valid"] == (news[:6] if recipe == "clean" else apart)
    assert read["test"] == news[6:]
    names = [row["part"] for row in rows if row["step"] == "read" and row["split"] == "train"]
    assert names == ["europarl-v7", "commoncrawl", "news-commentary-v12", "rapid2016"][: 4 if recipe == "clean" else 3]


def test_counts_that_are_beyond_doubt_are_asserted(tmp_path):
    archives = miniature.wmt17(tmp_path / "archives", each=40, news=6)
    with pytest.raises(
        UserError, match=r"newstest2014 has 6 pairs and should have 3,003: .* --archive, .* --any-counts"
    ):
        texts_of(job_of(tmp_path, "wmt17", "en-de", "intra-distillation", any_counts=False), archives)


def test_no_more_than_so_many_pairs_are_held_out(tmp_path):
    archives = miniature.wmt17(tmp_path / "archives", each=40, news=6)
    data = DATASETS["wmt17"]
    recipe = replace(data.table["intra-distillation"], valid_every=10, valid_most=2)
    job = folder.PairJob(data, "x", recipe, "en-de", tmp_path / "x", any_counts=True)
    texts_of(job, archives)
    assert len(written(job.folder / "raw/valid.en")) == 2


def test_where_nothing_is_left_it_says_so(tmp_path, texts):
    lines = {
        f"de-en/train.tags.de-en.{side}": "ein Wort und mehr\n" if side == "de" else "a\n" for side in ("de", "en")
    }
    with pytest.raises(UserError, match=r"for train of de-en, 1 dropped for .*ratio.*; .* give another with --archive"):
        texts_of(job_of(tmp_path, "iwslt14", "de-en", "clean"), iwslt14(tmp_path, texts, **lines))


def test_a_file_without_a_sentence_is_refused(tmp_path, texts):
    empty = {f"de-en/train.tags.de-en.{side}": "<url>http://example.org</url>\n" for side in ("de", "en")}
    with pytest.raises(UserError, match="train has no sentence in it; fetch its archive again, or give another with"):
        texts_of(job_of(tmp_path, "iwslt14", "de-en", "clean"), iwslt14(tmp_path, texts, **empty))


def test_a_test_pair_with_an_empty_side_stays_and_is_told(tmp_path, texts, capsys):
    segments = {side: miniature.xml(["a", "b" if side == "de" else "", "c"], "x", side) for side in ("de", "en")}
    changes = {f"de-en/IWSLT14.TED.tst2012.de-en.{side}.xml": text for side, text in segments.items()}
    job = job_of(tmp_path, "iwslt14", "de-en", "intra-distillation")
    rows = texts_of(job, iwslt14(tmp_path, texts, **changes))
    assert (
        rows[-1]["kept"] == {"an empty side": 1} and "1 pairs have an empty side; they stay" in capsys.readouterr().err
    )
    assert written(job.folder / "text/test.en")[-3:] == ["a", "", "c"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    peaks = []
    for count in (10_000, 20_000):
        job = job_of(tmp_path / str(count), "multi30k", "de-en", "clean")
        archives_of = miniature.multi30k(tmp_path / f"archives-{count}", train=20, others=2)
        for language in ("de", "en"):
            lines = "".join(f"Satz {number % 500} mit zehn und mehr Wörtern{' und' * 30}.\n" for number in range(count))
            (archives_of / f"train.{language}.gz").write_bytes(gzip.compress(lines.encode(), 1))
        tracemalloc.start()
        texts_of(job, archives_of)
        names = binary.dictionary([binary.word_counts(job.folder / "raw/train.de")])
        binary.save_dictionary(names, tmp_path / "dict")
        binary.write_and_check((job.folder / "raw/train.de", tmp_path / "dict", tmp_path / "train"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.05 * peaks[0], peaks


# Subwords ------------------------------------------------------------------------------------------------------------


def test_pieces_are_learnt_on_what_the_recipe_says_and_on_an_even_sample(tmp_path, monkeypatch):
    texts = miniature.sentences("de", 300)
    for side in ("de", "en"):
        (tmp_path / side).write_text(miniature.lines(texts[side]))
    files = [tmp_path / "de", tmp_path / "en"]
    seen = subwords.learn_pieces(files, tmp_path / "a/spm.model", 200)
    assert (seen["lines"], seen["pieces"]) == (600, 200)
    subwords.learn_pieces(files, tmp_path / "b/spm.model", 200)
    assert (tmp_path / "a/spm.model").read_bytes() == (tmp_path / "b/spm.model").read_bytes()  # no path, no chance
    monkeypatch.setattr(subwords, "MOST", 250)
    assert subwords.learn_pieces(files, tmp_path / "c/spm.model", 200)["lines"] == 200  # every third


GROWTH = """
import sys
from pathlib import Path
import sentencepiece
from weighted_freezing_fairseq.data import subwords
def held():
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) >> 10
before = held()
subwords.learn_pieces([Path(sys.argv[1])], Path(sys.argv[1]).with_name("spm.model"), 300)
print(held() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that keeps what was freed")
def test_the_memory_of_learning_is_given_back(tmp_path):
    words = ["".join(f"{(7919 * i) >> shift & 15:x}" for shift in range(0, 20, 4)) for i in range(3000)]
    lines = (" ".join(words[(i * k) % 3000] for k in range(1, 20)) for i in range(20_000))
    (tmp_path / "x").write_text("".join(f"{line}\n" for line in lines))
    done = subprocess.run([sys.executable, "-c", GROWTH, tmp_path / "x"], capture_output=True, text=True)
    assert int(done.stdout) < 8, done.stderr  # MB; 15 or so without


def test_lines_that_sentencepiece_cannot_learn_from_are_counted(tmp_path):
    (tmp_path / "x").write_text("a b c d e\n" * 50 + "y" * 5000 + "\n")
    assert subwords.learn_pieces([tmp_path / "x"], tmp_path / "spm.model", 20)["lines too long to learn from"] == 1


def test_too_few_pieces_are_refused_in_one_line(tmp_path):
    (tmp_path / "x").write_text("".join(f"{chr(200 + number)}\n" for number in range(50)))
    with pytest.raises(UserError, match="SentencePiece cannot learn 5 pieces here .* type another --pieces"):
        subwords.learn_pieces([tmp_path / "x"], tmp_path / "spm.model", 5)


def test_the_dictionary_of_pieces_has_every_piece_in_order(tmp_path):
    texts = miniature.sentences("de", 100)
    (tmp_path / "x").write_text(miniature.lines(texts["de"]))
    subwords.learn_pieces([tmp_path / "x"], tmp_path / "spm.model", 100)
    entries = subwords.dictionary_of(tmp_path / "spm.model")
    assert len(entries) == 97 and {count for _, count in entries} == {100} and "<s>" not in dict(entries)


def test_archives_are_left_as_they_are(tmp_path, texts):
    archive = iwslt14(tmp_path, texts)
    before = archive.read_bytes()
    texts_of(job_of(tmp_path, "iwslt14", "de-en", "clean"), archive)
    assert archive.read_bytes() == before and archives.copy_out(archive, {}).members == set()
