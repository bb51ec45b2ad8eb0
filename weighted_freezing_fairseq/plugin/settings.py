"""Whether fairseq knows every setting of a YAML, and takes its value, told before anything is built.

fairseq finds the same faults, but seconds after a training was started, one stack of exceptions deep. Left out on
purpose: what only the built parts can judge (two settings that exclude each other, a file that is missing), and tasks
and criterions that are registered without a dataclass.
"""

import argparse
import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Optional, Union, get_args, get_origin, get_type_hints

from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.configs import FairseqConfig
from fairseq.models import ARCH_MODEL_NAME_REGISTRY, ARCH_MODEL_REGISTRY, MODEL_DATACLASS_REGISTRY, MODEL_REGISTRY
from fairseq.models.transformer import TransformerConfig
from fairseq.models.transformer.transformer_base import TransformerModelBase
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import UserError


def refuse_invalid(settings: DictConfig) -> None:
    """Raise for the first setting that fairseq does not know, or whose value it would not take.

    Values that are still open (`???`) or refer to others (`${...}`) are left to those who fill them in.
    """
    sections = {field.name: field for field in dataclasses.fields(FairseqConfig) if field.name != "_name"}
    for name, section in settings.items():
        if name not in sections:
            raise _unknown("section", str(name), name, sections)
        kind: Any = sections[name].type
        if kind is Any:
            kind = _registered(name, section)
        elif not OmegaConf.is_dict(section):
            raise UserError(f"setting {name} must be a mapping of keys to values, got {section!r}")
        if kind is not None and OmegaConf.is_dict(section):
            _refuse_invalid_keys(name, section, kind)


def _registered(section: str, given: Any) -> Any:
    """The dataclass of what a section names; None if that has none."""
    name = given.get("_name") if OmegaConf.is_dict(given) else given
    if section == "task":
        known, classes = TASK_REGISTRY, TASK_DATACLASS_REGISTRY
    elif section == "model":
        known, classes = {**MODEL_REGISTRY, **ARCH_MODEL_REGISTRY}, MODEL_DATACLASS_REGISTRY
    else:
        known, classes = REGISTRIES[section]["registry"], REGISTRIES[section]["dataclass_registry"]
    if name is None:
        raise UserError(f"setting {section}._name is missing; must be one of {_listed(known)}")
    if name not in known:
        raise _unknown("value", f"{section}._name={name}", name, known)
    if section != "model":
        return classes.get(name)
    return classes.get(ARCH_MODEL_NAME_REGISTRY.get(name, name)) or _of_flags(known[name])


def _of_flags(model: Any) -> Any:
    """The settings of a model that only declares flags; those of a Transformer may also be nested (`encoder.layers`).

    fairseq itself ignores a setting of such a model that nobody reads, and trains another model than was asked for.
    """
    base = TransformerConfig if issubclass(model, TransformerModelBase) else FairseqDataclass
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    model.add_args(parser)
    kinds = {
        action.dest: bool if action.nargs == 0 else action.type if action.type in (int, float, str) else Any
        for action in parser._actions
    }
    more = [
        (name, Optional[kind], dataclasses.field(default=None))  # noqa: UP045
        for name, kind in kinds.items()
        if name not in base.__dataclass_fields__
    ]
    return dataclasses.make_dataclass(f"FlagsOf{model.__name__}", more, bases=(base,))


def _refuse_invalid_keys(path: str, section: DictConfig, kind: Any) -> None:
    """`kind`: a dataclass, or one of its instances, whose values are its defaults."""
    kind = kind if isinstance(kind, type) else type(kind)
    hints, typed = get_type_hints(kind), OmegaConf.structured(kind)
    for key in section:
        name = f"{path}.{key}"
        if key not in hints:
            raise _unknown("setting", name, key, (own for own in hints if own != "_name"))
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


def _invalid(name: str, value: Any, kind: Any) -> UserError:
    choices = _choices(kind)
    if choices:
        return _unknown("value", f"{name}={value}", value, choices)
    return UserError(f"invalid value {name}={value}: must be {_described(kind)}")


def _unknown(what: str, shown: str, word: Any, known: Iterable[Any]) -> UserError:
    """Says which words there are instead of `word`, and which of them are nearly the same."""
    known = sorted(map(str, known))
    near = difflib.get_close_matches(str(word), known, n=2)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return UserError(f"unknown {what} {shown}: {hint}must be one of {_listed(known)}")


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(sorted(map(str, names)))


def _without_none(kind: Any) -> tuple[Any, bool]:
    """X and True of Optional[X]."""
    if get_origin(kind) is Union and type(None) in get_args(kind):
        return next(each for each in get_args(kind) if each is not type(None)), True
    return kind, False


def _choices(kind: Any) -> list[str]:
    kind, _ = _without_none(kind)
    return [str(each.value) for each in kind] if isinstance(kind, type) and issubclass(kind, Enum) else []


def _described(kind: Any) -> str:
    kind, or_none = _without_none(kind)
    if or_none:
        return f"{_described(kind)}, or null"
    if get_origin(kind) is list:
        (of,) = get_args(kind) or (Any,)
        return f"a list, as [1]: each {_described(of)}"
    if dataclasses.is_dataclass(kind) or get_origin(kind) in (dict, Mapping):
        return "a mapping of keys to values"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(kind, f"a {getattr(kind, '__name__', kind)}")
