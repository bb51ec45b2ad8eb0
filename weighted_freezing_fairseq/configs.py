"""Where the YAML files of the methods are, without waiting for torch or fairseq."""

from pathlib import Path

from .errors import UserError

_PACKAGE = Path(__file__).resolve().parent
# Inside an installed package (setup.py), else beside it in the checkout.
CONFIGS = (_PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent) / "configs"


def methods_in(*folders: Path) -> list[str]:
    """The methods that have a YAML in one of `folders`, standard training first."""
    found = {path.stem for folder in folders for path in folder.glob("*.yaml")}
    if not found:
        raise UserError(
            f"there is no METHOD.yaml in {folders[0]}; give --configs a folder that has one, as {CONFIGS}/toy"
        )
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
