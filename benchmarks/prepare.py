"""Measure `wff prepare`: sentence pairs per second and peak memory of each step, for two sizes of a generated corpus.

Also compares Moses tokenizers (sacremoses line by line, this package in one process and in several, and Moses' own Perl
script if --perl is given), and binarisation by this package and by fairseq-preprocess. Linux only: memory is read from
/proc and includes all processes.
"""

import argparse
import itertools
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import timeit
from collections.abc import Callable, Iterable
from pathlib import Path

from sacremoses import MosesTokenizer
from tabulate import tabulate

from weighted_freezing_fairseq.data import binary, lines, moses
from weighted_freezing_fairseq.data import embedded as corpus
from weighted_freezing_fairseq.data.workers import Workers, chunks
from weighted_freezing_fairseq.files import atomic_file
from weighted_freezing_fairseq.workspace.commands import fairseq
from weighted_freezing_fairseq.workspace.machine import cores

STEPS = ("unpacked", "text", "subwords", "pieces", "binarised")
_POOL = 20_000  # sentences of the embedded corpus that longer sentences are joined from
_NAMES = {
    "training-parallel-europarl-v7.tgz": "training/europarl-v7.de-en",
    "training-parallel-commoncrawl.tgz": "commoncrawl.de-en",
    "training-parallel-nc-v12.tgz": "training/news-commentary-v12.de-en",
}


def sentences(count: int) -> Iterable[tuple[str, str]]:
    """Sentence pairs (de, en) of about 25 words, each joined from a few pairs of the embedded corpus."""
    pool = corpus.generate("de-en", sizes={"train": _POOL, "valid": 1, "test": 1})["train"]
    rng = random.Random(1)
    for _ in range(count):
        de, en = zip(*rng.choices(pool, k=rng.randint(1, 6)), strict=True)
        yield ". ".join(de) + ".", ". ".join(en) + "."


def archives(folder: Path, pairs: int) -> None:
    """Write archives like those of WMT'17 with `pairs` sentence pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    source = iter(sentences(pairs))
    for number, (archive, name) in enumerate(_NAMES.items()):
        count = pairs // 3 if number else pairs - 2 * (pairs // 3)
        paths = {side: folder / f".{side}" for side in ("de", "en")}
        with paths["de"].open("w") as de_file, paths["en"].open("w") as en_file:
            for de, en in itertools.islice(source, count):
                de_file.write(f"{de}\n")
                en_file.write(f"{en}\n")
        with atomic_file(folder / archive) as part, tarfile.open(part, "w:gz", compresslevel=1) as tar:
            for side, path in paths.items():
                tar.add(path, f"{name}.{side}")
                path.unlink()
    news = list(sentences(3003))
    with atomic_file(folder / "test-full.tgz") as part, tarfile.open(part, "w:gz") as tar:
        for number, name in enumerate(("ref.de", "src.en")):
            path = folder / f".{name}"
            segments = (f'<seg id="{i}">{pair[number]}</seg>\n' for i, pair in enumerate(news, 1))
            path.write_text('<doc docid="d">\n' + "".join(segments) + "</doc>\n")
            tar.add(path, f"test-full/newstest2014-deen-{name}.sgm")
            path.unlink()


def measure(folder: Path, out: Path, jobs: int) -> dict[str, tuple[float, float]]:
    """Seconds and peak memory (MB, all processes) of each step of `wff prepare`."""
    shutil.rmtree(out, ignore_errors=True)
    words = ["prepare", "wmt17", "--archive", folder, "--out", out, "--jobs", jobs]
    process = subprocess.Popen([sys.executable, "-m", "weighted_freezing_fairseq", *map(str, words)])
    costs: dict[str, tuple[float, float]] = {}
    running = {step: out / f"intra-distillation/en-de/.{step}.begun.json" for step in STEPS}
    last = time.monotonic()
    while process.poll() is None:
        time.sleep(0.1)
        now, memory = time.monotonic(), memory_of(process.pid)
        for step in (step for step, path in running.items() if path.exists()):
            seconds, peak = costs.get(step, (0.0, 0.0))
            costs[step] = seconds + now - last, max(peak, memory)
        last = now
    if process.returncode:
        raise SystemExit("wff prepare failed")
    return costs


def memory_of(process: int) -> float:
    """Memory in MB of a process and its descendants, with shared pages counted once (PSS)."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            children.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
        except OSError:
            continue  # the process has ended
    total, pending = 0, [process]
    while pending:
        pid = pending.pop()
        pending += children.get(pid, [])
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += int(rollup.split("Pss:")[1].split()[0])
        except (OSError, IndexError):
            continue
    return total / 1024


