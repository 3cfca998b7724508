"""The requests and the answer in docs/serve.md are those of a server that runs."""

import json
import re
import shutil
import subprocess

import httpx
import pytest

from tests.clipmed.serve.serving import REPOSITORY, encoded, noise

PAGE = (REPOSITORY / "docs" / "serve.md").read_text()
HERE = "http://127.0.0.1:8000/"


def block(language):
    return re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[1]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("command", re.findall(r"^curl .*?(?=^curl|\Z)", block("shell"), re.DOTALL | re.MULTILINE))
def test_the_requests_work(server, command, tmp_path):
    (tmp_path / "image.png").write_bytes(encoded(noise()))
    script = command.replace("curl ", "curl --fail ").replace(HERE, server.url)
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if "thumbnail" in command:
        assert (tmp_path / "thumbnail.jpg").read_bytes().startswith(b"\xff\xd8\xff")
    else:
        assert json.loads(done.stdout)


def test_the_answer_has_the_shape_that_is_shown(server):
    def shape(value):
        if isinstance(value, dict):
            return {name: shape(part) for name, part in value.items()}
        return [shape(value[0])] if isinstance(value, list) else type(value)

    answer = server.post("api/classify", encoded(noise()), labels="a\nb").json()
    assert shape(answer) == shape(json.loads(block("json")))


def test_the_table_names_every_address_of_the_api(server):
    paths = httpx.get(f"{server.url}api/openapi.json").json()["paths"]
    named = re.findall(r"^\| `(GET|POST) (/api/[\w/]+)` \|", PAGE, re.MULTILINE)
    assert {(method.lower(), path.replace("ROW", "{row}")) for method, path in named} == {
        (method, path) for path, methods in paths.items() for method in methods
    }
