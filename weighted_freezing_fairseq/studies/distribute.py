"""`wff distribute`: workers train apart under fixed masks, and merge their differences in rounds (Sung et al. 2021).

In a round each worker makes many updates from the merged model, on its own part of the training data and inside its own
mask, and keeps its optimizer, learning rate and place in the data for the next round. What it sends is the file of `wff
pack` with its difference from the merged model; the sum (disjoint masks) or mean (equal masks) of the differences is
the next merged model. Workers are processes on this machine.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import masks, snapshot
from ..core.difference import patched
from ..core.merge import merged
from ..data.binary import write_part
from ..errors import UserError
from ..files import atomic_file, atomic_folder, write_atomically
from ..forms import read_json
from ..workspace.checkpoints import OPTIMIZER_STATE, read_checkpoint, save
from ..workspace.commands import wff
from ..workspace.configs import settings_of
from ..workspace.contents import content_hash
from ..workspace.locks import lock_folder
from ..workspace.machine import Machine
from ..workspace.pack import pack, read_packed
from ..workspace.progress import say
from ..workspace.runs import Run
from ..workspace.steps import once
from .training import merge_assignments, refuse_invalid_settings, train

COMPLEMENTARY, EQUAL = "complementary", "equal"
# The length that a schedule of fairseq takes from optimization.max_update, which here is the end of a round.
_SCHEDULE_LENGTHS = {"polynomial_decay": "total_num_update", "cosine": "max_update", "tri_stage": "max_update"}


@dataclass(frozen=True)
class Distribution:
    """The settings of a training by several workers.

    Args:
        parent: the checkpoint that all workers start from.
        data: binarised folder, whose training set is divided among the workers.
        config: a YAML of fish_mask.
        out: absolute folder.
        local_updates: of each worker in a round.
        masks: `complementary`: the numbers of the mask are divided among the workers; `equal`: all have all of them.
        density: of the whole mask.
        samples: number of sentences that its Fisher information is measured on.
        seed: of the first worker; the next one has the next seed.
        assignments: settings of the YAML that the user changed, each as section.key=value.
        command: for provenance.json.
    """

    parent: Path
    data: Path
    config: Path
    out: Path
    workers: int
    rounds: int
    local_updates: int
    masks: str
    density: float
    samples: int
    seed: int
    assignments: Sequence[str]
    command: str

    def folder(self, number: int) -> Path:
        """The folder of a round; rounds and workers count from 1."""
        return self.out / f"round-{number}"

    def run(self, number: int, worker: int) -> Run:
        """What a worker trains in a round."""
        return Run(self.config.stem, self.seed + worker - 1, self.folder(number) / f"worker-{worker}")

    def model(self, number: int) -> Path:
        """The merged model after a round; after round 0, the parent."""
        return self.folder(number) / "merged.pt" if number else self.parent

    def data_of(self, worker: int) -> Path:
        """The binarised folder of a worker."""
        return self.data if self.workers == 1 else self.out / f"data-{worker}"

    def mask_of(self, worker: int) -> Path:
        """The mask of a worker."""
        return self.out / ("mask.pt" if self.masks == EQUAL else f"mask-{worker}.pt")

    def overrides(self, number: int, worker: int) -> dict[str, Any]:
        """The settings of a worker in a round, in place of the YAML's."""
        schedule = settings_of(self.config).get("lr_scheduler", {}).get("_name")
        length = (
            {_SCHEDULE_LENGTHS[schedule]: self.rounds * self.local_updates} if schedule in _SCHEDULE_LENGTHS else {}
        )
        settings = {
            "optimizer": {"fish_mask": str(self.mask_of(worker)), "fish_density": None},
            "checkpoint": {"finetune_from_model": str(self.parent)},
            "optimization": {"max_update": number * self.local_updates},
            "dataset": {"disable_validation": True},  # of a model that is merged next
            **({"lr_scheduler": length} if length else {}),
        }
        return merge_assignments(settings, self.assignments)


def distribute(job: Distribution, machine: Machine) -> str:
    """Train and merge in rounds; returns the table of bytes. After a kill the same call resumes.

    Raises:
        UserError: the YAML is not one of fish_mask, or the models of parent and workers differ.
    """
    if (method := settings_of(job.config).get("optimizer", {}).get("_name")) != "fish_mask":
        raise UserError(f"{job.config} has optimizer {method}; give --config a YAML of fish_mask, as configs/adapt has")
    refuse_invalid_settings(job.config, overrides=job.overrides(1, 1))
    workers = range(1, job.workers + 1)
    with lock_folder(job.out):
        _write_masks(job, machine)
        for worker in workers if job.workers > 1 else ():
            _write_data(job, worker)
        for number in range(1, job.rounds + 1):
            say(f"round {number} of {job.rounds}: {job.workers} workers, on {machine}")
            machine.map(lambda worker, number=number: _train(job, number, worker, machine), workers)  # type: ignore[misc]
            once(job.folder(number), "merging", {}, lambda number=number: _merge(job, number))  # type: ignore[misc]
    return table(job)


