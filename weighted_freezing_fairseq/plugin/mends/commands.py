"""Mends of fairseq's commands: log, flags and --user-dir."""

import argparse
import functools
import itertools
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

from fairseq import options, utils
from fairseq.dataclass import initialize
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ...errors import UserError, one_line_user_errors
from ..settings import refuse_invalid
from ..user_dir import PACKAGE, package_of, refuse_other_version
from .registry import NO_TORCH_XLA, mend

logger = logging.getLogger(__name__)


@mend("warnings about fairseq's own outdated calls, which no user can act on, bury the log")
def hide_known_warnings() -> None:
    for message in (
        r".*hydra\.experimental\.(compose|initialize).*",
        r".*version_base parameter is not specified.*",
        r".*@package _group_.*",
        r".*validated against ConfigStore schema.*",
        r".*strict=None.*|.*strict flag in the compose API is deprecated.*",
        r".*'pin_memory' argument is set as true but no accelerator.*",
        r".*torch\.(cuda|cpu)\.amp\..*deprecated.*",
        r".*torch\.cuda\.amp\.GradScaler is enabled, but CUDA is not available.*",
        r".*mismatched key_padding_mask and attn_mask.*",
    ):
        warnings.filterwarnings("ignore", message="(?s)" + message)


@mend("a second path to this package in --user-dir (installed, linked, relative) is refused as not unique")
def accept_second_user_dir() -> None:
    load = utils.import_user_module

    @functools.wraps(load)
    def load_unless_registered(args: argparse.Namespace) -> None:
        path = getattr(args, "user_dir", None)
        package = package_of(Path(path)) if path is not None else None
        if package is None:
            load(args)
        elif package != PACKAGE:
            refuse_other_version(package)
            logger.info("--user-dir=%s: using the same version of this package, imported from %s", path, PACKAGE)

    utils.import_user_module = load_unless_registered


def _refuse_missing(cfg: DictConfig) -> None:
    """Raise UserError if nothing says what to train, and on what."""
    for name in ("task", "model"):
        if OmegaConf.is_missing(cfg, name) or (name in cfg and cfg[name] is None):
            raise UserError(
                f"setting {name} is missing: no YAML sets it; type --config-dir DIR --config-name METHOD with the "
                "folder of a METHOD.yaml"
            )
    task = cfg.task if "task" in cfg else None
    if OmegaConf.is_dict(task) and "data" in task and (OmegaConf.is_missing(task, "data") or task.data is None):
        raise UserError("setting task.data is missing; type task.data=BIN, the folder that fairseq-preprocess wrote")


@mend("fairseq-hydra-train shows an invalid setting as a long traceback, and ignores an unknown one of some models")
def name_invalid_settings() -> None:
    add_defaults = initialize.add_defaults
    checked: Any = None  # Hydra's settings of the job: fairseq adds defaults to those of a training twice

    @functools.wraps(add_defaults)
    def check_and_add_defaults(cfg: DictConfig) -> None:
        nonlocal checked
        # Not initialized: the command line was parsed, which refuses unknown flags itself.
        if HydraConfig.initialized() and HydraConfig.instance().cfg is not checked:
            utils.import_user_module(cfg.common)  # the settings may be those of another plugin
            with one_line_user_errors():
                _refuse_missing(cfg)
                given = {k: v for k, v in cfg.items() if k not in ("_name", "job_logging_cfg") and v is not None}
                refuse_invalid(OmegaConf.create(given))
            checked = HydraConfig.instance().cfg
        add_defaults(cfg)

    for module in filter(None, (initialize, sys.modules.get("fairseq_cli.train"))):
        module.add_defaults = check_and_add_defaults  # type: ignore[attr-defined]


@mend("--bf16 on the command line asks for a TPU, and crashes without one", NO_TORCH_XLA)
def use_bf16_without_tpu() -> None:
    parse = options.parse_args_and_arch

    @functools.wraps(parse)
    def parse_without_tpu(*args: Any, **kwargs: Any) -> Any:
        parsed = parse(*args, **kwargs)
        (parsed[0] if isinstance(parsed, tuple) else parsed).tpu = False
        return parsed

    options.parse_args_and_arch = parse_without_tpu


@mend("--help does not list the flags of the chosen optimizer, criterion and task")
def show_every_flag_in_help() -> None:
    # --help ends fairseq's first parse, which does not know these flags yet.
    parse = options.parse_args_and_arch

    @functools.wraps(parse)
    def parse_or_help(parser: Any, input_args: Any = None, *args: Any, modify_parser: Any = None, **kwargs: Any) -> Any:
        words = sys.argv[1:] if input_args is None else input_args
        without_help = [word for word in words if word not in ("-h", "--help")]
        if len(without_help) == len(words):
            return parse(parser, input_args, *args, modify_parser=modify_parser, **kwargs)
        if "--arch" in parser._option_string_actions and not {"--arch", "-a"} & set(without_help):
            without_help += ["--arch", "transformer"]  # without --arch, fairseq ends with an error
        calls = itertools.count(1)

        def help_on_second_call(parser: Any) -> None:  # at the second call the parser has all flags
            if modify_parser is not None:
                modify_parser(parser)
            if next(calls) == 2:
                parser.print_help()
                parser.exit()

        return parse(parser, without_help, *args, modify_parser=help_on_second_call, **kwargs)

    options.parse_args_and_arch = parse_or_help
