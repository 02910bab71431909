"""What time cures and what it does not: outages, poisoned items, servers that come and go."""

import asyncio
import inspect
import os
import socket
import ssl
import time

import aiohttp
import pytest
import yarl
from asking import Said, ask, complete, opened
from loopback import FastClock, Fault, Loopback, say
from multidict import CIMultiDict, CIMultiDictProxy

from synth.batching import gathered
from synth.errors import RequestRejected, ServerRefused, ServerUnavailable, SystemFault
from synth.servers.faults import Redactor, TransientError
from synth.servers.http import client_error


@pytest.fixture
def server():
    with Loopback() as started:
        yield started


@pytest.mark.parametrize(
    "fault",
    [
        Fault(500),
        Fault(502, "<html>bad gateway</html>"),
        Fault(503),
        Fault(504),
        Fault(429),
        Fault(408),
        Fault(reset=True),
        Fault(200, say("x"), short=True),
        Fault(200, "<html>login</html>", headers={"Content-Type": "text/html"}),
        Fault(200, '{"choices": [{"mess'),
        Fault(200, b"\xff\xfe"),
        Fault(200, "[" * 100_000),
        Fault(200, {"object": "list"}),
        Fault(200, {"error": {"message": "upstream"}}),
        Fault(200, {"choices": [{"message": {"content": 7}}]}),
    ],
)
def test_what_time_cures_is_asked_again(server, fault):
    server.fail(fault, fault)
    (reply,) = complete(server)
    assert reply.text == '{"kind": "summary"}'


def test_a_hang_and_a_slow_drip_end_at_the_total_deadline(server):
    server.fail(Fault(delay=5), Fault(200, say("x"), drip=0.1))
    started = time.monotonic()
    (reply,) = complete(server, client={"request_timeout": 0.3})
    assert reply.text == '{"kind": "summary"}'
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"Retry-After": "9"}, 9), ({"retry-after-ms": "9000"}, 9), ({"Retry-After": "Fri, 15 Jan 2027 08:00:09 GMT"}, 9)],
)
def test_retry_after_is_waited_by_all_requests_of_that_server(server, headers, seconds):
    async def run():
        clock = FastClock(speed=20)
        async with opened(server, clock=clock) as model:
            await model.complete(ask())
            server.fail(Fault(429, headers=headers))
            started = clock.now()
            first = asyncio.create_task(model.complete(ask(1)))
            while len(server.posts) < 2:  # noqa: ASYNC110 - the server is in another thread
                await asyncio.sleep(0)
            await asyncio.sleep(0.05)
            await model.complete(ask(2))
            assert clock.now() - started >= seconds
            await first

    asyncio.run(run())


def test_an_outage_costs_time_and_no_item(server):
    async def run():
        said = Said()
        clock = FastClock()
        async with opened(server, clock=clock, said=said) as model:
            await model.complete(ask())
            server.stop()
            started = clock.now()
            waiting = [asyncio.create_task(model.complete(ask(i))) for i in range(40)]
            while clock.now() - started < 600:  # noqa: ASYNC110 - time is what we wait for
                await asyncio.sleep(0.01)
            assert not any(task.done() for task in waiting)
            server.start()
            assert {(await task).text for task in waiting} == {'{"kind": "summary"}'}
        assert len(said) == 2
        assert "waiting up to 1" in said[0]
        assert said[1].endswith("is back")

    asyncio.run(run())


def test_an_outage_that_lasts_ends_the_run_with_75(server):
    async def run():
        async with opened(server, client={"outage": 300.0}) as model:
            await model.complete(ask())
            server.stop()
            with pytest.raises(ServerUnavailable, match=r"limits\.outage") as caught:
                await model.complete(ask(1))
            assert caught.value.exit_code == 75

    asyncio.run(run())


def test_a_server_that_never_comes_up_ends_at_startup():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(ServerRefused, match=r"no server answers .*limits\.startup"):
            complete(url, client={"startup": 60.0})


def test_a_model_that_is_still_loading_is_waited_for(server):
    server.rule = lambda _: Fault(503) if len(server.log) < 8 else None
    said = Said()
    (reply,) = complete(server, said=said)
    assert reply.text == '{"kind": "summary"}'
    assert "loading" in said[0]


def test_a_poisoned_item_is_rejected_and_the_others_are_not(server):
    server.rule = lambda seen: Fault(500) if "poison" in seen.text else None

    async def run():
        async with opened(server, client={"concurrency": 8}) as model:
            texts = ["poison" if i in {3, 40} else "fine" for i in range(50)]
            return await asyncio.gather(
                *(model.complete(ask(i, text)) for i, text in enumerate(texts)), return_exceptions=True
            )

    results = asyncio.run(run())
    bad = [i for i, result in enumerate(results) if isinstance(result, BaseException)]
    assert bad == [3, 40]
    assert all(isinstance(results[i], RequestRejected) and results[i].reason == "server_error" for i in bad)
    assert sum("poison" in seen.text for seen in server.posts) <= 2 * 8


