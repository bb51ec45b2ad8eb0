"""The YAML files of the methods, found and read without importing torch or fairseq."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, did_you_mean

if TYPE_CHECKING:
    from omegaconf import DictConfig

_PACKAGE = Path(__file__).resolve().parents[1]
# Inside an installed package (setup.py), beside the package in a checkout.
CONFIGS = (_PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent) / "configs"


def config_folders() -> list[str]:
    """The folders below `CONFIGS` that hold YAML files, themselves or in a folder, as `own`, `own/tiny` and `toy`."""
    files = (path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml"))
    return sorted({str(folder) for file in files for folder in file.parents} - {"."})


def methods_in(*folders: Path) -> list[str]:
    """The methods that have a YAML in one of `folders`, standard training first."""
    names = {path.stem for folder in folders for path in folder.glob("*.yaml")}
    if not names:
        nearest = next((path.parent for path in sorted(folders[0].rglob("*.yaml"))), CONFIGS / "toy")
        raise UserError(f"there is no METHOD.yaml in {folders[0]}; give --configs a folder with one, as {nearest}")
    return sorted(names, key=lambda name: (name != "standard", name))


def settings_of(config: Path, *overrides: Mapping[str, Any]) -> DictConfig:
    """The settings of a YAML, with `overrides` merged in that order."""
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        settings = OmegaConf.merge(OmegaConf.load(config), *overrides)
        if isinstance(settings, DictConfig):
            return settings
        problem = "it is a list"
    except (OSError, UnicodeError, YAMLError, OmegaConfBaseException, ValueError, TypeError) as error:
        problem = " ".join(str(error).split())
    raise UserError(f"{config} does not hold a mapping of sections to settings ({problem}); correct it")


def unreadable(files: Iterable[Path]) -> list[str]:
    """What is wrong with each YAML that holds no settings."""
    problems = []
    for path in files:
        try:
            settings_of(path)
        except UserError as error:
            problems.append(str(error))
    return problems


def open_settings(config: Path) -> list[tuple[str, str]]:
    """The (section, key) of the missing settings (`???`) of a YAML, except checkpoint.save_dir, which no YAML sets."""
    from omegaconf import OmegaConf

    cfg = settings_of(config)
    sections = [name for name in ("optimizer", "criterion", "checkpoint") if OmegaConf.is_dict(cfg.get(name))]
    missing = [(name, str(key)) for name in sections for key in cfg[name] if OmegaConf.is_missing(cfg[name], key)]
    return [setting for setting in missing if setting != ("checkpoint", "save_dir")]


def config_path(method: str, *folders: Path) -> Path:
    """The YAML of `method` in the first folder that has one."""
    for folder in folders:
        if Path(method).name == method and (folder / f"{method}.yaml").is_file():
            return folder / f"{method}.yaml"
    where = " or ".join(map(str, folders))
    known = methods_in(*folders)
    hint = did_you_mean(method, known) or f"choose from: {', '.join(known)}"
    raise UserError(f"no method {method!r} in {where}; {hint}")
