"""What scripts/setup.sh installs with, and its wheel of fairseq: on a small archive that is built as fairseq is."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENT = "smallseq==1.0"
PYPROJECT = '[build-system]\nrequires = ["setuptools", "torch"]\nbuild-backend = "setuptools.build_meta"\n'
SETUP = """
from setuptools import Extension, setup
from torch.utils import cpp_extension

extensions = [Extension("plain", ["plain.c"]), cpp_extension.CppExtension("for_torch", ["for_torch.cpp"])]
cmdclass = {"build_ext": cpp_extension.BuildExtension}
setup(name="smallseq", version="1.0", ext_modules=extensions, cmdclass=cmdclass)
"""
MODULE = """
#include <Python.h>
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "NAME", NULL, -1, NULL};
PyMODINIT_FUNC PyInit_NAME(void) { return PyModule_Create(&definition); }
"""


@pytest.fixture
def wheel_of(tmp_path):
    """Starts scripts/fairseq_wheel.py with an empty cache, and a small archive as all that pip can download."""
    files = {
        "pyproject.toml": PYPROJECT,
        "setup.py": SETUP,
        "PKG-INFO": "Metadata-Version: 2.1\nName: smallseq\nVersion: 1.0\n",
        "plain.c": MODULE.replace("NAME", "plain"),
        "for_torch.cpp": MODULE.replace("NAME", "for_torch"),
    }
    source = tmp_path / "smallseq-1.0"
    source.mkdir()
    for name, text in files.items():
        (source / name).write_text(text)
    (tmp_path / "index").mkdir()
    with tarfile.open(tmp_path / "index" / "smallseq-1.0.tar.gz", "w:gz") as archive:
        archive.add(source, source.name)

    def start(*words: str, **changes: str) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}
        environment |= {"PIP_FIND_LINKS": str(tmp_path / "index"), **changes}
        command = [sys.executable, ROOT / "scripts/fairseq_wheel.py", *(words or [REQUIREMENT])]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True)

    return start


def path_from(process: subprocess.Popen[str]) -> Path:
    """The wheel whose path a process printed last, as setup.sh reads it."""
    stdout, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    return Path(stdout.splitlines()[-1])


def extensions(wheel: Path) -> set[str]:
    return {name.split(".")[0] for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")}


NOWHERE = {"PIP_FIND_LINKS": "/nonexistent"}  # nothing can be downloaded


@pytest.mark.slow
def test_extensions_against_torch_are_left_out_and_the_wheel_is_built_once(wheel_of, tmp_path):
    wheel = path_from(wheel_of())
    assert extensions(wheel) == {"plain"}
    assert wheel.is_relative_to(tmp_path / "cache/weighted_freezing_fairseq/fairseq")
    assert path_from(wheel_of(**NOWHERE)) == wheel
    assert {path.name for path in wheel.parent.iterdir()} == {wheel.name, "lock"}


@pytest.mark.slow
def test_full_has_all_extensions_and_a_wheel_of_its_own(wheel_of):
    plain, full = path_from(wheel_of()), path_from(wheel_of(REQUIREMENT, "--full"))
    assert extensions(full) == {"plain", "for_torch"}
    assert path_from(wheel_of(**NOWHERE)) == plain and path_from(wheel_of(REQUIREMENT, "--full", **NOWHERE)) == full


@pytest.mark.slow
def test_a_broken_wheel_and_a_half_made_one_are_not_used(wheel_of):
    wheel = path_from(wheel_of())
    content, middle = wheel.read_bytes(), wheel.stat().st_size // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    left = wheel.parent / "building-x"
    for broken in (content[:middle], flipped):
        left.mkdir()
        (left / wheel.name).write_bytes(broken)
        wheel.write_bytes(broken)
        assert path_from(wheel_of()) == wheel
        assert extensions(wheel) == {"plain"} and zipfile.ZipFile(wheel).testzip() is None
        assert not left.exists()


@pytest.mark.slow
def test_of_two_at_once_one_builds(wheel_of):
    processes = [wheel_of(), wheel_of()]
    output = [process.communicate(timeout=600) for process in processes]
    assert output[0][0] == output[1][0] and Path(output[0][0].strip()).is_file()
    assert sorted(stderr.count("Successfully built") for _, stderr in output) == [0, 1]


@pytest.mark.slow
def test_without_a_writable_cache_the_wheel_stays_in_the_environment(wheel_of, tmp_path):
    (tmp_path / "cache").write_text("a file")
    process = wheel_of()
    stdout, stderr = process.communicate(timeout=600)
    assert process.returncode == 0 and "not kept for other environments" in stderr
    assert Path(stdout.strip()).is_relative_to(tmp_path / "fairseq-wheel")


def test_a_failed_build_leaves_nothing_and_pip_says_why(wheel_of, tmp_path):
    process = wheel_of(**NOWHERE)
    stdout, stderr = process.communicate(timeout=600)
    assert process.returncode == 1 and not stdout
    assert "No matching distribution" in stderr and "Traceback" not in stderr
    assert [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()] == ["lock"]


@pytest.mark.parametrize(("record", "words", "fact"), [
    ("", [], "have"), ("", ["--full"], "miss"), ("libnat.x.so,,\n", ["--full"], "have"),
])  # fmt: skip
def test_only_full_misses_the_extensions_against_torch(record, words, fact, tmp_path):
    name, version = ("fairseq-fixed", "0.12.3.1") if sys.version_info >= (3, 11) else ("fairseq", "0.12.2")
    info = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text(f"{record}{info.name}/INSTALLER,,\n")
    (tmp_path / "libnat.x.so").touch()  # Python 3.12 leaves out files that are not there
    command = [sys.executable, ROOT / "scripts/installed.py", ROOT, "none", *words]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60)
    assert f"{fact} {name}=={version}" in done.stdout.splitlines()


@pytest.mark.parametrize(("settings", "program"), [
    ({}, "uv"), ({"PIP_INDEX_URL": "file:///mirror"}, "pip"), ({"PIP_FIND_LINKS": "/wheels"}, "pip"),
])  # fmt: skip
def test_uv_installs_only_where_pip_has_no_settings_of_its_own(settings, program, tmp_path):
    text = (ROOT / "scripts/setup.sh").read_text()
    function = re.search(r"^choose_installer\(\) \{.*?^\}", text, re.DOTALL | re.MULTILINE)[0]
    (tmp_path / "uv").write_text("#!/bin/sh\n")
    (tmp_path / "uv").chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment |= {"PIP_CONFIG_FILE": os.devnull, "PATH": f"{tmp_path}:{os.environ['PATH']}", **settings}
    script = f'set -euo pipefail\nPY=$1\n{function}\nchoose_installer\necho "${{INSTALL[@]}}"'
    command = ["bash", "-c", script, "-", sys.executable]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60)
    commands = {"uv": "uv pip install --python", "pip": f"{sys.executable} -m pip install"}
    assert done.stdout.startswith(commands[program])
