"""One training: a YAML, prepared data and a machine become a run folder with checkpoints and a log.

The settings are checked before fairseq starts. A value that a YAML leaves open (`???`) comes from another run: a
teacher, weights to start from, or Fisher information, which is measured where its file is missing.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
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

_METHOD_SECTIONS = ("model", "criterion", "optimizer")  # of a YAML: what a method chooses


def refuse_invalid_settings(*configs: Path, overrides: Mapping[str, Any] | None = None) -> None:
    """Raise UserError unless fairseq can train with each YAML and these overrides."""
    from ..plugin.settings import refuse_invalid

    for config in configs:
        settings = settings_of(config, overrides or {})
        try:
            refuse_invalid(settings)
            for section, keys in (("dataset", ("max_tokens", "batch_size")), ("optimization", ("max_update",))):
                if not set(keys) & set(settings.get(section) or {}):
                    raise UserError(f"setting {' or '.join(f'{section}.{key}' for key in keys)} is missing")
        except UserError as error:
            raise UserError(f"{error}; correct {config}{', or --set' if overrides else ''}") from None


@cache
def has_setting(config: Path, assignments: tuple[str, ...], name: str) -> bool:
    """Whether the method of a YAML, with the user's `assignments`, has the setting `section.key`.

    True too outside the sections in which methods differ, and where the YAML names none: training says what is wrong.
    """
    if name.partition(".")[0] not in _METHOD_SECTIONS:
        return True
    from ..plugin import settings

    try:
        return settings.has_setting(settings_of(config, merge_assignments({}, assignments)), name)
    except UserError:
        return True


def training_settings(run: Run, config: Path, data: Path, pair: str | None, overrides: Mapping[str, Any] | None) -> Any:
    """The settings that define a training; without those of the machine, so that another machine can resume it."""
    languages = dict(zip(("source_lang", "target_lang"), pair.split("-"), strict=True)) if pair else {}
    run_settings = {"task": {"data": str(data), **languages}, "common": {"seed": run.seed}}
    return settings_of(config, run_settings, overrides or {})


def stamp_of(settings: Any) -> dict[str, Any]:
    """What the stamp of a training records of its settings."""
    from omegaconf import OmegaConf

    return with_contents(OmegaConf.to_container(settings))  # type: ignore[arg-type]


def train(
    run: Run, config: Path, data: Path, pair: str | None, machine: Machine, provenance: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Run fairseq-hydra-train on one YAML, from the last checkpoint where there is one.

    The provenance and the claim of the folder for these settings are written at the first update, so that a training
    that never started leaves the folder free.

    Args:
        data: binarised folder.
        pair: language pair (None: the task has no languages).
        provenance: what `provenance.note` records of the run.
        overrides: settings in place of the YAML's.
    """
    from omegaconf import OmegaConf

    if not run.trained:
        refuse_invalid_settings(config, overrides=overrides)
    defined = training_settings(run, config, data, pair, overrides)
    unit = "max_tokens" if "max_tokens" in defined.dataset else "batch_size"
    update_freq = defined.optimization.get("update_freq", [1])[0]  # OmegaConf.select has no default in 2.0
    settings = OmegaConf.merge(
        defined,
        machine.settings(defined.dataset[unit], update_freq, unit),
        {
            "common": {"user_dir": str(USER_DIR), "tensorboard_logdir": str(run.folder / "tensorboard")},
            "checkpoint": {"save_dir": str(run.folder / "checkpoints")},
        },
    )
    total = settings.optimization.max_update
    start = time.monotonic()

    def work(claim: Callable[[], None]) -> None:
        claimed, last_report = False, start
        write_provenance = provenance_writer(run, provenance, config, machine)

        def claim_folder() -> None:
            nonlocal claimed
            if not claimed:
                claimed = True
                write_provenance()
                claim()

        def watch(line: str) -> None:
            nonlocal last_report
            if hydra_train.FIRST_UPDATE in line:
                claim_folder()
            elif "train_inner" in line and '"num_updates"' in line:
                values = json.loads(line[line.index("{") :])
                update, now = int(values["num_updates"]), time.monotonic()
                if update == total or now - last_report > 10:
                    last_report = now
                    say(f"{run.name}: update {update} of {total}, loss {values['loss']}, {values['ups']} updates/s")

        # The complete settings stay in the run folder, so the run can be trained again from that file alone.
        # Not named config.yaml: fairseq has a file of that name, which would take precedence.
        write_atomically(run.folder / "run.yaml", OmegaConf.to_yaml(settings))
        words = ["--config-dir", run.folder, "--config-name", "run", "hydra.run.dir=.", "hydra.output_subdir=null"]
        with machine.environment() as env:
            fairseq("hydra_train", words, run.folder / "train.log", env, watch)
        claim_folder()  # where the last checkpoint had all updates already, none was made
        say(f"{run.name}: trained in {time.monotonic() - start:.0f} s")

    once_claimed(run.folder, "training", stamp_of(defined), work)


