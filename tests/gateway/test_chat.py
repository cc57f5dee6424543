"""Chat completions through the gateway, asked by OpenAI's own client: passed on as they are, billed exactly."""

import json
import logging
import time
from contextlib import ExitStack, contextmanager

import openai
import pytest
import sqlalchemy as sa
from tests.support import chats
from tests.support import provider as script
from tests.support.chats import CHAT, CONTEXT
from tests.support.gateway import gateway
from tests.support.provider import Answer, provider

from quernel.errors import FailureKind, InvalidRequestError
from quernel.gateway import ledger, schema
from quernel.gateway.health import BreakerState
from quernel.protocols.chat import EventReader, decode_chat_reply, decode_chat_request, encode_chat_request, event_data

INPUT, OUTPUT = 2_000_000, 8_000_000
"""Pico-dollars for a token that is read, and for one that is written."""

MESSAGES = [{"role": "user", "content": "Say hello."}]
SECONDS = 10
COST = 11 * INPUT + 7 * OUTPUT


def eventually(look, is_so=bool):
    """What `look` says once it is so."""
    deadline = time.monotonic() + SECONDS
    while not is_so(found := look()):
        assert time.monotonic() < deadline, found
        time.sleep(0.005)
    return found


def said(stream):
    """The text of a stream."""
    with stream:
        return "".join(one.choices[0].delta.content or "" for one in stream if one.choices)


class Desk:
    """A gateway with chat models, and OpenAI's client of it."""

    def __init__(self, served, providers):
        self.served, self.providers = served, providers
        self.client = openai.OpenAI(base_url=f"{served.url}/v1", api_key=served.key, max_retries=0, timeout=30)
        self.first = self.balance()

    def ask(self, **more):
        return self.client.chat.completions.create(model=CHAT, messages=MESSAGES, **more)

    def body(self, **more):
        return {"model": CHAT, "messages": MESSAGES, **more}

    def balance(self):
        return self.served.read(lambda c: ledger.balance_of(c, c.execute(sa.select(schema.accounts.c.id)).scalar()))

    def spent(self):
        """What was charged, once nothing is held any more."""
        money = self.settled()
        assert money.balance == self.first.balance - money.spent
        assert self.served.read(ledger.reconcile) == []
        return money.spent

    def settled(self):
        return eventually(self.balance, lambda money: not money.held)

    def rows(self):
        return [dict(row) for row in self.served.read(lambda c: c.execute(sa.select(schema.usage)).mappings().all())]

    def health(self, slug="acme"):
        return self.served.parts.gateway.health.of(slug, CHAT, "full")


@pytest.fixture
def desk(tmp_path, caplog):
    """Opens gateways over providers with these scripts; each named provider costs the same."""
    with ExitStack() as stack:

        @contextmanager
        def opened(*scripts, hedge=False, **offers):
            with ExitStack() as inner:
                providers = [inner.enter_context(provider("openai", one)) for one in scripts]
                tables = [
                    chats.offer(("acme", "beta", "gamma")[place], one.url, **offers)
                    for place, one in enumerate(providers)
                ]
                served = inner.enter_context(gateway(tmp_path, *tables, catalogue=chats.CATALOGUE, hedge=hedge))
                desk = Desk(served, providers)
                inner.callback(desk.client.close)
                yield desk

        yield lambda *scripts, **more: stack.enter_context(opened(*scripts, **more))
    logged = [*caplog.get_records("call"), *caplog.records]
    faults = [record.getMessage() for record in logged if record.levelno >= logging.ERROR]
    assert not faults, "each request is written down once"


def test_an_answer_is_passed_on_and_billed_by_the_providers_count(desk):
    found = desk([chats.whole("Hello.")])
    reply = found.ask(temperature=0.5, max_tokens=20).choices[0].message
    assert reply.content == "Hello."
    assert found.spent() == COST
    (row,) = found.rows()
    assert (row["operation"], row["provider"], row["model"], row["status"]) == ("chat", "acme", CHAT, 200)
    assert (row["tokens"], row["output_tokens"], row["cost"], row["upstream_cost"]) == (11, 7, COST, COST)