def _write_masks(job: Distribution, machine: Machine) -> None:
    """Measure the Fisher information of the parent, and write the whole mask and, unless all have it, the workers'."""
    fisher, whole = job.out / "fisher.pt", job.out / "mask.pt"

    def work() -> None:
        words = ["fisher", job.parent, "--data", job.data, "--out", fisher, "--samples", job.samples]
        wff([*words, "--device", machine.device], machine.threads)
        whole.unlink(missing_ok=True)
        wff(["fisher", "--from", fisher, "--mask-density", job.density, "--out", whole], machine.threads)
        if job.masks == COMPLEMENTARY:
            information, mask = snapshot.load(fisher, "fisher").tensors, snapshot.load(whole, "mask")
            for worker, part in enumerate(masks.dealt(information, mask.tensors, job.workers), 1):
                snapshot.save(job.mask_of(worker), "mask", part, **mask.about, part=worker, parts=job.workers)

    # DEVIATION: the code of Sung et al. makes the masks again after every tenth merge, and leaves the classifier in the
    # mask of every worker. Here masks are made once, and each number has one worker.
    settings = {
        "parent": content_hash(job.parent), "masks": job.masks, "workers": job.workers, "density": job.density,
        "samples": job.samples,
    }  # fmt: skip
    once(job.out, "masks", settings, work)


def _write_data(job: Distribution, worker: int) -> None:
    """Write a binarised folder with every N-th sentence of the training set; its other files are links.

    Translation has a file a language; labelled sentences have a folder of files for each input and for the labels.
    """

    # DEVIATION: the workers of Sung et al.'s code all shuffle the whole training set; section 1 gives them subsets.
    def work() -> None:
        with atomic_folder(job.data_of(worker)) as part:
            for file in sorted(job.data.rglob("*")):
                out = part / file.relative_to(job.data)
                if file.is_dir():
                    out.mkdir()
                elif not file.name.startswith("train."):
                    out.symlink_to(file)
                elif file.suffix == ".idx":
                    write_part(file.with_suffix(""), worker - 1, job.workers, out.with_suffix(""))
                elif file.suffix == ".label":  # the scores of a regression, one a line
                    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
                    out.write_text("".join(lines[worker - 1 :: job.workers]), encoding="utf-8")

    once(job.out, f"data-{worker}", {"data": content_hash(job.data), "workers": job.workers}, work)


def _train(job: Distribution, number: int, worker: int, machine: Machine) -> None:
    """The updates of a worker in a round, from the merged model that `_merge` left there."""
    provenance = {"data": str(job.data), "changed": list(job.assignments), "command": job.command}
    overrides = job.overrides(number, worker)
    train(job.run(number, worker), job.config, job.data_of(worker), None, machine, provenance, overrides)


def _merge(job: Distribution, number: int) -> None:
    """Pack what each worker changed, merge these files, and write the merged model and each worker's next start."""
    folder, base_path = job.folder(number), job.model(number - 1)
    runs = {worker: job.run(number, worker) for worker in range(1, job.workers + 1)}
    packed = {worker: folder / f"worker-{worker}.wff" for worker in runs}
    received = folder / "merged.wff"
    for file in (*packed.values(), received):
        file.unlink(missing_ok=True)  # of a merge that was killed
    sent = [pack(base_path, runs[worker].checkpoint, file).file_bytes for worker, file in packed.items()]
    base = read_checkpoint(base_path)[1]
    try:
        differences = (patched(base, read_packed(file)["difference"]) for file in packed.values())
        model = merged(base, differences, mean=job.masks == EQUAL)
    except ValueError as error:
        raise UserError(f"{error}; give as the parent a checkpoint that this fairseq saved") from None
    for worker, run in runs.items():
        rest = read_checkpoint(run.checkpoint)[0]
        rest["model"].update(model)
        if number < job.rounds:
            start = job.run(number + 1, worker).checkpoint
            start.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(start) as part:
                save(rest, part)
        if worker == 1:
            rest.pop(OPTIMIZER_STATE, None)
            with atomic_file(job.model(number)) as part:
                save(rest, part)
    report = {"sent": max(sent), "received": pack(base_path, job.model(number), received).file_bytes}
    write_atomically(folder / "bytes.json", json.dumps(report))


def table(job: Distribution) -> str:
    """The bytes of each round as Markdown, beside those of exchanging gradients in every update, and the model."""
    mask = snapshot.load(job.out / "mask.pt", "mask").tensors
    selected, numbers = sum(int(t.sum()) for t in mask.values()), sum(t.numel() for t in mask.values())
    masked, dense = (4 * count * job.local_updates for count in (selected, numbers))
    lines = [
        "| round | a worker sends | and receives | synchronous, masked gradients | synchronous, whole gradients |",
        "|---|---|---|---|---|",
    ]
    total = [0, 0]
    for number in range(1, job.rounds + 1):
        path = job.folder(number) / "bytes.json"
        row = read_json(path, {"sent": int, "received": int}, f"to merge again, type: rm {path.parent}/.merging.json")
        total = [total[0] + row["sent"], total[1] + row["received"]]
        lines.append(f"| {number} | {row['sent']:,} | {row['received']:,} | {masked:,} | {dense:,} |")
    lines += [
        f"| all | {total[0]:,} | {total[1]:,} | {job.rounds * masked:,} | {job.rounds * dense:,} |",
        "",
        f"Bytes. Workers: {job.workers}, with {job.local_updates} updates each in a round; {job.masks} masks, "
        f"{selected:,} of {numbers:,} numbers. Synchronous: 4 bytes a number in every update, as sent by a worker.",
        "",
        f"merged: {job.model(job.rounds)}",
    ]
    return "\n".join(lines)
