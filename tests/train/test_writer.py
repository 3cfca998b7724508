"""Retries where a file system hiccups, and only there."""

from __future__ import annotations

import errno

import pytest

from train.writer import retried


class Flaky:
    """An action that fails some times before it succeeds."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)

    def __call__(self) -> str:
        if self.numbers:
            raise OSError(self.numbers.pop(0), "hiccup")
        return "done"


def test_errors_of_a_network_file_system_that_pass_are_waited_out() -> None:
    slept: list[float] = []
    flaky = Flaky(errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
    assert retried(flaky, (1.0, 5.0, 25.0), slept.append) == "done"
    assert slept == [1.0, 5.0, 25.0]


def test_patience_ends() -> None:
    slept: list[float] = []
    with pytest.raises(OSError, match="hiccup"):
        retried(Flaky(*4 * [errno.EIO]), (1.0, 5.0, 25.0), slept.append)
    assert slept == [1.0, 5.0, 25.0]


def test_a_full_disk_is_no_hiccup() -> None:
    slept: list[float] = []
    with pytest.raises(OSError, match="hiccup"):
        retried(Flaky(errno.ENOSPC), (1.0,), slept.append)
    assert slept == []
