"""Every command of the documents is run, page by page, as a reader would; what cannot run here is parsed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs import site_hooks
from docs.site_hooks import TABLES
from tests.documents.assumptions import LLM, PAGES, Assumed
from tests.documents.blocks import REPOSITORY, Block, blocks, check_settings, inline_commands, pages, shell
from tests.documents.rules import PARSED, rule_of
from tests.documents.world import World, replaced, world, write_catalogue_data

COMMAND = re.compile(
    r"(?:^|&& |; |\| |\$\()((?:\w+=\S+ )*)((?:python3?|clipmed|make|torchrun|pip|vllm) [^\n;|&]*)", re.M
)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[World]:
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if worker_id != "master" else base) / "documents"
    shared.mkdir(exist_ok=True)
    with world(shared, tmp_path_factory.mktemp("programs")) as found:
        yield found


def commands(script: str) -> list[str]:
    """The commands of a script that are the project's own, each on one line."""
    joined = re.sub(r"\\\n\s*", "", script)
    without_comments = re.sub(r"(^|\s)#.*$", "", joined, flags=re.M)
    return [match[2].strip() for match in COMMAND.finditer(without_comments)]


LINES = 20
WITH_COMMANDS = [
    page
    for page in pages()
    if any(commands(shell(block)) or block.language in {"python", "yaml"} for block in blocks(page))
]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_the_commands_of_a_page_do_what_it_says(page: str, made: World, tmp_path: Path) -> None:
    assumed = PAGES.get(page, Assumed())
    where, log = tmp_path / "world", tmp_path / "commands.jsonl"
    made.copy(where)
    for folder, entry in assumed.data.items():
        write_catalogue_data(entry, where / folder)
    for block in blocks(page):
        if block.title and block.language != "python":
            (where / block.title).write_text(block.body)
    prepared = made.run(assumed.before.replace(LLM, made.llm), where, tmp_path / "before.jsonl")
    assert prepared.returncode == 0, prepared.stdout + prepared.stderr
    wanted, python = 0, ""
    for block in blocks(page):
        script = shell(block)
        if block.language == "python":
            python += block.body
            (where / f"block_{block.line}.py").write_text(replaced(python, assumed.words))
            script = f"python block_{block.line}.py\n"
        if block.language == "yaml":
            check_settings(block, where)
        if script:
            wanted += len(commands(script))
            run(block, replaced(script, {**assumed.words, LLM: made.llm}), where, made, log)
    done = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(done) >= wanted
    counts = Counter("parsed" if record["parsed"] else "run" for record in done)
    cpu_s = sum(record["cpu_s"] for record in done)
    print(f"{page}: run {counts['run']}, parsed {counts['parsed']}; {cpu_s:.0f} s of CPU time")


def run(block: Block, script: str, where: Path, made: World, log: Path) -> None:
    done = made.run(script, where, log)
    printed = "\n".join([*done.stdout.splitlines()[-LINES:], *done.stderr.splitlines()[-LINES:]])
    assert done.returncode == 0, f"{block.name}\n{script}\n{printed}"


def test_what_is_only_parsed_is_in_the_documents_and_has_a_reason() -> None:
    found = [command for page in WITH_COMMANDS for block in blocks(page) for command in commands(shell(block))]
    parsed = Counter(rule_of(command.split()[0], command.split()[1:]).parse for command in found)
    print(f"{len(found)} commands in {len(WITH_COMMANDS)} documents: run {parsed.pop('', 0)}, parsed {parsed.total()}")
    for reason, number in parsed.items():
        print(f"  parsed {number}: {reason}")
    unused = [pattern for pattern, _ in PARSED if not any(re.search(pattern, command) for command in found)]
    assert not unused


WORDS = {"FOLDER": "real", "SOURCES.yaml": "phantoms", "SPOOLS": "spools", "RECIPE": "demo", "_OR_SET": ""}
INLINE = sorted({command for page in pages() for command in inline_commands(page)})
EXAMPLE = re.compile(r"^ {2,}((?:python -m|torchrun|clipmed) (?:[^\n]*\\\n *)*[^\n]*?)(?: {2,}[^\n]*)?$", re.MULTILINE)
NOT_PARSED = re.compile(r"\[--option value|train (page|list)\b")  # a usage line; commands without options
WHOLE = [command for command in INLINE if "--" in command or command.startswith("make ")]


def only_parse(found: list[str], made: World, tmp_path: Path) -> None:
    """Let the commands be parsed by their own parsers; each must be counted."""
    made.copy(tmp_path / "world")
    begin = "export DOCUMENTS_ONLY_PARSED=yes CLIPMED_CHECKPOINT=model"
    script = "\n".join([begin, *(replaced(command, WORDS) for command in found)])
    done = made.run(script, tmp_path / "world", tmp_path / "commands.jsonl")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "commands.jsonl").read_text().splitlines()) == len(found)


@pytest.mark.slow
def test_commands_in_running_text_are_parsed(made: World, tmp_path: Path) -> None:
    only_parse(WHOLE, made, tmp_path)


@pytest.mark.slow
def test_examples_in_help_texts_are_parsed(made: World, tmp_path: Path) -> None:
    found = [match[1] for program in TABLES for match in EXAMPLE.finditer(site_hooks.help_text(program))]
    only_parse([command for command in found if not NOT_PARSED.search(command)], made, tmp_path)
    assert len(found) > 30


@pytest.mark.slow
@pytest.mark.parametrize("command", ["clipmed info x --nothing", "python -m shards pack x --outt y", "make nothing"])
def test_a_command_that_is_wrong_is_found(command: str, made: World, tmp_path: Path) -> None:
    made.copy(tmp_path / "world")
    script = f"export DOCUMENTS_ONLY_PARSED=yes\n{command}"
    assert made.run(script, tmp_path / "world", tmp_path / "commands.jsonl").returncode != 0


@pytest.mark.parametrize("command", sorted(set(INLINE) - set(WHOLE)))
def test_a_command_that_is_named_is_there(command: str) -> None:
    if command.startswith("python -m benchmarks."):
        assert (REPOSITORY / "benchmarks" / f"{command.split('.')[1]}.py").is_file()
        return
    program = max((name for name in TABLES if command.startswith(name)), key=len)
    following = command.removeprefix(program).split()[:1]
    assert not following or following[0] in site_hooks.commands(program)
