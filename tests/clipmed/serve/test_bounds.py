"""Sizes, places and time: what a server process refuses while an upload still comes, and that it never writes it."""

import json
import re
import shutil
import socket
import threading
from contextlib import ExitStack, closing

import httpx
import pytest

from tests.clipmed.serve.conftest import UPLOAD_MB
from tests.clipmed.serve.serving import encoded, noise, serving

MEGABYTE = 1_000_000
HEAD = (
    "POST /api/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n{}\r\n\r\n"
    '--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n'
)
TAIL = b'\r\n--b\r\nContent-Disposition: form-data; name="labels"\r\n\r\na\nb\r\n--b--\r\n'


def answer_of(connection):
    """Read a whole answer: its status, and its JSON."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    (length,) = re.findall(rb"content-length: (\d+)", head.lower())
    while len(body) < int(length):
        body += connection.recv(65536)
    return int(head.split()[1]), json.loads(body)


def test_the_largest_image_allowed_is_taken_and_never_written(server):
    side = int((UPLOAD_MB * MEGABYTE * 0.98 / 3) ** 0.5)
    image = encoded(noise(side, side))
    assert 0.95 * UPLOAD_MB * MEGABYTE < len(image) < UPLOAD_MB * MEGABYTE
    assert server.post("api/classify", image, labels=["a", "b"]).status_code == 200
    assert "WRITES" not in server.log.read_text()


def test_an_image_a_little_too_large_is_refused(server):
    answer = server.post("api/classify", bytes(UPLOAD_MB * MEGABYTE + 1), labels=["a", "b"])
    assert (answer.status_code, answer.json()["error"]) == (
        413,
        "the image is larger than 6 MB, the most that this server takes; send a smaller one",
    )


def test_a_length_that_is_too_large_is_refused_before_the_body(server):
    with closing(socket.create_connection(server.address, timeout=30)) as connection:
        connection.sendall(HEAD.format("Content-Length: 900000000\r\nExpect: 100-continue").encode())
        status, body = answer_of(connection)
    assert (status, "larger than 6 MB" in body["error"]) == (413, True)


def test_chunks_without_a_length_are_refused_once_they_are_too_many(server):
    with closing(socket.create_connection(server.address, timeout=30)) as connection:
        connection.sendall(HEAD.format("Transfer-Encoding: chunked").encode().partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        part = HEAD.partition("\r\n\r\n")[2].encode()
        connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
        sent = 0
        while sent <= UPLOAD_MB * MEGABYTE:
            connection.sendall(b"%x\r\n%s\r\n" % (100_000, bytes(100_000)))
            sent += 100_000
        status, body = answer_of(connection)  # and no end of the body was sent
    assert (status, "larger than 6 MB" in body["error"]) == (413, True)


def test_places_are_bounded_and_the_page_answers_meanwhile(server):
    image = encoded(noise())
    part = HEAD.partition("\r\n\r\n")[2]
    length = f"Content-Length: {len(part) + len(image) + len(TAIL)}"
    with ExitStack() as stack:
        slow = [stack.enter_context(closing(socket.create_connection(server.address, timeout=60))) for _ in range(2)]
        for connection in slow:  # one in work and one waiting are all that this server admits
            connection.sendall(HEAD.format(length).encode() + image[:100])
        refused = _until(lambda: server.post("api/classify", image, labels=["a", "b"]), 503)
        assert refused.headers["retry-after"] == "2"
        assert "busy" in refused.json()["error"]
        assert httpx.get(server.url).status_code == 200
        assert httpx.get(f"{server.url}api/checkpoints").status_code == 200
        for connection in slow:
            connection.sendall(image[100:] + TAIL)
        assert [answer_of(connection)[0] for connection in slow] == [200, 200]
    assert server.post("api/classify", image, labels=["a", "b"]).status_code == 200


def test_clients_that_leave_free_their_places(server):
    for _ in range(4):
        with closing(socket.create_connection(server.address, timeout=60)) as connection:
            connection.sendall(HEAD.format("Content-Length: 5000").encode())
    answer = _until(lambda: server.post("api/classify", encoded(noise()), labels=["a", "b"]), 200)
    assert answer.status_code == 200


def _until(ask, status):
    """Ask until the answer has this status: the server needs a moment to see what other connections sent."""
    pause = threading.Event()
    for _ in range(100):
        answer = ask()
        if answer.status_code == status:
            break
        pause.wait(0.05)
    assert answer.status_code == status, answer.text
    return answer


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_no_system_call_opens_a_file_to_write_an_upload(checkpoints, tmp_path):
    trace = tmp_path / "trace"
    calls = "trace=open,openat,openat2,creat,mkdir,mkdirat,rename,renameat,renameat2"
    prefix = ("strace", "-f", "--seccomp-bpf", "-e", calls, "-o", str(trace))
    with serving(tmp_path / "log", str(checkpoints["first"]), prefix=prefix) as server:
        before = trace.read_text()
        image = encoded(noise(1500, 1500))  # above the size at which frameworks spool to a file
        assert len(image) > 6 * MEGABYTE
        assert server.post("api/classify", image, labels=["a", "b"]).status_code == 200
        after = trace.read_text()[len(before) :]
        assert server.process.stdin is not None
        server.process.stdin.close()  # as when the tests are killed
        assert server.process.wait(timeout=60) == 1
    written = [line for line in after.splitlines() if re.search(r"O_WRONLY|O_RDWR|O_CREAT|creat|mkdir|rename", line)]
    assert after
    locks = ("/dev/null", "/dev/shm/sem.")  # a semaphore, of the bars that progress is shown by, lives in memory
    assert not [line for line in written if not any(lock in line for lock in locks)]