def test_the_provider_sees_its_own_name_of_the_model_and_nothing_of_ours(desk):
    found = desk([chats.whole("Hello.")])
    body = b'{"model": "ACME/Talker", "messages": [{"role":"user","content":"h\\u00e9"}], "seed": 10000000000000000001,'
    body += b' "logit_bias": {"5": -1.50}, "user": "mary", "provider": {"sort": "price"}}'
    reply = found.served.http.post("/v1/chat/completions", content=body)
    assert reply.status_code == 200, reply.text
    (sent,) = found.providers[0].requests
    assert sent.body == (
        b'{"model":"talker-large-v2","messages":[{"role":"user","content":"h\\u00e9"}],"seed":10000000000000000001,'
        b'"logit_bias":{"5": -1.50}}'
    )
    assert found.rows()[0]["user"] == "mary"
    assert reply.headers["x-quernel-provider"] == "acme"
    assert reply.headers["x-quernel-cost"] == "0.000078"
    assert reply.headers["x-quernel-generation-id"] == found.rows()[0]["id"]
    assert float(reply.headers["x-quernel-overhead-ms"]) >= 0


def test_a_streamed_answer_is_the_same_and_costs_the_same(desk):
    found = desk([chats.streamed("Hel", "lo", ".")])
    with found.ask(stream=True) as stream:
        chunks = list(stream)
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == "Hello."
    assert all(one.usage is None for one in chunks), "it was not asked for"
    assert found.providers[0].requests[0].json["stream_options"] == {"include_usage": True}
    assert found.spent() == COST
    (row,) = found.rows()
    assert (row["tokens"], row["output_tokens"], row["status"]) == (11, 7, 200)


def test_who_asks_for_the_usage_of_a_stream_gets_it(desk):
    found = desk([chats.streamed("Hello.")])
    with found.ask(stream=True, stream_options={"include_usage": True, "include_obfuscation": False}) as stream:
        *_, last = stream
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.choices) == (11, 7, [])
    sent = found.providers[0].requests[0].json["stream_options"]
    assert sent == {"include_usage": True, "include_obfuscation": False}


def test_a_stream_goes_on_event_by_event_as_it_comes(desk):
    comment, foreign = b": still thinking\n\n", b"event: ping\r\ndata: {}\r\n\r\n"
    answer = (chats.chunk("b"), chats.chunk(finish="stop"), chats.usage_chunk(), chats.DONE)
    whole = (comment, chats.chunk("a"), foreign, *answer)
    # Cut anywhere, in the middle of an event and of its end.
    joined = b"".join(whole)
    cuts = (joined[:25], joined[25:26], joined[26:90], joined[90:])
    found = desk([lambda call: Answer(pieces=cuts, gap=0.02, headers=chats.STREAM)])
    reply = found.served.http.post("/v1/chat/completions", json=found.body(stream=True))
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.content == b"".join(one for one in whole if one != chats.usage_chunk())
    assert "x-quernel-generation-id" in reply.headers


def test_the_charge_of_a_stream_is_on_disk_before_its_end_and_the_hold_before_its_beginning(desk):
    found = desk([chats.streamed("a", "b", gap=0.1)])
    seen = []
    body = json.dumps(found.body(stream=True, max_tokens=5)).encode()
    with found.served.http.stream("POST", "/v1/chat/completions", content=body) as reply:
        for event in reply.iter_lines():
            money = found.served.parts.database.read_now(
                lambda c: c.execute(sa.select(schema.accounts.c.held, schema.accounts.c.spent)).one()
            )
            seen.append((event, tuple(money)))
    held = len(body) * INPUT + 5 * OUTPUT
    assert next(money for event, money in seen if event) == (held, 0)
    done = 11 * INPUT + 5 * OUTPUT  # seven were reported, but five were asked for and held
    assert next(money for event, money in seen if "[DONE]" in event) == (0, done)


