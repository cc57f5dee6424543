"""The console over a real gateway: its numbers are the API's, a key may there what it may anywhere, text stays text."""

import itertools
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
import pytest

from quernel.gateway import usage
from quernel.gateway.ids import new_id, now_ms
from quernel.web.charts import ticks
from quernel.web.console.desk import NAVIGATION
from quernel.web.console.figures import Measure, Step, add_up, places_of
from quernel.web.console.usage import span_of
from quernel.web.numbers import money, rounded
from tests.support.storefront import AWAY, EMBEDDER, RERANKER, Browser, Page, storefront

HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(2)>{{ 7 * 7 }}"""
SCOPES = {"infer": ["infer"], "read": ["read"], "manage": ["infer", "manage"], "operate": ["operate"]}
REQUESTS = 7

PAGES = {
    "/console": None,
    "/console/keys": "read",
    "/console/keys/new": "manage",
    "/console/usage": "read",
    "/console/usage?range=24h&by=key&measure=requests": "read",
    "/console/usage?range=7d&by=tag&measure=tokens": "read",
    "/console/usage?range=12m&by=provider": "read",
    "/console/usage?from=2026-01-01&to=2026-01-02&by=user": "read",
    "/console/usage.csv": "read",
    "/console/requests": "read",
    "/console/ledger": "read",
    "/console/ledger?kind=charge": "read",
    "/console/members": "read",
    "/console/settings": "read",
    "/console/providers": None,
    "/console/providers/new": "operate",
    "/console/providers/local": "operate",
    "/console/accounts": "operate",
    "/console/accounts/acme": "operate",
    "/console/audit": "operate",
    "/console/books": "operate",
    "/console/keys?account=*": "operate",
    "/console/usage?account=*&by=account": "operate",
    "/console/requests?account=*": "operate",
    "/console/ledger?account=*": "operate",
    "/console/members?account=operator": "operate",
    "/console/settings?account=operator": "operate",
}
"""Page to the scope that it takes."""

IMPLIED = {"infer": {"infer"}, "read": {"read"}, "manage": {"infer", "read", "manage"}, "operate": set(SCOPES)}


@dataclass(frozen=True)
class Site:
    """A gateway with pages and a customer.

    Attributes:
        served: The gateway.
        keys: Keys of the customer by what they may, and the operator's.
    """

    served: object
    keys: dict

    def api(self, who="manage"):
        """Asks the API with one of these keys."""
        headers = {"authorization": f"Bearer {self.keys[who]}"}
        return httpx.Client(base_url=self.served.url, headers=headers, timeout=30)

    @contextmanager
    def browser(self, who="manage"):
        """A browser that is signed in."""
        with Browser(self.served) as browser:
            assert browser.sign_in(self.keys[who]).path == "/console"
            yield browser


def new_key(site, **changes):
    """A key of the customer, made by the API."""
    with site.api() as api:
        made = api.post("/v1/keys", json={"name": new_id("key"), **changes})
        assert made.status_code == 200, made.text
        return made.json()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with storefront(tmp_path_factory.mktemp("site")) as served:
        http = served.http
        http.post("/v1/accounts", json={"slug": "acme", "name": "Acme & Sons", "welcome": "3"}).raise_for_status()
        keys = {"operate": served.key}
        for name in ("infer", "read", "manage"):
            body = {"name": f"the {name} key", "scopes": SCOPES[name]}
            if name == "manage":
                body["limits"] = {"minute": {"requests": 100_000}, "month": {"usd": "2.50", "tokens": 5_000_000}}
            keys[name] = http.post("/v1/keys?account=acme", json=body).json()["key"]
        made = Site(served, keys)
        with made.api() as api:
            for number in range(REQUESTS):
                options = {"gateway": {"user": f"user {number % 2}", "tags": ["docs", "batch"][: number % 3]}}
                body = {"model": EMBEDDER, "input": ["one two three"] * (number + 1), "providerOptions": options}
                api.post("/v1/embeddings", json=body).raise_for_status()
            api.post("/v1/rerank", json={"model": RERANKER, "query": "a", "documents": ["b", "c"]}).raise_for_status()
            assert api.post("/v1/embeddings", json={"model": EMBEDDER, "input": "x " * 600}).status_code == 400
        yield made


# Who sees what


@pytest.mark.parametrize("who", SCOPES)
def test_every_page_renders_for_whom_it_is_and_says_no_to_the_others(site, who):
    with site.browser(who) as browser:
        for path, scope in PAGES.items():
            reply = browser.get(path)
            is_allowed = scope is None or scope in IMPLIED[who]
            refusals = (403, 404)  # of other accounts nobody is told that they are there
            assert reply.status_code == 200 if is_allowed else reply.status_code in refusals, (path, reply.text)
            if not is_allowed:
                assert re.search("lacks the scope|There is no account", reply.text), path


@pytest.mark.parametrize("who", SCOPES)
def test_what_a_key_may_not_do_is_not_offered(site, who):
    with site.browser(who) as browser:
        links = browser.open("/console").links
        for _, pages in NAVIGATION:
            for path, _, scope in pages:
                assert (path in links) == (scope is None or scope in IMPLIED[who]), path
        if "read" in IMPLIED[who]:
            assert ("/console/keys/new" in browser.open("/console/keys").links) == ("manage" in IMPLIED[who])
            forms = [form.action for form in browser.open("/console/settings").forms]
            assert ("/console/settings" in forms) == ("manage" in IMPLIED[who])
            forms = [form.action for form in browser.open("/console/members").forms]
            assert ("/console/members" in forms) == ("manage" in IMPLIED[who])


def test_a_form_can_give_no_scope_that_its_sender_lacks(site):
    with site.browser() as browser:
        page = browser.open("/console/keys/new")
        offered = [given["value"] for tag, given in page.tags if given.get("name") == "scopes"]
        assert offered == ["infer", "read", "manage"]
        page = browser.submit(page, "/console/keys/new", name="too much", scopes=["operate"])
        assert page.status == 403
        assert "cannot give the scope" in page.text
        assert "too much" not in browser.open("/console/keys").text


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("/console/keys/new", {"name": "x", "scopes": "infer", "asked": "2020"}),
        ("/console/members", {"subject": "a|b", "role": "owner"}),
        ("/console/settings", {"name": "x"}),
        ("/console/accounts", {"slug": "x"}),
        ("/console/accounts/acme/credit", {"amount": "1", "reference": "r", "kind": "grant"}),
        ("/console/providers/local/switch", {"enabled": "false"}),
        ("/console/providers/new", {"slug": "x", "format": "openai"}),
    ],
)
def test_a_form_that_was_not_offered_is_refused_by_the_api(site, path, data):
    with site.browser("read") as browser:
        reply = browser.post(path, data=data)
        assert reply.status_code == 403
        assert "lacks the scope" in reply.text


@pytest.mark.parametrize("path", [path for path in PAGES if "?" not in path])
def test_a_page_is_for_those_who_are_signed_in(site, path):
    with Browser(site.served) as browser:
        page = browser.open(path)
        assert page.path == "/sign-in"
        assert ("next", path) in page.form("/sign-in").fields


@pytest.mark.parametrize("headers", [{"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}])
def test_a_form_of_another_site_does_nothing(site, headers):
    made = new_key(site)
    with site.browser() as browser:
        reply = browser.post(f"/console/keys/{made['id']}/revoke", headers=headers)
        assert reply.status_code == 403
        assert "another page than ours" in reply.text
        assert "active" in browser.open(f"/console/keys/{made['id']}").text


@pytest.mark.parametrize("who", ["infer", "manage", "operate"])
def test_nothing_is_kept_by_browsers_and_nothing_inline_could_run(site, who):
    with site.browser(who) as browser:
        for path, scope in PAGES.items():
            if scope is not None and scope not in IMPLIED[who]:
                continue
            reply = browser.get(path)
            assert reply.headers["cache-control"] == "no-store", path
            assert "script-src 'self'" in reply.headers["content-security-policy"]
            if "html" not in reply.headers["content-type"]:
                continue
            for tag, given in Page(reply).tags:
                assert "style" not in given, (path, tag)
                assert not [name for name in given if name.startswith("on")], (path, tag)
                assert tag != "script" or given["src"].startswith("/static/")
                assert tag != "style"


def test_what_people_can_read_on_a_page_is_labelled(site):
    """Each field has a label or a name, each table that scrolls is a region that the keyboard reaches."""
    with site.browser("operate") as browser:
        for path, scope in PAGES.items():
            if path.endswith(".csv") or scope is None:
                continue
            page = browser.open(path)
            labelled = {given.get("for") for tag, given in page.tags if tag == "label"}
            for tag, given in page.tags:
                if tag in ("input", "select", "textarea") and given.get("type") not in ("hidden", "checkbox", "radio"):
                    assert given.get("id") in labelled or given.get("aria-label"), (path, given)
                if given.get("class") == "scroll":
                    assert given["tabindex"] == "0", path
                    assert given["role"] == "region", path
                    assert given["aria-label"], path
            ids = [given["id"] for _, given in page.tags if "id" in given]
            assert len(ids) == len(set(ids)), (path, sorted(ids))


# Numbers


def test_the_money_on_the_overview_is_the_apis(site):
    with site.browser() as browser, site.api() as api:
        own = api.get("/v1/key").json()
        page = browser.open("/console")
        shown = [given["value"] for tag, given in page.tags if tag == "data"]
        report = api.get("/v1/usage/report?by=model").json()["data"]
        balance = [own["balance"][name] for name in ("available", "balance", "held", "spent")]
        assert shown == [*balance, str(sum(Decimal(line["cost"]) for line in report))]
        for number in shown:
            assert rounded(number) in page.text
        month = next(window for window in own["limits"] if window["period"] == "month")
        assert f"{money(month['usd']['used'])} of {money(month['usd']['limit'])}" in page.text
        assert f"{month['tokens']['used']:,} of 5,000,000 tokens" in page.text
        meters = [given for tag, given in page.tags if tag == "meter"]
        assert {"min": "0", "max": "2.50", "value": month["usd"]["used"]}.items() <= meters[-1].items()


@pytest.mark.parametrize("division", ["model", "provider", "key", "tag", "user", "operation", "credential"])
def test_the_numbers_of_usage_are_the_apis(site, division):
    with site.browser() as browser, site.api() as api:
        names = {key["id"]: key["name"] for key in api.get("/v1/keys?limit=1000").json()["data"]}
        page = browser.open(f"/console/usage?by={division}&range=7d")
        lines = api.get(f"/v1/usage/report?by={division}").json()["data"]
        assert len(lines) > (0 if division == "credential" else 1) or division in ("provider", "key")
        table = {row[0]: row[1:] for row in page.rows}
        for line in lines:
            group = line["group"][division]
            group = names.get(group, group) if division == "key" else group
            row = table[group or "\N{EM DASH}"]
            numbers = (line["requests"], line["errors"], line["tokens"])
            assert row[0] == money(line["cost"])
            assert row[1:4] == [f"{number:,}" for number in numbers]
        whole = api.get("/v1/usage/report?by=day").json()["data"]
        cost = sum(Decimal(line["cost"]) for line in whole)
        assert table["All"][:2] == [money(str(cost)), f"{sum(line['requests'] for line in whole):,}"]
        assert sum(row[0] == "All" for row in page.rows) == 1


@pytest.mark.parametrize("measure", list(Measure))
def test_the_table_below_a_chart_has_its_numbers(site, measure):
    with site.browser() as browser, site.api() as api:
        page = browser.open(f"/console/usage?by=model&range=7d&measure={measure}")
        lines = api.get("/v1/usage/report?by=day,model").json()["data"]
        day = datetime.fromisoformat(max(line["group"]["day"] for line in lines))
        lines = [line for line in lines if line["group"]["day"] == f"{day:%Y-%m-%d}"]
        groups = sorted({line["group"]["model"] for line in lines})
        header = next(row for row in page.rows if row[0] == "Day, UTC")
        assert sorted(header[1:-1]) == groups
        row = next(row for row in page.rows if row[0] == f"{day.day} {day:%b}")
        for group, shown in zip(header[1:-1], row[1:-1], strict=True):
            values = [Decimal(str(line[measure])) for line in lines if line["group"]["model"] == group]
            assert shown == (money(str(sum(values))) if measure == "cost" else f"{sum(values):,}")


def test_the_file_for_spreadsheets_is_the_apis(site):
    with site.browser() as browser, site.api() as api:
        start = (datetime.now(UTC) - timedelta(days=29)).date().isoformat()
        reply = browser.get("/console/usage.csv?by=model&range=30d")
        assert reply.text == api.get(f"/v1/usage/report?by=day,model&format=csv&start={start}").text
        assert reply.headers["content-type"].startswith("text/csv")
        assert "attachment" in reply.headers["content-disposition"]
        assert browser.get("/console/usage.csv?from=x").status_code == 400


def test_usage_can_be_narrowed(site):
    with site.browser() as browser, site.api() as api:
        key = api.get("/v1/key").json()["id"]
        for name, value in (("model", EMBEDDER), ("provider", "local"), ("key", key), ("user", "user 1")):
            lines = api.get("/v1/usage/report", params={"by": "operation", name: value}).json()["data"]
            page = browser.open("/console/usage", by="operation", **{name: value})
            (all_of_it,) = (row for row in page.rows if row[0] == "All")
            assert all_of_it[2] == f"{sum(line['requests'] for line in lines):,}"
            assert (name, value) in page.form("/console/usage").fields


def test_days_that_are_none_are_said_to_be_none(site):
    with site.browser() as browser:
        for query in ("from=yesterday", "from=2026-02-02&to=2026-02-01", "to=2026-13-01"):
            page = browser.open(f"/console/usage?{query}")
            assert page.status == 400
            assert "YYYY-MM-DD" in page.text


def test_requests_and_their_pages_have_the_apis_numbers(site):
    with site.browser() as browser, site.api() as api:
        rows = api.get("/v1/usage?limit=50").json()["data"]
        page = browser.open("/console/requests")
        shown = page.rows[1:]
        assert len(shown) == len(rows)
        for row, line in zip(rows, shown, strict=True):
            assert line[1] == row["model"]
            assert line[5:7] == [f"{row['tokens']:,}", money(row["cost"])]
            assert line[4].startswith(str(row["status"]))
            one = browser.open(f"/console/requests/{row['id']}")
            assert one.status == 200
            for number in (money(row["cost"]), f"{row['tokens']:,}", row["id"]):
                assert number in one.text
            attempts = [line for line in one.rows[1:] if line]
            assert [line[:3] for line in attempts] == [
                [attempt["provider"], attempt["model"], attempt["outcome"]] for attempt in row["attempts"]
            ]


def test_a_request_is_shown_to_a_key_that_may_not_read_as_far_as_the_api_shows_it(site):
    with site.browser("infer") as browser, site.api() as api:
        row = api.get("/v1/usage?limit=1").json()["data"][0]
        page = browser.open(f"/console/requests/{row['id']}")
        assert page.status == 200
        for shown in (row["model"], money(row["cost"]), f"{row['tokens']:,}"):
            assert shown in page.text
        assert browser.open("/console/requests/gen_00000000000000000000000000").status == 404


def test_another_account_has_no_requests_keys_or_money_here(site, tmp_path):
    with site.browser() as browser:
        http = site.served.http
        http.post("/v1/embeddings", json={"model": EMBEDDER, "input": "x"}).raise_for_status()
        row = http.get("/v1/usage?limit=1").json()["data"][0]
        own = http.get("/v1/key").json()["id"]
        assert browser.open(f"/console/requests/{row['id']}").status == 404
        assert browser.open(f"/console/keys/{own}").status == 404
        assert row["id"] not in browser.open("/console/requests").html


def test_the_ledger_has_the_apis_entries_and_leads_to_their_requests(site):
    with site.browser() as browser, site.api() as api:
        entries = api.get("/v1/ledger?limit=50").json()["data"]
        page = browser.open("/console/ledger")
        assert [row[-1] for row in page.rows[1:]] == [money(entry["amount"]) for entry in entries]
        for entry in entries:
            assert entry["reference"] in page.text
            if entry["kind"] == "charge":
                assert f"/console/requests/{entry['reference']}" in page.links
        assert len(browser.open("/console/ledger?kind=grant").rows) == 2
        assert browser.open("/console/ledger?kind=nothing").status == 400


@pytest.mark.parametrize("place", ["ledger", "requests"])
def test_pages_follow_one_another_without_a_gap(site, place, monkeypatch):
    monkeypatch.setattr("quernel.web.console.desk.LISTED", "3")
    with site.browser() as browser, site.api() as api:
        path = {"ledger": "/v1/ledger", "requests": "/v1/usage"}[place]
        wanted = [entry["time"] for entry in api.get(f"{path}?limit=1000").json()["data"]]
        found, address = [], f"/console/{place}"
        for _ in range(100):
            page = browser.open(address)
            table = page.html[page.html.index("<tbody>") :] if "<tbody>" in page.html else ""
            found += re.findall(r'<time datetime="([^"]+)"', table)
            following = [link for link in page.links if "cursor=" in link]
            if not following:
                break
            (address,) = following
        assert found == wanted


# Keys


def test_a_key_is_made_works_and_is_refused_once_it_is_revoked(site):
    with site.browser() as browser:
        page = browser.submit(
            browser.open("/console/keys/new"),
            "/console/keys/new",
            name="made here",
            scopes=["infer", "read"],
            models=[EMBEDDER],
            tags="docs, batch",
            expires=(datetime.now(UTC) + timedelta(days=3)).date().isoformat(),
            **{"minute-requests": "1,000", "month-usd": "1.50", "zdr": "true"},
        )
        assert page.status == 200
        assert page.reply.headers["cache-control"] == "no-store"
        (text,) = set(re.findall(r"quernel_[0-9a-z]{10}_[0-9a-z]{59}", page.html))
        assert text not in str(page.reply.url)
        assert not page.reply.history
        headers = {"authorization": f"Bearer {text}"}
        with httpx.Client(base_url=site.served.url, headers=headers) as program, Browser(site.served) as theirs:
            own = program.get("/v1/key").json()
            assert own["label"] == "made here"
            assert (own["scopes"], own["models"], own["tags"]) == (["infer", "read"], [EMBEDDER], ["docs", "batch"])
            assert own["zdr"] is True
            assert own["no_training"] is False
            assert program.post("/v1/embeddings", json={"model": EMBEDDER, "input": "x"}).status_code == 200
            key = program.get(f"/v1/keys/{own['id']}").json()
            assert key["limits"] == {"minute": {"requests": 1000}, "month": {"usd": "1.50"}}
            assert theirs.sign_in(text).path == "/console"
            for path in ("/console/keys", f"/console/keys/{own['id']}", "/console"):
                assert text not in browser.get(path).text
            page = browser.submit(browser.open(f"/console/keys/{own['id']}"), "/revoke")
            assert page.path == "/console/keys"
            assert "is revoked" in page.text
            assert program.post("/v1/embeddings", json={"model": EMBEDDER, "input": "x"}).status_code == 401
            ended = theirs.open("/console")
            assert ended.path == "/sign-in"
            assert "session has ended" in ended.text
            assert "quernel-session" not in theirs.cookies


def count_of(site, name):
    with site.api() as api:
        return sum(key["name"] == name for key in api.get("/v1/keys?limit=1000").json()["data"])


def test_a_form_that_comes_again_makes_no_second_key(site):
    with site.browser() as browser:
        form = browser.open("/console/keys/new")
        first = browser.submit(form, "/console/keys/new", name="only one")
        assert re.search(r"quernel_\w{10}_\w{59}", first.html)
        again = browser.submit(form, "/console/keys/new", name="only one")
        assert "was made by the first" in again.text
        assert not re.search(r"quernel_\w{10}_\w{59}", again.html)
        assert count_of(site, "only one") == 1
        browser.submit(browser.open("/console/keys/new"), "/console/keys/new", name="only one")
        assert count_of(site, "only one") == 2  # another form is another key


@pytest.mark.parametrize("name", [f"clicked often {number}" for number in range(3)])
def test_many_clicks_at_once_make_one_key(site, name):
    clicks = 8
    with site.browser() as browser:
        form = browser.open("/console/keys/new").form("/console/keys/new")
        data, replies, gate = dict(form.filled(name=name)), [], threading.Barrier(clicks)

        def click():
            gate.wait()
            replies.append(browser.post("/console/keys/new", data=data))

        threads = [threading.Thread(target=click) for _ in range(clicks)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum("key-text" in reply.text for reply in replies) == 1
        assert count_of(site, name) == 1


def test_a_form_that_was_wrong_comes_back_as_it_was_filled_in(site):
    with site.browser() as browser:
        page = browser.submit(
            browser.open("/console/keys/new"),
            "/console/keys/new",
            name="not yet",
            scopes=["read"],
            tags="a, b",
            expires="2001-01-01",
            **{"minute-requests": "lots"},
        )
        assert page.status == 400
        sent = page.form("/console/keys/new").fields
        assert {("name", "not yet"), ("scopes", "read"), ("tags", "a, b"), ("minute-requests", "lots")} <= set(sent)
        page = browser.submit(page, "/console/keys/new", **{"minute-requests": "10"})
        assert page.status == 400
        assert "expires" in page.text
        assert count_of(site, "not yet") == 0
        assert browser.submit(page, "/console/keys/new", expires="").status == 200
        assert count_of(site, "not yet") == 1


def test_a_key_is_changed_as_its_form_says_and_no_more(site):
    ends = "2031-02-03T04:05:06.000Z"
    made = new_key(site, name="before", expires=ends, limits={"day": {"tokens": 5}}, providers=["local"], tags=["t"])
    with site.browser() as browser, site.api() as api:
        address = f"/console/keys/{made['id']}"
        page = browser.submit(browser.open(address), address, name="after")
        assert page.path == address
        assert "Changed." in page.text
        key = api.get(f"/v1/keys/{made['id']}").json()
        same = {name: value for name, value in made.items() if name not in ("key", "name", "last_used")}
        assert same.items() <= key.items()
        assert key["name"] == "after"
        browser.submit(page, address, expires="", **{"day-tokens": "", "providers": None, "tags": ""})
        key = api.get(f"/v1/keys/{made['id']}").json()
        assert (key["expires"], key["limits"], key["providers"], key["tags"]) == (None, {}, [], [])
        page = browser.submit(browser.open(address), address, name="")
        assert page.status == 400


def test_a_new_secret_is_shown_once_and_the_old_one_ends(site):
    made = new_key(site)
    with site.browser() as browser:
        page = browser.open(f"/console/keys/{made['id']}")
        first = browser.submit(page, "/rotate", grace="0")
        (text,) = set(re.findall(r"quernel_\w{10}_\w{59}", first.html))
        assert text != made["key"]
        again = browser.submit(page, "/rotate", grace="0")
        assert "already" in again.text
        assert not re.search(r"quernel_\w{10}_\w{59}", again.html)
        for key, status in ((text, 200), (made["key"], 401)):
            reply = httpx.get(f"{site.served.url}/v1/key", headers={"authorization": f"Bearer {key}"})
            assert reply.status_code == status


def test_a_session_goes_on_when_its_own_key_gets_a_new_secret(site):
    made = new_key(site, scopes=["manage"])
    with Browser(site.served) as browser:
        browser.sign_in(made["key"])
        page = browser.submit(browser.open(f"/console/keys/{made['id']}"), "/rotate", grace="0")
        assert page.status == 200
        assert browser.open("/console").path == "/console"


def test_whoever_revokes_the_key_of_their_session_is_told_and_signed_out(site):
    made = new_key(site, scopes=["manage"])
    with Browser(site.served) as browser:
        browser.sign_in(made["key"])
        page = browser.open(f"/console/keys/{made['id']}")
        assert "your session ends with it" in page.text
        assert browser.submit(page, "/revoke").path == "/sign-in"


def test_a_key_that_is_over_is_not_offered_to_be_changed(site):
    made = new_key(site)
    with site.browser() as browser, site.api() as api:
        api.delete(f"/v1/keys/{made['id']}").raise_for_status()
        page = browser.open(f"/console/keys/{made['id']}")
        assert "revoked" in page.text
        assert [form.action for form in page.forms if "/keys/" in form.action] == []


# Text


def test_what_people_write_stays_text(site):
    http = site.served.http
    http.post("/v1/accounts", json={"slug": "hostile", "name": HOSTILE}).raise_for_status()
    body = {"name": HOSTILE, "scopes": ["operate"], "tags": ["<b>tag</b>"]}
    made = http.post("/v1/keys?account=hostile", json=body).json()
    member = {"subject": f"google|{HOSTILE}", "role": "viewer", "email": "<i>@example.com"}
    http.put("/v1/members?account=hostile", json=member).raise_for_status()
    credit = {"amount": "5", "reference": HOSTILE, "note": "<u>note</u>"}
    http.post("/v1/accounts/hostile/credit", json=credit).raise_for_status()
    with Browser(site.served) as browser:
        browser.sign_in(made["key"])
        options = {"gateway": {"user": HOSTILE, "tags": ["<b>tag</b>"]}}
        body = {"model": EMBEDDER, "input": "x", "providerOptions": options}
        headers = {"authorization": f"Bearer {made['key']}"}
        httpx.post(f"{site.served.url}/v1/embeddings", json=body, headers=headers).raise_for_status()
        row = http.get("/v1/usage?account=hostile&limit=1").json()["data"][0]
        shown = 0
        for path in (
            "/console",
            "/console/keys",
            f"/console/keys/{made['id']}",
            "/console/usage?by=user",
            "/console/usage?by=key",
            "/console/usage?by=tag",
            f"/console/usage?user={HOSTILE}&key={HOSTILE}&model={HOSTILE}&range={HOSTILE}&measure={HOSTILE}",
            f"/console/requests?user={HOSTILE}",
            f"/console/requests/{row['id']}",
            "/console/ledger",
            f"/console/ledger?kind={HOSTILE}",
            "/console/members",
            "/console/settings",
            "/console/accounts",
            "/console/accounts/hostile",
            "/console/audit",
            f"/console/audit?actor={HOSTILE}",
            f"/console/keys?account={HOSTILE}",
            f"/console/keys/{HOSTILE}",
            f"/console/requests?cursor={HOSTILE}",
        ):
            page = browser.open(path.replace("#", "%23"))
            shown += "alert(1)" in page.text
            for tag, given in page.tags:
                assert tag not in ("b", "i", "u", "img"), path
                assert "onerror" not in given, path
                assert tag != "script" or given["src"].startswith("/static/"), path
            assert "{{" not in page.html or "49" not in page.html.split("{{")[0][-5:]
        assert shown > 12


# An account


def test_members_are_let_in_and_removed(site):
    with site.browser() as browser, site.api() as api:
        page = browser.open("/console/members")
        page = browser.submit(page, "/console/members", subject="google|42", role="viewer", email="a@example.com")
        assert "google|42" in page.text
        (member,) = api.get("/v1/members").json()["data"]
        assert (member["subject"], member["role"], member["email"]) == ("google|42", "viewer", "a@example.com")
        wrong = browser.submit(page, "/console/members", subject="google|43", role="king")
        assert wrong.status == 400
        assert ("subject", "google|43") in wrong.form("/console/members").fields
        assert browser.submit(page, "/members/remove").path == "/console/members"
        assert api.get("/v1/members").json()["data"] == []


def test_settings_are_those_of_the_account(site):
    with site.browser() as browser, site.api() as api:
        page = browser.open("/console/settings")
        page = browser.submit(page, "/console/settings", name="Acme, renamed", zdr="true", capture="true")
        assert page.path == "/console/settings"
        account = api.get("/v1/account").json()
        assert (account["name"], account["zdr"], account["no_training"], account["capture"]) == (
            "Acme, renamed",
            True,
            False,
            True,
        )
        browser.submit(page, "/console/settings", name="Acme & Sons", zdr=None, capture=None)
        assert api.get("/v1/account").json()["capture"] is False
        assert browser.submit(page, "/console/settings", name="").status == 400


def test_own_keys_to_providers_are_stored_and_forgotten_and_never_shown(site):
    site.served.http.patch("/v1/providers/away", json={"enabled": True}).raise_for_status()
    with site.browser() as browser, site.api() as api:
        page = browser.open("/console/settings")
        page = browser.submit(page, "/settings/credentials", provider="away", key="sk-our-own")
        assert "is stored" in page.text
        assert "sk-our-own" not in page.html
        assert [one["provider"] for one in api.get("/v1/credentials").json()["data"]] == ["away"]
        wrong = browser.submit(page, "/settings/credentials", provider="away", key="with space")
        assert wrong.status == 400
        assert "with space" not in wrong.html
        browser.submit(page, "/credentials/drop")
        assert api.get("/v1/credentials").json()["data"] == []
    site.served.http.patch("/v1/providers/away", json={"enabled": False}).raise_for_status()


# Operators


def test_an_operator_makes_an_account_credits_it_once_and_suspends_it(site):
    with site.browser("operate") as browser:
        http = site.served.http
        page = browser.submit(browser.open("/console/accounts"), "/console/accounts", slug="new-one", welcome="2")
        assert page.path == "/console/accounts/new-one"
        assert browser.submit(browser.open("/console/accounts"), "/console/accounts", slug="new-one").status == 409
        for _ in range(2):
            done = browser.submit(page, "/credit", amount="10.25", kind="purchase", note="by hand")
            assert done.path == "/console/accounts/new-one"
        assert "was entered before" in done.text
        assert http.get("/v1/accounts/new-one").json()["balance"]["balance"] == "12.25"
        assert browser.submit(page, "/credit", amount="ten", kind="purchase").status == 400
        changes = {"models": f"{EMBEDDER}\n", "regions": "eu, us", "day-usd": "4", "zdr": "true"}
        page = browser.submit(page, "/accounts/new-one", name="A new one", **changes)
        account = http.get("/v1/accounts/new-one").json()
        assert (account["name"], account["models"], account["regions"]) == ("A new one", [EMBEDDER], ["eu", "us"])
        assert (account["limits"], account["zdr"]) == ({"day": {"usd": "4.00"}}, True)
        form = next(form for form in page.forms if form.action.endswith("/status"))
        browser.post(form.action, data={"status": "suspended"})
        assert http.get("/v1/accounts/new-one").json()["status"] == "suspended"


def test_an_operator_looks_at_other_accounts_and_makes_keys_for_them(site):
    with site.browser("operate") as browser:
        for path in ("keys", "usage", "requests", "ledger", "members", "settings"):
            page = browser.open(f"/console/{path}?account=acme")
            assert page.status == 200
            assert {"/console/keys?account=acme", f"/console/{path}"} <= set(page.links)
        page = browser.open("/console/keys/new?account=acme")
        page = browser.submit(page, "/console/keys/new", name="from the operator")
        assert page.status == 200
        assert count_of(site, "from the operator") == 1
        assert browser.open("/console/keys?account=nobody").status == 404
        assert browser.open("/console/accounts?slug=acme").path == "/console/accounts/acme"
        with site.api() as api:
            assert "the manage key" in browser.open("/console/usage?account=*&by=key").text
            ours = [entry["reference"] for entry in api.get("/v1/ledger?limit=3").json()["data"]]
            assert all(reference in browser.open("/console/ledger?account=acme").text for reference in ours)


def test_an_operator_switches_prices_adds_and_removes_providers(site):
    with site.browser("operate") as browser:
        http = site.served.http
        page = browser.open("/console/providers/away")
        assert browser.submit(page, "/switch", enabled="true").path == "/console/providers/away"
        assert http.get("/v1/providers/away").json()["enabled"] is True
        browser.submit(page, "/switch", enabled="false")
        start = {"from": "2030-01-01", "usd_per_million_tokens": "12.5"}
        assert "is entered" in browser.submit(page, "/prices", model=EMBEDDER, **start).text
        (offer,) = http.get("/v1/providers/away").json()["models"]
        assert offer["prices"][-1]["usd_per_million_tokens"] == "12.50"
        assert browser.submit(page, "/prices", model=EMBEDDER, **{"from": "soon"}).status == 400
        new = {"slug": "third", "format": "openai", "base_url": "https://third.example.com/v1", "zdr": "true"}
        rows = {"model-0": EMBEDDER, "tokens-0": "7", "model-2": RERANKER, "documents-2": "3", "upstream-2": "rr"}
        wrong = browser.submit(browser.open("/console/providers/new"), "/providers/new", **new, api_key="sk-1", **rows)
        assert wrong.status == 400
        assert ("model-1", RERANKER) in wrong.form("/providers/new").fields
        page = browser.submit(wrong, "/providers/new", api_key="env:THIRD_API_KEY")
        assert page.path == "/console/providers/third"
        made = http.get("/v1/providers/third").json()
        assert made["zdr"] is True
        assert [offer["upstream"] for offer in made["models"]] == [EMBEDDER, "rr"]
        assert "cannot be asked" in page.text  # the variable is not set
        again = browser.submit(browser.open("/console/providers/new"), "/providers/new", **new)
        assert again.status == 400
        assert "already" in again.text
        assert browser.submit(page, "/remove").path == "/console/providers"
        assert http.get("/v1/providers/third").status_code == 404
        assert browser.submit(browser.open("/console/providers/away"), "/switch", enabled="false").status == 200


def test_prices_and_health_of_providers_are_the_apis(site):
    with site.browser("operate") as operator, site.browser("infer") as customer:
        found = site.served.http.get("/v1/providers").json()["data"]
        page = operator.open("/console/providers")
        for provider in found:
            for offer in provider["models"]:
                row = next(row for row in page.rows if row[:2] == [offer["model"], provider["slug"]])
                price = offer["prices"][0]
                parts = [price["usd_per_million_tokens"], price["usd_per_thousand_documents"]]
                assert row[3:-1] == [money(part) for part in parts], "and no column of what nobody charges for"
        public = customer.open("/console/providers")
        entry = site.served.http.get(f"/v1/models/{EMBEDDER}/endpoints").json()["data"]["endpoints"]
        assert [one["provider"] for one in entry] == ["local"]
        row = next(row for row in public.rows if row[0] == EMBEDDER)
        assert row[3] == "$1,000.00"
        assert AWAY["slug"] not in public.text


def test_the_audit_says_who_changed_what_and_the_books_agree(site):
    made = new_key(site)
    with site.browser("operate") as browser, site.api() as api:
        own = api.get("/v1/key").json()["id"]
        page = browser.open(f"/console/audit?target={made['id']}")
        (row,) = page.rows[1:]
        assert row[0].endswith(f"api-key:{own}")
        assert row[1] == f"key.create{made['id']}"
        assert made["name"] in row[2]
        assert "The books agree" in browser.open("/console/books").text


def test_a_gateway_without_use_shows_how_to_begin(tmp_path):
    with storefront(tmp_path) as served, Browser(served) as browser:
        browser.sign_in(served.key)
        page = browser.open("/console")
        assert "First steps" in page.text
        assert f"{served.url}/v1/embeddings" in page.text
        for path in ("usage", "requests", "ledger", "members", "audit"):
            assert browser.open(f"/console/{path}").status == 200


# Spans, sums and axes

NOW = datetime(2026, 3, 15, 10, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("chosen", "first", "last", "span"),
    [
        ("24h", "", "", ("2026-03-14T11:00:00+00:00", "", Step.HOUR)),
        ("7d", "", "", ("2026-03-09", "", Step.DAY)),
        ("30d", "", "", ("2026-02-14", "", Step.DAY)),
        ("", "", "", ("2026-02-14", "", Step.DAY)),
        ("nonsense", "", "", ("2026-02-14", "", Step.DAY)),
        ("12m", "", "", ("2025-04-01", "", Step.MONTH)),
        ("24h", "2026-01-01", "2026-01-01", ("2026-01-01", "2026-01-02", Step.HOUR)),
        ("", "2026-01-01", "2026-01-31", ("2026-01-01", "2026-02-01", Step.DAY)),
        ("", "2025-01-01", "", ("2025-01-01", "2026-03-16", Step.MONTH)),
        ("", "", "2026-03-15", ("2026-02-14", "2026-03-16", Step.DAY)),
    ],
)
def test_a_span_is_what_its_name_says(chosen, first, last, span):
    found = span_of(chosen, first, last, NOW)
    assert (found.start, found.end, found.step) == span


@pytest.mark.parametrize(("year", "month", "start"), [(2026, 12, "2026-01-01"), (2026, 1, "2025-02-01")])
def test_twelve_months_are_twelve(year, month, start):
    found = span_of("12m", "", "", datetime(year, month, 1, tzinfo=UTC))
    assert found.start == start
    assert len(places_of(f"{start}T00:00:00Z", f"{year}-{month:02}-01T01:00:00Z", Step.MONTH)) == 12


def line(group, **numbers):
    usual = dict.fromkeys(("requests", "errors", "items", "tokens", "output_tokens", "documents"), 0)
    return {"group": group, **usual, "cost": "0", "upstream_cost": "0", "milliseconds": 0.0, **numbers}


def test_a_request_with_two_tags_is_in_the_sum_once():
    days = {"start": "2026-03-01T00:00:00Z", "end": "2026-03-03T00:00:00Z"}
    first = {"requests": 1, "cost": "0.1"}
    divided = [line({"day": "2026-03-01", "tag": tag}, **first) for tag in ("a", "b")]
    whole = [line({"day": "2026-03-01"}, **first)]
    found = add_up({**days, "data": divided}, {**days, "data": whole}, by="tag", step=Step.DAY)
    assert found.total.requests == 1
    assert found.rows(Measure.COST) == [
        ("1 Mar", ["$0.10", "$0.10"], "$0.10"),
        ("2 Mar", ["$0.00", "$0.00"], "$0.00"),
    ]


def test_money_is_added_up_exactly_and_the_smallest_groups_share_a_colour():
    days = {"start": "2026-03-01T00:00:00Z", "end": "2026-03-02T00:00:00Z"}
    divided = [
        line({"day": "2026-03-01", "model": f"m{number}"}, requests=1, cost=f"{10 - number}.000000000001")
        for number in range(9)
    ]
    total = sum(Decimal(one["cost"]) for one in divided)
    whole = [line({"day": "2026-03-01"}, requests=9, cost=str(total))]
    found = add_up({**days, "data": divided}, {**days, "data": whole}, by="model", step=Step.DAY)
    bands = found.bands(Measure.COST)
    assert [name for name, _ in bands] == ["m0", "m1", "m2", "m3", "m4", "All others"]
    assert bands[-1][1] == [Decimal("14.000000000004")]
    assert sum(values[0] for _, values in bands) == total
    assert "$14.000000000004" in found.rows(Measure.COST)[0][1]
    chart = found.chart(Measure.COST)
    assert chart.count('class="column"') == 2  # for desks, and for phones
    assert "All others: $14.00" in chart


def test_days_of_a_month_are_one_column():
    days = {"start": "2026-01-01T00:00:00Z", "end": "2026-03-01T00:00:00Z"}
    data = [line({"day": f"2026-{month:02}-{day:02}", "key": "k"}, requests=1) for month in (1, 2) for day in (3, 4)]
    whole = [{**one, "group": {"day": one["group"]["day"]}} for one in data]
    found = add_up({**days, "data": data}, {**days, "data": whole}, by="key", step=Step.MONTH)
    assert found.rows(Measure.REQUESTS) == [("Jan 2026", ["2"], "2"), ("Feb 2026", ["2"], "2")]


@pytest.mark.parametrize("high", [0, 1e-12, 0.000013, 0.3, 1, 2.9, 7, 99.5, 100, 101, 12345, 8e9])
def test_an_axis_has_a_few_round_marks_from_zero_to_the_highest(high):
    found = ticks(high)
    assert found[0] == 0
    assert found[-1] >= high * (1 - 1e-9)
    assert 2 <= len(found) <= 5
    steps = {round((after - before) / (found[1] - found[0]), 6) for before, after in itertools.pairwise(found)}
    assert steps == {1.0}
    digits = f"{found[1]:.12e}".split("e")[0].replace(".", "").rstrip("0")
    assert digits in ("1", "2", "25", "5")
    assert all(mark == int(mark) for mark in ticks(high, least=1.0))


def test_a_year_of_usage_is_in_the_chart_of_twelve_months(tmp_path):
    with storefront(tmp_path, usage_days=400) as served, Browser(served) as browser:
        own = served.http.get("/v1/key").json()

        def operation(connection):
            for day in range(0, 330, 30):
                row = usage.Usage(
                    id=new_id("gen"),
                    time=now_ms() - day * 86_400_000,
                    account=own["account"],
                    key=own["id"],
                    operation="embed",
                    model=EMBEDDER,
                    provider="local",
                    tokens=1000,
                    cost=10**9,
                )
                usage.record(connection, row)

        served.parts.database.write_now(operation)
        browser.sign_in(served.key)
        page = browser.open("/console/usage?range=12m&measure=tokens")
        (all_of_it,) = (row for row in page.rows if row[0] == "All")
        assert all_of_it[4] == "11,000"
        months = [row for row in page.rows if re.fullmatch(r"\w{3} 20\d\d", row[0])]
        assert len(months) == 12
        assert sum(int(row[-1].replace(",", "")) for row in months) == 11_000
