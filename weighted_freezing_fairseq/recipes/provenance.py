"""provenance.json of a run folder: what was trained, from what, by which command, with what, and when.

With it a run can be told from another and made again. Left out on purpose: settings, which are run.yaml's.
"""

import argparse
import datetime
import json
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__
from ..configs import CONFIGS
from ..files import write_atomically
from .machine import Machine, device_name
from .runs import PROVENANCE, Run

EMBEDDED = "embedded"


def note(run: Run, about: Mapping[str, Any], config: Path, machine: Machine) -> None:
    """Where this run comes from, with a line for each time that it was begun or went on.

    about: what only its recipe knows: dataset, recipe, pair, data, changed, command.
    """
    if run.trained:
        return
    path = run.folder / PROVENANCE
    sittings = run.provenance()["sittings"] if path.is_file() else []
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    sittings.append({"begun": now, "machine": str(machine), "host": platform.node(), "device": _device(machine)})
    known = config.is_relative_to(CONFIGS.parent)
    found = {
        **about, "method": run.method, "seed": run.seed,
        "config": str(config.relative_to(CONFIGS.parent) if known else config),
        "commit": _commit(), "versions": _versions(), "sittings": sittings,
    }  # fmt: skip
    write_atomically(path, json.dumps(found, indent=2) + "\n")
    write_atomically(run.folder / "environment.txt", _environment())


def on_embedded(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """`about` for `note`, of a recipe on the embedded corpus; `folder`: its raw text and binarised data."""
    return {
        "dataset": EMBEDDED, "recipe": "generated", "pair": args.pair, "data": str(folder), "changed": [],
        "command": shlex.join(["wff", *args.words]),
    }  # fmt: skip


def _commit() -> str | None:
    """The commit of this checkout, with a + where files differ from it."""
    here = ["git", "-C", str(CONFIGS.parent)]
    try:
        commit = subprocess.run([*here, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(
            [*here, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + "+" * bool(changed.stdout.strip())


def _versions() -> dict[str, str]:
    names = ("torch", "fairseq", "fairseq-fixed", "numpy", "sacrebleu", "sentencepiece")
    found = {"python": platform.python_version(), "weighted_freezing_fairseq": __version__}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _environment() -> str:
    """Every package, and the variables that steer computing, as they were at the last start."""
    packages = sorted({f"{found.metadata['Name']}=={found.version}" for found in metadata.distributions()})
    steering = re.compile(r"CUDA_|NCCL_|OMP_|MKL_|SLURM_|PYTHON|TORCH_|WFF_")
    variables = sorted(f"{name}={value}" for name, value in os.environ.items() if steering.match(name))
    return "\n".join([*packages, "", *variables, ""])


def _device(machine: Machine) -> str:
    """What computes, by its name."""
    name = device_name(machine.device)
    return f"{name}, {machine.threads} threads" if machine.device == "cpu" else f"{machine.gpus} x {name}"
