"""Print what is installed in the environment of the Python that runs this file, and what is missing, one fact per line.

    python scripts/installed.py ROOT EXTRAS [--full]

The facts: "have NAME==VERSION", "miss REQUIREMENT", "torch VERSION", "fairseq REQUIREMENT", "rival NAME", "print
REQUESTED INSTALLED" (hashes), or only "unknown EXTRA". The requirements are read from ROOT/pyproject.toml. With --full,
a fairseq without its extensions against torch's headers counts as missing.
"""

import hashlib
import importlib.metadata
import json
import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

from pip._vendor.packaging.requirements import Requirement

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib

root, extras, full = Path(sys.argv[1]), sys.argv[2], "--full" in sys.argv[3:]
project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
init = (root / "weighted_freezing_fairseq/__init__.py").read_text(encoding="utf-8")
version = re.search(r'^__version__ = "(.+)"', init, re.MULTILINE)[1]
extras_to_install = [name for name in extras.split(",") if name and name != "none"]
unknown = [name for name in extras_to_install if name not in project["optional-dependencies"]]
if unknown:
    print("unknown", unknown[0])
    sys.exit()


def of_extra(extra):
    """The requirements of an extra, with those of the extras of this package that it lists."""
    for requirement in map(Requirement, project["optional-dependencies"][extra]):
        if requirement.name == project["name"]:
            for other in sorted(requirement.extras):
                yield from of_extra(other)
        else:
            yield requirement


def installed(name):
    """The version of a fully installed distribution, else None; pip and uv list INSTALLER last."""
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    record = distribution.read_text("RECORD")
    incomplete = record is not None and "INSTALLER" not in record
    return None if incomplete else distribution.version


def is_this_checkout():
    """Whether the package is installed as an editable link to this folder."""
    try:
        text = importlib.metadata.distribution(project["name"]).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return False
    url = json.loads(text or "{}")
    return url.get("dir_info", {}).get("editable") and Path(unquote(urlparse(url["url"]).path)) == root


requirements = list(map(Requirement, project["dependencies"]))
requirements += [requirement for name in extras_to_install for requirement in of_extra(name)]
lines = []
for requirement in requirements:
    if requirement.marker is not None and not requirement.marker.evaluate():
        if requirement.name.startswith("fairseq") and installed(requirement.name):
            print("rival", requirement.name)
        continue
    requirement.marker = None
    present = installed(requirement.name)
    satisfied = present is not None and requirement.specifier.contains(present, prereleases=True)
    if full and satisfied and requirement.name.startswith("fairseq"):
        satisfied = any("libnat" in file.name for file in importlib.metadata.files(requirement.name) or ())
    lines.append(f"have {requirement.name}=={present}" if satisfied else f"miss {requirement}")
    if requirement.name == "torch" and present:
        print("torch", present)
    if requirement.name.startswith("fairseq"):
        print("fairseq", requirement)
lines.append(f"have {project['name']}=={version}" if is_this_checkout() else f"miss {project['name']}")
print(*lines, sep="\n")
requested = [json.dumps(project), version, str(root), sys.prefix, sys.version, extras]
print("print", *(hashlib.sha256("\n".join(part).encode()).hexdigest() for part in (requested, lines)))
