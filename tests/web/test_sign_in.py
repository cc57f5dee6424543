"""Signing in and out, with keys and by an issuer: who gets in, where they go, and what is refused."""

import asyncio
import json
import time
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from quernel.cli.gateway import doors_of
from quernel.errors import ProviderError, SettingsError
from quernel.gateway.issuers import parse_issuer
from quernel.web.code_flow import ATTEMPT_SECONDS, CodeFlow, Door, SignInError, claims_of
from quernel.web.sealed import COOKIE_BYTES
from quernel.web.session import LONGEST_SECONDS, Session, Sessions
from quernel.web.sign_in import ATTEMPT_COOKIE
from tests.support import issuer as issuers
from tests.support.issuer import CLIENT, ENVIRONMENT, SECRET, Issuer, signing_key
from tests.support.storefront import Browser, Page, storefront

SESSION = "quernel-session"
ELSEWHERE = (
    "https://evil.example/",
    "//evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/\t/evil.example",
    "javascript:alert(1)",
    "evil.example",
    "",
)


@dataclass(frozen=True)
class House:
    """A gateway with pages, and the issuer by which people sign in to it."""

    served: object
    issuer: Issuer

    def leave(self, browser, **query):
        """Where the button sends a browser."""
        reply = browser.get("/sign-in/with/house", params=query or None, follow_redirects=False)
        assert reply.status_code == 303
        return reply.headers["location"]

    def sign_in(self, browser, *, answer=None, **query):
        """The page after signing in at the issuer; `answer` changes what that sends back."""
        return Page(browser.get(self.issuer.authorize(self.leave(browser, **query), **(answer or {}))))


@contextmanager
def house(folder, **changes):
    with (
        issuers.issuer() as made,
        storefront(folder, issuers=[issuers.table(made, **changes)], environment=ENVIRONMENT) as served,
    ):
        served.http.post("/v1/accounts", json={"slug": "acme", "name": "Acme"}).raise_for_status()
        yield House(served, made)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with house(tmp_path_factory.mktemp("house")) as made:
        yield made


@pytest.fixture
def home(shared):
    """The house, with an issuer that has forgotten what a test made of it."""
    shared.issuer.claims, shared.issuer.tokens, shared.issuer.key = {"owner": "acme"}, {}, signing_key()
    return shared


@pytest.fixture
def browser(home):
    with Browser(home.served) as browser:
        yield browser


def problem(page):
    """What a sign-in page says is wrong; nobody is signed in."""
    assert page.path in ("/sign-in", "/sign-in/callback")
    given = next(given for _, given in page.tags if given.get("role") == "alert")
    assert "bad" in given["class"]
    return page.text


# With a key


def test_a_key_opens_the_console_and_signing_out_closes_it(home, browser):
    page = browser.sign_in(home.served.key)
    assert (page.status, page.path) == (200, "/console")
    out = browser.submit(page, "/sign-out")
    assert out.path == "/"
    assert SESSION not in browser.cookies
    assert browser.open("/console").path == "/sign-in"


@pytest.mark.parametrize("key", ["", "wrong", "quernel_0000000000_" + "0" * 59, "a\tb", "ключ", "x" * 5000])
def test_a_wrong_key_opens_nothing_and_is_not_shown_again(browser, key):
    page = browser.sign_in(key)
    assert page.status in (400, 401)
    assert problem(page)
    assert SESSION not in browser.cookies
    assert not key.strip() or len(key) < 6 or key not in page.html


def test_the_cookie_of_a_session_is_for_this_site_and_no_script(home, browser):
    reply = browser.post("/sign-in", data={"key": home.served.key}, follow_redirects=False)
    cookie = reply.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "path=/" in cookie
    assert "secure" not in cookie
    assert f"max-age={LONGEST_SECONDS}" in cookie
    assert home.served.key not in reply.headers["set-cookie"]


