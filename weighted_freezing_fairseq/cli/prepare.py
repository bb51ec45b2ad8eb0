"""`wff prepare`: prepare a data set for fairseq, from its archives or from the user's files."""

import argparse
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data import DATASETS, NAMES, SENTENCES, columnar, test_sets
from ..data.own import HELD_OUT
from ..data.own_sentences import OwnTables
from ..data.recipe import MANY, OWN, Recipe
from ..data.sentences import OWN_SENTENCES
from ..errors import UserError
from ..studies.own import OwnCorpus, UserFiles, own_job, plan_of_own, prepare_own
from ..studies.prepare import pair_jobs, plan_of_pairs, prepare_pairs
from ..studies.sentences.prepare import own_job as own_sentences_job
from ..studies.sentences.prepare import plan_of_tasks, prepare_tasks, task_jobs
from ..workspace.machine import cores
from .arguments import check_at_least, split

HELP = """\
Prepare a corpus for fairseq: download its archives (or use yours), read the sentence pairs, apply the recipe, learn
subwords, binarise. DIR/RECIPE/PAIR gets raw and subword files, fairseq's binarised data and manifest.json, which counts
what every step kept and dropped. A second call changes nothing; after a kill the same call resumes. GLUE, XNLI, PAWS-X
and XGLUE are read from your files and split into the subwords of a pretrained encoder: DIR/ENCODER/TASK. `own` is a
corpus of your own files: DIR/NAME/PAIR. `sentences` are labelled sentences in tables of your own: DIR/ENCODER/NAME."""
EXAMPLE = """\
wff prepare own --pair fr-en --train a.fr a.en --test news=n.fr,n.en --name mine
  wff prepare own --pair fr-en --train pairs.tsv.gz --columns french,english --test wmt14 --pieces 16000
  wff prepare own --pairs de-en,fr-en --train de-en=a.de,a.en fr-en=b.fr,b.en --test de-en:news=n.de,n.en
  wff prepare iwslt14 --langs de,es --recipe clean --out data/iwslt14
  wff prepare multi30k --archive ~/Downloads/multi30k --out data/multi30k
  wff prepare wmt17 --dry-run
  wff prepare glue --tasks RTE,CoLA --archive ~/glue_data --encoder ~/roberta.base
  wff prepare xnli --archive ~/XNLI-1.0.zip ~/XNLI-MT-1.0.zip --encoder ~/xlmr.base
  wff prepare pawsx --archive ~/x-final.tar.gz --encoder ~/xlmr.base
  wff prepare xglue --tasks NC,QAM --archive ~/xglue_full_dataset.tar.gz --encoder ~/xlmr.base
  wff prepare sentences --train t.tsv --dev d.tsv --text review --label stars --encoder ~/roberta.base --name reviews"""


