"""The console command `bnkern`: a table of subcommands, each loaded when it is called."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from bnkern._build import VERSION


class Command(NamedTuple):
    """A subcommand: a module with `add_arguments(parser)` and `run(args) -> exit status`."""

    module: str
    purpose: str


COMMANDS = {
    "info": Command("bnkern.cli.info", "what this copy is: build, instruction set, threads, packages"),
    "demo": Command("bnkern.cli.demo.command", "train a network with batch normalisation and without"),
    "bench": Command("bnkern.cli.bench", "how near this machine's limit each operation comes"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Only the first argument is ours: so the subcommand's module need not be loaded to print the overview.
    name = _overview().parse_args(arguments[:1]).command
    if name is None:
        _overview().print_help()
        return 0
    parser = argparse.ArgumentParser(prog=f"bnkern {name}", description=COMMANDS[name].purpose)
    try:
        module = import_module(COMMANDS[name].module)
        module.add_arguments(parser)
        status: int = module.run(parser.parse_args(arguments[1:]))
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return 130
    return status


def _overview() -> argparse.ArgumentParser:
    purposes = "\n".join(f"  {name:<6} {command.purpose}" for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="bnkern",
        description="Batch normalisation as a kernel library.",
        epilog=f"commands:\n{purposes}\n\n'bnkern COMMAND --help' tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"bnkern {VERSION}")
    parser.add_argument("command", nargs="?", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    return parser
