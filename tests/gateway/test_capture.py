"""Capture: with both switches on, texts are written where the operator says, and otherwise nowhere."""

import json
import os
import stat
import threading
import time
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from tests.support import chats
from tests.support import provider as script
from tests.support.gateway import CATALOGUE, EMBEDDER, RERANKER, gateway, offer
from tests.support.provider import provider

from quernel.errors import SettingsError
from quernel.gateway import capture as module
from quernel.gateway import schema
from quernel.gateway.accounts import AccountSettings, change_account
from quernel.gateway.capture import Capture, Captured
from quernel.gateway.ids import now_ms
from quernel.gateway.keys import KeySettings, Scope, create_key
from quernel.gateway.usage import Usage
from quernel.types import EmbeddingRequest

TEXT = "my diary of the ninth"
ROW = Usage(id="gen_1", time=0, account="acc_1", key="k", operation="embed", model="m")
MODELS = (*CATALOGUE, *chats.CATALOGUE)


@contextmanager
def capturing(folder, *providers, wanted=True, zdr=False, file=True):
    """A gateway with a capture file, and the account of its operator who wants that."""
    path = folder / "captured.jsonl"
    switches = {"capture_file": path} if file else {}
    with gateway(folder, *providers, catalogue=MODELS, **switches) as served:
        settings = AccountSettings(capture=wanted, zdr=zdr)
        change(served, lambda connection: change_account(connection, "operator", settings=settings))
        yield served, lambda: lines_of(served, path)


def change(served, operation):
    """Change the books, and let the gateway see it."""
    result = served.parts.database.write_now(operation)
    served.parts.principals.forget()
    return result


def lines_of(served, path):
    """What was captured, once all is written."""
    if served.parts.capture is not None:
        served.read(lambda connection: None)
        served.parts.capture.flush()
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def acme(served, **more):
    return {**offer("acme", served.url, **more), "zdr": True, "byok": True}


def test_texts_of_a_request_and_its_reply_are_a_line(tmp_path):
    with (
        provider("jina") as jina,
        capturing(tmp_path, acme(jina, format="jina", models=(EMBEDDER, RERANKER))) as (served, captured),
    ):
        first = served.embed(TEXT, "b", dimensions=32).headers["x-quernel-generation-id"]
        served.rerank(TEXT, "a diary", "b")
        one, two = captured()
    row = {key: one[key] for key in ("generation", "operation", "model", "provider", "status", "code")}
    assert row == {
        "generation": first,
        "operation": "embed",
        "model": EMBEDDER,
        "provider": "acme",
        "status": 200,
        "code": None,
    }
    assert (one["request"]["inputs"], one["request"]["dimensions"]) == ([TEXT, "b"], 32)
    assert one["reply"] == {"vectors": 2, "dimensions": 32}
    assert (two["request"]["query"], two["request"]["documents"]) == (TEXT, ["a diary", "b"])
    assert [ranked["index"] for ranked in two["reply"]["results"]] == [0, 1]


def test_chats_are_captured_whole_and_streamed_alike(tmp_path):
    steps = [chats.whole("Dear diary."), chats.streamed("Dear ", "diary.")]
    with provider("openai", steps) as acme, capturing(tmp_path, chats.offer("acme", acme.url)) as (served, captured):
        for stream in (False, True):
            # Pretty-printed: a line of the file is one line all the same.
            body = {"model": chats.CHAT, "stream": stream, "messages": [{"role": "user", "content": TEXT}]}
            body["providerOptions"] = {"gateway": {"tags": ["a"]}}
            assert served.http.post("/v1/chat/completions", content=json.dumps(body, indent=2)).status_code == 200
        one, two = captured()
    assert one["request"] == {"model": chats.CHAT, "stream": False, "messages": body["messages"]}
    assert one["reply"] == two["reply"] == {"texts": ["Dear diary."]}


def test_what_failed_is_captured_with_its_code_and_without_the_providers_words(tmp_path):
    with (
        provider("openai", [script.failing(500)] * 9) as served_by,
        capturing(tmp_path, acme(served_by)) as (served, captured),
    ):
        assert served.embed(TEXT).status_code == 502
        (line,) = captured()
    assert (line["status"], line["code"], line["reply"]) == (502, "provider_failed", None)
    assert "Cannot read" not in json.dumps(line)


def test_a_chat_whose_client_hangs_up_is_captured_as_far_as_it_went(tmp_path):
    endless = [chats.streamed(*["ab"] * 500, gap=0.02)]
    with provider("openai", endless) as acme, capturing(tmp_path, chats.offer("acme", acme.url)) as (served, captured):
        body = {"model": chats.CHAT, "stream": True, "messages": [{"role": "user", "content": TEXT}]}
        with served.http.stream("POST", "/v1/chat/completions", json=body) as reply:
            next(reply.iter_raw())
        rows = sa.select(schema.usage)
        while not served.read(lambda connection: connection.execute(rows).all()):
            time.sleep(0.005)
        (line,) = captured()
    assert line["status"] == 499
    assert line["reply"]["texts"][0].startswith("ab")