_LONGEST, _RATIO, _PIECES = 250, 9.0, 8000  # of own files
_COVERAGE = 0.9995  # share of the letters that byte-bpe learns; bytes of the others are in the training text, too


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "dataset",
        choices=NAMES,
        help="; ".join(f"{d.name}: {d.what}" for d in (*DATASETS.values(), *SENTENCES.values())),
    )
    parser.add_argument(
        "--pairs",
        "--tasks",
        type=split,
        metavar="A,B,...",
        help="language pairs, or tasks of glue and xglue (default: all that there are); of own: pairs with one target",
    )
    parser.add_argument("--langs", type=split, metavar="A,B,...", help="pairs by their language other than English")
    recipes = "; ".join(f"{d.name}: {', '.join(d.recipes)}" for d in DATASETS.values() if d.recipes)
    parser.add_argument("--recipe", help=f"processing of the text (default: the first of {recipes})")
    parser.add_argument(
        "--pieces",
        type=int,
        metavar="N",
        help=f"number of subwords to learn (default: the recipe's; of own {_PIECES:,})",
    )
    parser.add_argument(
        "--archive",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="archives that you downloaded, or folders of them, unpacked or not",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: data/DATASET")
    parser.add_argument("--jobs", type=int, default=cores(), metavar="N", help="processes (default: one per core)")
    parser.add_argument(
        "--any-counts", action="store_true", help="accept files with more or fewer pairs than they should have"
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="use the first N training pairs only, for studies with little data"
    )
    parser.add_argument(
        "--max-length",
        type=int,
        metavar="N",
        help="of labelled sentences: pieces per example (default: the papers'); of own: drop training pairs with more "
        f"Moses tokens on a side (default {_LONGEST}; 0: drop none)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and do nothing")
    _add_own(parser)
    _add_own_sentences(parser)
    labelled = parser.add_argument_group(
        "for glue, xnli, pawsx, xglue and sentences",
        "--archive, of all but sentences: the TSV files, or folders, zips or tars of them",
    )
    labelled.add_argument(
        "--encoder", type=Path, metavar="DIR", help="folder of fairseq's roberta.base or xlmr.base: dict.txt, subwords"
    )


def _add_own_sentences(parser: argparse.ArgumentParser) -> None:
    """The options that only `wff prepare sentences` has; None where they were not given."""
    own = parser.add_argument_group(
        "for sentences",
        "FILES of --train, --dev and --test: tables (.tsv, .csv, .jsonl, .parquet, .arrow, or a folder of Hugging "
        "Face's save_to_disk); .gz, .xz and .bz2 of the first three are read, too. Without --dev, --valid-lines "
        f"(default {HELD_OUT:,}, or a twentieth) rows of --train are set apart; without --test, "
        "--test-lines (default none)",
    )
    own.add_argument("--text", metavar="COLUMN", help="column of the sentences")
    own.add_argument("--text2", metavar="COLUMN", help="column of the second sentences, for pairs")
    own.add_argument(
        "--label", metavar="COLUMN", help="column of the classes; of two, F1 is that of the second in order"
    )
    own.add_argument(
        "--regression", action="store_true", default=None, help="--label has scores, scored by their correlations"
    )


def _add_own(parser: argparse.ArgumentParser) -> None:
    """The options of `wff prepare own`; None where they were not given."""
    own = parser.add_argument_group(
        "for own",
        "FILES: a text file for each language, one sentence per line, or one table (.tsv, .csv, .jsonl, .parquet, "
        ".arrow, or a folder of Hugging Face's save_to_disk); .gz, .xz and .bz2 of text are read, too. With --pairs "
        f"each FILES is PAIR=SRC,TGT or PAIR=TABLE, and the pair to train on is {MANY}-TGT",
    )
    own.add_argument("--pair", metavar="SRC-TGT", help="languages, as fr-en")
    own.add_argument("--train", nargs="+", action="append", metavar="FILES", help="repeat for several")
    own.add_argument("--valid", "--dev", nargs="+", action="append", metavar="FILES", help="validation set")
    own.add_argument(
        "--test",
        nargs="+",
        action="append",
        metavar="FILES",
        help="test set; NAME=SRC,TGT names it (with --pairs: PAIR:NAME=SRC,TGT); or a test set of sacreBLEU, as "
        "wmt17; repeat for several (those with names may follow one --test)",
    )
    own.add_argument("--columns", type=split, metavar="SRC,TGT", help="columns of tables (default: the languages)")
    for name in ("valid", "test"):
        own.add_argument(
            f"--{name}-lines", type=int, metavar="N",
            help=f"without --{name}: set about N training pairs of each language pair apart (default {HELD_OUT:,}, or "
            "a twentieth)",
        )  # fmt: skip
    own.add_argument("--name", help=f"what to call the corpus; DIR/NAME/PAIR is its folder (default {OWN})")
    own.add_argument(
        "--subwords",
        choices=["unigram", "bpe", "byte-bpe"],
        help="unigram of SentencePiece, bpe of subword-nmt, or byte-bpe of SentencePiece, which writes rare letters as "
        "bytes, so that no text has unknown words (default unigram)",
    )
    own.add_argument(
        "--dictionary", choices=["joined", "separate"], help="one for both languages, or two (default joined)"
    )
    own.add_argument(
        "--tags", action="store_true", default=None, help="with --pairs: begin source sentences with their language"
    )
    own.add_argument("--lowercase", action="store_true", default=None, help="train on lowercased text")
    own.add_argument("--moses", action="store_true", default=None, help="train on Moses tokens")
    own.add_argument(
        "--ratio", type=float, metavar="R", help=f"drop pairs with longer sides than R to 1 (default {_RATIO:g})"
    )


_OWN_FILES = ("train", "valid", "test", "valid_lines", "test_lines", "name")
_OWN_TEXT = ("pair", "columns", "subwords", "dictionary", "lowercase", "moses", "ratio", "tags")
_OWN_SENTENCES = ("text", "text2", "label", "regression")


def run(args: argparse.Namespace) -> int:
    check_at_least(args, ["jobs", "pieces", "limit"])
    out = (args.out or Path("data") / args.dataset).resolve()
    if args.dataset != OWN:
        kept = _OWN_FILES if args.dataset == OWN_SENTENCES.name else ()
        _refuse_options(args, [name for name in (*_OWN_TEXT, *_OWN_FILES) if name not in kept], OWN)
    if args.dataset != OWN_SENTENCES.name:
        _refuse_options(args, _OWN_SENTENCES, OWN_SENTENCES.name)
    if args.dataset == OWN:
        prepare = _prepare_own
    elif args.dataset == OWN_SENTENCES.name:
        prepare = _prepare_own_sentences
    else:
        prepare = _prepare_tasks if args.dataset in SENTENCES else _prepare_pairs
    print("\n".join(prepare(args, out)))
    return 0


def _refuse_options(args: argparse.Namespace, names: Sequence[str], dataset: str) -> None:
    """Refuse options that only one kind of own files has."""
    for name in names:
        if getattr(args, name) is not None:
            raise UserError(
                f"--{name.replace('_', '-')} is for own files; leave it out, or type: wff prepare {dataset}"
            )


def _prepare_own(args: argparse.Namespace, out: Path) -> list[str]:
    for name in ("langs", "recipe", "archive", "encoder", "any_counts"):
        if getattr(args, name):
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} is not for own files; leave it out, and give --pair, --train and --test")
    if (args.pair is None) == (args.pairs is None) or not args.train:
        raise UserError(
            "wff prepare own needs --train and --pair or --pairs; type --pair fr-en --train a.fr a.en, or "
            "--pairs de-en,fr-en --train de-en=a.de,a.en fr-en=b.fr,b.en"
        )
    pairs = [args.pair] if args.pair is not None else args.pairs
    if args.pairs is not None and len(pairs) < 2:
        raise UserError(f"--pairs needs several pairs into one language; type --pair {pairs[0]}")
    if args.columns is not None and (len(args.columns) != 2 or len({*args.columns}) != 2):
        raise UserError(f"--columns must be two different names, got {','.join(args.columns)}; type --columns fr,en")
    check_at_least(args, ["valid_lines", "test_lines", "max_length"], 0)
    if args.ratio is not None and not 1 <= args.ratio < math.inf:
        raise UserError(f"--ratio must be a number of at least 1, got {args.ratio:g}; type --ratio {_RATIO:g}")
    if args.ratio is not None and args.max_length == 0:
        raise UserError("--ratio has no effect with --max-length 0; leave one of them out")
    if args.subwords == "byte-bpe" and args.dictionary == "separate":
        raise UserError("--subwords byte-bpe has one dictionary, of all its pieces; leave --dictionary separate out")
    columns = None if args.columns is None else (args.columns[0], args.columns[1])
    files = {
        split: [files for words in getattr(args, split) or [] for files in _user_files(split, words, pairs)]
        for split in ("train", "valid", "test")
    }
    corpus = OwnCorpus(pairs, files["train"], files["valid"], files["test"], columns, args.valid_lines, args.test_lines)
    longest = _LONGEST if args.max_length is None else args.max_length
    recipe = Recipe(
        "your own files",
        pieces=args.pieces or _PIECES,
        longest=longest or None,
        ratio=args.ratio or _RATIO,
        form="tokenised" if args.moses else "untouched",
        lowercased=bool(args.lowercase),
        subwords=args.subwords or "unigram",
        coverage=_COVERAGE if args.subwords == "byte-bpe" else 1.0,
        dictionary="pieces" if args.subwords == "byte-bpe" else args.dictionary or "joined",
    )
    job, sources = own_job(corpus, recipe, out, args.name or OWN, args.limit, bool(args.tags))
    if args.dry_run:
        return plan_of_own(job, sources)
    done = prepare_own(job, sources, args.jobs)
    typed = ["wff", "train", "own", "--data", str(out), "--recipe", job.recipe_name, "--pair", job.pair]
    return [done, f"next: {shlex.join(typed)}"]


