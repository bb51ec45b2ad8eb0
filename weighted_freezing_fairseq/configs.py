"""Where the YAML files of the methods are, without waiting for torch or fairseq."""

from pathlib import Path

from .errors import UserError

# The repository's own; a run from an installed wheel names its folder.
CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def methods_in(folder: Path) -> list[str]:
    """The methods that have a YAML in `folder`, standard training first."""
    return sorted((path.stem for path in folder.glob("*.yaml")), key=lambda name: (name != "standard", name))


def config_path(folder: Path, method: str) -> Path:
    """The YAML of `method`, or what may be typed in its place."""
    path = folder / f"{method}.yaml"
    if not path.is_file():
        raise UserError(f"no method {method!r} in {folder}; choose from: {', '.join(methods_in(folder))}")
    return path
