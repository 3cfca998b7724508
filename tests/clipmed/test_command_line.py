"""The command line as a whole; each command has tests of its own."""

import subprocess
import sys

import pytest

from clipmed.standard_output import reader_may_leave

COMMANDS = (
    "clipmed embed --help",
    "dataset_builders list",
    "dataset_builders pmc build --help",
    "shards pack --help",
    "train list",
    "zeroshot_eval score --help",
)


@pytest.mark.parametrize("words", COMMANDS)
def test_a_reader_that_has_enough_is_no_error(words):
    command = subprocess.Popen([sys.executable, "-m", *words.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    command.stdout.close()
    assert command.stderr.read() == b""
    assert command.wait() in {0, 1}
    command.stderr.close()


def test_another_pipe_that_breaks_is_an_error():
    with pytest.raises(BrokenPipeError, match="a worker"), reader_may_leave():
        raise BrokenPipeError("a worker died")
