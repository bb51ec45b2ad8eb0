"""Checks of this machine: installed versions, combinations that do not work, what to type, and the mends of fairseq.

`gather` inspects the machine and returns `Facts`; each check is a pure function of `Facts`, so that tests can check
any combination of versions. torch and fairseq are imported in processes of their own, because a broken compiled
extension ends its process instead of raising.
"""

from __future__ import annotations  # so that an older Python can report that it is too old

import contextlib
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
# An installed package has no scripts/ beside it.
SETUP = (
    "bash scripts/setup.sh"
    if (PACKAGE.parent / "scripts" / "setup.sh").is_file()
    else f"{PIP} install weighted-freezing-fairseq"
)

DISTRIBUTIONS = """
    torch triton fairseq fairseq-fixed numpy omegaconf hydra-core sacrebleu sentencepiece tensorboard matplotlib
""".split()

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
# fairseq's dataclasses fail on newer Pythons; its compiled batching fails with a numpy that it was not built for.
FAIRSEQ_PROBE = """
import json, fairseq, fairseq.dataclass.configs, fairseq.tasks.translation
from fairseq.data import data_utils_fast, token_block_utils_fast
from importlib.util import find_spec
extensions = ["fairseq.libbase", "fairseq.libnat", "alignment_train_cpu_binding"]
left_out = [name.removeprefix("fairseq.") for name in extensions if find_spec(name) is None]
print(json.dumps({"version": fairseq.__version__, "left_out": left_out}))
"""

# sys.exit prints the error of an invalid WFF_MENDS without the name of the exception.
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

C_KERNELS_PROBE = """
import io, json, logging
from weighted_freezing_fairseq.core import kernels_c
log = io.StringIO()
logging.basicConfig(stream=log, format="%(message)s", force=True)
loaded = kernels_c.load() is not None
print(json.dumps({"wrong": "" if loaded else log.getvalue().strip() or "WFF_NATIVE=0 switches them off"}))
"""

CONFIGS_PROBE = """
import json
from weighted_freezing_fairseq.workspace.configs import CONFIGS, unreadable
files = sorted(CONFIGS.rglob("*.yaml"))
print(json.dumps({"folder": str(CONFIGS), "files": len(files), "wrong": unreadable(files)}))
"""

# Runs all probes in one process, which imports torch and fairseq once.
TOGETHER = """
import contextlib, io, json
answers = {}
for name, source in SOURCES.items():
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(source, {})
    answers[name] = json.loads(output.getvalue().splitlines()[-1])
print(json.dumps(answers))
"""

KERNELS_PROBE = """
import json, torch
from weighted_freezing_fairseq.core import kernels_triton
print(json.dumps({"wrong": kernels_triton.trial(torch.device("cuda"))}))
"""


@dataclass(frozen=True)
class Check:
    """One line of the report: what was found, and the cure (what to type, empty if the status is OK)."""

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
    """A mend of fairseq; its state is "applied", "left out" (by WFF_MENDS) or "not needed" (for these versions)."""

    name: str
    state: str
    reason: str
    needed_by: str
    protects: bool


@dataclass(frozen=True)
class Facts:
    """The input of the checks; `errors` maps a module that does not import to the last line of the error."""

    python: tuple[int, int, int]
    versions: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()  # extensions of fairseq that were not compiled
    built_for: str | None = None
    architectures: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    gpu_kernels: str = ""  # why they do not work
    nvidia_driver: bool = False
    compiler: str | None = None
    c_kernels: str = ""  # why they do not work
    configs: str = ""  # their folder
    config_files: int = 0
    config_errors: tuple[str, ...] = ()
    mends: tuple[Mend, ...] = ()


def release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "2.13.0+cpu" -> (2, 13, 0)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match.group().split("."))) if match else ()


def install(facts: Facts, requirement: str) -> str:
    """The command that installs one requirement, or everything if torch is missing too."""
    return f'{PIP} install "{requirement}"' if "torch" in facts.versions else SETUP


def reinstall(*distributions: str) -> str:
    """The command that uninstalls these distributions and runs the set-up."""
    return f"{PIP} uninstall -y {' '.join(distributions)} && {SETUP}"


# Checks -------------------------------------------------------------------------------------------------------------


def check_python(facts: Facts) -> Check:
    """fairseq exists for Python 3.10 to 3.12."""
    version = ".".join(map(str, facts.python))
    if (3, 10) <= facts.python < (3, 13):
        return Check("python", OK, version)
    problem = "older than 3.10" if facts.python < (3, 10) else "no fairseq for 3.13 or later"
    return Check("python", FAIL, f"{version}: {problem}", f"{SETUP} --python /path/to/python3.11")


