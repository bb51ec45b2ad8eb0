"""One training: the settings of a YAML, the data, and the machine become a run folder with checkpoints and a log.

The settings are checked before fairseq starts. What a YAML leaves open (`???`) is taken from another run: a teacher,
weights to start from, or Fisher information, which is measured there if it is missing.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import hydra_train
from ..errors import UserError
from ..files import write_atomically
from ..workspace.commands import fairseq, wff
from ..workspace.configs import open_settings, settings_of
from ..workspace.contents import with_contents
from ..workspace.machine import Machine
from ..workspace.processes import USER_DIR
from ..workspace.progress import say
from ..workspace.provenance import provenance_writer
from ..workspace.runs import Run
from ..workspace.steps import once_claimed


def refuse_invalid_settings(*configs: Path, changed: Mapping[str, Any] | None = None) -> None:
    """Each YAML, with what is `changed` in it, must be one that fairseq can train with."""
    from ..plugin.settings import refuse_invalid

    for config in configs:
        settings = settings_of(config, changed or {})
        try:
            refuse_invalid(settings)
            for section, keys in (("dataset", ("max_tokens", "batch_size")), ("optimization", ("max_update",))):
                if not set(keys) & set(settings.get(section) or {}):
                    raise UserError(f"setting {' or '.join(f'{section}.{key}' for key in keys)} is missing")
        except UserError as error:
            raise UserError(f"{error}; correct {config}{', or --set' if changed else ''}") from None


def training_settings(run: Run, config: Path, data: Path, pair: str | None, more: Mapping[str, Any] | None) -> Any:
    """What is trained, not on what: a run that was stopped may go on on other GPUs, in another place."""
    languages = dict(zip(("source_lang", "target_lang"), pair.split("-"), strict=True)) if pair else {}
    own = {"task": {"data": str(data), **languages}, "common": {"seed": run.seed}}
    return settings_of(config, own, more or {})


def stamp_of(given: Any) -> dict[str, Any]:
    """The settings of a training as its stamp has them."""
    from omegaconf import OmegaConf

    return with_contents(OmegaConf.to_container(given))  # type: ignore[arg-type]


def train(
    run: Run, config: Path, data: Path, pair: str | None, machine: Machine, about: Mapping[str, Any],
    more: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """fairseq-hydra-train of one YAML (with `more` settings); fairseq itself goes on from the last checkpoint.

    The folder belongs to these settings, and has a provenance (see `provenance_writer`), from the first update.

    pair: None where the task has no languages.
    """
    from omegaconf import OmegaConf

    if not run.trained:
        refuse_invalid_settings(config, changed=more)
    given = training_settings(run, config, data, pair, more)
    unit = "max_tokens" if "max_tokens" in given.dataset else "batch_size"
    update_freq = given.optimization.get("update_freq", [1])[0]  # select: no default in omegaconf 2.0
    settings = OmegaConf.merge(
        given,
        machine.settings(given.dataset[unit], update_freq, unit),
        {
            "common": {"user_dir": str(USER_DIR), "tensorboard_logdir": str(run.folder / "tensorboard")},
            "checkpoint": {"save_dir": str(run.folder / "checkpoints")},
        },
    )
    total = settings.optimization.max_update
    begun = time.monotonic()

    def work(claim: Callable[[], None]) -> None:
        claimed, shown = False, begun
        write_provenance = provenance_writer(run, about, config, machine)

        def first_update() -> None:
            nonlocal claimed
            claimed = True
            write_provenance()
            claim()

        def watch(line: str) -> None:
            nonlocal shown
            if hydra_train.FIRST_UPDATE in line and not claimed:
                first_update()
            elif "train_inner" in line and '"num_updates"' in line:
                values = json.loads(line[line.index("{") :])
                done, now = int(values["num_updates"]), time.monotonic()
                if done == total or now - shown > 10:
                    shown = now
                    say(f"{run.name}: update {done} of {total}, loss {values['loss']}, {values['ups']} updates/s")

        # The run folder keeps its complete settings: what was trained can be trained again from it alone.
        # Not called config.yaml: fairseq has one of its own, which would win.
        write_atomically(run.folder / "run.yaml", OmegaConf.to_yaml(settings))
        words = ["--config-dir", run.folder, "--config-name", "run", "hydra.run.dir=.", "hydra.output_subdir=null"]
        with machine.environment() as env:
            fairseq("hydra_train", words, run.folder / "train.log", env, watch)
        if not claimed:  # the last checkpoint left no update to make
            first_update()
        say(f"{run.name}: trained in {time.monotonic() - begun:.0f} s")

    once_claimed(run.folder, "training", stamp_of(given), work)


def merged(settings: Mapping[str, Any], changed: Sequence[str]) -> dict[str, Any]:
    """`settings` with what a user changed as section.key=value."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    for setting in changed:
        name, equals, _ = setting.partition("=")
        if not equals or "." not in name:
            raise UserError(
                f"--set {setting} is not of the form section.key=value; type --set optimization.max_update=1000"
            )
        try:
            OmegaConf.from_dotlist([setting])
        except (YAMLError, OmegaConfBaseException) as error:
            why = " ".join(str(error).split())
            raise UserError(f"--set {setting} has no valid value ({why}); type --set 'optimization.lr=[0.1]'") from None
    return OmegaConf.to_container(  # type: ignore[return-value]
        OmegaConf.merge(dict(settings), OmegaConf.from_dotlist(list(changed)))
    )


def filled_in(config: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a YAML leaves open, from what was `found` for them, as `train` takes them."""
    settings: dict[str, Any] = {}
    for section, key in open_settings(config):
        if key in found:
            settings.setdefault(section, {})[key] = str(found[key])
    return settings


# What may be found in another run, and what measures it there where that is a file of its own.
_FOUND: Mapping[str, Sequence[Any] | None] = {
    "teacher": None, "finetune_from_model": None, "fisher": (), "fish_mask": ("--mask-density", 0.05)
}  # fmt: skip


def needs_another_run(config: Path, but: Iterable[str] = ()) -> bool:
    """Whether a YAML leaves open what `found_in` finds, `but` for what is found elsewhere."""
    return any(key in _FOUND for _, key in open_settings(config) if key not in but)


def files_in(parent: Run, choice: str, config: Path) -> dict[str, Path]:
    """What a YAML may leave open, from the `choice` weights of another run: a teacher, a start, what matters there."""
    weights = parent.folder / f"checkpoints/checkpoint_{choice}.pt"
    keys = [key for _, key in open_settings(config) if key in _FOUND]
    return {key: weights if _FOUND[key] is None else parent.folder / f"{key}.pt" for key in keys}


def found_in(parent: Run, choice: str, config: Path, data: Path, machine: Machine) -> dict[str, Path]:
    """`files_in`, of which what is measured is measured if it is not there."""
    weights = parent.folder / f"checkpoints/checkpoint_{choice}.pt"
    found = files_in(parent, choice, config)
    for key in found:
        more = _FOUND[key]
        if more is not None and not found[key].is_file():
            say(f"{parent.name}: measuring Fisher information ({key})")
            words = ["fisher", weights, "--data", data, "--out", found[key], "--device", machine.device, *more]
            wff(words, machine.threads)
    return found
