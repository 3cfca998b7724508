"""Command line of the library: `clipmed COMMAND …`; each command is a module of `clipmed.commands`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType

import tyro

from clipmed.commands import (
    calibrate,
    classify,
    embed,
    export,
    import_,
    index,
    info,
    merge,
    pull,
    push,
    search,
    serve,
)
from clipmed.errors import ClipmedError
from clipmed.standard_output import reader_may_leave

COMMANDS: dict[str, ModuleType] = {
    "calibrate": calibrate,
    "classify": classify,
    "embed": embed,
    "export": export,
    "import": import_,
    "index": index,
    "info": info,
    "merge": merge,
    "pull": pull,
    "push": push,
    "search": search,
    "serve": serve,
}


def main(args: Sequence[str] | None = None) -> None:
    """Run one command; errors of the input go to standard error with exit status 1."""
    with reader_may_leave():
        _run(args)


def _run(args: Sequence[str] | None) -> None:
    try:
        command = tyro.extras.subcommand_cli_from_dict(
            {name: module.Command for name, module in COMMANDS.items()},
            prog="clipmed",
            description="Medical CLIP checkpoints, zero-shot. For research; not a medical device.",
            args=args,
        )
        sys.modules[type(command).__module__].run(command)
    except ClipmedError as error:
        sys.exit(f"clipmed: {error}")


if __name__ == "__main__":
    main()