def _prepare_own_sentences(args: argparse.Namespace, out: Path) -> list[str]:
    for name in ("pairs", "langs", "recipe", "archive", "pieces", "limit", "any_counts"):
        if getattr(args, name):
            raise UserError(f"--{name.replace('_', '-')} is not for {args.dataset}; leave it out")
    if not (args.train and args.text and args.label):
        raise UserError(
            "wff prepare sentences needs --train, --text and --label; type --train t.tsv --text COLUMN --label COLUMN"
        )
    check_at_least(args, ["valid_lines", "test_lines"])
    tests = _named_tables(_flat(args.test))
    files = {"train": _flat(args.train), "valid": _flat(args.valid), **tests}
    held_out = {}
    for name, number, given in (("valid", args.valid_lines, args.valid), ("test", args.test_lines, tests)):
        if given and number is not None:
            raise UserError(f"--{name} and --{name}-lines both give rows for {name}; leave one of them out")
        if number is not None or (name == "valid" and not given):
            held_out[name] = number
    tables = OwnTables(
        {split: _tables_in(paths) for split, paths in files.items() if paths},
        tuple(filter(None, [args.text, args.text2])),
        args.label,
        bool(args.regression),
        held_out,
    )
    job = own_sentences_job(tables, args.encoder, out, args.name or OWN, args.max_length)
    if args.dry_run:
        return plan_of_tasks([job])
    done = prepare_tasks([job], [path for paths in tables.files.values() for path in paths], args.jobs)
    typed = ["wff", "train", args.dataset, "--data", str(out), "--task", job.task.name]
    return [*done, f"next: {shlex.join([*typed, '--encoder', str(args.encoder)])}"]