def required(name: str, oldest: str) -> Callable[[Facts], Check]:
    """A check that `name` is installed, imports, and is not older than `oldest`."""

    def check(facts: Facts) -> Check:
        version, requirement = facts.versions.get(name), f"{name}>={oldest}"
        if version is None:
            return Check(name, FAIL, "not installed", install(facts, requirement))
        if name in facts.errors:
            return Check(name, FAIL, f"{version} does not import: {facts.errors[name]}", reinstall(name))
        if release(version) < release(oldest):
            return Check(name, FAIL, f"{version}: older than {oldest}", install(facts, requirement))
        return Check(name, OK, version)

    return check


def optional(name: str, purpose: str) -> Callable[[Facts], Check]:
    """A check of a package that only some commands need."""

    def check(facts: Facts) -> Check:
        version = facts.versions.get(name)
        if version is None:
            return Check(name, WARN, f"not installed: {purpose}", install(facts, name))
        return Check(name, OK, version)

    return check


def check_gpu(facts: Facts) -> Check:
    """Whether torch supports the GPUs; without one, the CPU is used."""
    if "torch" not in facts.versions or "torch" in facts.errors:
        return Check("gpu", WARN, "unknown: torch does not import", "fix torch first")
    if facts.built_for is None:
        if facts.nvidia_driver:
            cure = "install a torch for CUDA, or train with fairseq's --cpu"
            return Check("gpu", WARN, "an NVIDIA driver, but this torch is built for CPU only", cure)
        return Check("gpu", OK, "none; torch is built for CPU (give fairseq --cpu)")
    if not facts.gpus:
        cure = "nvidia-smi (does it list a GPU?), echo $CUDA_VISIBLE_DEVICES; without one give fairseq --cpu"
        return Check("gpu", WARN, f"torch is built for {facts.built_for}, but sees no GPU", cure)
    for gpu in facts.gpus:
        if not _runs_on(gpu, facts.architectures):
            cure = f"install a torch built for it (this one: {' '.join(facts.architectures)}), or give fairseq --cpu"
            return Check("gpu", WARN, f"{gpu.name} is not among the GPUs that this torch is built for", cure)
    return Check("gpu", OK, f"{', '.join(gpu.name for gpu in facts.gpus)} (torch built for {facts.built_for})")


def _runs_on(gpu: Gpu, architectures: Sequence[str]) -> bool:
    """Whether one of torch's builds ("sm_80", "compute_90", "sm_90a") runs on this GPU.

    Machine code runs on a GPU of the same major and the same or a larger minor number; PTX ("compute") on any later
    one. Names of AMD ("gfx90a") cannot be compared and count as supported.
    """
    for architecture in architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", architecture)
        if match is None:
            return True
        major, minor = int(match[2]), int(match[3])
        same_family = gpu.capability[0] == major and gpu.capability[1] >= minor
        if same_family or (match[1] == "compute" and gpu.capability >= (major, minor)):
            return True
    return not architectures


def check_fairseq(facts: Facts) -> Check:
    """One of fairseq and fairseq-fixed is installed, fits this Python and imports; extensions may be missing."""
    original, fixed = facts.versions.get("fairseq"), facts.versions.get("fairseq-fixed")
    reset = reinstall("fairseq", "fairseq-fixed")
    if original and fixed:
        return Check("fairseq", FAIL, f"both fairseq {original} and fairseq-fixed {fixed}: the same files", reset)
    if not original and not fixed:
        return Check("fairseq", FAIL, "not installed", SETUP)
    version = f"fairseq-fixed {fixed}" if fixed else f"fairseq {original}"
    if original and release(original) == (0, 12, 2) and facts.python >= (3, 11):
        return Check("fairseq", FAIL, f"{version} does not import on Python 3.11 or later (its dataclasses)", reset)
    if original and release(original) < (0, 12, 2):
        return Check("fairseq", FAIL, f"{version}: older than 0.12.2", reset)
    if "fairseq" in facts.errors:
        cure = "fix torch first" if "torch" in facts.errors else reset
        return Check("fairseq", FAIL, f"{version} does not import: {facts.errors['fairseq']}", cure)
    if release(original or fixed or "") not in ((0, 12, 2), (0, 12, 3, 1)):
        return Check("fairseq", WARN, f"{version}: imports, but was not tested with this package", reset)
    if facts.left_out:
        version += f", without {', '.join(facts.left_out)} (no command needs them"
        version += "; bash scripts/setup.sh --full adds them)" if fixed else "; its archive lacks their sources)"
    return Check("fairseq", OK, version)


