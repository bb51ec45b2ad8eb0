"""What is installed here, which combinations cannot work, what to type, and what is repaired in fairseq.

In two halves: `gather` looks at the machine and returns `Facts`; every check is a pure function from `Facts` to one
`Check`, so that a test can ask about any combination without having it. torch and fairseq are really imported, each
in a process of its own, because a broken compiled extension ends its process instead of raising.
Left out on purpose: nothing is installed or mended from here, and no verdict on speed.
"""

from __future__ import annotations  # an older Python must get as far as saying that it is too old

import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

OK, WARN, FAIL = "ok", "warn", "FAIL"
PACKAGE = Path(__file__).resolve().parents[1]
PIP = f"{shlex.quote(sys.executable)} -m pip"
# An installed copy of the package has no scripts beside it.
SETUP = (
    "bash scripts/setup.sh"
    if (PACKAGE.parent / "scripts" / "setup.sh").is_file()
    else f"{PIP} install weighted-freezing-fairseq"
)

DISTRIBUTIONS = (
    "torch",
    "triton",
    "fairseq",
    "fairseq-fixed",
    "numpy",
    "omegaconf",
    "hydra-core",
    "sacrebleu",
    "sentencepiece",
    "tensorboard",
    "matplotlib",
)

TORCH_PROBE = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({
    "version": torch.__version__,
    "built_for": torch.version.cuda or torch.version.hip,
    "architectures": torch.cuda.get_arch_list() if cuda else [],
    "gpus": [[torch.cuda.get_device_name(i), *torch.cuda.get_device_capability(i)]
             for i in range(torch.cuda.device_count())] if cuda else [],
}))
"""
# The dataclasses are what newer Pythons break; the compiled batching is what another numpy breaks.
FAIRSEQ_PROBE = """
import json, fairseq, fairseq.dataclass.configs, fairseq.tasks.translation
from fairseq.data import data_utils_fast, token_block_utils_fast
print(json.dumps({"version": fairseq.__version__}))
"""

# An invalid WFF_MENDS is one line, without the name of its exception.
MENDS_PROBE = """
import json, sys
import weighted_freezing_fairseq
from weighted_freezing_fairseq.errors import UserError
try:
    weighted_freezing_fairseq.register()
except UserError as error:
    sys.exit(str(error))
from weighted_freezing_fairseq.plugin import mends
print(json.dumps({"mends": mends.report()}))
"""

KERNELS_PROBE = """
import json, torch
from weighted_freezing_fairseq.core import kernels_triton
print(json.dumps({"wrong": kernels_triton.trial(torch.device("cuda"))}))
"""


@dataclass(frozen=True)
class Check:
    """One line of the report; `cure` is what to type, empty where all is well."""

    name: str
    status: str
    found: str
    cure: str = ""


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch sees, with its compute capability."""

    name: str
    capability: tuple[int, int]


@dataclass(frozen=True)
class Mend:
    """One repair of fairseq; its state is "applied", "left out" (by WFF_MENDS) or "not needed" (by these versions)."""

    name: str
    state: str
    reason: str
    needed_by: str
    protects: bool


@dataclass(frozen=True)
class Facts:
    """Everything the checks look at; `errors` holds the last line of an import that failed, by module."""

    python: tuple[int, int, int]
    versions: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    built_for: str | None = None
    architectures: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    gpu_kernels: str = ""  # what is wrong with them
    nvidia_driver: bool = False
    compiler: str | None = None
    mends: tuple[Mend, ...] = ()


def release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "2.13.0+cpu" -> (2, 13, 0)."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def install(facts: Facts, requirement: str) -> str:
    """The command for one requirement: here, or the whole set-up where not even torch is there."""
    return f'{PIP} install "{requirement}"' if "torch" in facts.versions else SETUP


def reinstall(*distributions: str) -> str:
    """The command that takes these out and lets the set-up install the right one afresh."""
    return f"{PIP} uninstall -y {' '.join(distributions)} && {SETUP}"


# ---------------------------------------------------------------- the checks: pure, Facts -> Check


def check_python(facts: Facts) -> Check:
    """3.10 to 3.12, the versions for which there is a fairseq."""
    found = ".".join(map(str, facts.python))
    if facts.python < (3, 10):
        return Check("python", FAIL, f"{found}: older than 3.10", f"{SETUP} --python /path/to/python3.11")
    if facts.python >= (3, 13):
        return Check("python", FAIL, f"{found}: no fairseq for 3.13 or later", f"{SETUP} --python /path/to/python3.11")
    return Check("python", OK, found)


