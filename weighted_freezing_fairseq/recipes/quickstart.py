"""`wff quickstart`: from nothing to a table, on the embedded corpus, through the path that any corpus takes.

Raw text -> SentencePiece learnt on train only -> fairseq-preprocess -> fairseq-hydra-train (one YAML a method, in
configs/toy) -> fairseq-generate -> sacreBLEU against the raw reference -> cost side by side -> table and curves. Each
step leaves a stamp with its settings, so that a second call reuses what is done, and a killed one goes on. Its scores
show that the pipeline works; they say nothing of the papers' claims.
"""

import argparse
import csv
import fcntl
import hashlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..configs import CONFIGS, methods_in
from ..errors import UserError
from ..files import write_atomically
from ..user_dir import USER_DIR
from . import corpus
from .evaluate import Decode, Score, a_device, generate, read_lines, score

HELP = "Train, translate, score and measure methods side by side on the embedded corpus."
EXAMPLE = "wff quickstart --pair de-en --methods standard,weighted_freeze --seeds 3 --out runs/quickstart"

PIECES = 2000
DECODE = Decode(beam=4, max_len_a=1.2, max_len_b=10)
_say_lock = threading.Lock()
_started = time.monotonic()


@dataclass(frozen=True)
class Run:
    """One training: a method, a seed, a folder."""

    method: str
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.method}, seed {self.seed}"


def say(text: str) -> None:
    """One line of progress with the time since the start."""
    with _say_lock:
        print(f"[{time.monotonic() - _started:5.0f} s] {text}", file=sys.stderr, flush=True)


def once(folder: Path, name: str, settings: dict[str, Any], work: Callable[[], None]) -> None:
    """Do `work` unless `folder` has it done with the same settings; other settings are the user's to sort out."""
    stamp = folder / f".{name}.json"
    settings = json.loads(json.dumps(settings, default=str))
    if stamp.is_file():
        if json.loads(stamp.read_text(encoding="utf-8")) == settings:
            say(f"{folder.name}: {name} is done already")
            return
        raise UserError(f"{folder} holds a {name} of other settings; give another --out, or move that folder away")
    begun = folder / f".{name}.begun.json"
    if begun.is_file() and json.loads(begun.read_text(encoding="utf-8")) != settings:
        raise UserError(f"{folder} holds a half-done {name} of other settings; give another --out")
    write_atomically(begun, json.dumps(settings))
    work()
    begun.replace(stamp)


def prepare(pair: str, folder: Path) -> None:
    """Corpus, subwords, binarised data."""
    source, target = pair.split("-")
    raw = folder / "raw"
    say(f"{pair}: writing the corpus")
    corpus.write(pair, raw)
    versions = {"pieces": PIECES, "corpus": read_lines(raw / corpus.MANIFEST)}
    once(folder, "subwords", versions, lambda: _segment(folder, raw, (source, target)))
    once(folder, "binarised", versions, lambda: _binarise(folder, source, target))


def _binarise(folder: Path, source: str, target: str) -> None:
    """fairseq-preprocess, into a folder that appears when it is whole: fairseq refuses to go on in a half-made one."""
    if (folder / "bin").is_dir():
        return
    with tempfile.TemporaryDirectory(prefix=".bin-", dir=folder) as half:
        words = ["--source-lang", source, "--target-lang", target, "--joined-dictionary", "--destdir", f"{half}/bin"]
        words += [str(w) for split in corpus.SIZES for w in (f"--{split}pref", folder / "pieces" / split)]
        _fairseq("preprocess", words, folder / "preprocess.log")
        (Path(half) / "bin").replace(folder / "bin")


def _segment(folder: Path, raw: Path, languages: Sequence[str]) -> None:
    """SentencePiece, learnt on the two sides of train and on nothing else."""
    import sentencepiece

    say(f"{folder.name}: learning {PIECES} subwords on train")
    sentencepiece.SentencePieceTrainer.train(
        input=[str(raw / f"train.{language}") for language in languages],
        model_prefix=str(folder / "spm"),
        vocab_size=PIECES,
        character_coverage=1.0,
        hard_vocab_limit=False,
        split_digits=True,
        num_threads=1,  # with more, the order of sums and so the pieces may differ
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    for split in corpus.SIZES:
        for language in languages:
            lines = [" ".join(model.encode(line, out_type=str)) for line in read_lines(raw / f"{split}.{language}")]
            write_atomically(folder / "pieces" / f"{split}.{language}", "".join(f"{line}\n" for line in lines))


def _environment(threads: int) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}


