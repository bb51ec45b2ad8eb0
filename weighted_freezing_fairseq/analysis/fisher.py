"""`wff fisher`: the diagonal Fisher information of a checkpoint on its own data, and masks of its largest entries.

A measurement is a plan (sentences in the order they were drawn, each half cut into batches) and sums over it, one part
file a process, so that it can be killed and called again. The halves show whether more sentences would change the mask.
What it writes is a snapshot (`core/snapshot.py`): Fisher information in float32 beside the checkpoint's weights, or a
mask alone. Left out on purpose: the mathematics (`core/fisher.py`) and fairseq's model and data (`plugin/trained.py`).
"""

import argparse
import contextlib
import functools
import logging
import multiprocessing
import queue
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from .. import __version__
from ..core import fisher, masks, scope, snapshot
from ..core.tensor_files import read, refuse_bad_numbers
from ..errors import UserError, check_fraction
from ..files import whole
from ..workspace.checkpoints import read_checkpoint, save
from ..workspace.locks import alone_at
from ..workspace.processes import end_with_parent, refuse_when_stopping, without_interrupts

HELP = """\
Measure the diagonal Fisher information of a checkpoint, or make the mask of its largest entries. A file of Fisher
information also holds the weights that it was measured at: 4 bytes a parameter for the one and, as in the checkpoint, 4
or 2 for the other. A mask takes one bit a parameter."""
EXAMPLE = "wff fisher runs/a/checkpoint_best.pt --data BIN --out runs/a/fisher.pt"

ESTIMATORS = ("per-sample", "expected", "sampled", "batch")
_SHOWN_DENSITY = 0.005
_SECONDS_BETWEEN_PARTS = 30.0
_SAVES_APART = 20  # saving takes at most a twentieth of the time, however large the model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """One measurement. What follows `seed` changes how it is computed and not, but for rounding, what comes out."""

    checkpoint: str
    data: str
    split: str
    estimator: str
    samples: int
    draws: int
    seed: int
    max_tokens: int
    memory: int  # bytes
    device: str
    processes: int

    def about(self, used: int, fingerprint: str) -> dict[str, Any]:
        """What the snapshot says of itself. A batch estimate depends on the batches."""
        names = ("estimator", "draws", "seed", "split", "data", "checkpoint")
        more = {"max_tokens": self.max_tokens} if self.estimator == "batch" else {}
        return {
            "metric": "fisher",
            "samples": used,
            **{name: getattr(self, name) for name in names},
            **more,
            "fingerprint": fingerprint,
            "version": __version__,
        }


@dataclass
class Plan:
    """The drawn sentences: batches of the first half of the draw, then of the second, each longest first."""

    batches: list[tuple[int, list[int]]]  # (half, sentence ids)
    counts: tuple[int, int]
    too_long: int