def check_torch(facts: Facts) -> Check:
    """2.4 or later, and it imports."""
    version = facts.versions.get("torch")
    if version is None:
        return Check("torch", FAIL, "not installed", SETUP)
    if "torch" in facts.errors:
        return Check("torch", FAIL, f"{version} does not import: {facts.errors['torch']}", reinstall("torch"))
    if release(version) < (2, 4):
        return Check("torch", FAIL, f"{version}: older than 2.4", install(facts, "torch>=2.4"))
    return Check("torch", OK, version)


def check_gpu(facts: Facts) -> Check:
    """Whether torch and the GPU fit; the CPU is always good enough for the tests and the quickstart."""
    if "torch" not in facts.versions or "torch" in facts.errors:
        return Check("gpu", WARN, "unknown: torch does not import", "mend torch first")
    if facts.built_for is None:
        if facts.nvidia_driver:
            cure = "install a torch for CUDA, or train with fairseq's --cpu"
            return Check("gpu", WARN, "an NVIDIA driver, but this torch is built for CPU only", cure)
        return Check("gpu", OK, "none; torch is built for CPU (give fairseq --cpu)")
    if not facts.gpus:
        cure = "nvidia-smi (does it list a GPU?), echo $CUDA_VISIBLE_DEVICES; without one give fairseq --cpu"
        return Check("gpu", WARN, f"torch is built for {facts.built_for}, but sees no GPU", cure)
    unfit = [gpu.name for gpu in facts.gpus if not _runs_on(gpu, facts.architectures)]
    if unfit:
        cure = f"install a torch built for it (this one: {' '.join(facts.architectures)}), or give fairseq --cpu"
        return Check("gpu", WARN, f"{unfit[0]} is not among the GPUs this torch is built for", cure)
    return Check("gpu", OK, f"{', '.join(gpu.name for gpu in facts.gpus)} (torch built for {facts.built_for})")


def check_fairseq(facts: Facts) -> Check:
    """One of the two releases, the one that fits this Python, and it imports."""
    original, fixed = facts.versions.get("fairseq"), facts.versions.get("fairseq-fixed")
    reset = reinstall("fairseq", "fairseq-fixed")
    if original and fixed:
        return Check("fairseq", FAIL, f"both fairseq {original} and fairseq-fixed {fixed}: the same files", reset)
    if not original and not fixed:
        return Check("fairseq", FAIL, "not installed", SETUP)
    found = f"fairseq-fixed {fixed}" if fixed else f"fairseq {original}"
    if original and release(original) == (0, 12, 2) and facts.python >= (3, 11):
        return Check("fairseq", FAIL, f"{found} does not import on Python 3.11 or later (its dataclasses)", reset)
    if original and release(original) < (0, 12, 2):
        return Check("fairseq", FAIL, f"{found}: older than 0.12.2", reset)
    if "fairseq" in facts.errors:
        cure = "mend torch first" if "torch" in facts.errors else reset
        return Check("fairseq", FAIL, f"{found} does not import: {facts.errors['fairseq']}", cure)
    if release(original or fixed or "") not in ((0, 12, 2), (0, 12, 3, 1)):
        return Check("fairseq", WARN, f"{found}: imports, but was never tried here", reset)
    return Check("fairseq", OK, found)


def check_mends(facts: Facts) -> Check:
    """Whether the plugin registers, and whether WFF_MENDS leaves out a mend that is needed."""
    if "fairseq" in facts.errors or not {"fairseq", "fairseq-fixed"} & facts.versions.keys():
        return Check("mends", WARN, "unknown: fairseq does not import", "mend fairseq first")
    if error := facts.errors.get("plugin"):
        cure = "unset WFF_MENDS" if "WFF_MENDS" in error else SETUP
        return Check("mends", FAIL, f"the plugin does not register: {error}", cure)
    count = sum(mend.state == "applied" for mend in facts.mends)
    left_out = [mend for mend in facts.mends if mend.state == "left out"]
    if not left_out:
        return Check("mends", OK, f"{count} applied while the plugin is registered")
    found = f"{count} applied; WFF_MENDS leaves out {', '.join(mend.name for mend in left_out)}"
    if unprotected := [mend.name for mend in left_out if mend.protects]:
        found += f"; nothing protects against unsafe checkpoints without {', '.join(unprotected)}"
    return Check("mends", WARN, found, "unset WFF_MENDS")