def test_a_lone_poisoned_item_does_not_stall_the_end_of_a_run(server):
    server.rule = lambda seen: Fault(reset=True) if "poison" in seen.text else None
    with pytest.raises(RequestRejected, match="server_error"):
        complete(server, requests=[ask(text="poison")])


def test_a_server_that_fails_everything_rejects_nothing(server):
    async def run():
        async with opened(server, client={"outage": 900.0}) as model:
            await model.complete(ask())
            server.rule = lambda seen: Fault(500) if seen.method == "POST" else None
            with pytest.raises(ServerUnavailable):
                await gathered(model.complete(ask(i)) for i in range(10))

    asyncio.run(run())


def test_requests_of_a_passage_meet_one_server_and_a_dead_one_hands_over(server):
    with Loopback() as other:

        async def run():
            said = Said()
            async with opened(server, other, said=said) as model:
                await gathered(model.complete(ask(i, slot=s)) for i in range(40) for s in range(3))
                shares = len(server.posts), len(other.posts)
                assert min(shares) >= 15  # five passages each fill the room at the start; then the quicker gets more
                assert all(count % 3 == 0 for count in shares)
                other.stop()
                await gathered(model.complete(ask(i)) for i in range(40))
                assert len(server.posts) >= shares[0] + 40
                assert "continuing with 1 other" in said[0]
                other.start()
                while not any(line.endswith("is back") for line in said):
                    await model.complete(ask(1))
                assert len(other.posts) > 0

        asyncio.run(run())


def _every(base):
    return {base} | {deeper for direct in base.__subclasses__() for deeper in _every(direct)}


_KEY = aiohttp.client_reqrep.ConnectionKey("h", 443, True, True, None, None, None)
_ASKED = aiohttp.RequestInfo(yarl.URL("http://h/v1"), "POST", CIMultiDictProxy(CIMultiDict()), yarl.URL("http://h/v1"))
_REFUSED = OSError(111, "refused")
_OF_AIOHTTP = {  # how to make one, and what it means; the nearest base class counts
    aiohttp.ClientConnectorCertificateError: (lambda cls: cls(_KEY, ssl.CertificateError("expired")), ServerRefused),
    aiohttp.ClientConnectorSSLError: (lambda cls: cls(_KEY, ssl.SSLError(1, "wrong version")), ServerRefused),
    aiohttp.ServerFingerprintMismatch: (lambda cls: cls(b"1", b"2", "h", 1), ServerRefused),
    aiohttp.InvalidURL: (lambda cls: cls("http://["), ServerRefused),
    aiohttp.RedirectClientError: (lambda cls: cls("words"), ServerRefused),
    aiohttp.NonHttpUrlClientError: (lambda cls: cls("words"), ServerRefused),
    aiohttp.TooManyRedirects: (lambda cls: cls(_ASKED, ()), ServerRefused),
    aiohttp.client_exceptions.UnixClientConnectorError: (lambda cls: cls("/s", _KEY, _REFUSED), TransientError),
    aiohttp.ClientConnectorError: (lambda cls: cls(_KEY, _REFUSED), TransientError),
    aiohttp.ClientResponseError: (lambda cls: cls(_ASKED, ()), TransientError),
    aiohttp.ClientConnectionError: (lambda cls: cls("words"), TransientError),
    aiohttp.ClientPayloadError: (lambda cls: cls("words"), TransientError),
    aiohttp.client_exceptions.UploadAbortedError: (lambda cls: cls("words"), TransientError),
}


@pytest.mark.parametrize("cls", sorted(_every(aiohttp.ClientError) - {aiohttp.ClientError}, key=lambda c: c.__name__))
def test_every_exception_of_aiohttp_has_a_meaning(cls):
    nearest = next((base for base in inspect.getmro(cls) if base in _OF_AIOHTTP), None)
    assert nearest is not None, f"{cls.__name__} is new: say in client_error what it means"
    make, expected = _OF_AIOHTTP[nearest]
    assert type(client_error(make(cls), "http://h/v1", Redactor())) is expected


def test_out_of_file_descriptors_is_the_machines_fault():
    exc = aiohttp.ClientOSError(24, os.strerror(24))
    assert isinstance(client_error(exc, "s", Redactor()), SystemFault)
