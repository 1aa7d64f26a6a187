"""What HTTP promises whoever asks: headers, hosts, tokens. What the API server answers is in tests/api/test_ui.py."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from multidict import CIMultiDictProxy

from internlm2_operator.cli.ui import serve
from internlm2_operator.cluster import errors
from internlm2_operator.cluster.gateway import Gateway
from tests.api.jobs import job as body
from tests.unit.cli.ui.structure import Document, wrong


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: CIMultiDictProxy[str]
    text: str


def asked(path: str, *, site: serve.Site, method: str = "GET", headers: dict[str, str] | None = None) -> Reply:
    async def ask() -> Reply:
        client: TestClient[web.Request, web.Application] = TestClient(
            TestServer(serve.application(site)), cookie_jar=aiohttp.DummyCookieJar()
        )
        async with client, client.request(method, path, headers=headers, allow_redirects=False) as answer:
            return Reply(answer.status, answer.headers, await answer.text())

    return asyncio.run(ask())


def site(error: Exception, *, shared: bool = False, base: str = "/") -> serve.Site:
    """A site whose API server answers nobody."""

    @contextlib.asynccontextmanager
    async def refuse(_: web.Request) -> AsyncIterator[Gateway]:
        raise error
        yield

    return serve.Site(refuse, base, "", shared=shared)


AWAY = errors.Retry("GET /apis: refused")


@pytest.mark.parametrize(
    ("path", "method", "code"),
    [("/", "GET", 503), ("/style.css", "GET", 200), ("/nowhere", "GET", 404), ("/", "POST", 405), ("/", "DELETE", 405)],
)
def test_every_answer_says_what_a_browser_may_do_with_it(path: str, method: str, code: int) -> None:
    reply = asked(path, site=site(AWAY), method=method)
    assert reply.status == code
    policy = reply.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'self';")
    assert "unsafe" not in policy
    assert (reply.headers["X-Content-Type-Options"], reply.headers["Cache-Control"]) == ("nosniff", "no-store")


def test_a_failure_is_a_page_like_the_others() -> None:
    reply = asked("/", site=site(AWAY))
    assert wrong(reply.text) == []
    assert Document(reply.text).texts("h1") == ["The API server does not answer"]


@pytest.mark.parametrize(("host", "code"), [("127.0.0.1:1", 503), ("localhost:1", 503), ("rebind.example:1", 421)])
def test_alone_only_this_machine_is_the_host(host: str, code: int) -> None:
    assert asked("/", site=site(AWAY), headers={"Host": host}).status == code


def test_shared_any_host_will_do_because_a_page_of_another_name_has_no_token() -> None:
    assert asked("/", site=site(AWAY, shared=True), headers={"Host": "ui.example"}).status == 503


def test_alone_there_is_nothing_outside_a_path_that_cannot_be_guessed() -> None:
    there = site(AWAY, base="/unguessable/")
    assert [asked(path, site=there).status for path in ("/", "/nodes", "/unguessable/nodes")] == [404, 404, 503]


def test_without_a_token_one_sentence_says_what_to_do_and_a_browser_asks() -> None:
    reply = asked("/", site=site(serve.NoToken(), shared=True))
    assert reply.status == 401
    assert [c.split()[0] for c in reply.headers.getall("WWW-Authenticate")] == ["Basic", "Bearer"]
    assert "Give a token of yours as the password" in reply.text


@pytest.mark.parametrize("error", [errors.Unknown("401"), errors.Forbidden("403 Forbidden: no")])
def test_alone_no_browser_asks_for_a_password(error: Exception) -> None:
    assert "WWW-Authenticate" not in asked("/", site=site(error)).headers


@pytest.mark.parametrize(
    ("path", "root"),
    [("/", "./"), ("/nodes/a", "../"), ("/jobs/a/b", "../../"), ("/jobs/a/b/faults/c", "../../../../")],
)
def test_links_lead_back_to_the_first_page_under_any_prefix(path: str, root: str) -> None:
    (style,) = Document(asked(path, site=site(AWAY)).text).all("link")
    assert style["href"] == f"{root}style.css"


class Old:
    """An API server with a job of a newer release beside one that can be read."""

    async def pages(self, _path: str, _query: object = ()) -> AsyncIterator[dict[str, Any]]:
        newer = body({"metadata.name": "newer"})
        newer["spec"]["model"] = {"preset": "internlm9"}
        for job in (newer, body({"metadata.name": "known"})):
            job["metadata"] |= {"namespace": "a", "uid": "1", "creationTimestamp": "2026-03-01T12:00:00Z"}
            yield {"items": [job]}


def test_a_job_of_a_newer_release_hides_no_other() -> None:
    there = serve.Site(lambda _: contextlib.nullcontext(cast(Gateway, Old())), "/", "", shared=False)
    page = Document(asked("/", site=there).text)
    assert "./jobs/a/known" in [a["href"] for a in page.all("a")]
    assert "./jobs/a/newer" not in [a["href"] for a in page.all("a")]
    assert page.texts("li")[-1].startswith("a/newer: model.preset: 'internlm9'")
