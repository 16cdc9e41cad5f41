"""The command `bnkern info`."""

from __future__ import annotations

import argparse
import json

from bnkern._config import config, show_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the facts as JSON, for programs")


def run(args: argparse.Namespace) -> int:
    if args.json:
        print(json.dumps(config(), indent=2))
    else:
        show_config()
    return 0
