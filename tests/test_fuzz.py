"""Files that commands read, broken at random: never a traceback, a hang, a file elsewhere, or code of the file.

Each format is a valid file in a folder, and a command that reads it. A file gets each of SHAPES; then it is broken as
bytes (flipped, cut, inserted, deleted, spliced), as the records of an archive with true checksums, or as the values
that it holds. WFF_FUZZ_SECONDS is how long each format is tried (`make fuzz`: minutes, and each time anew); without,
all of them take about a minute.
"""

import contextlib
import copy
import hashlib
import io
import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import miniature
import pytest
import torch
import yaml
from damaged import UNUSUAL
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from labelled_files import glue, glue_file, roberta, xnli
from scored_runs import a_run, prepared

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.core import snapshot
from weighted_freezing_fairseq.costs.results import Cost, read_costs, worse_than
from weighted_freezing_fairseq.data import DATASETS, SENTENCES, parts, sentences
from weighted_freezing_fairseq.data.archives import copy_out_of_all
from weighted_freezing_fairseq.data.recipe import Part, Place
from weighted_freezing_fairseq.errors import UserError
from weighted_freezing_fairseq.workspace.contents import content_hash
from weighted_freezing_fairseq.workspace.locks import lock_folder
from weighted_freezing_fairseq.workspace.steps import once

LONG_RUN = "WFF_FUZZ_SECONDS" in os.environ
SECONDS = float(os.environ.get("WFF_FUZZ_SECONDS", 0.5))
HANG = 10  # seconds
MEMORY = 4 << 30  # bytes beyond what the process has

Breaker = Callable[[bytes, random.Random], bytes]

# Broken as bytes ----------------------------------------------------------------------------------------------------

_WORDS = (
    b"NaN",
    b"-1",
    b"1e999",
    b"null",
    b"{}",
    b"[]",
    b'""',
    b"\xff\xfe",
    b"\0",
    b"9" * 30,
    b"../../x",
    b"!!python/name:os",
)