def per_second(work: Callable[[], object], count: int) -> str:
    return f"{count / timeit.timeit(work, number=1):,.0f} lines/s"


def tokenise(count: int, jobs: int, script: Path | None) -> None:
    """Time every available Moses tokenizer on `count` English lines."""
    texts = [en for _, en in sentences(count)]
    tokenizer = MosesTokenizer(lang="en")
    _tokens([""])  # builds the tokenizer of this package
    few = texts[: max(1, count // 10)]
    print(f"Moses' tokens of {count:,} lines")
    by_sacremoses = per_second(lambda: [tokenizer.tokenize(x, return_str=True) for x in few], len(few))
    print("  sacremoses, line by line:", by_sacremoses)
    print("  here, one process:", per_second(lambda: _tokens(texts), count))
    with Workers(jobs) as workers:
        list(workers.map(_tokens, [[""]] * 4 * jobs))  # starts the processes
        print(f"  here, {jobs} processes:", per_second(lambda: list(workers.map(_tokens, chunks(texts))), count))
    if script is None or shutil.which("perl") is None:
        print("  Moses' tokenizer.perl: not here; give --perl its path")
        return
    text = "".join(f"{line}\n" for line in texts).encode()
    for options in ([], ["-threads", str(jobs)]):
        command = ["perl", script, "-q", "-l", "en", *options]
        outputs: list[bytes] = []
        run = lambda: outputs.append(subprocess.run(command, input=text, capture_output=True, check=True).stdout)  # noqa: B023, E731
        print("  " + " ".join(["tokenizer.perl", *options]) + ":", per_second(run, count))
        theirs = [line.strip() for line in outputs[0].decode().splitlines()]
        print(f"    {sum(a != b for a, b in zip(theirs, _tokens(texts), strict=True)):,} lines differ from those here")


def _tokens(texts: list[str]) -> list[str]:
    return [moses.tokenised(line, "en") for line in texts]


def binarise(folder: Path) -> None:
    """Time the binarisation of a prepared training set in one process, here and by fairseq-preprocess."""
    count = 2 * lines.count(folder / "pieces/train.en")
    with tempfile.TemporaryDirectory() as out:
        names = {side: folder / f"bin/dict.{side}.txt" for side in ("en", "de")}

        def by_this_package() -> None:
            for side, dictionary in names.items():
                binary.write_and_check((folder / f"pieces/train.{side}", dictionary, Path(out) / side))

        words = ["--source-lang", "en", "--target-lang", "de", "--trainpref", folder / "pieces/train"]
        words += ["--srcdict", names["en"], "--tgtdict", names["de"], "--destdir", f"{out}/bin", "--workers", 1]
        print(f"\n{count:,} lines as fairseq's data")
        print("  here, read again and compared:", per_second(by_this_package, count))
        by_fairseq = lambda: fairseq("preprocess", words, Path(out) / "log")  # noqa: E731
        print("  fairseq-preprocess:", per_second(by_fairseq, count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4_500_000, help="of the large corpus; the small one has a tenth")
    parser.add_argument("--lines", type=int, default=20_000, help="to tokenise in every way")
    parser.add_argument("--jobs", type=int, default=cores())
    parser.add_argument("--perl", type=Path, metavar="FILE", help="tokenizer.perl of mosesdecoder")
    parser.add_argument("--out", type=Path, default=Path("runs/prepare-bench"))
    args = parser.parse_args()
    out = args.out.resolve()
    tokenise(args.lines, args.jobs, args.perl)
    costs = {}
    for pairs in (args.pairs // 10, args.pairs):
        folder = out / f"archives-{pairs}"
        if not (folder / "test-full.tgz").is_file():  # written last
            print(f"writing archives of {pairs:,} pairs", file=sys.stderr)
            archives(folder, pairs)
        costs[pairs] = measure(folder, out / f"data-{pairs}", args.jobs)
    small, large = costs
    rows = []
    for step in STEPS:
        (_, small_peak), (seconds, peak) = costs[small].get(step, (0.0, 0.0)), costs[large].get(step, (0.1, 0.0))
        rows.append([step, f"{large / seconds:,.0f}", f"{small_peak:,.0f} MB", f"{peak:,.0f} MB"])
    header = ["step", "pairs/s", f"peak memory, {small:,} pairs", f"{large:,} pairs"]
    print("\n" + tabulate(rows, header, "github", disable_numparse=True))
    binarise(out / f"data-{small}/intra-distillation/en-de")


if __name__ == "__main__":
    main()
