"""Where the YAML files of the methods are, without waiting for torch or fairseq."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

_PACKAGE = Path(__file__).resolve().parents[1]
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


def settings_of(config: Path, *more: Mapping[str, Any]) -> DictConfig:
    """The settings of a YAML, each of `more` laid over them."""
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        settings = OmegaConf.merge(OmegaConf.load(config), *more)
        if isinstance(settings, DictConfig):
            return settings
        problem = "it is a list"
    except (OSError, UnicodeError, YAMLError, OmegaConfBaseException, ValueError, TypeError) as error:
        problem = " ".join(str(error).split())
    raise UserError(f"{config} does not hold a mapping of sections to settings ({problem}); correct it")


def open_settings(config: Path) -> list[tuple[str, str]]:
    """What the optimizer, the criterion and the start of a YAML leave open (`???`), as (section, key)."""
    from omegaconf import OmegaConf

    cfg = settings_of(config)
    sections = [name for name in ("optimizer", "criterion", "checkpoint") if OmegaConf.is_dict(cfg.get(name))]
    found = [(name, str(key)) for name in sections for key in cfg[name] if OmegaConf.is_missing(cfg[name], key)]
    return [each for each in found if each != ("checkpoint", "save_dir")]  # every YAML leaves that open


def config_path(method: str, *folders: Path) -> Path:
    """The YAML of `method` in the first folder that has one, or what may be typed in its place."""
    for folder in folders:
        if (folder / f"{method}.yaml").is_file():
            return folder / f"{method}.yaml"
    where = " or ".join(map(str, folders))
    raise UserError(f"no method {method!r} in {where}; choose from: {', '.join(methods_in(*folders))}")