NOT_BEGUN = {
    "a status": script.failing(503),
    "no reply": script.hung_up,
    "no stream": chats.whole("Hello."),
    "no events": script.events(b": wait\n\n"),
    "nothing but its end": script.events(chats.DONE),
    "an error": script.events(chats.event({"error": {"message": "Say hello.", "code": 503}})),
    "an end before its first event": chats.broken_off(b'data: {"choices": [{"delta": {"con'),
}


@pytest.mark.parametrize("step", NOT_BEGUN.values(), ids=NOT_BEGUN)
def test_a_stream_that_has_not_begun_is_another_providers(desk, step):
    found = desk([step], [chats.streamed("Hel", "lo.")])
    assert said(found.ask(stream=True)) == "Hello."
    assert found.spent() == COST
    (row,) = found.rows()
    assert row["provider"] == "beta"
    assert [(one["provider"], one["outcome"] == "ok") for one in row["attempts"]] == [("acme", False), ("beta", True)]


NO_ANSWER = {
    "a status": script.failing(500),
    "an error with status 200": script.sends(b'{"error": {"message": "no room", "code": 429}}'),
    "no JSON": script.sends(b"<html>"),
    "no choices": script.sends(b'{"object": "chat.completion", "choices": []}'),
}


@pytest.mark.parametrize("step", NO_ANSWER.values(), ids=NO_ANSWER)
def test_another_provider_answers_where_the_first_does_not(desk, step):
    found = desk([step], [chats.whole("Hello.")])
    assert found.ask().choices[0].message.content == "Hello."
    assert found.spent() == COST


def test_a_stream_that_breaks_off_is_nobodys_else_and_costs_nothing(desk):
    found = desk([chats.broken_off(chats.chunk("Hel"))], [chats.streamed("Hello.")])
    texts = []
    with found.ask(stream=True) as stream, pytest.raises(openai.APIError, match="acme"):
        texts.extend(one.choices[0].delta.content for one in stream)
    assert texts == ["Hel"]
    assert not found.providers[1].requests
    assert found.spent() == 0
    (row,) = found.rows()
    assert (row["status"], row["code"], row["cost"], row["tokens"]) == (502, "provider_failed", 0, 0)
    assert found.health().last_failure is FailureKind.UNREACHABLE
    assert found.health().running == 0


def test_a_stream_that_ends_before_its_answer_does_has_broken_off(desk):
    found = desk([script.events(chats.chunk("Hel"), chats.chunk("lo"))])
    with found.ask(stream=True) as stream, pytest.raises(openai.APIError, match="broke off"):
        list(stream)
    assert found.spent() == 0


def test_no_two_providers_write_the_same_answer_at_once(desk):
    found = desk([script.slow(0.3, chats.whole("Hello."))], [chats.whole("Hello.")], hedge=True)
    for slug, seconds in (("acme", 0.001), ("beta", 1.0)):
        found.health(slug).latency.observe(seconds, time.monotonic())
    assert found.ask().choices[0].message.content == "Hello."
    assert not found.providers[1].requests


def test_an_error_in_the_middle_of_a_stream_ends_it_and_is_not_quoted(desk):
    error = chats.event({"error": {"message": "out of memory at sk-hidden", "code": 500}})
    found = desk([script.events(chats.chunk("Hel"), error)])
    reply = found.served.http.post("/v1/chat/completions", json=found.body(stream=True))
    first, last = reply.content.removesuffix(b"\n\n").split(b"\n\n")
    assert first + b"\n\n" == chats.chunk("Hel")
    told = json.loads(last.removeprefix(b"data: "))["error"]
    assert (told["code"], told["message"]) == ("provider_failed", "acme answered with status 500.")
    assert found.spent() == 0