def check_configuration(facts: Facts) -> Check:
    """omegaconf and hydra: each fairseq takes one series of them only."""
    omegaconf, hydra = facts.versions.get("omegaconf"), facts.versions.get("hydra-core")
    found = f"omegaconf {omegaconf or 'missing'}, hydra-core {hydra or 'missing'}"
    if "fairseq-fixed" in facts.versions:
        owner, wanted, cure = "fairseq-fixed", ((2, 3), (1, 3)), '"omegaconf==2.3.*" "hydra-core==1.3.*"'
    elif "fairseq" in facts.versions:
        # From 24.1 on, pip refuses the metadata of omegaconf 2.0.
        owner, wanted, cure = "fairseq 0.12.2", ((2, 0), (1, 0)), '"omegaconf==2.0.*" "hydra-core==1.0.*"'
    else:
        return Check("omegaconf", WARN, f"{found}; which ones are right depends on fairseq", "mend fairseq first")
    if (release(omegaconf or "")[:2], release(hydra or "")[:2]) == wanted:
        return Check("omegaconf", OK, found)
    older_pip = f'{PIP} install "pip<24.1" && ' if owner != "fairseq-fixed" else ""
    return Check("omegaconf", FAIL, f"{found}: {owner} does not work with them", f"{older_pip}{PIP} install {cure}")


def check_numpy(facts: Facts) -> Check:
    """Any numpy that the installed fairseq loads with.

    Not a mistake: numpy 2 with fairseq 0.12.2. Of the names that numpy has dropped it only uses `np.int`, in the span
    masks of pre-training tasks, and `np.float`, in a CRF layer; translation trains and generates. Compiled batching
    that was built for another numpy does show, as a fairseq that fails to import.
    """
    version = facts.versions.get("numpy")
    if version is None:
        return Check("numpy", FAIL, "not installed", SETUP)
    if release(version) < (1, 21, 3):
        return Check("numpy", FAIL, f"{version}: older than 1.21.3", install(facts, "numpy>=1.21.3"))
    return Check("numpy", OK, version)


def check_sacrebleu(facts: Facts) -> Check:
    """Needed by every evaluation."""
    version = facts.versions.get("sacrebleu")
    if version is None or release(version) < (2, 4):
        found = f"{version}: older than 2.4" if version else "not installed"
        return Check("sacrebleu", FAIL, found, install(facts, "sacrebleu>=2.4"))
    return Check("sacrebleu", OK, version)


def optional(name: str, purpose: str) -> Callable[[Facts], Check]:
    """A check of a package that only some commands need."""

    def check(facts: Facts) -> Check:
        version = facts.versions.get(name)
        if version is None:
            return Check(name, WARN, f"not installed: {purpose}", install(facts, name))
        return Check(name, OK, version)

    return check


def check_compiler(facts: Facts) -> Check:
    """A C compiler, for the small kernel that is compiled at run time; plain Python does the same, slower."""
    if facts.compiler is None:
        cure = "install gcc (Debian, Ubuntu: build-essential), or let CC name a compiler"
        return Check("compiler", WARN, "no C compiler runs: the slower Python code is used", cure)
    return Check("compiler", OK, facts.compiler)


def check_kernels(facts: Facts) -> Check:
    """Triton's kernels, tried where there is a GPU; plain torch does the same in hundreds of launches."""
    if not facts.gpus:
        return Check("triton", OK, "not needed without a GPU")
    if facts.gpu_kernels:
        cure = "install gcc and the triton that this torch asks for (pip check); training works without, slower"
        return Check("triton", WARN, f"plain torch is used on the GPU: {facts.gpu_kernels}", cure)
    return Check("triton", OK, f"triton {facts.versions.get('triton', 'of unknown version')}: optimizers' kernels work")


CHECKS: tuple[Callable[[Facts], Check], ...] = (
    check_python,
    check_torch,
    check_gpu,
    check_fairseq,
    check_configuration,
    check_mends,
    check_numpy,
    check_sacrebleu,
    optional("sentencepiece", "needed to prepare data"),
    check_compiler,
    check_kernels,
    optional("tensorboard", "needed for --tensorboard-logdir"),
    optional("matplotlib", "needed for pictures; tables are written without it"),
)


