"""Several processes that fetch the same at once: on disks with locks once, on those without undisturbed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clipmed.checkpoint_files import WEIGHTS_FILE
from clipmed.hub import partials
from tests.clipmed.tiny import NAME, same_files


def location(hub, kind):
    return f"hf-hub:{NAME}" if kind == "hub" else f"{hub.url}/files/{NAME}"


# Waits for the others, so that all ask at once.
PULL = """
import sys, time
from pathlib import Path
from clipmed.hub import fetch, repositories, web_folders
ready = Path(sys.argv[2])
(ready / sys.argv[3]).touch()
while len(list(ready.iterdir())) < 3:
    time.sleep(0.01)
print(fetch(sys.argv[1]))
"""


# A disk that says yes to every lock.
WITHOUT_LOCKS = """
from contextlib import nullcontext
from clipmed.hub import repositories, web_folders
repositories.locked = web_folders.locked = nullcontext
"""


def pulled_by_several(hub, home, source, code=""):
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    ready = home.with_name("ready")
    ready.mkdir()
    command = [sys.executable, "-c", code + PULL, source, str(ready)]
    root = Path(__file__).parents[2]
    started = [
        subprocess.Popen([*command, str(number)], env=environment, stdout=subprocess.PIPE, text=True, cwd=root)
        for number in range(3)
    ]
    folders = {process.communicate()[0].strip() for process in started}
    assert [process.returncode for process in started] == [0] * 3
    (folder,) = folders
    return Path(folder)


@pytest.mark.parametrize("kind", ["hub", "web folder"])
def test_several_processes_pull_the_same_at_once(hub, checkpoint, tmp_path, kind):
    hub.fail("/cdn/" if kind == "hub" else f"/{WEIGHTS_FILE}", hang_s=2)  # the others come meanwhile
    same_files(pulled_by_several(hub, tmp_path / "shared", location(hub, kind)), checkpoint)
    assert hub.sent.count(f"{NAME}/{WEIGHTS_FILE}") == 1


@pytest.mark.parametrize("kind", ["hub", "web folder"])
def test_several_processes_do_not_disturb_each_other_where_locks_do_nothing(hub, checkpoint, tmp_path, kind):
    hub.fail(WEIGHTS_FILE, hang_s=2, after=500, times=3)  # the three write at once, and continue what they wrote
    same_files(pulled_by_several(hub, tmp_path / "shared", location(hub, kind), WITHOUT_LOCKS), checkpoint)
    assert hub.sent.count(f"{NAME}/{WEIGHTS_FILE}") > 1
    assert not list((tmp_path / "shared").rglob("*partial*"))


@pytest.mark.parametrize(
    ("host", "pid", "age_s", "is_taken"),
    [
        ("here", "dead", 0, True),
        ("here", "alive", 0, False),
        ("here", "alive", 3600, True),  # the number is another process's now
        ("elsewhere", "dead", 0, False),
        ("elsewhere", "dead", 3600, True),
    ],
)
def test_what_a_killed_process_left_is_taken_over(tmp_path, host, pid, age_s, is_taken):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    number = {"dead": process.pid, "alive": os.getpid()}[pid]
    name = {"here": partials.owner().partition("-")[0], "elsewhere": "other_host"}[host]
    left = tmp_path / f"blob.{name}-{number}-7.clipmed-partial"
    left.write_bytes(b"begun")
    os.utime(left, (time.time() - age_s,) * 2)
    with partials.claimed(tmp_path / "blob") as own:
        assert own.is_file() == is_taken
        assert left.exists() != is_taken
    assert (tmp_path / "blob.clipmed-partial").is_file() == is_taken  # kept for the next one