def test_a_client_that_hangs_up_pays_for_what_was_written_and_the_provider_is_let_go(desk):
    found = desk([chats.streamed(*["ab"] * 500, gap=0.02)])
    body = json.dumps(found.body(stream=True)).encode()
    with found.served.http.stream("POST", "/v1/chat/completions", content=body) as reply:
        next(reply.iter_raw())
        assert found.health().running == 1
    (row,) = eventually(found.rows)
    assert (row["status"], row["code"], row["tokens"]) == (499, "client_closed", len(body))
    assert 2 <= row["output_tokens"] <= 200
    assert row["output_tokens"] % 2 == 0
    assert found.spent() == row["cost"] == len(body) * INPUT + row["output_tokens"] * OUTPUT
    assert eventually(lambda: not found.health().running)
    assert eventually(lambda: not found.providers[0].in_flight)


def test_a_client_that_hangs_up_pays_what_was_counted_so_far_where_the_provider_says_it(desk):
    counted = [chats.chunk("ab", usage={"prompt_tokens": 5, "completion_tokens": 1})] * 500
    found = desk([script.events(*counted, gap=0.02)])
    stream = found.ask(stream=True)
    next(stream)
    stream.close()
    assert eventually(found.rows)[0]["tokens"] == 5
    assert found.spent() == 5 * INPUT + 1 * OUTPUT


def test_a_client_that_does_not_wait_for_the_beginning_pays_nothing(desk):
    found = desk([script.slow(5, chats.streamed("late"))])
    with pytest.raises(openai.APITimeoutError):
        found.ask(stream=True, timeout=0.3)
    (row,) = eventually(found.rows)
    assert (row["status"], row["cost"]) == (499, 0)
    assert found.spent() == 0


def test_time_that_the_client_sets_ends_a_stream_in_its_middle(desk):
    found = desk([chats.streamed(*["ab"] * 500, gap=0.05)])
    with (
        found.ask(stream=True, extra_headers={"x-quernel-timeout": "0.4"}) as stream,
        pytest.raises(openai.APIError, match="time"),
    ):
        list(stream)
    (row,) = eventually(found.rows)
    assert (row["status"], row["code"]) == (504, "deadline_exceeded")
    assert found.spent() == row["cost"] > 0


def test_without_a_count_of_the_providers_bytes_are_tokens(desk):
    found = desk([chats.whole("Grüß dich.", usage=None), chats.streamed("Grüß ", "dich.", usage=None)])
    body = json.dumps(found.body(stream=False)).encode()
    assert found.served.http.post("/v1/chat/completions", content=body).status_code == 200
    assert found.spent() == len(body) * INPUT + len("Grüß dich.".encode()) * OUTPUT
    body = json.dumps(found.body(stream=True)).encode()
    assert found.served.http.post("/v1/chat/completions", content=body).content.endswith(chats.DONE)
    assert [row["output_tokens"] for row in found.rows()] == [12, 12]


def test_tools_and_thoughts_are_written_too():
    message = {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Hm.",
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}],
    }
    body = json.dumps({"choices": [{"index": 1, "message": message, "finish_reason": "tool_calls"}]}).encode()
    assert decode_chat_reply(body).texts == {1: 'Hm.add{"a":1}'}


def test_nobody_is_charged_more_than_was_held(desk):
    found = desk([chats.whole("Hello.", usage={"prompt_tokens": 10**6, "completion_tokens": 10**6})])
    body = json.dumps(found.body(max_tokens=3, n=2)).encode()
    assert found.served.http.post("/v1/chat/completions", content=body).status_code == 200
    assert found.spent() == len(body) * INPUT + 3 * 2 * OUTPUT


HOLDS = {
    "what is asked for": ({"max_tokens": 50}, lambda size: (size, 50)),
    "the larger of two": ({"max_tokens": 50, "max_completion_tokens": 60}, lambda size: (size, 60)),
    "several answers": ({"max_tokens": 50, "n": 4}, lambda size: (size, 200)),
    "what the model writes at most": ({}, lambda size: (size, CONTEXT)),
    "no more than that": ({"max_tokens": 10**9}, lambda size: (size, CONTEXT)),
    "no more than it reads": ({"messages": [{"role": "user", "content": "x" * 3000}]}, lambda size: (CONTEXT, CONTEXT)),
    "all that it reads for an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y"}}]}]},
        lambda size: (CONTEXT, CONTEXT),
    ),
    "text in parts": (
        {"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
        lambda size: (size, 1),
    ),
}


