"""`wff bench`: what each method costs next to standard training, measured side by side in one process.

Every round runs one whole update of every method on the same batch, so that a noisy machine disturbs all alike; what
is reported are medians of the per-round ratios with their quartiles. Memory on a CPU is the sum of torch's own
allocations (the profiler's memory events), on a GPU the allocator's peak. Beside what was measured stands what no code
can go below (`counted.py`). Left out on purpose: absolute seconds as a result.
"""

import argparse
import csv
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..configs import CONFIGS, config_path, methods_in, open_settings
from ..errors import UserError
from .counted import Operations, Rates, in_bytes, operations, step_bytes

HELP = "Measure time and memory of every method beside standard training, interleaved in one process."
EXAMPLE = "wff bench --size small --size iwslt --rounds 15 --out runs/bench"


_SETTLING_STEPS = 20
MASK_DENSITY = 0.005  # of the random mask that fish_mask is measured with


@dataclass(frozen=True)
class Size:
    """A model and a batch: layers, width, feed-forward width, heads, vocabulary, sentences and their length."""

    layers: int
    width: int
    feed_forward: int
    heads: int
    vocabulary: int
    sentences: int
    length: int

    def overrides(self) -> list[str]:
        """As settings of a run."""
        sides = [
            f"model.{side}.{key}={value}"
            for side in ("encoder", "decoder")
            for key, value in (
                ("layers", self.layers),
                ("embed_dim", self.width),
                ("ffn_embed_dim", self.feed_forward),
                ("attention_heads", self.heads),
            )
        ]
        return [*sides, "common.log_interval=1000000"]


SIZES = {
    "toy": Size(2, 128, 256, 4, 2000, 50, 16),
    "small": Size(3, 256, 1024, 4, 6000, 80, 16),
    "iwslt": Size(6, 512, 1024, 4, 10_000, 56, 16),
    "iwslt4096": Size(6, 512, 1024, 4, 10_000, 256, 16),  # with the batch of the papers' recipe
    "big": Size(6, 1024, 4096, 16, 32_000, 56, 16),
}


@dataclass(frozen=True)
class Row:
    """One method at one size; ratios are to standard training, `low` and `high` are quartiles over rounds."""

    method: str
    size: str
    time_ratio: float
    time_low: float
    time_high: float
    step_ratio: float
    step_share_added: float  # (step of the method - standard step) / standard update
    step_share_low: float
    step_share_high: float
    memory_ratio: float
    transient_ratio: float
    state_bytes: int  # of optimizer and criterion beyond standard's
    flops: int  # operations of one update, of which `product_flops` are products of matrices
    product_flops: int
    step_bytes: int  # that one step cannot help moving
    bound_ratio: float  # of the least times that these products and bytes take on this machine
    update_seconds: float
    parameters: int
    rounds: int


