"""What `wff prepare` takes: sentence pairs per second and peak memory of each step, at two sizes of a generated corpus.

Beside that: Moses' tokens by sacremoses line by line, as here in one process, as here in several, and by Moses' own
Perl script where it is found (--perl); and the small corpus binarised here and by fairseq-preprocess. Linux only:
memory is that of all processes together, read from /proc.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from sacremoses import MosesTokenizer

from weighted_freezing_fairseq.data import binary, lines, moses
from weighted_freezing_fairseq.data import embedded as corpus
from weighted_freezing_fairseq.data.workers import Workers, chunks
from weighted_freezing_fairseq.files import atomic_file
from weighted_freezing_fairseq.workspace.commands import fairseq
from weighted_freezing_fairseq.workspace.machine import cores

STEPS = ("unpacked", "text", "subwords", "pieces", "binarised")
_POOL = 20_000  # sentences of the embedded corpus that longer ones are put together from
_NAMES = {
    "training-parallel-europarl-v7.tgz": "training/europarl-v7.de-en",
    "training-parallel-commoncrawl.tgz": "commoncrawl.de-en",
    "training-parallel-nc-v12.tgz": "training/news-commentary-v12.de-en",
}


def sentences(count: int) -> Iterable[tuple[str, str]]:
    """Pairs (de, en) of some 25 words, put together from the same pieces on both sides."""
    pool = corpus.generate("de-en", sizes={"train": _POOL, "valid": 1, "test": 1})["train"]
    rng = random.Random(1)
    for _ in range(count):
        drawn = rng.choices(pool, k=rng.randint(1, 6))
        yield ". ".join(one for one, _ in drawn) + ".", ". ".join(other for _, other in drawn) + "."


def archives(folder: Path, pairs: int) -> None:
    """A WMT'17 of `pairs` pairs, as its archives would hold it."""
    folder.mkdir(parents=True, exist_ok=True)
    source = iter(sentences(pairs))
    for number, (archive, name) in enumerate(_NAMES.items()):
        goal = folder / archive
        here = pairs // 3 if number else pairs - 2 * (pairs // 3)
        paths = {side: folder / f".{side}" for side in ("de", "en")}
        with paths["de"].open("w") as de, paths["en"].open("w") as en:
            for _ in range(here):
                one, other = next(source)
                de.write(f"{one}\n")
                en.write(f"{other}\n")
        with atomic_file(goal) as part, tarfile.open(part, "w:gz", compresslevel=1) as tar:
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


def measured(folder: Path, out: Path, jobs: int) -> dict[str, tuple[float, float]]:
    """Seconds and peak memory (MB, all processes) of each step of one preparation."""
    shutil.rmtree(out, ignore_errors=True)
    words = ["prepare", "wmt17", "--archive", folder, "--out", out, "--jobs", jobs]
    process = subprocess.Popen([sys.executable, "-m", "weighted_freezing_fairseq", *map(str, words)])
    found: dict[str, tuple[float, float]] = {}
    where = out / "intra-distillation/en-de"
    begun = {step: where / f".{step}.begun.json" for step in STEPS}
    last = time.monotonic()
    while process.poll() is None:
        time.sleep(0.1)
        now, memory = time.monotonic(), memory_of(process.pid)
        for step in (step for step, path in begun.items() if path.exists()):
            seconds, peak = found.get(step, (0.0, 0.0))
            found[step] = seconds + now - last, max(peak, memory)
        last = now
    if process.returncode:
        raise SystemExit("wff prepare failed")
    return found


