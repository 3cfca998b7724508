"""Whom the server answers: its own page and programs, by its own names; and what every answer carries."""

import asyncio
import re
from importlib import resources

import httpx
import pytest
from starlette.responses import PlainTextResponse

from clipmed.search import SearchIndex
from clipmed.serve.app import app
from clipmed.serve.guard import HEADERS, Guard, is_loopback, own_names
from tests.clipmed.serve.serving import encoded, noise


def post(server, **headers):
    return httpx.post(
        f"{server.url}api/classify",
        files={"image": encoded(noise())},
        data={"labels": "a\nb"},
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "192.0.2.7", "[", "", "@", "[::2]"],
)
def test_other_hosts_are_refused_so_that_names_cannot_be_rebound(server, host):
    for answer in (httpx.get(server.url, headers={"Host": host}), post(server, Host=host)):
        assert (answer.status_code, "it answers to 127.0.0.1, localhost" in answer.text) in {(421, True), (400, False)}


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1:1234", "127.0.0.9", "[::1]:8000"])
def test_names_and_addresses_of_loopback_are_its_own_on_any_port(server, host):
    assert httpx.get(server.url, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://["},
        {"Origin": "//"},
        {"Origin": "http://localhost:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_requests_of_other_sites_are_refused(server, headers):
    answer = post(server, **headers)
    assert (answer.status_code, "other sites" in answer.json()["error"]) == (403, True)


def test_requests_of_its_own_page_and_of_programs_are_answered(server):
    host, port = server.address
    assert post(server).status_code == 200
    assert post(server, Origin=f"http://{host}:{port}", Sec_Fetch_Site="same-origin").status_code == 200
    assert post(server, Host="localhost:9000", Origin="http://localhost:9000").status_code == 200  # through a tunnel


def test_no_answer_lets_other_sites_read_it(server):
    preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answers = [
        httpx.get(server.url),
        httpx.get(f"{server.url}static/page.js"),
        httpx.get(f"{server.url}api/checkpoints", headers={"Origin": "http://evil.example"}),
        httpx.get(f"{server.url}api/thumbnails/0"),
        httpx.get(f"{server.url}nothing"),
        httpx.get(server.url, headers={"Host": "evil.example"}),
        httpx.options(f"{server.url}api/classify", headers=preflight),
        post(server),
    ]
    for answer in answers:
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
    assert answers[6].status_code == 403


def test_the_page_names_no_other_place():
    for file in (resources.files("clipmed.serve") / "static").iterdir():
        named = set(re.findall(r"(?:https?:)?//[\w.]+", re.sub(r"(^|\s)// .*", "", file.read_text())))
        assert named <= {"http://www.w3.org"}, file.name  # the namespace of SVG, which nothing fetches


def ask(app, path="/", **headers):
    async def asked():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(asked())


def test_failures_are_logged_without_what_was_sent(caplog):
    async def broken(_scope, _receive, _send):
        raise KeyError("the label that somebody typed")

    answer = ask(Guard(broken, {"localhost"}))
    assert (answer.status_code, answer.json()) == (
        500,
        {"error": "the server failed on this request; its log says where"},
    )
    assert "KeyError" in caplog.text
    assert "in broken" in caplog.text
    assert "typed" not in caplog.text.replace('raise KeyError("the label that somebody typed")', "")


def test_failures_of_the_application_are_json_with_the_headers_too(models, index_folder, monkeypatch):
    index = SearchIndex.open(index_folder)
    application = app(models, index)
    monkeypatch.setattr(SearchIndex, "thumbnail", lambda _index, row: [][row])
    answer = ask(application, "/api/thumbnails/0")
    assert (answer.status_code, list(answer.json())) == (500, ["error"])
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS


@pytest.mark.parametrize(("any_address", "status"), [(False, 421), (True, 200)])
def test_only_a_remote_server_answers_to_any_address(any_address, status):
    guard = Guard(PlainTextResponse("hello"), {"localhost"}, any_address=any_address)
    assert ask(guard, host="192.0.2.7:8000").status_code == status
    assert ask(guard, host="evil.example").status_code == 421


def test_loopback_is_told_by_address():
    assert all(map(is_loopback, ["127.0.0.1", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "192.0.2.7", "no-such-host.invalid"]))
    assert own_names("127.0.0.1") == {"localhost", "127.0.0.1"}
    assert len(own_names("0.0.0.0")) > 2  # and this machine's own names