def check_mends(facts: Facts) -> Check:
    """The plugin registers, and WFF_MENDS leaves out no mend that is needed."""
    if "fairseq" in facts.errors or not {"fairseq", "fairseq-fixed"} & facts.versions.keys():
        return Check("mends", WARN, "unknown: fairseq does not import", "fix fairseq first")
    if error := facts.errors.get("plugin"):
        cure = "unset WFF_MENDS" if "WFF_MENDS" in error else SETUP
        return Check("mends", FAIL, f"the plugin does not register: {error}", cure)
    count = sum(mend.state == "applied" for mend in facts.mends)
    left_out = [mend for mend in facts.mends if mend.state == "left out"]
    if not left_out:
        return Check("mends", OK, f"{count} applied while the plugin is registered")
    text = f"{count} applied; WFF_MENDS leaves out {', '.join(mend.name for mend in left_out)}"
    if unprotected := [mend.name for mend in left_out if mend.protects]:
        text += f"; nothing protects against unsafe checkpoints without {', '.join(unprotected)}"
    return Check("mends", WARN, text, "unset WFF_MENDS")


def check_configuration(facts: Facts) -> Check:
    """omegaconf and hydra-core are of the series that the installed fairseq works with."""
    omegaconf, hydra = facts.versions.get("omegaconf"), facts.versions.get("hydra-core")
    versions = f"omegaconf {omegaconf or 'missing'}, hydra-core {hydra or 'missing'}"
    if "fairseq-fixed" in facts.versions:
        cure = f'{PIP} install "omegaconf==2.3.*" "hydra-core==1.3.*"'
        fairseq, series = "fairseq-fixed", ((2, 3), (1, 3))
    elif "fairseq" in facts.versions:
        # From 24.1 on, pip refuses the metadata of omegaconf 2.0.
        cure = f'{PIP} install "pip<24.1" && {PIP} install "omegaconf==2.0.*" "hydra-core==1.0.*"'
        fairseq, series = "fairseq 0.12.2", ((2, 0), (1, 0))
    else:
        return Check("omegaconf", WARN, f"{versions}; the right ones depend on fairseq", "fix fairseq first")
    if (release(omegaconf or "")[:2], release(hydra or "")[:2]) == series:
        return Check("omegaconf", OK, versions)
    return Check("omegaconf", FAIL, f"{versions}: {fairseq} does not work with them", cure)


def check_compiler(facts: Facts) -> Check:
    """A C compiler runs; it compiles a small kernel at run time, which falls back to Python."""
    if facts.compiler is None:
        cure = "install gcc (Debian, Ubuntu: build-essential), or type: export CC=COMPILER"
        return Check("compiler", WARN, "no C compiler runs: the slower Python code is used", cure)
    return Check("compiler", OK, facts.compiler)


def check_c_kernels(facts: Facts) -> Check:
    """The C kernels of the optimizers compile and load; PyTorch replaces them, and is slower."""
    if "torch" not in facts.versions or "torch" in facts.errors:
        return Check("kernels", WARN, "unknown: torch does not import", "fix torch first")
    problem = facts.errors.get("c_kernels") or facts.c_kernels
    if problem:
        cure = "unset WFF_NATIVE" if "WFF_NATIVE" in problem else "install gcc, or type: export XDG_CACHE_HOME=FOLDER"
        return Check("kernels", WARN, f"optimizers run in PyTorch on the CPU: {problem}", cure)
    return Check("kernels", OK, "the C kernels are compiled, and load")


def check_configs(facts: Facts) -> Check:
    """The YAML files of the methods are there, and each can be read."""
    if "omegaconf" not in facts.versions:
        return Check("configs", WARN, "unknown: omegaconf is missing", "fix omegaconf first")
    wrong = [facts.errors["configs"]] if "configs" in facts.errors else list(facts.config_errors)
    if not facts.config_files and not wrong:
        wrong = [f"no YAML in {facts.configs}"]
    if wrong:
        checkout = (PACKAGE.parent / "setup.py").is_file()
        cure = "git checkout -- configs" if checkout else f"{reinstall('weighted-freezing-fairseq')}"
        return Check("configs", FAIL, "; ".join(wrong), cure)
    return Check("configs", OK, f"{facts.config_files} YAML files in {facts.configs}")


def check_kernels(facts: Facts) -> Check:
    """The Triton kernels of the optimizers work, if there is a GPU; they fall back to PyTorch, which is slower."""
    if not facts.gpus:
        return Check("triton", OK, "not needed without a GPU")
    if facts.gpu_kernels:
        cure = "install gcc and the triton that this torch requires (pip check); training works without, but slower"
        return Check("triton", WARN, f"optimizers fall back to PyTorch on the GPU: {facts.gpu_kernels}", cure)
    return Check("triton", OK, f"triton {facts.versions.get('triton', 'of unknown version')}: the kernels work")