def _request(scheme, **cookies):
    pairs = "; ".join(f"{name}={value}" for name, value in cookies.items())
    headers = [(b"host", b"gateway.example"), (b"cookie", pairs.encode())]
    scope = {"type": "http", "method": "GET", "scheme": scheme, "path": "/", "query_string": b"", "headers": headers}
    return Request(scope)


def test_over_https_the_cookie_is_of_this_host_alone_and_never_sent_without_encryption():
    sessions, response = Sessions(b"s" * 32, clock=lambda: 1000.0), Response()
    sessions.begin(_request("https"), response, "quernel_key")
    name, _, rest = response.headers["set-cookie"].partition("=")
    assert name == "__Host-quernel-session"
    assert "; Secure" in rest
    assert "Path=/" in rest
    assert "Domain" not in rest
    sealed = rest.partition(";")[0]
    assert sessions.read(_request("https", **{name: sealed})) == Session("quernel_key", 1000 + LONGEST_SECONDS)
    assert sessions.read(_request("https", **{SESSION: sealed})) is None
    assert sessions.read(_request("http", **{name: sealed})) is None


def test_a_session_ends_with_what_it_was_begun_with():
    now = [1000.0]
    sessions, response = Sessions(b"s" * 32, clock=lambda: now[0]), Response()
    sessions.begin(_request("http"), response, "token", expires=1060.9)
    assert "Max-Age=60" in response.headers["set-cookie"]
    sealed = response.headers["set-cookie"].partition("=")[2].partition(";")[0]
    request = _request("http", **{SESSION: sealed})
    assert sessions.read(request) == Session("token", 1060)
    now[0] = 1060.0
    assert sessions.read(request) is None


def test_a_cookie_of_another_gateway_or_a_changed_one_signs_nobody_in():
    response = Response()
    Sessions(b"s" * 32).begin(_request("http"), response, "quernel_key")
    sealed = response.headers["set-cookie"].partition("=")[2].partition(";")[0]
    assert Sessions(b"s" * 32).read(_request("http", **{SESSION: sealed})) is not None
    assert Sessions(b"t" * 32).read(_request("http", **{SESSION: sealed})) is None
    for changed in (sealed[:-8], "A" + sealed[1:], "x", "", "%%%", "ü"):
        assert Sessions(b"s" * 32).read(_request("http", **{SESSION: changed})) is None


def test_the_longest_credential_that_fits_makes_a_cookie_that_browsers_keep():
    sessions = Sessions(b"s" * 32)
    longest = max(length for length in range(4000) if sessions.fits("x" * length))
    response = Response()
    sessions.begin(_request("https"), response, "x" * longest)
    name, _, rest = response.headers["set-cookie"].partition("=")
    assert COOKIE_BYTES - 8 < len(name) + len(rest.partition(";")[0]) <= COOKIE_BYTES
    assert longest > 2900


@pytest.mark.parametrize("place", ELSEWHERE)
def test_a_form_names_no_page_of_elsewhere(home, browser, place):
    reply = browser.post("/sign-in", data={"key": home.served.key, "next": place}, follow_redirects=False)
    assert reply.headers["location"] == "/console"
    theme = browser.post("/theme", data={"theme": "dark", "next": place}, follow_redirects=False)
    assert theme.headers["location"] == "/"


def test_whoever_had_to_sign_in_goes_on_to_the_page_that_they_wanted(home, browser):
    page = browser.open("/console/usage?range=7d&by=key")
    assert page.path == "/sign-in"
    page = browser.submit(page, "/sign-in", key=home.served.key)
    assert page.path == "/console/usage"
    assert dict(parse_qsl(page.reply.url.query.decode())) == {
        "range": "7d",
        "by": "key",
    }


