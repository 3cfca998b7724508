"""Runs the documents' commands: a process that has imported everything forks a child for each.

`python`, `clipmed`, `make` and `torchrun` of a page's shell are small programs that send their arguments, folder,
environment and open files here. A child changes into the folder, takes the files and runs the command as the real
program would, or only parses it where tests/documents/rules.py says so. Importing anew would cost five seconds each.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.documents.rules import OTHERS, Rule, rule_of

REPOSITORY = Path(__file__).parents[2]
PROGRAMS = ("python", "python3", "clipmed", "make", "torchrun", "pip", *OTHERS)
ONLY_PARSED = "DOCUMENTS_ONLY_PARSED"
READ_AT_IMPORT = ("HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE")
MESSAGE_BYTES = 1 << 18
PROGRAM = """#!{python} -SEs
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect({address!r})
message = json.dumps([os.path.basename(sys.argv[0]), sys.argv[1:], os.getcwd(), dict(os.environ)])
socket.send_fds(server, [message.encode()], [0, 1, 2])
sys.exit(int(server.recv(16) or b"139"))
"""


_STARTED = dict(os.environ)


class Parsed(BaseException):
    """The command line was parsed; what it asks for is not done."""


@contextlib.contextmanager
def programs(folder: Path, environment: dict[str, str]) -> Iterator[Path]:
    """Start the process; yield the folder of the programs, for PATH."""
    address = str(folder / "socket")
    binaries = folder / "bin"
    binaries.mkdir()
    for name in PROGRAMS:
        (binaries / name).write_text(PROGRAM.format(python=sys.executable, address=address))
        (binaries / name).chmod(0o755)
    (binaries / "activate").write_text(f"PATH={binaries}:$PATH\n")
    command = [sys.executable, "-m", "tests.documents.programs", address]
    with subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, **environment}, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        try:
            yield binaries
        finally:
            server.terminate()


def serve(address: str) -> None:
    """Fork a child for every command until terminated."""
    import open_clip
    import sklearn
    import torch
    import transformers
    import tyro

    assert all((open_clip, sklearn, torch, transformers, tyro))
    torch.set_num_threads(1)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        connection, _ = listener.accept()
        data, files, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, 3)
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            _child(connection, *json.loads(data), files)
        for file in files:
            os.close(file)
        connection.close()


def _child(
    connection: socket.socket,
    program: str,
    words: list[str],
    folder: str,
    environment: dict[str, str],
    files: list[int],
) -> None:
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
    status = 70
    try:
        status = _status_of(program, words)
    except BaseException:  # noqa: BLE001 the child's last words
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.send(str(status).encode())
        os._exit(0)


def _end_with(connection: socket.socket) -> None:
    """End this process when its program is killed."""
    with contextlib.suppress(OSError):
        connection.recv(1)
    os._exit(143)


def _status_of(program: str, words: list[str]) -> int:
    """Run the command, write what became of it to the log, and return 0 where its exit status is the expected one."""
    rule = Rule(parse="it is only named") if os.environ.get(ONLY_PARSED) else rule_of(program, words)
    words = rule.words(program, words)
    try:
        if program in OTHERS:
            raise Parsed
        run = {"make": _run_make, "pip": _run_pip}.get(program, functools.partial(_run, program))
        status = run(words, rule)
    except Parsed:
        status = rule.statuses[0]
    record = {"program": program, "words": words, "status": status, "parsed": rule.parse}
    record["cpu_s"] = round(sum(os.times()[:4]), 1)
    with Path(os.environ["DOCUMENTS_LOG"]).open("a", encoding="utf-8") as log:
        log.write(json.dumps(record) + "\n")
    if status not in rule.statuses:
        sys.stderr.write(f"exit status {status}, expected {rule.statuses}: {program} {' '.join(words)}\n")
    return 0 if status in rule.statuses else status or 1


def _run(program: str, words: list[str], rule: Rule) -> int:
    if not rule.parse and any(os.environ.get(name) != _STARTED.get(name) for name in READ_AT_IMPORT):
        return _run_afresh(program, words)
    if program == "torchrun":
        words = words[words.index("-m") :]
    with _parsing() if rule.parse else _until_served() if rule.serves else contextlib.nullcontext():
        if program == "clipmed":
            return _run_module("clipmed", words)
        if words[:1] == ["-m"]:
            return _run_module(words[1], words[2:])
        return _run_script(words)


def _run_afresh(program: str, words: list[str]) -> int:
    """Run a command in a Python of its own: it sees variables that libraries read when they are imported."""
    command = [sys.executable, *(["-m", program] if program == "clipmed" else []), *words]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, env=environment, check=False).returncode


def _run_module(module: str, words: Sequence[str]) -> int:
    sys.argv = [module, *words]
    with _exit_status() as status:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    return status[0]


def _run_script(words: Sequence[str]) -> int:
    sys.argv = list(words)
    with _exit_status() as status:
        if words[0] == "-c":
            exec(words[1], {"__name__": "__main__"})
        else:
            runpy.run_path(words[0], run_name="__main__")
    return status[0]


@contextlib.contextmanager
def _exit_status() -> Iterator[list[int]]:
    """Yield a list whose one element is the exit status, once the block has ended."""
    status = [0]
    try:
        yield status
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        status[0] = int(isinstance(end.code, str)) if not isinstance(end.code, int) else end.code
    except KeyboardInterrupt:
        status[0] = 130


def _run_make(words: list[str], rule: Rule) -> int:
    """Run make with the page's programs; where it is only parsed, parse each command that it would run."""
    if not rule.parse:
        return subprocess.run(["/usr/bin/make", *words], check=False).returncode
    dry = subprocess.run(["/usr/bin/make", "-n", *words], check=True, capture_output=True, text=True)
    joined = dry.stdout.replace("\\\n", " ")
    rooms = ("dataset_builders", "shards", "train", "zeroshot_eval", "mkdocs", "pytest", "ruff", "mypy", "build", "pip")
    commands = [line for line in joined.splitlines() if any(f"-m {room}" in line for room in rooms)]
    assert commands or words == ["env"], f"make {' '.join(words)}: runs nothing that is known here"
    for command in commands:
        with contextlib.suppress(Parsed):
            _parse_line(command)
    raise Parsed


