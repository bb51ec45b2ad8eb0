"""Where the YAML files of the methods are, without waiting for torch or fairseq."""

from pathlib import Path

from .errors import UserError

# The repository's own; a run from an installed wheel names its folder.
CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def methods_in(*folders: Path) -> list[str]:
    """The methods that have a YAML in one of `folders`, standard training first."""
    found = {path.stem for folder in folders for path in folder.glob("*.yaml")}
    return sorted(found, key=lambda name: (name != "standard", name))


def open_settings(config: Path) -> list[tuple[str, str]]:
    """What the optimizer, the criterion and the start of a YAML leave open (`???`), as (section, key)."""
    from omegaconf import OmegaConf

    cfg = OmegaConf.load(config)
    sections = [name for name in ("optimizer", "criterion", "checkpoint") if name in cfg]
    found = [(name, str(key)) for name in sections for key in cfg[name] if OmegaConf.is_missing(cfg[name], key)]
    return [each for each in found if each != ("checkpoint", "save_dir")]  # every YAML leaves that open


def config_path(method: str, *folders: Path) -> Path:
    """The YAML of `method` in the first folder that has one, or what may be typed in its place."""
    for folder in folders:
        if (folder / f"{method}.yaml").is_file():
            return folder / f"{method}.yaml"
    where = " or ".join(map(str, folders))
    raise UserError(f"no method {method!r} in {where}; choose from: {', '.join(methods_in(*folders))}")
