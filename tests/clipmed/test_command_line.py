"""The command line as a whole; each command has tests of its own."""

import subprocess
import sys


def test_a_reader_that_has_enough_is_no_error():
    command = subprocess.Popen(
        [sys.executable, "-m", "clipmed", "embed", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    command.stdout.close()
    assert command.stderr.read() == b""
    assert command.wait() in {0, 1}
    command.stderr.close()