def _run_pip(words: list[str], _: Rule) -> int:
    """Check that what would be installed is this package, with extras that it has."""
    import tomllib

    from packaging.requirements import Requirement

    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for requirement in map(Requirement, words[1:]):
        assert requirement.name == "clipmed", f"pip: {requirement.name} is another project's"
        assert requirement.extras <= extras.keys(), f"pip: clipmed has no extra {requirement.extras - extras.keys()}"
    raise Parsed


def _parse_line(line: str) -> None:
    import shlex

    words = shlex.split(line)
    words = words[words.index("-m") :]
    if words[1] in {"dataset_builders", "shards", "train", "zeroshot_eval"}:
        _run("python", words, Rule(parse="make"))


@contextlib.contextmanager
def _parsing() -> Iterator[None]:
    """Let command lines be parsed by their real parsers and checked by their dataclasses, and end there."""
    import argparse

    import tyro

    def ending(parse: Any) -> Any:
        def parse_and_end(*args: Any, **options: Any) -> Any:
            with _real_parsers(real):
                parse(*args, **options)
            raise Parsed

        return parse_and_end

    real = [
        (tyro, "cli", tyro.cli),
        (tyro.extras, "subcommand_cli_from_dict", tyro.extras.subcommand_cli_from_dict),
        (argparse.ArgumentParser, "parse_args", argparse.ArgumentParser.parse_args),
    ]
    for owner, name, function in real:
        setattr(owner, name, ending(function))
    yield


@contextlib.contextmanager
def _real_parsers(real: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    for owner, name, function in real:
        setattr(owner, name, function)
    yield


@contextlib.contextmanager
def _until_served() -> Iterator[None]:
    """Interrupt the command once its page answers: that is how a reader ends it."""
    port = int(os.environ["DOCUMENTS_PORT"])

    def wait() -> None:
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1) as answer:
                sys.stdout.write(f"served: {answer.status}\n")
                break
            threading.Event().wait(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()
    yield


if __name__ == "__main__":
    serve(sys.argv[1])