def merge_assignments(settings: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """`settings` with the values of `assignments`, each of the form section.key=value."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    for assignment in assignments:
        name, equals, _ = assignment.partition("=")
        if not equals or "." not in name:
            raise UserError(
                f"--set {assignment} is not of the form section.key=value; type --set optimization.max_update=1000"
            )
        try:
            OmegaConf.from_dotlist([assignment])
        except (YAMLError, OmegaConfBaseException) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"--set {assignment} has no valid value ({reason}); type --set 'optimization.lr=[0.1]'"
            ) from None
    return OmegaConf.to_container(  # type: ignore[return-value]
        OmegaConf.merge(dict(settings), OmegaConf.from_dotlist(list(assignments)))
    )


# What a YAML may leave open for another run to provide: its checkpoint, or what `wff fisher` measures in that.
_PARENT_CHECKPOINTS = ("teacher", "finetune_from_model")
_PARENT_MEASURES = ("fisher", "fish_mask")


def needs_parent(config: Path, assignments: Iterable[str] = (), provided: Iterable[str] = ()) -> bool:
    """Whether a YAML and the user's `assignments` leave open what only another run has.

    Args:
        provided: keys that have a value from elsewhere.
    """
    assigned = {assignment.partition("=")[0] for assignment in assignments}
    left = [key for section, key in open_settings(config) if f"{section}.{key}" not in assigned]
    return any(key in (*_PARENT_CHECKPOINTS, *_PARENT_MEASURES) and key not in provided for key in left)


def parent_files(parent: Run, choice: str, config: Path) -> dict[str, Path]:
    """The files of `parent` for the keys that a YAML leaves open; `choice`: of its checkpoints."""
    keys = [key for _, key in open_settings(config)]
    checkpoint = parent.folder / f"checkpoints/checkpoint_{choice}.pt"
    measures = {key: parent.folder / f"{key}.pt" for key in keys if key in _PARENT_MEASURES}
    return dict.fromkeys((key for key in keys if key in _PARENT_CHECKPOINTS), checkpoint) | measures


def measured_parent_files(
    parent: Run, choice: str, config: Path, data: Path, machine: Machine, density: float = 0.05
) -> dict[str, Path]:
    """`parent_files`, after measuring the Fisher information whose file is missing; `density`: of `fish_mask`."""
    files = parent_files(parent, choice, config)
    for key, path in files.items():
        options = ("--mask-density", density) if key == "fish_mask" else ()
        if key in _PARENT_MEASURES and not path.is_file():
            say(f"{parent.name}: measuring Fisher information ({key})")
            checkpoint = parent.folder / f"checkpoints/checkpoint_{choice}.pt"
            words = ["fisher", checkpoint, "--data", data, "--out", path, "--device", machine.device, *options]
            wff(words, machine.threads)
    return files


def fill_open_settings(config: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a YAML leaves open and that `values` has, by section."""
    settings: dict[str, Any] = {}
    for section, key in open_settings(config):
        if key in values:
            settings.setdefault(section, {})[key] = str(values[key])
    return settings
