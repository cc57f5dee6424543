"""Answers of a chat model, whole and as a stream, for the script of a provider.

with provider("openai", script=[chats.whole("Hello."), chats.streamed("Hel", "lo.")]) as served:
"""

import json

from tests.support.provider import Answer, sends

CHAT = "acme/talker"
CONTEXT = 1_000

CATALOGUE = ({"name": CHAT, "kind": "chat", "max_tokens": CONTEXT},)

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}

HEAD = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "talker-large-v2"}
DONE = b"data: [DONE]\n\n"
STREAM = {"content-type": "text/event-stream"}


def offer(slug, url, *, model=CHAT, upstream="talker-large-v2", tokens="2", output="8", format="openai", **more):
    """The table of a provider of a chat model, with prices in dollars a million."""
    price = {"usd_per_million_tokens": tokens, "usd_per_million_output_tokens": output}
    offers = [{"model": model, "upstream": upstream, "prices": [price]}]
    return {"slug": slug, "format": format, "base_url": url, "models": offers, **more}


def whole(text, *, usage=USAGE, **more):
    """A whole answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = {"id": "c1", "object": "chat.completion", "created": 1, "model": "talker-large-v2", "choices": [choice]}
    return sends(json.dumps(body | {"usage": usage} | more).encode())


def event(body):
    """An event of a stream."""
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def chunk(text=None, *, finish=None, **more):
    """An event with a piece of an answer."""
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}
    return event(HEAD | {"choices": [choice]} | more)


def usage_chunk(usage=USAGE):
    """The event that says only how many tokens it was."""
    return event(HEAD | {"choices": [], "usage": usage})


def pieces(*texts, usage=USAGE):
    """All events of a stream."""
    end = () if usage is None else (usage_chunk(usage),)
    return (*map(chunk, texts), chunk(finish="stop"), *end, DONE)


def streamed(*texts, usage=USAGE, gap=0.0):
    """An answer as a stream."""
    return lambda call: Answer(pieces=pieces(*texts, usage=usage), gap=gap, headers=STREAM)


def broken_off(*events):
    """A stream that ends in the middle, as does its connection."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in events)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return lambda call: Answer(raw=head + body)
