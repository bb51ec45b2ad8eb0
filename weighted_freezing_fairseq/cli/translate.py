"""`wff translate`: a text translated by a run, line by line."""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from ..errors import UserError
from ..files import refuse_to_overwrite
from ..studies.translate import Form, translate_file, translate_stream, translator_of
from ..workspace.machine import Machine
from ..workspace.progress import say
from .arguments import MODEL, add_choice, add_decode_arguments, add_device, check_at_least, search_of

HELP = """\
Translate a text, one sentence a line: raw text in, detokenised text out, in the same order. The text is cut into
subwords as the training data was. Several runs or checkpoints of the same data are an ensemble. Into a file: called
again after an interruption, goes on."""
EXAMPLE = """wff translate runs/multi30k/clean/de-en/standard-1 --input letter.de --out letter.en
  echo 'Guten Morgen.' | wff translate runs/quickstart/de-en/standard-1
  wff translate runs/my-fairseq-save-dir --subword-model spm.model --input a.de --nbest 5 --scores"""

CHUNK = 1000  # sentences; a terminal gets each translation at once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to translate, with what, and how."""
    parser.add_argument(
        "run_or_checkpoint", nargs="+", type=Path, metavar="RUN",
        help=f"{MODEL}; several are an ensemble",
    )  # fmt: skip
    parser.add_argument(
        "--input", default="-", metavar="FILE", help="UTF-8 text, one sentence a line (default -: standard input)"
    )
    parser.add_argument("--out", "--output", default="-", metavar="FILE", help="default -: standard output")
    add_choice(parser)
    parser.add_argument("--data", type=Path, metavar="DIR", help="prepared or binarised folder, if it was moved")
    parser.add_argument("--language", metavar="CODE", help="of the input, for a model that translates from several")
    parser.add_argument(
        "--subword-model", type=Path, metavar="FILE",
        help="SentencePiece model, or codes of subword-nmt, of data that wff has not prepared",
    )  # fmt: skip
    parser.add_argument(
        "--nbest", type=int, default=1, metavar="N", help="write N translations of each sentence (default 1)"
    )
    parser.add_argument(
        "--scores", action="store_true", help="write SCORE<tab>TRANSLATION; a score is a log2-probability"
    )
    parser.add_argument("--skip-long", action="store_true", help="leave translations of too long lines empty")
    parser.add_argument(
        "--chunk", type=int, metavar="N",
        help=f"sentences that are translated at a time (default {CHUNK}, and 1 from a terminal)",
    )  # fmt: skip
    add_decode_arguments(parser.add_argument_group("search", "default: beam 5, or what the recipe of a run says"))
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    check_at_least(args, ("nbest", "chunk", "beam"))
    source, output = (None if name == "-" else Path(name) for name in (args.input, args.out))
    if source is not None and not source.is_file():
        raise UserError(f"there is no file {source}; give --input a text file, or - for standard input")
    if output is not None:
        refuse_to_overwrite(output)
    chunk = args.chunk or (1 if source is None and sys.stdin.isatty() else CHUNK)
    translator = translator_of(
        args.run_or_checkpoint, args.choice, args.data, args.subword_model, search_of(args), args.language
    )
    machine, form = Machine.of(args.device, 1, 1), Form(args.nbest, args.scores, args.skip_long)
    say("translating with " + ", ".join(map(str, translator.checkpoints)))
    if source is not None and output is not None:
        count = translate_file(translator, source, output, machine, chunk, form)
        say(f"{output} is complete; {count:,} sentences were translated")
        return 0
    with ExitStack() as stack:
        reader = sys.stdin.buffer if source is None else stack.enter_context(source.open("rb"))
        writer = sys.stdout.buffer if output is None else stack.enter_context(output.open("xb"))
        translate_stream(translator, reader, writer, machine, chunk, form)
    return 0
