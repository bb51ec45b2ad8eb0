"""`wff doctor`: check this machine, and say what to type where something is wrong."""

from __future__ import annotations  # so that an older Python can report that it is too old

import argparse
import json
import platform
import sys
from dataclasses import asdict

from ..workspace.doctor import FAIL, as_lines, examine, gather

HELP = """\
Check this machine: versions, combinations that do not work and what to type, configs, kernels, and mends of fairseq."""
EXAMPLE = "wff doctor --json > machine.json"

MENDS_HELP = """\
The plugin repairs fairseq when it is registered. Each mend is one change, applied only to the versions that need it.
To see what stock fairseq does, leave mends out:
  WFF_MENDS=none       apply no mend
  WFF_MENDS=NAME,NAME  apply these only, where they are needed; unset: every mend that is needed
This also removes protection: without load_without_code and refuse_code_in_settings a checkpoint can run code, and
without verify_checksums a damaged one loads. Then load only checkpoints that you trust."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument_group("environment", MENDS_HELP)


def run(args: argparse.Namespace) -> int:
    facts = gather()
    checks = examine(facts)
    failed = any(check.status == FAIL for check in checks)
    if args.json:
        report = {
            "interpreter": sys.executable,
            "platform": platform.platform(),
            "well": not failed,
            "checks": [asdict(check) for check in checks],
            "mends": [asdict(mend) for mend in facts.mends],
        }
        print(json.dumps(report, indent=2))
    else:
        print(f"{sys.executable} on {platform.platform()}")
        print("\n".join(as_lines(checks, facts.mends)))
    return 1 if failed else 0