# A training whose quickstart was killed must die with it, or the next call would train in the same folder beside it.
_UNTIL_PARENT_DIES = """
import ctypes, runpy, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def _fairseq(command: str, words: Sequence[Any], log: Path, threads: int = 1, watch: Callable | None = None) -> None:
    """One fairseq command with its output in `log`, each line also handed to `watch`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", _UNTIL_PARENT_DIES, f"fairseq_cli.{command}", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace",
        cwd=log.parent, env=_environment(threads),
    )  # fmt: skip
    assert process.stdout is not None
    last = ""
    with log.open("a", encoding="utf-8") as file:
        for line in process.stdout:
            file.write(line)
            file.flush()
            last = line.strip() or last
            if watch is not None:
                watch(line)
    if process.wait() != 0:
        raise UserError(f"fairseq-{command.replace('_', '-')} failed: {last}; the whole log is {log}")


def train(run: Run, config: Path, data: Path, pair: str, threads: int, device: str) -> None:
    """fairseq-hydra-train of one YAML; fairseq itself goes on from the last checkpoint it finds."""
    from omegaconf import OmegaConf

    source, target = pair.split("-")
    settings = OmegaConf.merge(
        OmegaConf.load(config),
        {
            "task": {"data": str(data), "source_lang": source, "target_lang": target},
            "common": {
                "seed": run.seed,
                "user_dir": str(USER_DIR),
                "cpu": device == "cpu",
                "tensorboard_logdir": str(run.folder / "tensorboard"),
            },
            "checkpoint": {"save_dir": str(run.folder / "checkpoints")},
        },
    )
    total = settings.optimization.max_update
    begun = time.monotonic()
    shown = [begun]

    def watch(line: str) -> None:
        if "train_inner" in line and '"num_updates"' in line:
            values = json.loads(line[line.index("{") :])
            done, now = int(values["num_updates"]), time.monotonic()
            if done == total or now - shown[0] > 10:
                shown[0] = now
                say(f"{run.name}: update {done} of {total}, loss {values['loss']}, {values['ups']} updates/s")

    def work() -> None:
        # The run folder keeps its complete settings: what was trained can be trained again from it alone.
        # Not called config.yaml: fairseq has one of its own, which would win.
        write_atomically(run.folder / "run.yaml", OmegaConf.to_yaml(settings))
        words = ["--config-dir", run.folder, "--config-name", "run", "hydra.run.dir=.", "hydra.output_subdir=null"]
        _fairseq("hydra_train", words, run.folder / "train.log", threads, watch)
        say(f"{run.name}: trained in {time.monotonic() - begun:.0f} s")

    once(run.folder, "training", {"config": OmegaConf.to_container(settings)}, work)


def evaluate(run: Run, data: Path, reference: Path, threads: int, device: str) -> Score:
    """Translate and score the test set with the last weights of `run`."""
    goal = run.folder / "score.json"

    def work() -> None:
        say(f"{run.name}: translating the test set")
        lines = read_lines(reference)
        hypotheses = generate(run.folder / "checkpoints/checkpoint_last.pt", data, "test", DECODE, device, threads)
        write_atomically(run.folder / "test.hyp.txt", "".join(f"{line}\n" for line in hypotheses))
        write_atomically(goal, json.dumps(asdict(score(hypotheses, lines)), indent=2) + "\n")

    once(run.folder, "scoring", asdict(DECODE), work)
    return Score(**json.loads(goal.read_text(encoding="utf-8")))