CHECKS: tuple[Callable[[Facts], Check], ...] = (
    check_python,
    required("torch", "2.4"),
    check_gpu,
    check_fairseq,
    check_configuration,
    check_mends,
    # numpy 2 works with fairseq 0.12.2, which uses `np.int` and `np.float` in pre-training tasks and a CRF layer only.
    # If its compiled batching was built for another numpy, fairseq does not import.
    required("numpy", "1.21.3"),
    required("sacrebleu", "2.4"),
    optional("sentencepiece", "needed to prepare data"),
    check_configs,
    check_compiler,
    check_c_kernels,
    check_kernels,
    optional("tensorboard", "needed for --tensorboard-logdir"),
    optional("matplotlib", "needed for pictures; tables are written without it"),
)


# Facts of this machine ----------------------------------------------------------------------------------------------


def probe(source: str, timeout: float = 180.0) -> tuple[dict[str, Any], str]:
    """Run `source` in a new interpreter; returns the JSON that it prints, or the last line of its error."""
    try:
        process = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {}, f"the import took longer than {timeout:.0f} s"
    if process.returncode < 0:
        return {}, f"the import was killed by signal {-process.returncode}"
    if process.returncode > 0:
        return {}, (process.stderr.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
    return json.loads(process.stdout.splitlines()[-1]), ""


def installed_versions() -> dict[str, str]:
    """The versions of the installed distributions, without importing them."""
    versions = {}
    for name in DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def find_compiler() -> str | None:
    """The version line of the first C compiler that runs."""
    for name in filter(None, (os.environ.get("CC"), "cc", "gcc", "clang")):
        try:
            process = subprocess.run([*name.split(), "--version"], capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if process.returncode == 0:
            return (process.stdout.splitlines() or [name])[0]
    return None


def gather() -> Facts:
    """Inspect this machine; three seconds on a fast one, most of them for the imports of torch and fairseq."""
    versions = installed_versions()
    there = [n for n in ("torch", "fairseq", "omegaconf") if {n, f"{n}-fixed"} & versions.keys() or find_spec(n)]
    probes = {
        "torch": ("torch", TORCH_PROBE),
        "fairseq": ("fairseq", FAIRSEQ_PROBE),
        "plugin": ("fairseq", MENDS_PROBE),
        "c_kernels": ("torch", C_KERNELS_PROBE),
        "configs": ("omegaconf", CONFIGS_PROBE),
    }
    sources = {name: source for name, (module, source) in probes.items() if module in there}
    found, error = probe(f"SOURCES = {sources!r}\n{TOGETHER}")
    errors = {}
    if error:  # each in a process of its own, to know which of them fails
        with ThreadPoolExecutor() as pool:
            probed = dict(zip(sources, pool.map(probe, sources.values())))  # noqa: B905 (Python 3.9)
        found = {name: answer for name, (answer, _) in probed.items()}
        errors = {name: error for name, (_, error) in probed.items() if error}
    answers = {name: found.get(name, {}) for name in probes}
    for name in there:
        # Importable but not installed by pip: a checkout on PYTHONPATH.
        if name != "omegaconf" and not {name, f"{name}-fixed"} & versions.keys():
            versions[name] = str(answers[name].get("version", "of unknown version"))
    gpus = [Gpu(str(name), (int(major), int(minor))) for name, major, minor in answers["torch"].get("gpus", [])]
    kernels, kernels_error = probe(KERNELS_PROBE) if gpus else ({}, "")
    return Facts(
        python=sys.version_info[:3],
        versions=versions,
        errors=errors,
        left_out=tuple(answers["fairseq"].get("left_out", ())),
        built_for=answers["torch"].get("built_for"),
        architectures=tuple(answers["torch"].get("architectures", ())),
        gpus=tuple(gpus),
        gpu_kernels=kernels_error or kernels.get("wrong", ""),
        nvidia_driver=shutil.which("nvidia-smi") is not None,
        compiler=find_compiler(),
        c_kernels=answers["c_kernels"].get("wrong", ""),
        configs=answers["configs"].get("folder", ""),
        config_files=answers["configs"].get("files", 0),
        config_errors=tuple(answers["configs"].get("wrong", ())),
        mends=tuple(Mend(**mend) for mend in answers["plugin"].get("mends", [])),
    )


# Report -------------------------------------------------------------------------------------------------------------


def examine(facts: Facts) -> list[Check]:
    """The result of every check."""
    return [check(facts) for check in CHECKS]


def as_lines(checks: Sequence[Check], mends: Sequence[Mend]) -> list[str]:
    """The report as text: every check with its cure, every mend, and the totals."""
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
    return [*lines, f"{len(checks) - failed - warned} ok, {warned} warnings, {failed} failures"]
