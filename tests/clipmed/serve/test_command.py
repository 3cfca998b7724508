"""The command: how it starts, refuses to start, and ends."""

import signal
import socket
from contextlib import closing

import httpx
import pytest

from clipmed.__main__ import main
from clipmed.errors import ConfigError
from clipmed.serve import server as serve_server
from clipmed.serve.limits import Limits
from clipmed.serve.naming import short_names
from tests.clipmed.serve.serving import encoded, noise, serving


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_clean_on_a_signal(checkpoints, tmp_path, number):
    with serving(tmp_path / "log", str(checkpoints["first"])) as server:
        assert server.checkpoints == ["first"]
        assert server.url.startswith("http://127.0.0.1:")
        with httpx.Client() as client:  # which keeps its connection open
            assert client.get(server.url).status_code == 200
            assert server.post("api/similar", encoded(noise())).status_code == 404
            assert server.end(number) == 0
    assert (tmp_path / "log").read_text() == ""


def test_other_machines_are_let_in_only_when_asked_to(checkpoints, tmp_path):
    with pytest.raises(SystemExit, match=r"--host 0\.0\.0\.0 would let other machines in; add --allow-remote"):
        main(["serve", str(checkpoints["first"]), "--host", "0.0.0.0"])
    with serving(tmp_path / "log", str(checkpoints["first"]), "--host", "0.0.0.0", "--allow-remote") as server:
        assert "warning: listening on 0.0.0.0" in (tmp_path / "log").read_text()
        assert httpx.get(server.url, headers={"Host": "192.0.2.7:80"}).status_code == 200
        assert httpx.get(server.url, headers={"Host": "evil.example"}).status_code == 421
        assert server.end() == 0


def test_a_port_that_is_taken_is_said(checkpoints):
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = str(other.getsockname()[1])
        with pytest.raises(SystemExit, match=rf"port {port} of 127\.0\.0\.1 is taken by another program; give another"):
            main(["serve", str(checkpoints["first"]), "--port", port])


def test_an_index_of_another_checkpoint_is_refused_at_the_start(checkpoints, index_folder):
    arguments = ["serve", str(checkpoints["second"]), "--index", str(index_folder), "--port", "0", "--device", "cpu"]
    with pytest.raises(SystemExit, match=r"was built by .*first/model with digest .*: got second \("):
        main(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "--max-upload-mb", "0"], "upload_bytes must be more than 0"),
        (["x", "--workers", "0"], "working must be more than 0"),
        (["x", "--queue", "-1"], "waiting must be 0 or more"),
        (["x", "x", "--port", "0"], "checkpoint x is given twice"),
        (["no-such-folder", "--port", "0"], "no-such-folder"),
    ],
)
def test_settings_that_are_wrong_are_refused(arguments, message):
    with pytest.raises(SystemExit, match=message):
        main(["serve", *arguments])


@pytest.mark.parametrize(
    ("arguments", "message"), [([], "checkpoints: got none"), (["x", "--port", "70000"], "allowed: 0 to 65535")]
)
def test_arguments_that_are_wrong_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(["serve", *arguments])
    assert message in capsys.readouterr().err


def test_a_host_of_another_machine_is_refused():
    with pytest.raises(ConfigError, match=r"192\.0\.2\.7"):
        serve_server.listen("192.0.2.7", 0)
    with pytest.raises(ConfigError, match=r"no-such-host\.invalid is no address"):
        serve_server.listen("no-such-host.invalid", 0)


def test_limits_have_defaults_that_hold():
    assert Limits().upload_bytes == 20_000_000


@pytest.mark.parametrize(
    ("locations", "names"),
    [
        (["build/demo/run/model"], ["run"]),
        (["a/run/model", "b/run/model"], ["a/run", "b/run"]),
        (["a/model", "a"], ["model", "a"]),
        (["/x/one", "hf-hub:org/one@v2", "hf-hub:org/two"], ["one", "one@v2", "two"]),
        (["one", "x/one"], ["one", "x/one"]),
        (["https://example.org/c/one", "ViT-B-32:openai"], ["one", "ViT-B-32:openai"]),
        (["model", "/"], ["model", "/"]),
    ],
)
def test_names_are_short_and_tell_checkpoints_apart(locations, names):
    assert short_names(locations) == names
