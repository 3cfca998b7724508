"""A server of OpenAI's chat protocol on loopback that answers well, badly, late or not at all, as a test scripts it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the server does with one question."""

    content: str | None = None
    """the model's words, in the protocol's frame"""
    raw: bytes | None = None
    """the whole body instead of that"""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    hang_up: bool = False
    """close the connection without an answer"""
    cut: bool = False
    """announce more bytes than are sent"""
    usage: Any = field(default_factory=lambda: {"prompt_tokens": 100, "completion_tokens": 50})


Script = Callable[[Body, int], Answer]
"""(question, its number from 0) to what is done with it"""


def captions(*texts: str, **more: Any) -> Answer:
    """Return a good answer with these captions."""
    return Answer(content=json.dumps({"captions": list(texts)}), **more)


@dataclass(slots=True)
class Served:
    """The address, and everything that was asked: bodies and headers in order."""

    url: str
    bodies: list[Body] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def questions(self) -> list[str]:
        """The last turn of each question."""
        return [str(body["messages"][-1]["content"]) for body in self.bodies]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_args: Any) -> None:
        """Clients of failing servers leave early: nothing to tell."""


@contextmanager
def llm_server(script: Script) -> Iterator[Served]:
    """Serve the script; yield what was asked."""
    lock, stop = threading.Lock(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_args: object) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(served.bodies)
                served.bodies.append(body)
                served.headers.append({name.lower(): value for name, value in self.headers.items()})
            answer = script(body, number)
            if answer.wait_s:
                stop.wait(answer.wait_s)
            if answer.hang_up:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            self._send(answer)

        def _send(self, answer: Answer) -> None:
            data = answer.raw
            if data is None:
                choice = {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": answer.content},
                }
                frame = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
                data = json.dumps(frame | ({"usage": answer.usage} if answer.usage is not None else {})).encode()
            self.send_response(answer.status)
            headers = {"Content-Type": "application/json", "Content-Length": str(len(data) + 100 * answer.cut)}
            for name, value in (headers | answer.headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
            self.close_connection = self.close_connection or answer.cut

    server = _Server(("127.0.0.1", 0), Handler)
    served = Served(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        stop.set()
        server.shutdown()
        server.server_close()
        thread.join()