@pytest.mark.parametrize(
    "headers",
    [{"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"sec-fetch-site": "none"}, {"origin": "null"}],
)
def test_a_form_of_another_site_signs_nobody_in(home, headers):
    with httpx.Client(base_url=home.served.url, headers=headers) as client:
        reply = client.post("/sign-in", data={"key": home.served.key})
        assert reply.status_code == 403
        assert "set-cookie" not in reply.headers


def test_below_a_path_of_a_proxy_pages_lead_to_one_another(tmp_path):
    with storefront(tmp_path, root_path="/llm") as served, Browser(served) as browser:
        reply = browser.get("/console/usage?range=7d", follow_redirects=False)
        assert reply.headers["location"].startswith("/llm/sign-in?next=%2Fconsole%2Fusage")
        reply = browser.post("/sign-in", data={"key": served.key, "next": "/console/keys"}, follow_redirects=False)
        assert reply.headers["location"] == "/llm/console/keys"
        page = browser.open("/console/usage?range=7d")
        ours = [link for link in page.links if link.startswith("/")]
        assert ours
        assert all(link.startswith("/llm/") for link in ours)
        (changed,) = browser.submit(page, "/theme", theme="dark").reply.history
        assert changed.headers["location"] == "/llm/console/usage?range=7d"


# By an issuer


def test_somebody_signs_in_by_their_issuer(home, browser):
    page = browser.open("/sign-in")
    assert "Sign in with the house" in page.text
    assert "/sign-in/with/house" in page.links
    page = home.sign_in(browser)
    assert (page.status, page.path) == (200, "/console")
    assert "Acme" in page.text
    assert "house|ada" in page.text
    assert browser.open("/console/keys").status == 200
    assert browser.open("/console/keys/new").status == 403  # its scope is `read`


def test_the_session_ends_when_the_token_does(home, browser):
    home.issuer.claims["exp"] = int(time.time()) + 200
    callback = home.issuer.authorize(home.leave(browser))
    reply = browser.get(callback, follow_redirects=False)
    session = next(cookie for cookie in reply.headers.get_list("set-cookie") if cookie.startswith(SESSION))
    (age,) = (part for part in session.split("; ") if part.lower().startswith("max-age="))
    assert 190 < int(age.partition("=")[2]) <= 200


def test_a_member_may_do_what_their_role_allows(home, browser):
    home.issuer.claims["sub"] = "grace"
    body = {"subject": "house|grace", "role": "admin"}
    home.served.http.put("/v1/members?account=acme", json=body).raise_for_status()
    home.sign_in(browser)
    assert browser.open("/console/keys/new").status == 200


def test_they_go_on_to_the_page_that_they_wanted(home, browser):
    assert home.sign_in(browser, next="/console/usage?range=7d").path == "/console/usage"


@pytest.mark.parametrize("place", ELSEWHERE)
def test_an_issuer_sends_nobody_elsewhere(home, browser, place):
    callback = home.issuer.authorize(home.leave(browser, next=place))
    reply = browser.get(callback, follow_redirects=False)
    assert reply.headers["location"] == "/console"
    assert urlsplit(callback).netloc == urlsplit(home.served.url).netloc


def test_what_is_asked_of_the_issuer_is_new_each_time(home, browser):
    first, second = (dict(parse_qsl(urlsplit(home.leave(browser)).query)) for _ in range(2))
    for name in ("state", "nonce", "code_challenge"):
        assert first[name] != second[name]
        assert len(first[name]) >= 43
    assert first["redirect_uri"] == f"{home.served.url}/sign-in/callback"
    assert first["scope"] == "openid email profile"


def test_the_cookie_of_a_sign_in_is_short_lived_and_signs_nobody_in(home, browser):
    reply = browser.get("/sign-in/with/house", follow_redirects=False)
    cookie = reply.headers["set-cookie"]
    assert cookie.startswith(ATTEMPT_COOKIE)
    assert f"Max-Age={ATTEMPT_SECONDS}" in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert reply.headers["cache-control"] == "no-store"
    with Browser(home.served) as other:
        other.cookies.set(SESSION, browser.cookies[ATTEMPT_COOKIE])
        assert other.open("/console").path == "/sign-in"


def test_a_reply_with_another_state_is_refused(home, browser):
    for answer in ({"state": "other"}, {"state": None}, {"state": ""}, {"state": "ü"}):
        page = home.sign_in(browser, answer=answer)
        assert page.status == 400
        assert "another sign-in" in problem(page)
        assert SESSION not in browser.cookies
        assert ATTEMPT_COOKIE not in browser.cookies


def test_a_reply_to_somebody_elses_sign_in_is_refused(home, browser):
    with Browser(home.served) as attacker:
        theirs = home.issuer.authorize(home.leave(attacker))
    assert "No sign-in is under way" in problem(Page(browser.get(theirs)))
    home.leave(browser)
    assert "another sign-in" in problem(Page(browser.get(theirs)))


def test_a_reply_counts_once(home, browser):
    callback = home.issuer.authorize(home.leave(browser))
    assert Page(browser.get(callback)).path == "/console"
    browser.cookies.delete(SESSION)
    assert "No sign-in is under way" in problem(Page(browser.get(callback)))


def test_a_code_is_taken_once_though_the_cookie_comes_again(home, browser):
    callback = home.issuer.authorize(home.leave(browser))
    attempt = browser.cookies[ATTEMPT_COOKIE]
    assert Page(browser.get(callback)).path == "/console"
    browser.cookies.delete(SESSION)
    browser.cookies.set(ATTEMPT_COOKIE, attempt)
    page = Page(browser.get(callback))
    assert page.status == 400
    assert "gave no token" in problem(page)


def test_a_code_of_another_sign_in_is_refused_since_its_verifier_is_missing(home, browser):
    with Browser(home.served) as attacker:
        stolen = dict(parse_qsl(urlsplit(home.issuer.authorize(home.leave(attacker))).query))["code"]
    assert "gave no token" in problem(home.sign_in(browser, answer={"code": stolen}))


def test_a_token_for_another_sign_in_is_refused(home, browser):
    for nonce in ("other", None, 7):
        home.issuer.tokens = {"id_token": home.issuer.token(nonce=nonce)}
        assert "made for another sign-in" in problem(home.sign_in(browser))


def test_what_the_issuer_says_is_wrong_is_shown_as_text(home, browser):
    page = home.sign_in(browser, answer={"code": None, "error": "access_denied", "error_description": "<b>no</b>"})
    assert page.status == 400
    assert "Sign in with the house did not sign you in: access_denied." in problem(page)
    page = home.sign_in(browser, answer={"code": None, "error": "<script>alert(1)</script>\u202e" + "x" * 500})
    assert "<script>alert" not in page.html
    assert "\u202e" not in page.html
    assert "x" * 200 not in page.html


def test_a_reply_without_a_code_is_refused(home, browser):
    for code in (None, "", "x" * 5000):
        assert "has no code" in problem(home.sign_in(browser, answer={"code": code}))


def test_a_reply_of_another_issuer_is_refused(home, browser):
    assert "not from" in problem(home.sign_in(browser, answer={"iss": "https://evil.example"}))
    assert home.sign_in(browser, answer={"iss": home.issuer.url}).path == "/console"


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"aud": "another"}, "its aud"),
        ({"exp": 1}, "has expired"),
        ({"iss": "https://evil.example"}, "not an issuer that is trusted"),
    ],
)
def test_a_token_that_the_gateway_refuses_signs_nobody_in(home, browser, claims, words):
    home.issuer.claims.update(claims)
    page = home.sign_in(browser)
    assert page.status == 400
    assert words in problem(page)
    assert SESSION not in browser.cookies