@pytest.mark.parametrize(("more", "tokens"), HOLDS.values(), ids=HOLDS)
def test_the_most_that_it_can_cost_must_be_there_before_a_provider_is_asked(desk, more, tokens):
    # A pico-dollar short of the hold, the provider would be asked if it were smaller.
    found = desk([chats.whole("Hello.")])
    body = json.dumps(found.body(**more)).encode()
    read, written = tokens(len(body))
    most = read * INPUT + written * OUTPUT

    def leave(picos):
        change = sa.update(schema.accounts).values(balance=picos)
        found.served.parts.database.write_now(lambda connection: connection.execute(change))

    leave(most - 1)
    refused = found.served.http.post("/v1/chat/completions", content=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "insufficient_credits")
    assert not found.providers[0].requests
    leave(most)
    assert found.served.http.post("/v1/chat/completions", content=body).status_code == 200


def test_a_provider_counts_a_stream_among_its_requests_until_it_ends(desk):
    found = desk([chats.streamed(*["a"] * 8, gap=0.05), chats.whole("second")], concurrency=1)
    stream = found.ask(stream=True)
    next(stream)
    assert found.ask().choices[0].message.content == "second"
    assert found.providers[0].max_in_flight == 1
    assert said(stream) == "a" * 7
    assert found.health().running == 0


def test_streams_that_break_off_again_and_again_pause_a_provider(desk):
    found = desk([chats.broken_off(chats.chunk("Hel"))] * 20)
    for _ in range(20):
        if found.health().state(time.monotonic()) is not BreakerState.CLOSED:
            break
        found.served.http.post("/v1/chat/completions", json=found.body(stream=True))
    assert found.health().state(time.monotonic()) is BreakerState.OPEN


def test_a_chat_keeps_within_the_limits_of_its_key_and_goes_where_it_says(desk):
    found = desk([chats.whole("a")] * 3, [chats.whole("b")] * 3)
    only = {"providerOptions": {"gateway": {"only": ["beta"], "tags": ["night"]}}}
    assert found.ask(extra_body=only).choices[0].message.content == "b"
    assert found.rows()[0]["tags"] == "night"
    assert "providerOptions" not in found.providers[1].requests[0].json
    with pytest.raises(openai.BadRequestError, match="zero data retention"):
        found.ask(extra_body={"provider": {"zdr": True}})


def test_a_chat_sent_again_under_its_idempotency_key_is_paid_for_once(desk):
    found = desk([chats.streamed("Hello.")] * 2)
    for _ in range(2):
        assert said(found.ask(stream=True, extra_headers={"idempotency-key": "k1"})) == "Hello."
    assert found.spent() == COST


def test_a_chat_that_costs_nothing_is_written_down(desk):
    found = desk([chats.streamed("Hello.")], tokens="0", output="0")
    assert said(found.ask(stream=True)) == "Hello."
    (row,) = eventually(found.rows)
    assert (row["tokens"], row["output_tokens"], row["cost"]) == (11, 7, 0)


WRONG = {
    "no model": ({"messages": []}, "model"),
    "no messages": ({"model": CHAT}, "messages"),
    "a limit below one": ({"model": CHAT, "messages": [], "max_tokens": 0}, "max_tokens"),
    "other models": ({"model": CHAT, "messages": [], "models": ["dear/one"]}, "models"),
    "too many answers": ({"model": CHAT, "messages": [], "n": 1000}, "n"),
    "routing that is none": ({"model": CHAT, "messages": [], "provider": 5}, "provider"),
}