def memory_of(process: int) -> float:
    """MB that a process and all that it started hold, each shared page counted once (PSS)."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            children.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
        except OSError:
            continue  # gone meanwhile
    total, waiting = 0, [process]
    while waiting:
        number = waiting.pop()
        waiting += children.get(number, [])
        try:
            rollup = Path(f"/proc/{number}/smaps_rollup").read_text()
            total += int(rollup.split("Pss:")[1].split()[0])
        except (OSError, IndexError):
            continue
    return total / 1024


def per_second(work: Callable[[], object], count: int) -> str:
    begun = time.perf_counter()
    work()
    return f"{count / (time.perf_counter() - begun):,.0f} lines/s"


def tokens(count: int, jobs: int, script: Path | None) -> None:
    """English lines in Moses' tokens, in every way that there is here."""
    texts = [other for _, other in sentences(count)]
    plain = MosesTokenizer(lang="en")
    _tokens([""])  # builds it
    few = texts[: max(1, count // 10)]
    print(f"Moses' tokens of {count:,} lines")
    print(
        "  sacremoses, line by line:", per_second(lambda: [plain.tokenize(x, return_str=True) for x in few], len(few))
    )
    print("  here, one process:", per_second(lambda: _tokens(texts), count))
    with Workers(jobs) as workers:
        list(workers.map(_tokens, [[""]] * 4 * jobs))  # starts them
        print(f"  here, {jobs} processes:", per_second(lambda: list(workers.map(_tokens, chunks(texts))), count))
    if script is None or shutil.which("perl") is None:
        print("  Moses' tokenizer.perl: not here; give --perl its path")
        return
    text = "".join(f"{line}\n" for line in texts).encode()
    for more in ([], ["-threads", str(jobs)]):
        command = ["perl", script, "-q", "-l", "en", *more]
        made: list[bytes] = []
        run = lambda: made.append(subprocess.run(command, input=text, capture_output=True, check=True).stdout)  # noqa: B023, E731
        print("  " + " ".join(["tokenizer.perl", *more]) + ":", per_second(run, count))
        theirs = [line.strip() for line in made[0].decode().splitlines()]
        print(f"    {sum(a != b for a, b in zip(theirs, _tokens(texts), strict=True)):,} lines differ from those here")


def _tokens(texts: list[str]) -> list[str]:
    return [moses.tokenised(line, "en") for line in texts]


def binarised(folder: Path) -> None:
    """The training set of a prepared folder, in one process, here and by fairseq-preprocess."""
    count = 2 * lines.count(folder / "pieces/train.en")
    with tempfile.TemporaryDirectory() as out:
        names = {side: folder / f"bin/dict.{side}.txt" for side in ("en", "de")}

        def here() -> None:
            for side, dictionary in names.items():
                binary.write_and_check((folder / f"pieces/train.{side}", dictionary, Path(out) / side))

        words = ["--source-lang", "en", "--target-lang", "de", "--trainpref", folder / "pieces/train"]
        words += ["--srcdict", names["en"], "--tgtdict", names["de"], "--destdir", f"{out}/bin", "--workers", 1]
        print(f"\n{count:,} lines as fairseq's data\n  here, read again and compared:", per_second(here, count))
        theirs = lambda: fairseq("preprocess", words, Path(out) / "log")  # noqa: E731
        print("  fairseq-preprocess:", per_second(theirs, count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4_500_000, help="of the large corpus; the small one has a tenth")
    parser.add_argument("--lines", type=int, default=20_000, help="to tokenise in every way")
    parser.add_argument("--jobs", type=int, default=cores())
    parser.add_argument("--perl", type=Path, metavar="FILE", help="tokenizer.perl of mosesdecoder")
    parser.add_argument("--out", type=Path, default=Path("runs/prepare-bench"))
    args = parser.parse_args()
    out = args.out.resolve()
    tokens(args.lines, args.jobs, args.perl)
    found = {}
    for pairs in (args.pairs // 10, args.pairs):
        folder = out / f"archives-{pairs}"
        if not (folder / "test-full.tgz").is_file():  # written last
            print(f"writing archives of {pairs:,} pairs", file=sys.stderr)
            archives(folder, pairs)
        found[pairs] = measured(folder, out / f"data-{pairs}", args.jobs)
    small, large = found
    print(f"\n| step | pairs/s | peak memory, {small:,} pairs | {large:,} pairs |\n|---|---|---|---|")
    for step in STEPS:
        (_, before), (seconds, peak) = found[small].get(step, (0.0, 0.0)), found[large].get(step, (0.1, 0.0))
        print(f"| {step} | {large / seconds:,.0f} | {before:,.0f} MB | {peak:,.0f} MB |")
    binarised(out / f"data-{small}/intra-distillation/en-de")


if __name__ == "__main__":
    main()