def test_a_token_that_somebody_else_signed_signs_nobody_in(home, browser):
    home.issuer.key = signing_key(2)
    assert "its signature is wrong" in problem(home.sign_in(browser))
    assert SESSION not in browser.cookies


def test_where_the_id_token_is_for_somebody_else_the_access_token_is_tried(home, browser):
    home.issuer.claims["aud"] = "another"
    home.issuer.tokens = {"access_token": home.issuer.token(aud=CLIENT)}
    assert home.sign_in(browser).path == "/console"
    browser.cookies.delete(SESSION)
    home.issuer.tokens = {"access_token": "opaque"}
    assert "its aud" in problem(home.sign_in(browser))


def test_a_token_that_is_too_large_for_a_cookie_is_refused_with_the_way_out(home, browser):
    home.issuer.claims["groups"] = ["staff" * 10] * 80
    page = home.sign_in(browser)
    assert page.status == 400
    assert "more than a cookie holds" in problem(page)
    assert "fewer claims" in page.text
    assert SESSION not in browser.cookies


def test_whoever_is_signed_in_is_not_sent_away(home, browser):
    browser.sign_in(home.served.key)
    reply = browser.get("/sign-in/with/house?next=/models", follow_redirects=False)
    assert reply.headers["location"] == "/models"