def plan(trained: Any, settings: Settings) -> Plan:
    """Every drawn sentence once; the same for every number of processes."""
    ids, too_long = trained.draw(settings.samples, settings.seed)
    lengths = {number: trained.dataset.num_tokens(number) for number in ids}
    halves = ids[: len(ids) // 2], ids[len(ids) // 2 :]
    cut = [
        (half, batch)
        for half, members in enumerate(halves)
        for batch in fisher.batches(members, lengths.__getitem__, settings.max_tokens)
    ]
    planned = sorted(number for _, batch in cut for number in batch)
    if planned != sorted(ids):
        raise RuntimeError(f"{len(planned)} of {len(ids)} drawn sentences are in batches")
    return Plan(cut, (len(halves[0]), len(halves[1])), too_long)


# One process --------------------------------------------------------------------------------------------------------


class _Adder(Protocol):
    def __call__(self, totals: fisher.Totals, ids: Sequence[int]) -> None: ...


def _adder(trained: Any, settings: Settings, drawn: Sequence[int]) -> _Adder:
    """What adds the squares of a batch of sentences to the totals."""
    parameters = fisher.trainable(trained.model)
    if settings.estimator == "batch":
        return lambda totals, ids: fisher.add_squared_sum_(
            totals, parameters, trained.log_likelihoods, trained.gold(ids)
        )
    by_length = sorted(drawn, key=trained.dataset.num_tokens)
    probe = [by_length[len(by_length) * quarter // 4] for quarter in (1, 2, 3)]
    squares = fisher.SquaredGradients(trained.model, trained.log_likelihoods, trained.gold(probe), settings.memory)
    if squares.looped:
        logger.warning("measured one sentence at a time: %s", ", ".join(squares.looped))

    def targets_of(ids: Sequence[int]) -> Iterator[list[Any]]:
        if settings.estimator == "expected":
            yield trained.every_class(ids)
            return
        for draw in range(settings.draws):
            yield trained.sampled(ids, draw, settings.seed)

    def add(totals: fisher.Totals, ids: Sequence[int]) -> None:
        if settings.estimator == "per-sample":
            squares.add_(totals, trained.gold(ids))
            return
        for pairs in targets_of(ids):
            for batch in fisher.batches(pairs, trained.length, settings.max_tokens):
                squares.add_(totals, batch)

    return add


@dataclass
class Part:
    """The sums of one process over the first `done` batches of its share, one for each half of the draw."""

    key: dict[str, Any]
    done: int
    sums: tuple[fisher.Totals, fisher.Totals]

    def save(self, path: Path) -> None:
        with whole(path) as part:
            save({"key": self.key, "done": self.done, "sums": self.sums}, part)


def part_path(out: Path, rank: int, processes: int) -> Path:
    return out.with_name(f".{out.name}.part-{rank}-of-{processes}")


def load_part(path: Path, key: dict[str, Any]) -> Part | None:
    """The part at `path`, if it belongs to this very measurement."""
    if not path.is_file():
        return None
    try:
        part = Part(**read(path, "part of a measurement", "remove it"))
    except Exception as error:
        logger.warning("%s cannot be read (%s); this share is measured again", path, error or type(error).__name__)
        return None
    if part.key != key:
        logger.warning("%s is of other settings or another checkpoint; this share is measured again", path)
        return None
    return part


def measure_share(
    trained: Any, settings: Settings, key: dict[str, Any], out: Path, rank: int, report: Callable[[int], None]
) -> None:
    """Every P-th batch of the plan, summed; `report` hears how many sentences are done. Leaves a part file."""
    from ..plugin.trained import attention_by_layers

    whole_plan = plan(trained, settings)
    share = whole_plan.batches[rank :: settings.processes]
    path = part_path(out, rank, settings.processes)
    part = load_part(path, key)
    if part is None:
        parameters = fisher.trainable(trained.model)
        part = Part(key, 0, (fisher.zeros(parameters), fisher.zeros(parameters)))
    else:
        for totals in part.sums:
            totals.update({name: total.to(trained.device) for name, total in totals.items()})
        report(sum(len(ids) for _, ids in share[: part.done]))
    with fisher.without_dropout(trained.model), attention_by_layers(trained.model):
        add = _adder(trained, settings, [number for _, ids in whole_plan.batches for number in ids])
        saved, cost = time.monotonic(), 0.0
        for half, ids in share[part.done :]:
            add(part.sums[half], ids)
            part.done += 1
            report(len(ids))
            if time.monotonic() - saved > max(_SECONDS_BETWEEN_PARTS, _SAVES_APART * cost):
                start = time.monotonic()
                part.save(path)
                saved = time.monotonic()
                cost = saved - start
    part.save(path)


def _worker(settings: Settings, key: dict[str, Any], out: Path, rank: int, threads: int, heard: Any) -> None:
    """A spawned process. It ends when its parent is gone, or a killed run would go on behind the next one."""
    end_with_parent()
    logging.disable(logging.INFO)
    torch.set_num_threads(threads)
    device = f"cuda:{rank}" if settings.device == "cuda" else settings.device
    measure_share(_load(settings, device), settings, key, out, rank, heard.put)


# The whole measurement ----------------------------------------------------------------------------------------------


def _load(settings: Settings, device: str) -> Any:
    from ..plugin.trained import Trained

    return Trained.load(Path(settings.checkpoint), Path(settings.data), settings.split, device)


def measure(trained: Any, settings: Settings, key: dict[str, Any], out: Path, count: int) -> list[fisher.Totals]:
    """The sums over each half, from all processes."""
    from tqdm import tqdm

    with tqdm(total=count, unit="sentence", disable=None, file=sys.stderr) as bar:
        if settings.processes == 1:
            measure_share(trained, settings, key, out, 0, bar.update)
        else:
            _measure_in_processes(settings, key, out, bar.update)
    sums: list[fisher.Totals] = [{}, {}]
    for rank in range(settings.processes):
        part = load_part(part_path(out, rank, settings.processes), key)
        if part is None:
            raise RuntimeError(f"the part of process {rank} is gone")
        for mine, total in zip(part.sums, sums, strict=True):
            for name, tensor in mine.items():
                total[name] = total[name] + tensor if name in total else tensor.cpu()
    return sums


def _measure_in_processes(settings: Settings, key: dict[str, Any], out: Path, report: Callable[[int], Any]) -> None:
    context = multiprocessing.get_context("spawn")
    heard = context.Queue()
    threads = max(1, torch.get_num_threads() // settings.processes)
    workers = [
        context.Process(target=_worker, args=(settings, key, out, rank, threads, heard), daemon=True)
        for rank in range(settings.processes)
    ]
    with without_interrupts():
        for worker in workers:
            worker.start()
    while any(worker.is_alive() for worker in workers) or not heard.empty():
        with contextlib.suppress(queue.Empty):
            report(heard.get(timeout=0.2))
        if any(worker.exitcode not in (None, 0) for worker in workers):
            break
    failed = [rank for rank, worker in enumerate(workers) if worker.exitcode != 0]
    for worker in workers:
        worker.terminate()
        worker.join()
    if failed:
        refuse_when_stopping()
        raise UserError(f"process {failed[0]} failed, see above; the same call goes on where the last parts were saved")


def _finished(out: Path, kind: snapshot.Kind, about: dict[str, Any]) -> bool:
    """Whether `out` is there already, from equal settings; any other file is not overwritten."""
    if not out.exists():
        return False
    try:
        found = snapshot.load(out, kind)
        # Earlier versions wrote Fisher information without weights.
        equal = found.about == about and (kind == "mask" or found.weights is not None)
    except UserError:
        equal = False
    if not equal:
        raise UserError(f"{out} exists and is not what this call would write; choose another --out, or remove it")
    print(f"{out} is there already, from the same settings")
    return True


def _as_stored(parameters: Mapping[str, torch.Tensor], checkpoint: Path) -> dict[str, torch.Tensor]:
    """Weights that were loaded as float32, in the checkpoint's precision again: its widest type, so that none loses."""
    types = {tensor.dtype for tensor in read_checkpoint(checkpoint)[1].values() if tensor.is_floating_point()}
    precision = functools.reduce(torch.promote_types, types)
    return {name: parameter.detach().to(precision) for name, parameter in parameters.items()}


def write_mask(out: Path, tensors: fisher.Totals, density: float, about: dict[str, Any]) -> None:
    """The mask of exactly round(density * n) of all n numbers, 1 = is updated."""
    n = sum(tensor.numel() for tensor in tensors.values())
    k = round(density * n)
    if k == 0:
        raise UserError(f"--mask-density {density:g} of {n:,} parameters is none; type a larger one")
    always = about.get("always")
    try:
        found = masks.largest_beside(tensors, density, re.compile(always) if always else None)
    except ValueError as error:
        raise UserError(f"{error}, or type --always ''") from None
    snapshot.save(out, "mask", found, **about)
    kept = f", with all of {always}," if always else ""
    print(f"wrote {out}: the largest {k:,} of {n:,}{kept} are updated")


def _mask_settings(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """What a mask says of itself beside what it was measured by."""
    always = args.always
    if always is None:
        from ..plugin.parameters import classifiers_in

        always = classifiers_in(names)
    elif always and not any(re.search(always, name) for name in names):
        raise UserError(f"no parameter has a name with {always!r} in it, such as {names[0]}; type another --always")
    return {"density": args.mask_density, **({"always": always} if always else {})}


# The command --------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to measure, how, and where to put it."""
    parser.add_argument("checkpoint", nargs="?", type=Path, metavar="CHECKPOINT", help="fairseq checkpoint")
    parser.add_argument("--data", type=Path, metavar="BIN", help="binarised folder")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="snapshot to write")
    parser.add_argument(
        "--mask-density",
        type=float,
        metavar="D",
        help="write the mask of the largest share D of all parameters in place of the Fisher information itself",
    )
    parser.add_argument(
        "--always",
        metavar="REGEX",
        help="with --mask-density: parameters with such a name are all in the mask, and count in D "
        "(default: the classification head of a sentence task, as in Sung et al.; '': none)",
    )
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FISHER",
        help="make the mask from this Fisher snapshot and measure nothing",
    )
    parser.add_argument(
        "--estimator",
        choices=ESTIMATORS,
        default=ESTIMATORS[0],
        help="per-sample: squared gradients of sentences with their own targets, the empirical Fisher (default); "
        "expected: the expectation over all classes of a sentence task, a pass for each class, the standard Fisher; "
        "sampled: an estimate of it from targets drawn from the model; batch: squared gradients of batches, cheap, and "
        "dependent on --max-tokens",
    )
    parser.add_argument("--samples", type=int, default=1024, metavar="N", help="sentences to draw (default 1024)")
    parser.add_argument("--draws", type=int, default=1, metavar="D", help="targets drawn a sentence (default 1)")
    parser.add_argument("--split", default="train", help="(default train)")
    parser.add_argument("--seed", type=int, default=1, help="of the sentences and drawn targets (default 1)")
    parser.add_argument("--max-tokens", type=int, default=4000, help="longest batch, padding included (default 4000)")
    parser.add_argument(
        "--memory", type=int, default=512, metavar="MB", help="most memory for gradients of sentences (default 512)"
    )
    parser.add_argument("--processes", type=int, default=1, metavar="P", help="on GPUs one a device (default 1)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to measure (default cpu)")


def run(args: argparse.Namespace) -> int:
    density = args.mask_density
    if density is not None:
        check_fraction("--mask-density", density, 0.005, one=True)
    if args.always is not None:
        if density is None:
            raise UserError("--always is of masks; type --mask-density 0.005 with it")
        try:
            re.compile(args.always)
        except re.error as error:
            raise UserError(f"--always {args.always!r} is not a regular expression ({error}); type one") from None
    if args.source is not None:
        return _mask_from(args)
    settings = _settings(args)
    with alone_at(args.out):
        return _measured(args, settings)


def _measured(args: argparse.Namespace, settings: Settings) -> int:
    """The whole call, but for --from."""
    density = args.mask_density
    logging.disable(logging.INFO)  # fairseq's own account of dictionaries and data
    trained = _load(settings, "cuda:0" if settings.device == "cuda" else "cpu")
    trained.refuse(settings.estimator)
    planned = plan(trained, settings)
    used = sum(planned.counts)
    weights = {entry.name: parameter for entry, parameter in scope.catalogue(trained.model)}
    about = settings.about(used, snapshot.fingerprint(weights))
    kind: snapshot.Kind = "fisher" if density is None else "mask"
    final = about if density is None else {**about, **_mask_settings(args, list(weights))}
    if _finished(args.out, kind, final):
        return 0
    if planned.too_long:
        print(f"left out {planned.too_long} sentences of {settings.split} that are too long for the model")
    whole_split = " (all of them)" if used < settings.samples else ""
    print(f"{settings.estimator} Fisher information from {used} sentences of {settings.split}{whole_split}", flush=True)
    # Now, while the checkpoint is there for certain: a training run may remove it in the hours to come.
    theta = _as_stored(fisher.trainable(trained.model), args.checkpoint) if density is None else {}
    # Batches and shares decide which sums a part holds.
    key = {**about, "max_tokens": settings.max_tokens, "processes": settings.processes}
    first, second = measure(trained, settings, key, args.out, used)
    draws = settings.draws if settings.estimator == "sampled" else 1
    everything = {name: (first[name] + second[name]) / (used * draws) for name in first}
    refuse_bad_numbers(everything, "the Fisher information of")
    shown = density or _SHOWN_DENSITY
    print(f"the top {100 * shown:g} % of the first {planned.counts[0]} and of all {used} sentences "
          f"overlap by {100 * fisher.overlap(first, everything, shown):.1f} %")  # fmt: skip
    if density is None:
        snapshot.save(args.out, "fisher", everything, weights=theta, **final)
        print(f"wrote {args.out}")
    else:
        write_mask(args.out, everything, density, final)
    for part in list(_parts(args.out)):
        part.unlink(missing_ok=True)
    return 0


def _settings(args: argparse.Namespace) -> Settings:
    """The call, with what can be judged before anything is loaded."""
    if args.checkpoint is None or args.data is None:
        raise UserError("give a checkpoint and --data, or --from; type: wff fisher --help")
    for name, least in (("samples", 2), ("draws", 1), ("max_tokens", 1), ("memory", 1), ("processes", 1)):
        if getattr(args, name) < least:
            raise UserError(f"--{name.replace('_', '-')} must be at least {least}; type: wff fisher --help")
    if args.draws > 1 and args.estimator != "sampled":
        raise UserError("--draws is of drawn targets; type --estimator sampled")
    if args.device == "cuda" and args.processes > torch.cuda.device_count():
        raise UserError(
            f"torch sees {torch.cuda.device_count()} GPUs; type --processes with at most that, or --device cpu"
        )
    same = {name: getattr(args, name) for name in ("split", "estimator", "samples", "draws", "seed", "max_tokens")}
    return Settings(
        checkpoint=str(args.checkpoint.resolve()),
        data=str(args.data.resolve()),
        memory=args.memory << 20,
        device=args.device,
        processes=args.processes,
        **same,
    )


def _mask_from(args: argparse.Namespace) -> int:
    """--from: a mask of another density without another measurement."""
    if args.mask_density is None:
        raise UserError("--from makes a mask; type --mask-density 0.005 with it")
    if args.checkpoint is not None or args.data is not None:
        raise UserError("--from measures nothing; leave out the checkpoint and --data")
    found = snapshot.load(args.source, "fisher")
    about = {**found.about, **_mask_settings(args, list(found.tensors))}
    if not _finished(args.out, "mask", about):
        write_mask(args.out, found.tensors, args.mask_density, about)
    return 0


def _parts(out: Path) -> Iterator[Path]:
    """Part files of `out`, and what a kill left of one that was being written."""
    for name in (f".{out.name}.part-", f"..{out.name}.part-"):
        yield from (path for path in out.parent.iterdir() if path.name.startswith(name))