def cost(out: Path, methods: Sequence[str], configs: Path, threads: int, device: str) -> dict[str, dict[str, str]]:
    """Rows of bench.csv by method: whole updates of all methods, interleaved in one process."""
    folder = out / f"cost-{hashlib.sha256(','.join(methods).encode()).hexdigest()[:8]}"

    def work() -> None:
        say("measuring update time and memory of all methods side by side")
        words = ["bench", "--methods", ",".join(methods), "--configs", configs, "--size", "toy", "--out", folder]
        words += ["--device", device, "--rounds", 21]
        command = [sys.executable, "-m", "weighted_freezing_fairseq", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, env=_environment(threads), check=False)
        if done.returncode != 0:
            raise UserError(f"wff bench failed: {done.stderr.strip().splitlines()[-1:]}; type it by hand: {words}")

    once(folder, "cost", {"methods": list(methods), "device": device}, work)
    with (folder / "bench.csv").open(newline="", encoding="utf-8") as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def table(scores: dict[Run, Score], costs: dict[str, dict[str, str]], pair: str) -> tuple[str, list[dict[str, Any]]]:
    """The result as Markdown (means over seeds) and as rows (one a run)."""
    rows = [
        {
            "pair": pair, "method": run.method, "seed": run.seed,
            "bleu": f"{found.bleu:.2f}", "chrf": f"{found.chrf:.2f}",
            "update_time_ratio": f"{float(costs[run.method]['time_ratio']):.3f}",
            "peak_memory_ratio": f"{float(costs[run.method]['memory_ratio']):.3f}",
            "sentences": found.sentences, "bleu_signature": found.bleu_signature,
            "chrf_signature": found.chrf_signature,
        }
        for run, found in scores.items()
    ]  # fmt: skip
    lines = [
        f"| method ({pair}) | BLEU | chrF | update time | peak memory | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(run.method for run in scores):
        mine = {run.seed: found for run, found in scores.items() if run.method == method}
        spent = costs[method]
        lines.append(
            f"| `{method}` | {_mean([s.bleu for s in mine.values()])} | {_mean([s.chrf for s in mine.values()])} "
            f"| {float(spent['time_ratio']):.3f} [{float(spent['time_low']):.3f}, {float(spent['time_high']):.3f}] "
            f"| {float(spent['memory_ratio']):.3f} | {' '.join(map(str, mine))} |"
        )
    any_score = next(iter(scores.values()))
    lines += [
        "",
        f"BLEU: `{any_score.bleu_signature}`  ",
        f"chrF: `{any_score.chrf_signature}`  ",
        f"{any_score.sentences} test sentences, beam {DECODE.beam}, last checkpoint. Update time and peak memory are "
        "ratios to standard training, measured side by side (median and quartiles; memory: weights, optimizer state "
        "and the transient peak of one update).",
    ]
    return "\n".join(lines), rows


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold `folder` against a second quickstart; the system lets go of it when this process ends, however that is."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another quickstart is at work in {folder}; wait for it, or give another --out") from None
        yield


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to compare, and where."""
    parser.add_argument("--pair", default="de-en", help=f"one of {', '.join(corpus.PAIRS)} (default de-en)")
    parser.add_argument(
        "--methods", default="standard,weighted_freeze", help="comma-separated; each has a YAML in --configs"
    )
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="train with seeds 1 to N (default 1)")
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="default runs/quickstart")
    parser.add_argument("--configs", type=Path, help="folder of METHOD.yaml (default: configs/toy of the repository)")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: a GPU where there is one")
    parser.add_argument("--jobs", type=int, help="trainings at once (default: one a core, or one a GPU)")


def run(args: argparse.Namespace) -> int:
    """The whole way; ends with the table on standard output."""
    if args.pair not in corpus.PAIRS:
        raise UserError(f"unknown pair {args.pair!r}; type --pair with one of: {', '.join(corpus.PAIRS)}")
    if args.seeds < 1:
        raise UserError("--seeds must be at least 1; type --seeds 1")
    configs = (args.configs or CONFIGS / "toy").resolve()
    methods = ["standard", *(m for m in args.methods.split(",") if m != "standard")]
    known = methods_in(configs)
    for method in methods:
        if method not in known:
            raise UserError(f"no method {method!r} in {configs}; type --methods with some of: {','.join(known)}")
    device = args.device or a_device()
    out = args.out.resolve()
    folder = out / args.pair
    data, reference = folder / "bin", folder / "raw" / f"test.{args.pair.split('-')[1]}"
    runs = [Run(m, seed, folder / f"{m}-{seed}") for seed in range(1, args.seeds + 1) for m in methods]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = min(args.jobs or (cores if device == "cpu" else 1), len(runs))
    threads = max(1, cores // jobs)

    with alone_in(folder):
        prepare(args.pair, folder)
        say(f"training {len(runs)} runs, {jobs} at a time with {threads} threads each, on {device}")
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda r: train(r, configs / f"{r.method}.yaml", data, args.pair, threads, device), runs))
            found = list(pool.map(lambda r: evaluate(r, data, reference, threads, device), runs))
        costs = cost(out, methods, configs, cores, device)
        text = _write_results(dict(zip(runs, found, strict=True)), costs, folder, args.pair)
    print(text)
    print(f"\nTables, learning curves and logs: {folder}/ (table.md, table.csv, curves.png, */train.log)")
    print(f"TensorBoard: tensorboard --logdir {folder}")
    return 0


def _write_results(scores: dict[Run, Score], costs: dict[str, dict[str, str]], folder: Path, pair: str) -> str:
    """table.md, table.csv, curves.csv and curves.png; returns the table."""
    text, rows = table(scores, costs, pair)
    write_atomically(folder / "table.md", text + "\n")
    lines = io.StringIO(newline="")
    writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(folder / "table.csv", lines.getvalue())
    _draw_curves(list(scores), folder, pair)
    return text


def _draw_curves(runs: Sequence[Run], folder: Path, pair: str) -> None:
    """curves.csv, and curves.png where matplotlib is installed."""
    from ..analysis import curves

    curves.write_csv({run.folder.name: run.folder / "train.log" for run in runs}, folder / "curves.csv")
    try:
        curves.draw(folder / "curves.csv", folder / "curves.png", title=pair)
    except ImportError:
        say("no picture: matplotlib is missing; type: pip install 'weighted-freezing-fairseq[plot]'")