def _runs_on(gpu: Gpu, architectures: tuple[str, ...]) -> bool:
    """Whether one of torch's builds ("sm_80", "compute_90", "sm_90a") runs on this GPU.

    Machine code runs on a GPU of the same major and at least the same minor number; PTX on any later one. AMD's
    names ("gfx90a") say nothing that could be compared.
    """
    for architecture in architectures:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", architecture)
        if found is None:
            return True
        major, minor = int(found[2]), int(found[3])
        same_family = gpu.capability[0] == major and gpu.capability[1] >= minor
        if same_family or (found[1] == "compute" and gpu.capability >= (major, minor)):
            return True
    return not architectures


# ---------------------------------------------------------------- looking at this machine


def probe(source: str, timeout: float = 180.0) -> tuple[dict[str, Any], str]:
    """Run a probe in a fresh interpreter; what it printed as JSON, or the last line of its error."""
    try:
        done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {}, f"the import did not end within {timeout:.0f} s"
    if done.returncode < 0:
        return {}, f"the import died of signal {-done.returncode}"
    if done.returncode > 0:
        return {}, (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return json.loads(done.stdout.splitlines()[-1]), ""


def installed_versions() -> dict[str, str]:
    """The versions of what is installed, without importing any of it."""
    versions = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def find_compiler() -> str | None:
    """The first line a C compiler says of itself; a compiler that exists but does not run is none."""
    for name in filter(None, (os.environ.get("CC"), "cc", "gcc", "clang")):
        try:
            done = subprocess.run([*name.split(), "--version"], capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return (done.stdout.splitlines() or [name])[0]
    return None


def gather() -> Facts:
    """Look at this machine; about ten seconds, nearly all of them the imports of torch and fairseq."""
    versions = installed_versions()
    errors: dict[str, str] = {}
    answers: dict[str, dict[str, Any]] = {"torch": {}, "fairseq": {}, "plugin": {}}
    sources = {"torch": TORCH_PROBE, "fairseq": FAIRSEQ_PROBE, "plugin": MENDS_PROBE}
    present = [n for n in ("torch", "fairseq") if {n, f"{n}-fixed"} & versions.keys() or find_spec(n)]
    asked = [*present, *(["plugin"] if "fairseq" in present else [])]
    with ThreadPoolExecutor() as pool:
        for name, (answer, error) in zip(asked, pool.map(probe, [sources[name] for name in asked])):  # noqa: B905 (3.9)
            answers[name] = answer
            if error:
                errors[name] = error
    for name in present:
        # On the path but not installed by pip: a checkout that somebody put on PYTHONPATH.
        if name not in versions and f"{name}-fixed" not in versions:
            versions[name] = str(answers[name].get("version", "of unknown version"))
    gpus = [Gpu(str(name), (int(major), int(minor))) for name, major, minor in answers["torch"].get("gpus", [])]
    tried: tuple[dict[str, Any], str] = probe(KERNELS_PROBE) if gpus else ({}, "")
    return Facts(
        python=sys.version_info[:3],
        versions=versions,
        errors=errors,
        built_for=answers["torch"].get("built_for"),
        architectures=tuple(answers["torch"].get("architectures", ())),
        gpus=tuple(gpus),
        gpu_kernels=tried[1] or tried[0].get("wrong", ""),
        nvidia_driver=shutil.which("nvidia-smi") is not None,
        compiler=find_compiler(),
        mends=tuple(Mend(**mend) for mend in answers["plugin"].get("mends", [])),
    )


# ---------------------------------------------------------------- the command


def examine(facts: Facts) -> list[Check]:
    """Every check's verdict."""
    return [check(facts) for check in CHECKS]


def as_lines(checks: Sequence[Check], mends: Sequence[Mend]) -> list[str]:
    """The report for readers: every check, what to type, every mend, and the sum."""
    lines = []
    for check in checks:
        lines.append(f"{check.status:<5} {check.name:<14} {check.found}")
        if check.status != OK:
            lines.append(f"{'':<20} -> {check.cure}")
    if mends:
        lines.append("mends of fairseq, and what happens without them (WFF_MENDS selects, see wff doctor --help):")
    for mend in mends:
        protects = " (protects)" if mend.protects else ""
        needed_by = f" (only {mend.needed_by} needs it)" if mend.state == "not needed" else ""
        lines.append(f"{mend.state:<10} {mend.name:<28} {mend.reason}{protects}{needed_by}")
    failed, warned = (sum(check.status == status for check in checks) for status in (FAIL, WARN))
    return [*lines, f"{len(checks) - failed - warned} ok, {warned} to know about, {failed} to mend"]
