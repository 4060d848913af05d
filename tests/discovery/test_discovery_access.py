"""Who may ask and who may change: web pages, names that were pointed here, tokens."""

from __future__ import annotations

import pytest
from serving import serving

from rumormill.discovery.http.access import Access


async def test_a_web_page_may_not_change_this_sidecar():
    async with serving() as endpoint:
        for header in (
            {"Origin": "http://evil.example"},
            {"Sec_Fetch_Site": "cross-site"},
            {"Sec_Fetch_Site": "same-origin"},
            {"Origin": "null"},
        ):
            for method, path in (("POST", "/v1/leave"), ("PUT", "/v1/drain"), ("DELETE", "/v1/drain")):
                assert (await endpoint.ask(method, path, **header)).status == 403
        assert endpoint.sidecar.told == []


async def test_a_web_page_from_elsewhere_may_not_ask_but_a_link_may_be_followed_and_its_own_page_works():
    async with serving() as endpoint:
        for foreign in (
            {"Origin": "http://evil.example"},
            {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"},
            {"Sec_Fetch_Site": "same-site"},
        ):
            assert (await endpoint.get("/v1/workers", **foreign)).status == 403
        for own in (
            {"Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "cors"},
            {"Sec_Fetch_Site": "none", "Sec_Fetch_Mode": "navigate"},
            {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"},
        ):
            assert (await endpoint.get("/v1/workers", **own)).status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example:7380", 421),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:7380", 421),
        ("[::1].evil.example", 421),
        ("", 421),
        ("127.0.0.1", 200),
        ("127.0.0.1:7380", 200),
        ("[::1]:7380", 200),
        ("localhost:7380", 200),
        ("LocalHost", 200),
    ],
)
async def test_a_name_that_was_pointed_here_is_not_served(host, status):
    """DNS rebinding: the page's own name resolves to 127.0.0.1, and its requests look like its own origin's."""
    async with serving() as endpoint:
        same_origin = {"Host": host, "Sec_Fetch_Site": "same-origin"}
        assert (await endpoint.get("/v1/workers", **same_origin)).status == status
        assert (await endpoint.get("/livez", **same_origin)).status == 200


READ = {"Authorization": "Bearer sesame"}
CHANGE = {"Authorization": "Bearer open-wide"}
NO_TOKENS = ({}, {"Authorization": "Bearer sesam"}, {"Authorization": "Basic sesame"}, {"Authorization": "Bearer"})


@pytest.mark.parametrize("local", [True, False])
async def test_with_tokens_reading_and_changing_are_two_rights(local):
    async with serving(access=Access(read_token="sesame", change_token="open-wide", local=local)) as endpoint:
        for wrong in NO_TOKENS:
            got = await endpoint.get("/v1/workers", **wrong)
            assert (got.status, got.headers["www-authenticate"]) == (401, 'Bearer realm="rumormill"')
            assert (await endpoint.ask("PUT", "/v1/drain", **wrong)).status == 401
        for right in (READ, CHANGE):
            assert (await endpoint.get("/v1/workers", Host="w1.example", **right)).status == 200
        assert (await endpoint.get("/v1/workers")).status == 401
        assert (await endpoint.ask("PUT", "/v1/drain", **READ)).status == 403
        assert endpoint.sidecar.told == []
        assert (await endpoint.ask("PUT", "/v1/drain", Origin="https://console.example", **CHANGE)).status == 200
        for path in ("/livez", "/readyz", "/healthz", "/worker/livez"):
            assert (await endpoint.get(path)).status == 200
        assert endpoint.sidecar.told == ["drain"]


@pytest.mark.parametrize(
    "access",
    [
        Access(read_token="sesame"),
        Access(read_token="sesame", local=False),
        Access(local=False),
        Access(mutual_tls=True),
    ],
    ids=["a token for reading", "the same beyond loopback", "insecure", "mutual TLS"],
)
async def test_what_every_caller_holds_changes_nothing(access):
    async with serving(access=access) as endpoint:
        for shown in ({}, READ, CHANGE):
            got = await endpoint.ask("POST", "/v1/leave", **shown)
            assert got.status == 403
            assert "--http-change-token-file" in got.json["hint"]
        assert (await endpoint.get("/v1/workers", **READ)).status == 200
        assert endpoint.sidecar.told == []


async def test_on_loopback_changes_alone_can_need_a_token():
    async with serving(access=Access(change_token="open-wide")) as endpoint:
        assert (await endpoint.get("/v1/workers")).status == 200
        assert (await endpoint.ask("PUT", "/v1/drain")).status == 401
        assert (await endpoint.ask("PUT", "/v1/drain", **CHANGE)).status == 200