@dataclass
class Subject:
    """A method under measurement."""

    method: str
    trainer: Any

    def update(self, sample: dict[str, Any]) -> None:
        # fairseq's own R-Drop doubles the inputs of the sample that it is given, in place.
        self.trainer.train_step([{**sample, "net_input": dict(sample["net_input"])}])

    def step(self) -> None:
        self.trainer.optimizer.optimizer.step()

    def forget_gradients(self) -> None:
        """Random ones for those of the last update: in a second step with the same ones ewc squares its penalty."""
        for p in self.trainer.optimizer.params:
            if p.grad is not None:
                p.grad.normal_(std=1e-4)

    def settle(self, sample: dict[str, Any]) -> None:
        """Allocate states, compile kernels, and reach the middle of a training.

        A weight that was frozen in every update so far has a second moment of exactly zero, and the square root of
        zero takes torch on a CPU several times as long as any other: true of the first updates of a run only.
        """
        self.update(sample)
        for _ in range(_SETTLING_STEPS):
            self.forget_gradients()
            self.step()
        # A penalty that begins after the warm-up, or grows from nothing, is there now.
        self.trainer.set_num_updates(self.trainer.cfg.optimization.max_update // 2)
        self.update(sample)

    def state_bytes(self) -> int:
        optimizer = self.trainer.optimizer.optimizer
        own = getattr(optimizer, "extra_bytes", 0) + in_bytes(self._held)
        return own + sum(in_bytes(state.values()) for state in optimizer.state.values())

    @property
    def _held(self) -> list[Any]:
        """What the criterion keeps."""
        return list(getattr(self.trainer.criterion, "held", ()))

    def resident_bytes(self) -> int:
        """Weights, optimizer state, and what the criterion keeps."""
        return in_bytes(self.trainer.model.parameters()) + self.state_bytes()

    def count(self, sample: dict[str, Any]) -> tuple[Operations, int]:
        """The operations of an update, and the bytes that its step cannot help moving."""
        found = operations(lambda: self.update(sample))
        return found, step_bytes(self.trainer.optimizer.optimizer, self._held)


def measure(subjects: Sequence[Subject], name: str, sample: dict[str, Any], rounds: int, device: str) -> list[Row]:
    """Rows of `subjects` (standard first), which are of size `name`."""
    seconds: dict[str, list[float]] = {subject.method: [] for subject in subjects}
    steps: dict[str, list[float]] = {subject.method: [] for subject in subjects}
    for subject in subjects:
        subject.settle(sample)
    transients = {subject.method: _transient_bytes(lambda s=subject: s.update(sample), device) for subject in subjects}
    counts = {subject.method: subject.count(sample) for subject in subjects}
    rates = Rates.of(device, lambda: _wait(device))
    bounds = {method: rates.seconds(found.products, moved) for method, (found, moved) in counts.items()}
    for turn in range(rounds):
        order = subjects[turn % len(subjects) :] + subjects[: turn % len(subjects)]
        for subject in order:
            seconds[subject.method].append(_timed(lambda s=subject: s.update(sample), device))
        for subject in order:
            subject.forget_gradients()
        for subject in order:
            steps[subject.method].append(_timed(subject.step, device))
        print(f"\rbench {name}: round {turn + 1} of {rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    base = subjects[0]
    rows = []
    for subject in subjects:
        time_low, time_mid, time_high = _quartiles(_ratios(seconds[subject.method], seconds[base.method]))
        added = [
            (mine - plain) / update
            for mine, plain, update in zip(steps[subject.method], steps[base.method], seconds[base.method], strict=True)
        ]
        share_low, share_mid, share_high = _quartiles(added)
        total = {s.method: s.resident_bytes() + transients[s.method] for s in (subject, base)}
        found, moved = counts[subject.method]
        rows.append(
            Row(
                method=subject.method,
                size=name,
                time_ratio=time_mid,
                time_low=time_low,
                time_high=time_high,
                step_ratio=_quartiles(_ratios(steps[subject.method], steps[base.method]))[1],
                step_share_added=share_mid,
                step_share_low=share_low,
                step_share_high=share_high,
                memory_ratio=total[subject.method] / total[base.method],
                transient_ratio=transients[subject.method] / transients[base.method],
                state_bytes=subject.state_bytes() - base.state_bytes(),
                flops=found.products + found.others,
                product_flops=found.products,
                step_bytes=moved,
                bound_ratio=bounds[subject.method] / bounds[base.method],
                update_seconds=statistics.median(seconds[subject.method]),
                parameters=sum(p.numel() for p in subject.trainer.model.parameters()),
                rounds=rounds,
            )
        )
    return rows


def synthetic(size: Size, seed: int) -> tuple[dict[str, Any], Any]:
    """One batch of random tokens, full but for a ragged end, and the translation task it belongs to."""
    import torch
    from fairseq.data import Dictionary
    from fairseq.tasks.translation import TranslationConfig, TranslationTask
    from omegaconf import OmegaConf

    words = Dictionary()
    for index in range(size.vocabulary - len(words)):
        words.add_symbol(f"w{index}")
    words.finalize(padding_factor=1)
    generator = torch.Generator().manual_seed(seed)
    shape = (size.sentences, size.length)
    source, target = (torch.randint(words.nspecial, len(words), shape, generator=generator) for _ in range(2))
    lengths = torch.randint(size.length // 2, size.length + 1, (size.sentences,), generator=generator)
    padded = torch.arange(size.length) >= lengths[:, None]
    target[padded] = words.pad()
    previous = torch.cat([torch.full((size.sentences, 1), words.eos()), target[:, :-1]], dim=1)
    sample = {
        "id": torch.arange(size.sentences),
        "nsentences": size.sentences,
        "ntokens": int((~padded).sum()),
        "net_input": {
            "src_tokens": source,
            "src_lengths": torch.full((size.sentences,), size.length),
            "prev_output_tokens": previous,
        },
        "target": target,
    }
    return sample, TranslationTask(OmegaConf.structured(TranslationConfig()), words, words)


def subject_of(
    method: str, config: Path, size: Size, device: str, seed: int, task: Any, more: Sequence[str] = ()
) -> Subject:
    """The run of one YAML at a size, with `more` settings on top of it as `part.key=value`."""
    import torch

    from ..plugin.runs import build_trainer, load_config

    overrides = [
        *size.overrides(),
        "task.data=unused",
        "checkpoint.save_dir=unused",
        "checkpoint.finetune_from_model=unused",
        f"common.cpu={device == 'cpu'}",
        f"common.seed={seed}",
        *more,
    ]
    with tempfile.TemporaryDirectory() as folder:
        overrides += _stand_ins(config, overrides, task, Path(folder))
        torch.manual_seed(seed)
        subject = Subject(method, build_trainer(load_config(config, overrides), task))
        assert subject.trainer.optimizer  # built, and with it the stand-ins read, while they are there
    return subject


def _stand_ins(config: Path, overrides: Sequence[str], task: Any, folder: Path) -> list[str]:
    """For what a YAML and `overrides` leave open, Fisher information, a mask or a teacher: random numbers.

    No cost depends on them.
    """
    import torch

    from ..core import scope, snapshot
    from ..plugin.runs import build_trainer, load_config

    given = {override.split("=")[0] for override in overrides}
    files = {f"{section}.{key}": folder / f"{key}.pt" for section, key in open_settings(config)}
    files = {name: path for name, path in files.items() if name not in given}
    if not files:
        return []
    cfg = load_config(config, [*overrides, *(f"{name}=unused" for name in files)])
    weights = {entry.name: torch.rand(p.shape) for entry, p in scope.catalogue(task.build_model(cfg.model))}
    for name, path in files.items():
        if name == "optimizer.fish_mask":
            snapshot.save(path, "mask", {name: w < MASK_DENSITY for name, w in weights.items()})
        elif name == "criterion.teacher":
            cfg.criterion.teacher_weight = 0  # to make a teacher takes no teacher
            trainer = build_trainer(cfg, task)
            trainer.consolidate_optimizer()  # fairseq saves nothing without
            trainer.save_checkpoint(str(path), {})
        else:
            snapshot.save(path, "fisher", weights, weights=weights)
    return [f"{name}={path}" for name, path in files.items()]


def _timed(work: Callable[[], None], device: str) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def _transient_bytes(work: Callable[[], None], device: str) -> int:
    """The most bytes alive at once during `work` beyond those that were alive before it."""
    import torch

    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def _ratios(mine: Sequence[float], base: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(mine, base, strict=True)]


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return (values[0],) * 3
    low, mid, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, mid, high


def as_markdown(rows: Sequence[Row]) -> str:
    """Medians and, in brackets, quartiles."""
    lines = [
        "| size | method | update time | least | step | step on top, in updates | peak memory | transient "
        "| more state | GFLOP |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.size} ({row.parameters / 1e6:.1f} M) | `{row.method}` "
            f"| {row.time_ratio:.3f} [{row.time_low:.3f}, {row.time_high:.3f}] | {row.bound_ratio:.3f} "
            f"| {row.step_ratio:.2f} | {100 * row.step_share_added:+.2f} % "
            f"[{100 * row.step_share_low:+.2f}, {100 * row.step_share_high:+.2f}] "
            f"| {row.memory_ratio:.3f} | {row.transient_ratio:.3f} | {row.state_bytes:,} B "
            f"| {row.flops / 1e9:.2f} |"
        )
    return "\n".join(lines)


def write(rows: Sequence[Row], out: Path) -> None:
    """bench.csv and bench.md in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "bench.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Row)])
        table.writeheader()
        table.writerows(asdict(row) for row in rows)
    (out / "bench.md").write_text(as_markdown(rows) + "\n", encoding="utf-8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to measure, how often, where to put it."""
    parser.add_argument("--methods", help="comma-separated; default: every method with a YAML in --configs")
    parser.add_argument(
        "--configs",
        type=Path,
        action="append",
        metavar="DIR",
        help="folder of METHOD.yaml files; repeat for several (default: configs/toy and configs/adapt)",
    )
    parser.add_argument("--size", action="append", choices=list(SIZES), help="repeat for several (default: small)")
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds per size (default 15)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to measure (default cpu)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder for bench.csv and bench.md")
    parser.add_argument("--json", action="store_true", help="rows as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when torch is imported: its profiler prints its own probes
    import fairseq  # noqa: F401  (registers the plugin's adapters)

    logging.disable(logging.INFO)
    folders = args.configs or [CONFIGS / "toy", CONFIGS / "adapt"]
    if args.rounds < 1:
        raise UserError("--rounds must be at least 1; type --rounds 15")
    methods = args.methods.split(",") if args.methods else methods_in(*folders)
    methods = ["standard", *(m for m in methods if m != "standard")]
    rows = []
    for name in args.size or ["small"]:
        sample, task = synthetic(SIZES[name], args.seed)
        subjects = [
            subject_of(method, config_path(method, *folders), SIZES[name], args.device, args.seed, task)
            for method in methods
        ]
        rows += measure(subjects, name, sample, args.rounds, args.device)
    print(json.dumps([asdict(row) for row in rows], indent=2) if args.json else as_markdown(rows))
    if args.out:
        write(rows, args.out)
    return 0