def _flip(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) or 1)
    return data[:at] + bytes([(data[at : at + 1] or b"\0")[0] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice((*_WORDS, rng.randbytes(rng.randrange(1, 20)))) + data[at:]


def _delete(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.randrange(1, 50) :]


def _splice(data: bytes, rng: random.Random) -> bytes:
    at, other = (rng.randrange(len(data) + 1) for _ in range(2))
    return data[:at] + data[other : other + rng.randrange(1, 200)] + data[at:]


def _line(data: bytes, rng: random.Random) -> bytes:
    """One line or cell less, more, or other."""
    parts = data.split(separator := rng.choice((b"\n", b",", b'"', b" ")))
    at = rng.randrange(len(parts))
    parts[at : at + 1] = rng.choice(([], [parts[at]] * 2, [rng.choice(_WORDS)]))
    return separator.join(parts)


AS_BYTES = (_flip, _cut, _insert, _delete, _splice, _line)

# What every format is tried with, whatever chance tries besides.
SHAPES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "one line end": lambda _: b"\n",
    "another encoding": lambda data: data.decode("latin-1").encode("utf-16"),
    "invalid UTF-8": lambda data: data[: len(data) // 2] + b"\xc3\x28\xff" + data[len(data) // 2 :],
    "NUL": lambda data: data[: len(data) // 2] + bytes(99) + data[len(data) // 2 :],
    "CRLF": lambda data: data.replace(b"\n", b"\r\n"),
    "CR": lambda data: data.replace(b"\n", b"\r"),
    "byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "a long line": lambda data: data + b"a <seg\t{\"'&," * 400_000,
    "nothing but tags": lambda _: b"<doc <seg id=" * 50_000,
    "tags without an end": lambda data: data.replace(b">", b""),
    "deep": lambda _: b"[" * 100_000,
    "deep object": lambda _: b'{"contents":' * 100_000,
    "number of many digits": lambda _: b'{"seed": ' + b"9" * 5000 + b"}",
    "a list": lambda data: b"[" + data + b"]",
}

# Broken as values ---------------------------------------------------------------------------------------------------

_VALUES = (
    None,
    True,
    -1,
    0,
    2**70,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../../x",
    "\ud800",
    [],
    {},
    [1],
    {"a": 1},
    "RUN" * 9,
)
_NEST = "a nest"  # in its place comes what is nested as deep as one reader may follow and the next may not


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a tree of dicts and lists, with each of its keys."""
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from _places(tree[key])


def _change(tree: Any, rng: random.Random, values: tuple[Any, ...]) -> Any:
    """One value taken away, moved, or replaced."""
    places = list(_places(tree))
    if not places:
        return rng.choice(values)
    within, key = rng.choice(places)
    kind = rng.randrange(4)
    if kind == 0:
        del within[key]
    elif kind == 1:
        within[key] = copy.copy(rng.choice(places)[0])
    else:
        within[key] = copy.copy(rng.choice(values))
    return tree


def _json(data: bytes, rng: random.Random) -> bytes:
    changed = json.dumps(_change(json.loads(data), rng, (*_VALUES, _NEST))).encode()
    depth = rng.choice((90, 300, 600, 950))
    return changed.replace(f'"{_NEST}"'.encode(), b'{"a": ' * depth + b"1" + b"}" * depth)


_TENSORS = (
    *UNUSUAL.values(), torch.ones(2), torch.empty(0), torch.tensor(1), torch.full((3,), torch.nan),
    torch.ones(4, dtype=torch.uint8), torch.ones(3, dtype=torch.complex64), torch.full((9,), -1, dtype=torch.int64),
)  # fmt: skip


def _content(data: bytes, rng: random.Random) -> bytes:
    """The values of a file of torch."""
    found, written = torch.load(io.BytesIO(data), weights_only=False), io.BytesIO()
    torch.save(_change(found, rng, (*_VALUES, *_TENSORS)), written)
    return written.getvalue()


def _record(data: bytes, rng: random.Random) -> bytes:
    """The bytes of a record of a zip, with true checksums."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(written, "w") as new:
        broken = rng.choice(old.namelist())
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, rng.choice(AS_BYTES)(content, rng) if name == broken else content)
    return written.getvalue()


TEXT = AS_BYTES
JSON = (*AS_BYTES, _json, _json, _json)
TORCH = (*AS_BYTES[:-1], _record, _record, _content, _content, _content)
ZIP = (*AS_BYTES[:-1], _record)

# The formats --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Format:
    """What is in the folder, which file of it is broken, how, and the words that read it."""

    make: Callable[[Path], object]
    file: str
    breakers: tuple[Breaker, ...]
    words: str


def checkpoints(folder: Path) -> None:
    weight = torch.arange(60, dtype=torch.float32).view(6, 10)
    base = {"encoder.layers.0.fc1.weight": weight, "encoder.layers.0.fc1.bias": torch.ones(6), "steps": torch.tensor(3)}
    tuned = {name: tensor.clone() for name, tensor in base.items()}
    tuned["encoder.layers.0.fc1.weight"][2, 3] = 9
    state = {"extra_state": {"epoch": 1}, "optimizer_history": [{"num_updates": 7}], "args": None}
    torch.save({**state, "model": base}, folder / "base.pt")
    torch.save({**state, "model": tuned}, folder / "tuned.pt")
    assert main(["pack", str(folder / "base.pt"), str(folder / "tuned.pt"), "--out", str(folder / "tuned.wff")]) == 0


def snapshots(folder: Path) -> None:
    fisher = {"a": torch.rand(5, 3), "b": torch.rand(4)}
    snapshot.save(folder / "fisher.pt", "fisher", fisher, weights=fisher, samples=7)
    words = ["fisher", "--from", folder / "fisher.pt", "--mask-density", 0.5, "--out", folder / "mask.pt"]
    assert main([str(word) for word in words]) == 0


def runs(folder: Path) -> None:
    path = a_run(folder, "standard", 1)
    settings = {
        "common": {"seed": 1},
        "optimizer": {"lr": [0.1]},
        "model": {"_name": "transformer"},
        "deep": [1, {"a": 2}],
    }
    settings["criterion"] = {"_name": "intra_distillation", "num_passes": 3}
    (path / "run.yaml").write_text(yaml.safe_dump(settings))
    values = "{'_name': None, 'common': {'_name': None, 'seed': 1}, 'optimization': {'max_update': 200, 'lr': [0.004]}}"
    with (path / "train.log").open("a") as log:
        log.write(f"\n[x][fairseq_cli.train][INFO] - {values}\n")
        for update in (50, 100):
            told = {"loss": "3.5", "nll_loss": "2.5", "num_updates": str(update), "wall": "9"}
            log.write(f"[x][train_inner][INFO] - {json.dumps(told)}\n")
            log.write(f"[x][valid][INFO] - {json.dumps({f'valid_{name}': text for name, text in told.items()})}\n")
    head = "update,by,group,parameters,mean,std,std_over_mean,gini,share_top20,mean_top20,mean_bottom80,"
    head += "top20_over_bottom80,weight_norm,gradient_norm,frozen\n"
    rows = [f"{update},model,all,9,1e-5,2e-5,2,0.7,0.8,4e-5,1e-6,40,1,1,0.5\n" for update in (50, 100)]
    (path / "importance.csv").write_text(head + "".join(rows))
    path.rename(folder / "run")


def tables(folder: Path) -> None:
    head = "method,size,time_ratio,time_low,time_high,memory_ratio,state_bytes,update_seconds,parameters,rounds,flops\n"
    rows = "standard,toy,1,1,1,1,0,0.1,900000,15,2e9\newc,toy,1.2,1.1,1.3,1.25,7000,0.12,900000,15,2.1e9\n"
    (folder / "bench.csv").write_text(head + rows)
    head = "checkpoint,method,fraction,remaining,bleu,chrf,sentences,signature\n"
    rows = "".join(f"a,magnitude,{f},{1 - f},{30 - 9 * f},50,100,x\n" for f in (0, 0.5, 0.9))
    (folder / "curve.csv").write_text(head + rows)


def archives(folder: Path) -> None:
    texts = {"d/train.de": "eins\nzwei\n", "d/train.en": "one\ntwo\n"}
    (folder / "a.tgz").write_bytes(miniature.tgz(texts))
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            archive.writestr(name, text)


def corpora(folder: Path) -> None:
    texts = {"de": ["eins &amp; zwei", "drei", "vier", "fünf"], "en": ["one & two", "three", "four", "five"]}
    for side, lines in texts.items():
        (folder / f"tags.{side}").write_text(miniature.tags(lines))
        (folder / f"xml.{side}").write_text(miniature.xml(lines, "TED.tst2010", side))
        (folder / f"sgm.{side}").write_text(miniature.sgm(lines, "src" if side == "de" else "ref"))
        (folder / f"text.{side}").write_text(miniature.lines(lines))


def labelled(folder: Path) -> None:
    for task in ("RTE", "CoLA", "MRPC", "STS-B"):
        (folder / task).write_text(glue_file(task, "train", 6))
    (folder / "ids").write_text("0\t1000\n3\t1003\n")
    archive, _ = xnli(folder)
    with zipfile.ZipFile(archive) as file:
        (folder / "XNLI").write_bytes(file.read("XNLI-1.0/xnli.dev.tsv"))


def prepared_pair(folder: Path) -> None:
    """What `wff prepare` made, and its archives with the record of their downloads."""
    archives = miniature.multi30k(folder / "archives")
    records = {
        path.name: {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "mirror": "https://example.org",
        }
        for path in archives.iterdir()
    }
    (archives / "fetched.json").write_text(json.dumps(records))
    assert main([*PREPARE.split(), "--archive", str(archives), "--out", str(folder / "out")]) == 0


def unfinished_pair(folder: Path) -> None:
    """The same without its manifest: every step is done."""
    prepared_pair(folder)
    (folder / f"out/{PAIR}/manifest.json").unlink()


def begun_pair(folder: Path) -> None:
    """The same, killed in its last step."""
    unfinished_pair(folder)
    (folder / f"out/{PAIR}/.binarised.json").rename(folder / f"out/{PAIR}/.binarised.begun.json")


def prepared_task(folder: Path) -> None:
    glue(folder / "archives", ["RTE"])
    roberta(folder / "encoder", weights=False)
    words = f"{PREPARE_TASK} --encoder {folder}/encoder --archive {folder}/archives --out {folder}/out"
    assert main(words.split()) == 0


def embedded(folder: Path) -> None:
    assert main(f"{CORPUS} --out {folder}/out".split()) == 0


def evaluated(folder: Path) -> None:
    """A run that is trained and scored, so that nothing is left to translate, and the data that it was trained on."""
    data, run = prepared(folder / f"data/{PAIR}", 30, test=30), a_run(folder, "standard", 1, dataset="multi30k")
    about = json.loads((run / "provenance.json").read_text())
    (run / "provenance.json").write_text(json.dumps({**about, "data": str(data)}))
    (run / ".training.json").write_text(
        json.dumps({"config": {}, "contents": {"task.data": content_hash(data / "bin")}})
    )
    run = run.rename(folder / "run")
    (run / ".lock").touch()
    decode = asdict(DATASETS["multi30k"].decode)
    once(run, "scoring-test.best", {"choice": "best", "decode": decode}, lambda: None)


def compared(folder: Path) -> None:
    """Two runs, and the p-values that a report keeps."""
    for method in ("standard", "sage"):
        a_run(folder, method, 1)
    assert main(f"report {folder}/runs --out {folder}/out".split()) == 0


def costs(folder: Path) -> None:
    shutil.copy(Path(__file__).parents[1] / "benchmarks/cpu/quick/bench.csv", folder / "bench.csv")


def lock(folder: Path) -> None:
    (folder / ".lock").touch()


PAIR = "clean/de-en"
PREPARE = "prepare multi30k --pairs de-en --pieces 150 --jobs 1 --any-counts"
PREPARE_TASK = "prepare glue --tasks RTE --jobs 1 --any-counts"
PREPARE_AGAIN = f"on-a-copy {{folder}} {PREPARE} --archive {{out}}/copy/archives"
CORPUS = "corpus --pair de-en --train-lines 20 --valid-lines 5 --test-lines 5"
EVALUATE = "evaluate {folder}/run --choices best"
DENSITY = "--mask-density 0.5"
PLOT = "--format svg --out {out}"
FORMATS = {
    "checkpoint averaged": Format(checkpoints, "tuned.pt", TORCH, "average {file} {folder}/base.pt --out {out}/a.pt"),
    "checkpoint packed": Format(checkpoints, "tuned.pt", TORCH, "pack {folder}/base.pt {file} --out {out}/a.wff"),
    "checkpoint drawn": Format(checkpoints, "tuned.pt", TORCH, f"plot norms {{file}} {PLOT}"),
    "base unpacked": Format(checkpoints, "base.pt", TORCH, "unpack {file} {folder}/tuned.wff --out {out}/a.pt"),
    "difference": Format(checkpoints, "tuned.wff", TORCH, "unpack {folder}/base.pt {file} --out {out}/a.pt"),
    "Fisher snapshot": Format(snapshots, "fisher.pt", TORCH, f"fisher --from {{file}} {DENSITY} --out {{out}}/m.pt"),
    "mask snapshot": Format(snapshots, "mask.pt", TORCH, f"fisher --from {{folder}}/fisher.pt {DENSITY} --out {{file}}"),  # noqa: E501
    "provenance": Format(runs, "run/provenance.json", JSON, "report {folder}/run --out {out}"),
    "scores": Format(runs, "run/scores/test.best.json", JSON, "report {folder}/run --out {out}"),
    "hypotheses": Format(runs, "run/scores/test.best.hyp.txt", TEXT, "report {folder}/run --out {out}"),
    "provenance on a page": Format(runs, "run/provenance.json", JSON, "report --html {folder}/run --out {out}/a.html"),
    "settings on a page": Format(runs, "run/run.yaml", TEXT, "report --html {folder}/run --out {out}/a.html"),
    "log on a page": Format(runs, "run/train.log", TEXT, "report --html {folder}/run --out {out}/a.html"),
    "log drawn": Format(runs, "run/train.log", TEXT, f"plot curves {{file}} {PLOT}"),
    "settings drawn": Format(runs, "run/run.yaml", TEXT, f"plot passes {{folder}}/run {PLOT}"),
    "schedule drawn": Format(runs, "run/run.yaml", TEXT, f"plot alpha {{folder}}/run {PLOT}"),
    "importance": Format(runs, "run/importance.csv", TEXT, f"plot importance {{file}} {PLOT}"),
    "table of costs": Format(tables, "bench.csv", TEXT, f"plot cost {{file}} {PLOT}"),
    "table of operations": Format(tables, "bench.csv", TEXT, f"plot flops {{file}} {PLOT}"),
    "curve of pruning": Format(tables, "curve.csv", TEXT, f"plot pruning {{file}} {PLOT}"),
    "gzipped tar": Format(archives, "a.tgz", TEXT, "copy {file} {out}"),
    "zip": Format(archives, "a.zip", ZIP, "copy {file} {out}"),
    "training set of IWSLT": Format(corpora, "tags.de", TEXT, "pairs tags {file} {folder}/tags.en"),
    "test set of IWSLT": Format(corpora, "xml.de", TEXT, "pairs xml {file} {folder}/xml.en"),
    "test set of WMT": Format(corpora, "sgm.en", TEXT, "pairs xml {folder}/sgm.de {file}"),
    "plain text": Format(corpora, "text.de", TEXT, "pairs text {file} {folder}/text.en"),
    "table of CoLA": Format(labelled, "CoLA", TEXT, "rows glue cola {file}"),
    "table of RTE": Format(labelled, "RTE", TEXT, "rows glue rte {file}"),
    "table of STS-B": Format(labelled, "STS-B", TEXT, "rows glue sts-b {file}"),
    "table of MRPC": Format(labelled, "MRPC", TEXT, "rows glue mrpc {file} {folder}/ids"),
    "numbers of MRPC": Format(labelled, "ids", TEXT, "rows glue mrpc {folder}/MRPC {file}"),
    "table of XNLI": Format(labelled, "XNLI", TEXT, "rows xnli en {file}"),
    "manifest of a pair": Format(prepared_pair, f"out/{PAIR}/manifest.json", JSON, f"{PREPARE} --out {{folder}}/out"),
    "manifest of a task": Format(prepared_task, "out/roberta/rte/manifest.json", JSON, f"{PREPARE_TASK} --encoder {{folder}}/encoder --out {{folder}}/out"),  # noqa: E501
    "manifest of the embedded corpus": Format(embedded, "out/corpus.json", JSON, f"on-a-copy {{folder}} {CORPUS}"),
    "stamp of a step": Format(unfinished_pair, f"out/{PAIR}/.binarised.json", JSON, PREPARE_AGAIN),
    "stamp of a begun step": Format(begun_pair, f"out/{PAIR}/.binarised.begun.json", JSON, PREPARE_AGAIN),
    "counts of a step": Format(unfinished_pair, f"out/{PAIR}/.text.rows.json", JSON, PREPARE_AGAIN),
    "record of downloads": Format(unfinished_pair, "archives/fetched.json", JSON, PREPARE_AGAIN),
    "manifest of a run": Format(evaluated, f"data/{PAIR}/manifest.json", JSON, EVALUATE),
    "stamp of a training": Format(evaluated, "run/.training.json", JSON, EVALUATE + " --data {folder}/data"),
    "stamp of scores": Format(evaluated, "run/.scoring-test.best.json", JSON, EVALUATE),
    "scores of a run": Format(evaluated, "run/scores/test.best.json", JSON, EVALUATE),
    "provenance of a run": Format(evaluated, "run/provenance.json", JSON, EVALUATE),
    "p-values": Format(compared, "out/significance.json", JSON, "report {folder}/runs --out {folder}/out"),
    "costs compared": Format(costs, "bench.csv", TEXT, "compare {file}"),
    "lock": Format(lock, ".lock", TEXT, "lock {folder}"),
}  # fmt: skip

# Readers in commands that would take a minute more ------------------------------------------------------------------


def copy_members(archive: str, out: str) -> None:
    copy_out_of_all([Path(archive)], {name: Path(out) / name for name in ("train.de", "train.en")})


def read_pairs(form: str, source: str, target: str) -> None:
    part = Part("part", "train", Place("a"), Place("a"), form=form)
    for _ in parts.pairs(part, Path(source), Path(target), Counter()):
        pass


def read_rows(data: str, name: str, table: str, ids: str = "") -> None:
    task = SENTENCES[data].tasks[name]
    fitting = (each for split in task.splits for each in split.files if bool(each.ids) == bool(ids))
    source = next(each for each in fitting if bool(each.only) == (data == "xnli"))
    for _ in sentences.rows(Path(table), source, task, Counter(), Path(ids) if ids else None):
        pass


def compare_costs(table: str) -> None:
    row = {field.name: 1 for field in fields(Cost)} | {"method": "sage", "size": "small", "precision": "fp32"}
    for _ in worse_than(read_costs(Path(table)), [Cost(**row)]):
        pass


def hold_lock(folder: str) -> None:
    with lock_folder(Path(folder)):
        pass


READERS: dict[str, Callable[..., None]] = {
    "copy": copy_members,
    "pairs": read_pairs,
    "rows": read_rows,
    "compare": compare_costs,
    "lock": hold_lock,
}


def run(words: list[str], out: Path) -> int:
    if words[0] == "on-a-copy":  # since the command mends the folder, or goes on in it
        shutil.copytree(words[1], out / "copy")
        return main([*words[2:], "--out", str(out / "copy/out")])
    if words[0] not in READERS:
        return main(words)
    try:
        READERS[words[0]](*words[1:])
    except UserError as error:
        print(f"wff {words[0]}: {error}", file=sys.stderr)
        return 2
    return 0


def call(words: list[str], out: Path) -> tuple[int, str]:
    """Status and messages."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        status = run(words, out)
    return status, said.getvalue()


# Watched ------------------------------------------------------------------------------------------------------------


class Watch:
    """What the interpreter tells of itself while a command runs: what is written where, and which programs start."""

    writes = {
        "os.mkdir": 1,
        "os.remove": 1,
        "os.rmdir": 1,
        "os.rename": 2,
        "os.symlink": 2,
        "os.link": 2,
        "os.truncate": 1,
    }
    programs = (
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.fork",
        "subprocess.Popen",
        "socket.connect",
        "ctypes.dlopen",
    )

    def __init__(self) -> None:
        self.root: Path | None = None
        self.found: list[str] = []
        sys.addaudithook(self)  # for the rest of the process; it does nothing without a root

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.root is None:
            return
        if event in self.programs:
            self.found.append(f"{event}{args}")
        elif event == "open" and args[2] is not None and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self._refuse_elsewhere(event, args[:1])
        elif event in self.writes:
            self._refuse_elsewhere(event, args[: self.writes[event]])

    def _refuse_elsewhere(self, event: str, paths: tuple[Any, ...]) -> None:
        for path in paths:
            allowed = (str(self.root), os.devnull)
            if not isinstance(path, int) and not str(Path.cwd() / os.fsdecode(path)).startswith(allowed):
                self.found.append(f"{event} {path!r}")

    @contextlib.contextmanager
    def over(self, root: Path) -> Iterator[None]:
        """Nothing may be written but under `root`, and no program may start."""
        self.root, self.found = root, []
        try:
            yield
        finally:
            self.root = None
        assert not self.found


@pytest.fixture(scope="session")
def watch():
    return Watch()


class HangError(BaseException):
    """Not an Exception: no command may take it for a damaged file."""


class TimeIsUpError(BaseException):
    """Ends hypothesis at once, which any Exception would not."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """So long, and with so much memory."""

    def stop(*_: object) -> None:
        raise HangError

    before, limits = signal.signal(signal.SIGALRM, stop), resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
    signal.setitimer(signal.ITIMER_REAL, HANG)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not say what is in memory")
@pytest.mark.parametrize("name", FORMATS)
def test_a_broken_file_is_one_line_or_no_matter(name, watch, tmp_path, monkeypatch):
    form, folder, out = FORMATS[name], tmp_path / "in", tmp_path / "out"
    for path in (folder, tmp_path / "here", tmp_path / "tmp"):
        path.mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    form.make(folder)
    words = form.words.format(file=folder / form.file, folder=folder, out=out).split()
    valid, around = (folder / form.file).read_bytes(), set(folder.rglob("*"))
    out.mkdir()
    status, said = call(words, out)
    assert status == 0, said

    def check(data: bytes) -> None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        (folder / form.file).write_bytes(data)
        with limited(), watch.over(tmp_path):
            status, said = call(words, out)
        assert status in (0, 1, 2)
        if status == 2:
            assert said.splitlines()[-1].startswith("wff ") and "Traceback" not in said
        assert set(folder.rglob("*")) == around and not list((tmp_path / "here").iterdir())

    deadline, failed = time.monotonic() + SECONDS, []
    for shape, broken_into in SHAPES.items():
        if time.monotonic() < deadline:  # of pages, which take seconds each, the first ones
            print(f"shape: {shape}")  # the last one that pytest shows is the one that failed
            check(broken_into(valid))

    @settings(
        max_examples=10**6 if LONG_RUN else 500, derandomize=not LONG_RUN, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.lists(st.tuples(st.sampled_from(form.breakers), st.integers(0, 2**32)), min_size=1, max_size=3))
    def broken(steps):
        if time.monotonic() > deadline and not failed:
            raise TimeIsUpError
        data = valid
        for breaker, seed in steps:
            with contextlib.suppress(Exception):  # what is broken already cannot be broken in every way
                data = breaker(data, random.Random(seed))
        failed.append(steps)  # so that hypothesis has all the time that it needs to find a shorter one
        check(data)
        failed.remove(steps)

    try:
        with contextlib.suppress(TimeIsUpError):
            broken()
    finally:
        logging.disable(logging.NOTSET)
