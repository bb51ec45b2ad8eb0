"""`wff doctor`: verdicts on combinations that this machine does not have, then the command itself."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from weighted_freezing_fairseq.cli.doctor import MENDS_HELP
from weighted_freezing_fairseq.workspace import doctor
from weighted_freezing_fairseq.workspace.configs import CONFIGS, unreadable
from weighted_freezing_fairseq.workspace.doctor import FAIL, OK, WARN, Facts, Gpu

ROOT = Path(__file__).resolve().parents[2]

COMMON = {
    "torch": "2.13.0+cpu",
    "numpy": "2.4.6",
    "sacrebleu": "2.6.0",
    "sentencepiece": "0.2.3",
    "tensorboard": "2.21.0",
    "matplotlib": "3.11.2",
}
FIXED = {"fairseq-fixed": "0.12.3.1", "omegaconf": "2.3.0", "hydra-core": "1.3.2"}
ORIGINAL = {"fairseq": "0.12.2", "omegaconf": "2.0.6", "hydra-core": "1.0.7"}
WELL = {"compiler": "cc 12.2.0", "configs": "/configs", "config_files": 77}
NEW = Facts((3, 11, 7), {**COMMON, **FIXED}, **WELL)
OLD = Facts((3, 10, 13), {**COMMON, **ORIGINAL, "torch": "2.4.1"}, **WELL)
CUDA = replace(NEW, built_for="13.0", architectures=("sm_75", "sm_80", "sm_90", "compute_90"))


def having(facts: Facts, **versions: str | None) -> Facts:
    """The same machine with other versions; None takes a package away. `_` stands for `-` in names."""
    named = {name.replace("_", "-"): version for name, version in versions.items()}
    merged = {**facts.versions, **named}
    return replace(facts, versions={name: version for name, version in merged.items() if version is not None})


def verdict(facts: Facts, name: str) -> doctor.Check:
    return next(check for check in doctor.examine(facts) if check.name == name)


@pytest.mark.parametrize("facts", [NEW, OLD, having(OLD, numpy="1.26.4")], ids=["fixed", "original", "numpy-1"])
def test_the_two_combinations_that_setup_makes_are_well(facts):
    assert {check.status for check in doctor.examine(facts)} == {OK}


def gpu(major: int, minor: int) -> tuple[Gpu, ...]:
    return (Gpu("some GPU", (major, minor)),)


def mend(name: str, state: str = "applied", protects: bool = False) -> doctor.Mend:
    return doctor.Mend(name, state, "a reason", "some versions", protects)


CASES = {
    # name: facts, line of the report, its status, words of what was found, words of the cure
    "python 3.9": (replace(NEW, python=(3, 9, 18)), "python", FAIL, "older than 3.10", "--python"),
    "python 3.13": (replace(NEW, python=(3, 13, 0)), "python", FAIL, "no fairseq for 3.13", "--python"),
    "no torch": (having(NEW, torch=None), "torch", FAIL, "not installed", "scripts/setup.sh"),
    "torch 2.3": (having(NEW, torch="2.3.1+cu121"), "torch", FAIL, "older than 2.4", "torch>=2.4"),
    "torch crashes": (
        replace(NEW, errors={"torch": "the import was killed by signal 11"}),
        "torch",
        FAIL,
        "signal 11",
        "uninstall -y torch",
    ),
    "no fairseq": (having(NEW, fairseq_fixed=None), "fairseq", FAIL, "not installed", "scripts/setup.sh"),
    "both fairseqs": (having(NEW, fairseq="0.12.2"), "fairseq", FAIL, "the same files", "fairseq fairseq-fixed &&"),
    "0.12.2 on 3.11": (replace(OLD, python=(3, 11, 7)), "fairseq", FAIL, "dataclasses", "scripts/setup.sh"),
    "0.12.2 on 3.12": (replace(OLD, python=(3, 12, 1)), "fairseq", FAIL, "dataclasses", "scripts/setup.sh"),
    "extensions left out": (
        replace(NEW, left_out=("libbase", "libnat")),
        "fairseq",
        OK,
        "without libbase, libnat (no command needs them; bash scripts/setup.sh --full adds them)",
        "",
    ),
    "extensions not in 0.12.2": (replace(OLD, left_out=("libnat",)), "fairseq", OK, "lacks their sources", ""),
    "fairseq 0.10": (having(OLD, fairseq="0.10.2"), "fairseq", FAIL, "older than 0.12.2", "uninstall"),
    "unknown fairseq": (having(OLD, fairseq="1.0.0a0"), "fairseq", WARN, "not tested", "uninstall"),
    "fairseq broken": (
        replace(NEW, errors={"fairseq": "ValueError: numpy.dtype size changed"}),
        "fairseq",
        FAIL,
        "numpy.dtype size changed",
        "uninstall",
    ),
    "fairseq broken through torch": (
        replace(NEW, errors={"torch": "OSError: x", "fairseq": "OSError: x"}),
        "fairseq",
        FAIL,
        "OSError: x",
        "fix torch first",
    ),
    "omegaconf 2.3 with 0.12.2": (
        having(OLD, omegaconf="2.3.0", hydra_core="1.3.2"),
        "omegaconf",
        FAIL,
        "fairseq 0.12.2 does not work",
        '"pip<24.1" && ',
    ),
    "omegaconf 2.0 with fixed": (having(NEW, omegaconf="2.0.6"), "omegaconf", FAIL, "2.0.6", "omegaconf==2.3.*"),
    "hydra 1.0 with fixed": (having(NEW, hydra_core="1.0.7"), "omegaconf", FAIL, "1.0.7", "hydra-core==1.3.*"),
    "no omegaconf": (having(NEW, omegaconf=None), "omegaconf", FAIL, "missing", "omegaconf==2.3.*"),
    "numpy 2 with 0.12.2": (having(OLD, numpy="2.2.6"), "numpy", OK, "2.2.6", ""),
    "no numpy": (having(NEW, numpy=None), "numpy", FAIL, "not installed", "numpy>=1.21.3"),
    "numpy 1.19": (having(NEW, numpy="1.19.5"), "numpy", FAIL, "older than 1.21.3", "numpy>=1.21.3"),
    "sacrebleu 1": (having(NEW, sacrebleu="1.5.1"), "sacrebleu", FAIL, "older than 2.4", "sacrebleu>=2.4"),
    "no sentencepiece": (having(NEW, sentencepiece=None), "sentencepiece", WARN, "prepare", "sentencepiece"),
    "no tensorboard": (having(NEW, tensorboard=None), "tensorboard", WARN, "tensorboard-logdir", "tensorboard"),
    "no matplotlib": (having(NEW, matplotlib=None), "matplotlib", WARN, "pictures", "matplotlib"),
    "no compiler": (replace(NEW, compiler=None), "compiler", WARN, "slower", "install gcc"),
    "cpu torch beside a driver": (replace(NEW, nvidia_driver=True), "gpu", WARN, "CPU only", "--cpu"),
    "cuda torch, no gpu": (CUDA, "gpu", WARN, "sees no GPU", "nvidia-smi"),
    "gpu too old": (replace(CUDA, gpus=gpu(6, 1)), "gpu", WARN, "not among", "sm_75"),
    "gpu of the list": (replace(CUDA, gpus=gpu(9, 0)), "gpu", OK, "some GPU", ""),
    "gpu of the same family": (replace(CUDA, gpus=gpu(8, 9)), "gpu", OK, "some GPU", ""),
    "gpu newer, through ptx": (replace(CUDA, gpus=gpu(12, 0)), "gpu", OK, "some GPU", ""),
    "gpu newer, no ptx": (
        replace(CUDA, gpus=gpu(12, 0), architectures=("sm_80", "sm_90a")),
        "gpu",
        WARN,
        "not among",
        "sm_90a",
    ),
    "amd gpu": (replace(CUDA, gpus=gpu(9, 4), architectures=("gfx942",)), "gpu", OK, "some GPU", ""),
    "gpu kernels": (replace(having(CUDA, triton="3.7.1"), gpus=gpu(9, 0)), "triton", OK, "triton 3.7.1", ""),
    "gpu kernels fail": (
        replace(CUDA, gpus=gpu(9, 0), gpu_kernels="ImportError: no triton"),
        "triton",
        WARN,
        "fall back to PyTorch on the GPU: ImportError",
        "install gcc",
    ),
    "mends unknown": (replace(NEW, errors={"fairseq": "OSError: x"}), "mends", WARN, "unknown", "fix fairseq first"),
    "mends unknown without fairseq": (having(NEW, fairseq_fixed=None), "mends", WARN, "unknown", "fix fairseq first"),
    "mends not needed": (
        replace(NEW, mends=(mend("a"), mend("b", "not needed", protects=True))),
        "mends",
        OK,
        "1 applied",
        "",
    ),
    "mends left out": (
        replace(NEW, mends=(mend("a"), mend("b", "left out"))),
        "mends",
        WARN,
        "1 applied; WFF_MENDS leaves out b",
        "unset WFF_MENDS",
    ),
    "mends that protect left out": (
        replace(NEW, mends=(mend("a", "left out", protects=True), mend("b", "left out"))),
        "mends",
        WARN,
        "leaves out a, b; nothing protects against unsafe checkpoints without a",
        "unset WFF_MENDS",
    ),
    "mends of an unknown name": (
        replace(NEW, errors={"plugin": "WFF_MENDS=x: unknown mend x; allowed are none, or a"}),
        "mends",
        FAIL,
        "unknown mend x",
        "unset WFF_MENDS",
    ),
    "plugin broken": (
        replace(NEW, errors={"plugin": "ImportError: x"}),
        "mends",
        FAIL,
        "does not register: ImportError: x",
        "scripts/setup.sh",
    ),
    "no C kernels": (
        replace(NEW, c_kernels="no C compiler"),
        "kernels",
        WARN,
        "PyTorch on the CPU: no C",
        "install gcc",
    ),
    "C kernels switched off": (
        replace(NEW, c_kernels="WFF_NATIVE=0"),
        "kernels",
        WARN,
        "WFF_NATIVE",
        "unset WFF_NATIVE",
    ),
    "C kernels unknown": (having(NEW, torch=None), "kernels", WARN, "unknown", "fix torch first"),
    "configs": (NEW, "configs", OK, "77 YAML files in /configs", ""),
    "no configs": (replace(NEW, config_files=0), "configs", FAIL, "no YAML in /configs", "git checkout -- configs"),
    "a broken config": (replace(NEW, config_errors=("a.yaml: x",)), "configs", FAIL, "a.yaml: x", "git checkout"),
    "configs unknown": (having(NEW, omegaconf=None), "configs", WARN, "unknown", "fix omegaconf first"),
    "gpu unknown": (having(NEW, torch=None), "gpu", WARN, "unknown", "fix torch first"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_combination_gets_its_verdict_and_its_cure(case):
    facts, name, status, found, cure = CASES[case]
    check = verdict(facts, name)
    assert check.status == status
    assert found in check.found
    assert cure in check.cure
    assert bool(check.cure) == (status != OK)


def test_without_torch_a_single_missing_package_is_left_to_the_setup():
    assert "pip install" in verdict(having(NEW, matplotlib=None), "matplotlib").cure
    assert verdict(having(NEW, matplotlib=None, torch=None), "matplotlib").cure == doctor.SETUP


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("2.13.0+cpu", (2, 13, 0)), ("2.14.0a0+git1", (2, 14, 0)), ("0.12.3.1", (0, 12, 3, 1)), ("", ())],
)
def test_release_reads_the_leading_numbers(text, numbers):
    assert doctor.release(text) == numbers


@pytest.mark.parametrize(
    ("source", "answer", "words"),
    [
        ("print('noise'); print('{\"version\": \"1\"}')", {"version": "1"}, ""),
        ("raise ImportError('no such thing')", {}, "ImportError: no such thing"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", {}, "killed by signal 11"),
        ("import sys; sys.exit(3)", {}, "exit status 3"),
        ("import time; time.sleep(60)", {}, "took longer than"),
    ],
)
def test_a_probe_survives_what_an_import_can_do(source, answer, words):
    got, error = doctor.probe(source, timeout=5 if "sleep" not in source else 0.5)
    assert got == answer
    assert words in error if words else not error


@pytest.mark.slow
def test_what_does_not_import_is_named_though_all_is_probed_together(monkeypatch):
    monkeypatch.setattr(doctor, "MENDS_PROBE", "import no_such_module")
    monkeypatch.setattr(doctor, "FAIRSEQ_PROBE", "import json; print(json.dumps({'version': '1'}))")
    facts = doctor.gather()
    assert facts.errors == {"plugin": "ModuleNotFoundError: No module named 'no_such_module'"}
    assert facts.config_files and facts.built_for == doctor.probe(doctor.TORCH_PROBE)[0]["built_for"]


def test_a_config_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "list.yaml").write_text("- a\n")
    assert unreadable(CONFIGS.rglob("standard.yaml")) == []
    [problem] = unreadable([tmp_path / "list.yaml"])
    assert problem.startswith(f"{tmp_path}/list.yaml does not hold a mapping")


@pytest.mark.slow
def test_the_probe_of_gpu_kernels_says_what_is_wrong_here():
    answer, error = doctor.probe(doctor.KERNELS_PROBE)
    # a machine without Triton, without a GPU, or with both
    assert error.startswith("ModuleNotFoundError") or answer["wrong"] or answer == {"wrong": ""}


def test_a_compiler_that_does_not_run_is_none(monkeypatch, tmp_path):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert doctor.find_compiler() is None


def wff(*words: str, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *flags, "-m", "weighted_freezing_fairseq", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_here_nothing_is_to_mend():
    done = wff("doctor", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    assert report["well"]
    assert [check["name"] for check in report["checks"]] == [check.name for check in doctor.examine(NEW)]
    assert {mend["state"] for mend in report["mends"]} == {"applied", "not needed"}
    protecting = {mend["name"] for mend in report["mends"] if mend["protects"]}
    assert protecting and all(name in MENDS_HELP for name in protecting)


def test_mends_are_listed_with_their_states_and_reasons():
    mends = [mend("a"), mend("b", "left out", protects=True), mend("c", "not needed")]
    lines = [" ".join(line.split()) for line in doctor.as_lines(doctor.examine(NEW), mends)]
    assert lines[-4:-1] == [
        "applied a a reason",
        "left out b a reason (protects)",
        "not needed c a reason (only some versions needs it)",
    ]
    assert "WFF_MENDS selects" in lines[-5] and "WFF_MENDS=none" in wff("doctor", "--help").stdout


@pytest.mark.slow
def test_an_unknown_mend_is_said_in_one_line_that_lists_the_names(monkeypatch):
    monkeypatch.setenv("WFF_MENDS", "nonesuch")
    answer, error = doctor.probe(doctor.MENDS_PROBE)
    assert not answer and error.startswith("WFF_MENDS=nonesuch: unknown mend nonesuch; allowed are none, or a comma-")
    assert "verify_checksums" in error


def test_a_bare_interpreter_gets_fail_lines_and_cures():
    done = wff("doctor", flags=("-S", "-E"))  # -S: without site-packages
    lines = done.stdout.splitlines()
    failed = {line.split()[1]: lines[number + 1] for number, line in enumerate(lines) if line.startswith(FAIL)}
    assert done.returncode == 1
    assert done.stderr == ""
    assert set(failed) == {"torch", "fairseq", "numpy", "sacrebleu"}
    assert all(line.strip() == "-> bash scripts/setup.sh" for line in failed.values())
