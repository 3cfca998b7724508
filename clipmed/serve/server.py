"""Running the application: a socket, uvicorn, and signals."""

from __future__ import annotations

import errno
import signal
import socket
import warnings
from typing import TYPE_CHECKING

from clipmed.errors import ConfigError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

# Only the server's own words reach standard error: what decoders and parsers log or warn of may quote an upload.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "clipmed: %(message)s"}},
    "handlers": {
        "nowhere": {"class": "logging.NullHandler"},
        "errors": {"class": "logging.StreamHandler", "formatter": "plain", "stream": "ext://sys.stderr"},
    },
    "root": {"handlers": ["nowhere"]},
    "loggers": {
        name: {"handlers": ["errors"], "level": "WARNING", "propagate": False} for name in ("clipmed.serve", "uvicorn")
    },
}
_BACKLOG = 64
_STOP_S = 10  # a request in work may finish within it


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 is any that is free.

    Raises:
        ConfigError: the port is taken, or the host is none of this machine's.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--host {host} is no address of this machine ({error}); try 127.0.0.1") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(_reason(error, host, port)) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the address of the page: that of loopback for a socket that listens on all."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (compared, not bound)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def run(app: ASGIApp, listener: socket.socket) -> None:
    """Answer requests until SIGINT or SIGTERM; then finish what is in work, and return."""
    import uvicorn

    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        log_config=LOGGING,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_STOP_S,
    )
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again once all is finished
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGTERM, before)


def _reason(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is taken by another program; give another with --port, or --port 0 for a free one"
        )
    if error.errno == errno.EACCES:
        return f"port {port} of {host} may not be opened ({error.strerror}); give one over 1023 with --port"
    return f"cannot listen on {host}, port {port}: {error.strerror or error}; give another --host or --port"
