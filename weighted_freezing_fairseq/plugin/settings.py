"""Checks of the settings in a YAML, before anything is built: unknown names and invalid values.

fairseq reports them only seconds after training was started, as a long traceback. Not checked here: settings that
exclude each other, missing files, and tasks and criterions that are registered without a dataclass.
"""

import argparse
import dataclasses
from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from typing import Any, Optional, Union, get_args, get_origin, get_type_hints

from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.configs import FairseqConfig
from fairseq.models import ARCH_MODEL_NAME_REGISTRY, ARCH_MODEL_REGISTRY, MODEL_DATACLASS_REGISTRY, MODEL_REGISTRY
from fairseq.models.transformer import TransformerConfig
from fairseq.models.transformer.transformer_base import TransformerModelBase
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import UserError, did_you_mean


def refuse_invalid(settings: DictConfig) -> None:
    """Raise UserError for the first setting with an unknown name or an invalid value.

    Missing values (`???`) and references to other settings (`${...}`) are not checked.
    """
    sections = {field.name: field for field in dataclasses.fields(FairseqConfig) if field.name != "_name"}
    for name, section in settings.items():
        if name not in sections:
            raise _unknown("section", str(name), name, sections)
        kind: Any = sections[name].type
        if kind is Any:
            kind = _registered_settings(name, section)
        elif not OmegaConf.is_dict(section):
            raise UserError(f"setting {name} must be a mapping of keys to values, got {section!r}")
        if kind is not None and OmegaConf.is_dict(section):
            _refuse_invalid_keys(name, section, kind)


def has_setting(settings: DictConfig, name: str) -> bool:
    """Whether the method that the settings name has `section.key`; True too if it lists no settings."""
    section, *keys = name.split(".")
    kind: Any = _registered_settings(section, settings.get(section))
    for key in keys:
        if not dataclasses.is_dataclass(kind):
            break
        hints = get_type_hints(kind if isinstance(kind, type) else type(kind))
        if key not in hints:
            return False
        kind = hints[key]
    return True


def _registered_settings(section: str, value: Any) -> Any:
    """The dataclass of the settings of the task, model, ... that `value` names; None if it has none."""
    name = value.get("_name") if OmegaConf.is_dict(value) else value
    if section == "task":
        registry, dataclasses_by_name = TASK_REGISTRY, TASK_DATACLASS_REGISTRY
    elif section == "model":
        registry, dataclasses_by_name = {**MODEL_REGISTRY, **ARCH_MODEL_REGISTRY}, MODEL_DATACLASS_REGISTRY
    else:
        registry, dataclasses_by_name = REGISTRIES[section]["registry"], REGISTRIES[section]["dataclass_registry"]
    if name is None:
        raise UserError(f"setting {section}._name is missing; must be one of {_listed(registry)}")
    if name not in registry:
        allowed = dataclasses_by_name if section == "optimizer" else registry
        raise _unknown("value", f"{section}._name={name}", name, allowed)
    if section == "optimizer" and name not in dataclasses_by_name:
        _refuse_missing_flags(name, value if OmegaConf.is_dict(value) else {}, registry[name])
    if section != "model":
        return dataclasses_by_name.get(name)
    return dataclasses_by_name.get(ARCH_MODEL_NAME_REGISTRY.get(name, name)) or _dataclass_of_flags(registry[name])


def _dataclass_of_flags(model: Any) -> Any:
    """A dataclass of the flags of a model without one; settings of a Transformer may also be nested (`encoder.layers`).

    fairseq itself ignores an unknown setting of such a model, and trains another model than the user expects.
    """
    base = TransformerConfig if issubclass(model, TransformerModelBase) else FairseqDataclass
    kinds = {
        action.dest: bool if action.nargs == 0 else action.type if action.type in (int, float, str) else Any
        for action in _flags_of(model)
    }
    fields = [
        (name, Optional[kind], dataclasses.field(default=None))
        for name, kind in kinds.items()
        if name not in base.__dataclass_fields__
    ]
    return dataclasses.make_dataclass(f"FlagsOf{model.__name__}", fields, bases=(base,))


def _flags_of(registered: Any) -> list[argparse.Action]:
    """The flags of a model or optimizer that is registered without a dataclass."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    registered.add_args(parser)
    return parser._actions


def _refuse_missing_flags(name: str, section: Collection[str], optimizer: Any) -> None:
    """Raise UserError unless a YAML sets all of an optimizer without a dataclass, for which fairseq has no defaults."""
    keys = [action.dest for action in _flags_of(optimizer)] + ["lr"]
    if missing := [f"optimizer.{key}" for key in keys if key not in section]:
        raise UserError(
            f"optimizer {name} has no defaults outside fairseq-train --optimizer {name}: {', '.join(missing)} must be "
            f"set (lr: ${{optimization.lr}}); or type optimizer._name=adam"
        )


def _refuse_invalid_keys(path: str, section: DictConfig, kind: Any) -> None:
    """Check a section against `kind`, a dataclass or an instance of one."""
    kind = kind if isinstance(kind, type) else type(kind)
    hints, typed = get_type_hints(kind), OmegaConf.structured(kind)
    for key in section:
        name = f"{path}.{key}"
        if key not in hints:
            error = _unknown("setting", name, key, hints.keys() - {"_name"})
            raise UserError(f"{error}; to leave out what the YAML has, add '~{name}'") if _in_yaml(name) else error
        if OmegaConf.is_missing(section, key) or OmegaConf.is_interpolation(section, key):
            continue
        value = section[key]
        if dataclasses.is_dataclass(hints[key]) and OmegaConf.is_dict(value):
            _refuse_invalid_keys(name, value, hints[key])
            continue
        try:
            typed[key] = value
        except (OmegaConfBaseException, ValueError, TypeError):
            raise _invalid(name, value, hints[key]) from None


def _in_yaml(name: str) -> bool:
    """Whether a setting of fairseq-hydra-train is the YAML's; False: it was typed, or another command runs."""
    if not HydraConfig.initialized():
        return False
    return not any(word.lstrip("+").startswith(f"{name}=") for word in HydraConfig.get().overrides.task)


def _invalid(name: str, value: Any, kind: Any) -> UserError:
    inner, _ = _without_none(kind)
    if isinstance(inner, type) and issubclass(inner, Enum):
        return _unknown("value", f"{name}={value}", value, [choice.value for choice in inner])
    return UserError(f"invalid value {name}={value}: must be {_described(kind)}")


def _unknown(role: str, shown: str, word: Any, allowed: Iterable[Any]) -> UserError:
    """The error for an unknown `word`: lists the allowed words, and suggests those that are similar."""
    allowed = list(map(str, allowed))
    parts = [did_you_mean(str(word), allowed, most=2), f"must be one of {_listed(allowed)}"]
    return UserError(f"unknown {role} {shown}: {' '.join(filter(None, parts))}")


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(sorted(map(str, names)))


def _without_none(kind: Any) -> tuple[Any, bool]:
    """X and True for Optional[X]; other types and False."""
    if get_origin(kind) is Union and type(None) in get_args(kind):
        return next(member for member in get_args(kind) if member is not type(None)), True
    return kind, False


def _described(kind: Any) -> str:
    kind, optional = _without_none(kind)
    if optional:
        return f"{_described(kind)}, or null"
    if get_origin(kind) is list:
        (element,) = get_args(kind) or (Any,)
        return f"a list, as [1]: each {_described(element)}"
    if dataclasses.is_dataclass(kind) or get_origin(kind) in (dict, Mapping):
        return "a mapping of keys to values"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(kind, f"a {getattr(kind, '__name__', kind)}")
