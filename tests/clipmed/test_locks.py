"""Locks: one run writes, another says which; a killed one lets go."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import clipmed
from clipmed.errors import ConfigError
from clipmed.locks import only_writer

HOLD = """
import sys, time
from pathlib import Path
from clipmed.locks import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_second_of_two_writers_is_told_of_the_first_until_it_is_gone(tmp_path):
    target = tmp_path / "new" / "index"
    root = Path(clipmed.__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", HOLD, str(target)], stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout.readline() == b"held\n"
        for _ in range(2):
            with (
                pytest.raises(ConfigError, match=rf"index is being written by another run, process {process.pid} on"),
                only_writer(target),
            ):
                pass
        with only_writer(tmp_path / "new" / "other"):
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with only_writer(target):
        pass


def test_an_error_lets_go(tmp_path):
    with pytest.raises(KeyError), only_writer(tmp_path / "a"):
        raise KeyError
    with only_writer(tmp_path / "a"):
        pass