@pytest.mark.parametrize(("body", "param"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_read_is_refused_with_its_field(desk, body, param):
    found = desk([])
    reply = found.served.http.post("/v1/chat/completions", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


def test_a_model_of_another_kind_is_not_asked_to_chat(desk):
    found = desk([])
    with pytest.raises(openai.NotFoundError, match="kind embedding"):
        found.client.chat.completions.create(model="Qwen/Qwen3-Embedding-0.6B", messages=MESSAGES)
    with pytest.raises(openai.NotFoundError, match="kind chat"):
        found.client.embeddings.create(model=CHAT, input="x")


def test_a_request_that_a_provider_finds_fault_with_says_why_and_goes_to_no_other(desk):
    refused = script.sends(b'{"error": {"message": "temperature is too high"}}', status=400)
    found = desk([refused], [chats.whole("x")])
    with pytest.raises(openai.BadRequestError, match="temperature is too high") as caught:
        found.ask(stream=True)
    assert not found.providers[1].requests
    assert found.spent() == 0
    assert caught.value.response.headers["x-quernel-generation-id"] == found.rows()[0]["id"]


def test_a_format_without_chats_is_left_out_with_the_reason(desk):
    found = desk([], format="cohere")
    with pytest.raises(openai.BadRequestError, match="the format 'cohere' does not have"):
        found.ask()


def test_a_customers_own_key_is_sent_and_not_billed(desk):
    found = desk([chats.whole("Hello.")], byok=True)
    own = {"providerOptions": {"gateway": {"byok": {"acme": [{"apiKey": "sk-mine"}]}}}}
    assert found.ask(extra_body=own).choices[0].message.content == "Hello."
    assert found.providers[0].requests[0].headers["authorization"] == "Bearer sk-mine"
    assert found.spent() == 0
    (row,) = eventually(found.rows)
    assert (row["upstream_cost"], row["byok"]) == (COST, True)


def test_another_model_answers_where_the_first_has_nobody(tmp_path):
    catalogue = (*chats.CATALOGUE, {"name": "acme/spare", "kind": "chat", "max_tokens": 100})
    with provider("openai", [script.failing(500)] * 9) as down, provider("openai", [chats.streamed("Hello.")]) as up:
        tables = (chats.offer("acme", down.url), chats.offer("beta", up.url, model="acme/spare", upstream="acme/spare"))
        with gateway(tmp_path, *tables, catalogue=catalogue) as served:
            options = {"gateway": {"models": ["acme/spare"]}}
            body = {"model": CHAT, "messages": MESSAGES, "stream": True, "providerOptions": options}
            reply = served.http.post("/v1/chat/completions", json=body)
            assert reply.headers["x-quernel-provider"] == "beta"
            assert up.requests[0].json["model"] == "acme/spare"


def test_events_are_found_wherever_a_stream_is_cut():
    stream = b"data: 1\n\n: c\r\n\r\nevent: x\ndata:2\ndata: 3\n\ndata: \xc3\xa9\r\rdata: [DONE]\n\ndata: half"
    whole = EventReader().feed(stream)
    assert [event_data(event) for event in whole] == [b"1", None, b"2\n3", "é".encode(), b"[DONE]"]
    for size in range(1, 12):
        reader = EventReader()
        found = [event for at in range(0, len(stream), size) for event in reader.feed(stream[at : at + size])]
        assert found == whole


def test_a_body_that_is_no_request_is_refused_not_passed_on():
    for body in (b"[]", b"{", b'{"model": "m", "messages": [' + b"[" * 10_000, b'{"model": "m", "messages": {}}'):
        with pytest.raises(InvalidRequestError):
            decode_chat_request(body)


def test_what_is_read_of_a_body_is_what_is_sent_even_where_it_says_it_twice():
    call = decode_chat_request(b'{"model":"a","max_tokens":9,"messages":[],"max_tokens":2,"model":"b"}')
    assert (call.model, call.max_output_tokens) == ("b", 2)
    assert encode_chat_request(call, "up") == b'{"model":"up","max_tokens":2,"messages":[]}'
