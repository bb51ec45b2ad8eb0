"""What a run folder says of its origin: the right commit or none, and no secret of the environment."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import weighted_freezing_fairseq
from weighted_freezing_fairseq.workspace.configs import CONFIGS
from weighted_freezing_fairseq.workspace.machine import Machine
from weighted_freezing_fairseq.workspace.provenance import commit_of, provenance_writer
from weighted_freezing_fairseq.workspace.runs import Run

PACKAGE = Path(weighted_freezing_fairseq.__file__).parent


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    return subprocess.run(
        ["git", "-C", str(folder), *who, *words], capture_output=True, text=True, check=True
    ).stdout.strip()


def committed(folder: Path, *paths: str) -> str:
    """The commit of a new repository in `folder` that tracks `paths`."""
    git(folder, "init", "--quiet")
    git(folder, "add", *paths)
    git(folder, "commit", "--quiet", "-m", "x")
    return git(folder, "rev-parse", "--short=12", "HEAD")


@pytest.fixture
def installed(tmp_path):
    """A copy of the package as pip leaves it, in an environment inside another repository."""
    (tmp_path / "README").write_text("another project\n")
    package = tmp_path / ".venv/lib/python3/site-packages" / PACKAGE.name
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    return package


def test_an_installed_package_has_no_commit_of_the_repository_around_it(installed, tmp_path):
    committed(tmp_path, "README")
    assert commit_of(installed) is None
    code = "from weighted_freezing_fairseq.workspace import provenance as p; print(p.__file__); print(p.commit_of())"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(installed.parent), "PATH": "/usr/bin:/bin"}, cwd=tmp_path,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [str(installed / "workspace/provenance.py"), "None"]


def test_an_environment_that_is_committed_is_no_checkout_either(installed, tmp_path):
    committed(tmp_path, "README", str(installed / "__init__.py"))
    assert commit_of(installed) is None


def test_a_checkout_has_its_commit_and_a_plus_where_files_differ(installed):
    commit = committed(installed.parent, PACKAGE.name)
    assert commit_of(installed) == commit
    (installed / "__init__.py").write_text("changed = True\n")
    assert commit_of(installed) == f"{commit}+"


SECRETS = (
    "SLURM_JWT", "SLURM_JOB_COMMENT", "CUDA_HUB_TOKEN", "NCCL_SECRET", "OMP_TOKEN", "MKL_LICENSE_KEY",
    "PYTHON_INDEX_URL", "PYTHON_KEYRING_PASSWORD", "TORCH_HUB_TOKEN", "WFF_TOKEN", "WANDB_API_KEY",
)  # fmt: skip


def test_a_run_folder_keeps_what_steers_computing_and_no_secret(tmp_path, monkeypatch):
    for name in SECRETS:
        monkeypatch.setenv(name, "hunter2")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    run = Run("standard", 1, tmp_path / "standard-1")
    about = {"dataset": "multi30k", "data": "data", "command": "wff train multi30k"}
    provenance_writer(run, about, CONFIGS / "multi30k/standard.yaml", Machine("cpu", 1, 1))()
    kept = (run.folder / "environment.txt").read_text().splitlines()
    assert {"SLURM_JOB_ID=17", "CUDA_VISIBLE_DEVICES=3"} <= set(kept)
    assert not [line for line in kept if "hunter2" in line or line.partition("=")[0] in SECRETS]
    assert json.loads((run.folder / "provenance.json").read_text())["config"] == "configs/multi30k/standard.yaml"
