"""Work is not begun for clients that are gone, nor once the server stops."""

import asyncio
import threading

import pytest
from fastapi import FastAPI

from clipmed.serve import answers
from clipmed.serve.app import Service, app
from clipmed.serve.limits import Limits
from tests.clipmed.serve.serving import encoded, noise

BODY = (
    b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n'
    + encoded(noise())
    + b'\r\n--b\r\nContent-Disposition: form-data; name="labels"\r\n\r\na\nb\r\n--b--\r\n'
)
SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/api/classify",
    "headers": [(b"host", b"localhost"), (b"content-type", b"multipart/form-data; boundary=b")],
    "query_string": b"",
    "http_version": "1.1",
    "scheme": "http",
}


async def request(application, leave):
    """Send a form, and leave once `leave` is set; return the statuses that came."""
    messages = [{"type": "http.request", "body": BODY, "more_body": False}]
    statuses = []

    async def receive():
        if messages:
            return messages.pop()
        await leave.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        statuses.extend([message["status"]] if "status" in message else [])

    await application(dict(SCOPE), receive, send)
    return statuses


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def test_work_of_a_client_that_left_while_it_waited_is_never_begun(models, monkeypatch):
    begun, release, really = [], threading.Event(), answers.classified

    def slowly(*given):
        begun.append(given)
        assert release.wait(60)
        return really(*given)

    monkeypatch.setattr(answers, "classified", slowly)

    async def visits():
        application = app(models, limits=Limits(working=1, waiting=1))
        stays, leaves = asyncio.Event(), asyncio.Event()
        patient = asyncio.create_task(request(application, stays))
        await until(lambda: begun)
        leaves.set()
        try:
            gone = await asyncio.wait_for(request(application, leaves), 30)  # ends while the other one is in work
            assert not patient.done()
            third = asyncio.create_task(request(application, stays))  # for which there is a place
        finally:
            release.set()
        return gone, await patient, await third

    gone, patient, third = asyncio.run(visits())
    assert 200 not in gone
    assert (patient, third) == ([200], [200])
    assert len(begun) == 2


def test_work_that_waits_is_not_begun_once_the_server_stops(models):
    begun, release = [], threading.Event()

    def work(name):
        begun.append(name)
        assert release.wait(60)

    async def stopped():
        service = Service(models, None, Limits(working=1))
        async with service.lifespan(FastAPI()):
            first = asyncio.create_task(service.bench.run(lambda: work("first")))
            await until(lambda: begun)
            second = asyncio.create_task(service.bench.run(lambda: work("second")))
            await asyncio.sleep(0.05)  # it is in the queue
        release.set()
        await first
        with pytest.raises(asyncio.CancelledError):
            await second

    asyncio.run(stopped())
    assert begun == ["first"]