def test_there_is_no_other_door(browser):
    assert browser.open("/sign-in/with/other").status == 404


def test_an_account_that_there_is_not_is_said_to_be_missing(tmp_path):
    with house(tmp_path, account="nobody") as home, Browser(home.served) as browser:
        page = home.sign_in(browser)
        assert page.status == 400
        assert "There is no account 'nobody'" in problem(page)


def test_a_client_says_who_it_is_as_the_issuer_wants_it(tmp_path):
    with house(tmp_path) as home, Browser(home.served) as browser:
        assert home.sign_in(browser).path == "/console"
        assert home.issuer.asked[-1]["authorization"].startswith("Basic ")
        assert "client_secret" not in home.issuer.asked[-1]
    (tmp_path / "post").mkdir()
    with house(tmp_path / "post") as home, Browser(home.served) as browser:
        home.issuer.discovery = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
        assert home.sign_in(browser).path == "/console"
        assert home.issuer.asked[-1]["client_secret"] == SECRET
        assert home.issuer.asked[-1]["authorization"] is None
    (tmp_path / "public").mkdir()
    with house(tmp_path / "public", client_secret=None) as home, Browser(home.served) as browser:
        home.issuer.is_public = True
        assert home.sign_in(browser).path == "/console"


@pytest.mark.parametrize(
    "discovery",
    [
        {"issuer": "https://evil.example"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": "http://evil.example/authorize"},
        {"token_endpoint": "http://evil.example/token"},
        {"token_endpoint": None},
    ],
)
def test_an_issuer_that_does_not_answer_as_one_leads_nowhere(tmp_path, discovery):
    with house(tmp_path) as home, Browser(home.served) as browser:
        home.issuer.discovery = discovery
        reply = browser.get("/sign-in/with/house", follow_redirects=False)
        assert reply.status_code == 502
        assert "does not answer as it must" in reply.text


def test_an_issuer_that_is_away_leaves_keys_to_sign_in_with(tmp_path):
    with house(tmp_path) as home, Browser(home.served) as browser:
        home.issuer.discovery = {"filler": "x" * 300_000}  # more than is read
        page = browser.open("/sign-in/with/house")
        assert page.status == 502
        assert "does not answer now" in page.text
        assert browser.sign_in(home.served.key).path == "/console"


# The flow by itself


class Clock:
    def __init__(self):
        self.now = 1_800_000_000.0

    def __call__(self):
        return self.now


DOOR = Door(name="house", label="The house", issuer="https://id.example", client_id=CLIENT)
DISCOVERY = {
    "issuer": DOOR.issuer,
    "authorization_endpoint": "https://id.example/authorize?tenant=1",
    "token_endpoint": "https://id.example/token",
}


def flow_of(documents, clock=None):
    asked = []

    async def fetch(url, *, form=None, headers=None):
        asked.append(url)
        if url not in documents:
            raise ProviderError(f"{url} is away.")
        return json.dumps(documents[url]).encode()

    return CodeFlow(DOOR, fetch, clock or Clock()), asked


def test_an_attempt_ends_after_ten_minutes():
    clock = Clock()
    flow, _ = flow_of({f"{DOOR.issuer}/.well-known/openid-configuration": DISCOVERY}, clock)

    async def run():
        attempt, address = await flow.begin("https://gateway.example/sign-in/callback", "/console")
        assert address.startswith("https://id.example/authorize?tenant=1&response_type=code")
        clock.now += ATTEMPT_SECONDS
        await flow.finish(attempt, {"state": attempt.state, "code": "c"}, "https://gateway.example/sign-in/callback")

    with pytest.raises(SignInError, match="ten minutes"):
        asyncio.run(run())


def test_an_issuer_that_promises_to_name_itself_in_replies_must():
    flow, _ = flow_of(
        {
            f"{DOOR.issuer}/.well-known/openid-configuration": {
                **DISCOVERY,
                "authorization_response_iss_parameter_supported": True,
            }
        }
    )

    async def run():
        attempt, _ = await flow.begin("https://gateway.example/sign-in/callback", "/console")
        await flow.finish(attempt, {"state": attempt.state, "code": "c"}, "https://gateway.example/sign-in/callback")

    with pytest.raises(SignInError, match="not from"):
        asyncio.run(run())


def test_an_issuers_addresses_are_asked_for_once_in_a_while():
    clock = Clock()
    flow, asked = flow_of({f"{DOOR.issuer}/.well-known/openid-configuration": DISCOVERY}, clock)

    async def run():
        for _ in range(3):
            await flow.begin("https://gateway.example/sign-in/callback", "/console")
        clock.now += 601
        await flow.begin("https://gateway.example/sign-in/callback", "/console")

    asyncio.run(run())
    assert len(asked) == 2


@pytest.mark.parametrize(
    "token", ["", "a.b", "a.b.c", "a.!!.c", "a.W10.c", "a.bnVsbA.c", "....", "a." + "W1" * 50 + ".c"]
)
def test_what_is_no_token_has_no_claims(token):
    assert claims_of(token) is None


# Settings


def test_an_issuer_with_a_client_takes_tokens_for_that_client():
    table = {"name": "g", "issuer": "https://id.example", "client_id": CLIENT, "account": "acme"}
    assert parse_issuer(table, "issuers[0]").audience == (CLIENT,)
    assert parse_issuer({**table, "audience": "us"}, "issuers[0]").audience == ("us",)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"client_id": ""}, "client_id"),
        ({"client_secret": "hunter2"}, "client_secret"),
        ({"client_id": None, "client_secret": "env:NAME"}, "client_secret"),
        ({"client_id": None, "sign_in": "Sign in"}, "sign_in"),
        ({"sign_in": ""}, "sign_in"),
        ({"sign_in": "x" * 61}, "sign_in"),
        ({"issuer": "https://id.example/{owner}", "jwks_url": "https://id.example/keys"}, "client_id"),
    ],
)
def test_settings_for_signing_in_that_cannot_be_are_refused_at_the_start(changes, param):
    table = {"name": "g", "issuer": "https://id.example", "audience": "us", "client_id": CLIENT, "account": "acme"}
    with pytest.raises(SettingsError) as caught:
        parse_issuer({key: value for key, value in {**table, **changes}.items() if value is not None}, "issuers[0]")
    assert caught.value.param == param
    assert "hunter2" not in str(caught.value)


def test_a_secret_that_is_not_there_is_missed_at_the_start(tmp_path):
    table = {"name": "g", "issuer": "https://id.example", "client_id": CLIENT, "account": "acme"}
    with pytest.raises(SettingsError, match="HOUSE_SECRET"):
        doors_of([{**table, "client_secret": "env:HOUSE_SECRET"}], {})
    (tmp_path / "secret").write_text("from a file\n")
    (door,) = doors_of([{**table, "client_secret": f"file:{tmp_path}/secret"}], {})
    assert door.client_secret == "from a file"
    assert door.client_secret not in repr(door)
    assert door.label == "Sign in with g"
    assert doors_of([{**table, "client_id": None, "audience": "us"}], {}) == []