SWITCHES = {
    "the account does not want it": {"wanted": False},
    "the gateway has no file": {"file": False},
    "the account wants nothing kept": {"zdr": True},
}


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_without_both_switches_nothing_is_written(tmp_path, switches):
    with provider("openai") as served_by, capturing(tmp_path, acme(served_by), **switches) as (served, captured):
        assert served.embed(TEXT).status_code == 200
        assert not captured()
    written = [path for path in tmp_path.rglob("*") if path.is_file() and TEXT.encode() in path.read_bytes()]
    assert not written


def test_a_request_of_which_nothing_may_be_kept_is_not_captured_whoever_says_so(tmp_path):
    with provider("openai") as served_by, capturing(tmp_path, acme(served_by)) as (served, captured):
        account = served.read(lambda c: c.execute(sa.select(schema.accounts.c.id)).scalar())
        private = KeySettings(scopes=frozenset({Scope.INFER}), zdr=True)
        key = served.parts.mint.new()
        change(served, lambda c: create_key(c, key, account, "private", private, created_by="t", now=now_ms()))
        by_key = served.http.post(
            "/v1/embeddings", json={"model": EMBEDDER, "input": TEXT}, headers={"authorization": f"Bearer {key.text}"}
        )
        replies = [
            by_key,
            served.embed(TEXT, provider={"zdr": True}),
            served.embed(TEXT, providerOptions={"gateway": {"zeroDataRetention": True}}),
        ]
        assert [reply.status_code for reply in replies] == [200, 200, 200]
        assert not captured()
        assert served.embed("another text").status_code == 200
        assert len(captured()) == 1


def test_no_key_is_captured(tmp_path):
    with provider("openai") as served_by, capturing(tmp_path, acme(served_by)) as (served, captured):
        options = {"gateway": {"byok": {"acme": [{"apiKey": "sk-mine"}]}}}
        assert served.embed(TEXT, providerOptions=options).status_code == 200
        assert captured()
        content = (tmp_path / "captured.jsonl").read_text()
        assert served.key not in content
        assert "sk-mine" not in content


def test_the_file_is_its_owners_alone_and_is_continued(tmp_path):
    file = tmp_path / "captured.jsonl"
    file.write_text('{"before": true}\n')
    file.chmod(0o644)
    capture = Capture(file)
    capture.add(Captured(ROW, EmbeddingRequest(inputs=[TEXT]), None))
    capture.close()
    capture.close()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before, line = file.read_text().splitlines()
    assert json.loads(before) == {"before": True}
    assert json.loads(line)["request"]["inputs"] == [TEXT]


def test_a_new_file_is_its_owners_alone_whatever_the_mask(tmp_path):
    mask = os.umask(0)
    try:
        Capture(tmp_path / "new.jsonl").close()
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "new.jsonl").stat().st_mode) == 0o600


def test_a_file_has_one_writer(tmp_path):
    capture = Capture(tmp_path / "captured.jsonl")
    with pytest.raises(SettingsError, match="another gateway"):
        Capture(tmp_path / "captured.jsonl")
    capture.close()
    Capture(tmp_path / "captured.jsonl").close()


def test_a_link_and_a_folder_that_is_not_there_are_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("link", "nowhere/captured.jsonl"):
        with pytest.raises(SettingsError, match="cannot be written"):
            Capture(tmp_path / name)
    assert not (tmp_path / "elsewhere").exists()


def test_a_slow_disk_loses_lines_and_no_memory(tmp_path, monkeypatch, caplog):
    is_writing, may_go_on = threading.Event(), threading.Event()
    write = module._write

    def slow(descriptor, line):
        is_writing.set()
        assert may_go_on.wait(10)
        write(descriptor, line)

    monkeypatch.setattr(module, "_write", slow)
    monkeypatch.setattr(module, "MOST_WAITING", 2)
    capture = Capture(tmp_path / "captured.jsonl")
    captured = Captured(ROW, EmbeddingRequest(inputs=[TEXT]), None)
    capture.add(captured)
    assert is_writing.wait(10)
    for _ in range(5):
        capture.add(captured)
    may_go_on.set()
    capture.close()
    assert len((tmp_path / "captured.jsonl").read_text().splitlines()) == 3
    assert [record.getMessage() for record in caplog.records] == [
        "The capture file is written too slowly: some requests are not captured."
    ]


def test_what_cannot_be_written_is_said_once_and_ends_nothing(tmp_path, monkeypatch, caplog):
    def full(descriptor, line):
        raise OSError(28, "No space left on device")

    capture = Capture(tmp_path / "captured.jsonl")
    broken = Captured(ROW, EmbeddingRequest(inputs=["\ud800" + TEXT]), None)
    whole = Captured(ROW, EmbeddingRequest(inputs=[TEXT]), None)
    capture.add(broken)
    capture.add(whole)
    capture.flush()
    monkeypatch.setattr(module, "_write", full)
    capture.add(whole)
    capture.close()
    assert len((tmp_path / "captured.jsonl").read_text().splitlines()) == 1
    (record,) = caplog.records
    assert record.getMessage() == "A request could not be captured (TypeError)."
    assert TEXT not in repr(whole)