def _flat(groups: Sequence[Sequence[Any]] | None) -> list[Any]:
    """All values of an option that may be repeated and takes several values."""
    return [value for group in groups or () for value in group]


def _named_tables(words: Sequence[str]) -> dict[str, list[str]]:
    """The file of each --test by its name: NAME=FILE, or FILE."""
    tables: dict[str, list[str]] = {}
    for number, word in enumerate(words):
        name, equals, file = word.partition("=")
        if not equals:
            name, file = f"test{number or ''}", word
        if name in ("train", "valid"):
            raise UserError(f"a test set cannot be called {name!r}; type --test NAME=FILE with another name")
        if name in tables:
            raise UserError(f"two test sets are called {name}; give each a name of its own: --test NAME=FILE")
        tables[name] = [file]
    return tables


def _tables_in(names: Sequence[str]) -> tuple[Path, ...]:
    """Tables, and those in folders of `save_to_disk`."""
    paths = [Path(name).resolve() for name in names]
    return tuple(table for path in paths for table in (columnar.files_of(path) if path.is_dir() else [path]))


def _user_files(split: str, words: Sequence[str], pairs: Sequence[str]) -> list[UserFiles]:
    """The files of one --train, --valid or --test; of several pairs, each word says which.

    The words of a --test may also be test sets with names, or of sacreBLEU.
    """
    if len(pairs) == 1 and not (split == "test" and all("=" in word or _is_public(word) for word in words)):
        return [UserFiles(pairs[0], tuple(map(Path, words)))]
    files = []
    for word in words:
        if split == "test" and _is_public(word):
            files += _public_test_set(word, pairs)
        elif len(pairs) > 1:
            files.append(_files_of_pair(split, word, pairs))
        else:
            name, _, names = word.partition("=")
            files.append(UserFiles(pairs[0], _paths(names), name))
    return files


def _is_public(word: str) -> bool:
    """Whether a word is the name of a test set of sacreBLEU, and of no file."""
    return "=" not in word and not Path(word).exists() and test_sets.is_test_set(word)


def _public_test_set(name: str, pairs: Sequence[str]) -> list[UserFiles]:
    """A test set of sacreBLEU, in those of the pairs that it has."""
    known = test_sets.pairs_of(name)
    if not {*known} & {*pairs}:
        raise UserError(f"--test {name} has no {' or '.join(pairs)}; its pairs are {', '.join(known)}")
    return [UserFiles(pair, test_sets.files_of(name, pair), name) for pair in pairs if pair in known]


def _files_of_pair(split: str, word: str, pairs: Sequence[str]) -> UserFiles:
    """PAIR=FILE,FILE or PAIR=TABLE; of a test set also PAIR:NAME=..."""
    place, _, names = word.partition("=")
    pair, colon, name = place.partition(":")
    if pair not in pairs or not names or (colon and split != "test"):
        raise UserError(
            f"--{split} {word} does not say which of --pairs it is; type --{split} {pairs[0]}=FILE,FILE or "
            f"{pairs[0]}=TABLE"
        )
    return UserFiles(pair, _paths(names), name)


def _paths(names: str) -> tuple[Path, ...]:
    return tuple(map(Path, names.split(",")))


def _prepare_pairs(args: argparse.Namespace, out: Path) -> list[str]:
    if args.encoder or args.max_length:
        raise UserError(f"--encoder and --max-length are for {', '.join(SENTENCES)}; leave them out")
    jobs = pair_jobs(
        DATASETS[args.dataset], args.recipe, args.pairs, out,
        langs=args.langs, pieces=args.pieces, any_counts=args.any_counts, limit=args.limit,
    )  # fmt: skip
    if args.dry_run:
        return plan_of_pairs(jobs, out, args.archive)
    return prepare_pairs(jobs, out, args.archive, args.jobs)


def _prepare_tasks(args: argparse.Namespace, out: Path) -> list[str]:
    for name in ("langs", "pieces", "limit"):
        if getattr(args, name) is not None:
            raise UserError(f"--{name} is for translation; leave it out with {args.dataset}")
    jobs = task_jobs(
        SENTENCES[args.dataset], args.encoder, args.pairs, out, args.recipe,
        longest=args.max_length, any_counts=args.any_counts,
    )  # fmt: skip
    return plan_of_tasks(jobs) if args.dry_run else prepare_tasks(jobs, args.archive, args.jobs)
