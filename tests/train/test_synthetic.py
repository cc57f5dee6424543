import asyncio
import json

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from quernel.client import RetryPolicy
from quernel.errors import InvalidRequestError, SettingsError, UnavailableError
from quernel.server.serve import running
from quernel.train.chat import ChatEndpoint
from quernel.train.synthetic import Kind, SynthesisSettings, parse_object, synthesize, write_row

CHOICE = {"Character": "a nurse", "Question_Type": "keywords", "Difficulty": "phd"}
QUICK = RetryPolicy(max_attempts=3, first_seconds=0.01)


class Scripted:
    """A model that answers by what it is asked."""

    def __init__(self, **answers):
        self.prompts = []
        self.answers = answers

    async def complete(self, prompt, *, seed):
        self.prompts.append((prompt, seed))
        for mark, answer in self.answers.items():
            if mark.replace("_", " ") in prompt:
                return answer if isinstance(answer, str) else json.dumps(answer)
        return "I would rather not."


def test_a_query_takes_two_steps():
    chat = Scripted(some_characters=CHOICE, with_which={"query": "Nachtschicht"})
    settings = SynthesisSettings(languages=["German"])
    row = asyncio.run(write_row("About nights.", ["a nurse", "a cook"], chat, settings, number=0, turn=0))
    first, second = (prompt for prompt, _ in chat.prompts)
    assert "- a nurse\n- a cook" in first
    assert "About nights." in first
    assert "You are a nurse." in second
    assert "keywords" in second
    assert "German" in second
    assert row["query"] == "Nachtschicht"
    assert row["pos"] == "About nights."
    assert (row["question_type"], row["difficulty"]) == ("keywords", "phd")


@pytest.mark.parametrize(
    ("kind", "answer", "expected"),
    [
        (Kind.BITEXT, {"source": "s", "translation": "t"}, {"query": "t", "pos": "s"}),
        (
            Kind.SIMILARITY,
            {"source": "s", "similar": "t", "different": "d"},
            {"query": "s", "pos": "t", "neg": "d"},
        ),
        (
            Kind.CLASSIFICATION,
            {"task": "Name the topic", "label": "l", "wrong_label": "w"},
            {"query": "passage", "pos": "l", "neg": "w", "instruction": "Name the topic"},
        ),
    ],
)
def test_other_kinds_take_one(kind, answer, expected):
    chat = Scripted(passage=answer)
    row = asyncio.run(write_row("passage", [], chat, SynthesisSettings(kind=kind), number=0, turn=0))
    assert expected.items() <= row.items()
    assert row["instruction"]


def test_what_is_drawn_depends_on_seed_and_place_alone():
    def prompts(seed):
        chat = Scripted(some_characters=CHOICE, with_which={"query": "q"})
        settings = SynthesisSettings(languages=["German", "French", "Thai"], seed=seed)
        for number in range(5):
            asyncio.run(write_row("p", ["x"], chat, settings, number=number, turn=0))
        return chat.prompts

    assert prompts(1) == prompts(1) != prompts(2)


def test_answers_as_models_give_them():
    assert parse_object('<think>{"a": 1}</think>\n```json\n{"a": " x "}\n```', ("a",)) == {"a": "x"}
    for answer in ("no", '{"a": 1}', '{"b": "x"}', "{a}", '{"a": ""}'):
        with pytest.raises(ValueError, match=r".+"):
            parse_object(answer, ("a",))


def test_an_answer_that_cannot_be_used_costs_one_row():
    async def collect():
        chat = Scripted(some_characters=CHOICE | {"Difficulty": "none"})
        settings = SynthesisSettings(num_queries=2)
        done = frozenset({(0, 1)})
        written = [one async for one in synthesize(["p", "q"], ["x"], [[0], [0]], chat, settings, done=done)]
        return sorted((one.number, one.turn, one.row, one.problem) for one in written)

    found = asyncio.run(collect())
    assert [(number, turn) for number, turn, _, _ in found] == [(0, 0), (1, 0), (1, 1)]
    assert all("'none'" in problem for *_, problem in found)


def server(replies):
    """A chat server that gives these replies in turn, the last one for ever."""
    seen = []

    async def answer(request):
        seen.append((dict(request.headers), await request.json()))
        reply = replies[min(len(seen), len(replies)) - 1]
        if isinstance(reply, int):
            return PlainTextResponse("no", status_code=reply, headers={"retry-after": "0"})
        return JSONResponse(reply)

    return Starlette(routes=[Route("/v1/chat/completions", answer, methods=["POST"])]), seen


def ask(replies, **options):
    app, seen = server(replies)

    async def run(url):
        async with ChatEndpoint(url, "m", retry=QUICK, **options) as chat:
            return await chat.complete("hello", seed=7)

    with running(app) as url:
        return asyncio.run(run(url + "/v1")), seen


def completion(text):
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def test_an_endpoint_is_asked_as_openai_is():
    answer, seen = ask([429, 500, completion("good day")], api_key="secret")
    assert answer == "good day"
    headers, body = seen[-1]
    assert headers["authorization"] == "Bearer secret"
    assert body["messages"] == [{"role": "user", "content": "hello"}]
    assert (body["model"], body["seed"]) == ("m", 7)
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("replies", "error"),
    [([500], UnavailableError), ([401], SettingsError), ([404], SettingsError), ([400], InvalidRequestError),
     ([{"error": "x"}], SettingsError)],
)  # fmt: skip
def test_refusals(replies, error):
    with pytest.raises(error):
        ask(replies)


def test_an_address_must_be_one():
    with pytest.raises(SettingsError, match="no address"):
        ChatEndpoint("host", "m")


def test_the_command_writes_filters_and_goes_on(tmp_path):
    from click.testing import CliRunner

    from quernel.cli.main import cli

    texts = ["The cat sleeps on the warm roof.", "Planes fly since their wings push air down.", "Rust never sleeps."]
    (tmp_path / "passages.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "who.txt").write_text("\n".join(f"person {number}" for number in range(6)))
    asked = []

    async def answer(request):
        prompt = (await request.json())["messages"][0]["content"]
        asked.append(prompt)
        if "some characters" in prompt:
            return JSONResponse(completion(json.dumps(CHOICE)))
        text = next(text for text in texts if text in prompt)
        # Of the last passage the model writes something that is not about it.
        return JSONResponse(completion(json.dumps({"query": "stock prices in 1929" if "Rust" in text else text})))

    app = Starlette(routes=[Route("/v1/chat/completions", answer, methods=["POST"])])
    with running(app) as url:

        def run(*more):
            arguments = [
                "synthesize", str(tmp_path / "passages.jsonl"), "-o", str(tmp_path / "rows.jsonl"), "--url", url,
                "--chat", "m", "--persons", str(tmp_path / "who.txt"), *more,
            ]  # fmt: skip
            return CliRunner().invoke(cli, arguments)

        result = run()
        assert result.exit_code == 0, result.stderr
        assert "2 rows; 1 left out" in result.stderr
        rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
        assert {row["pos"] for row in rows} == set(texts[:2])
        assert all(row["cosine"] > 0.7 for row in rows)
        asked.clear()
        assert "0 rows; 1 left out" in run().stderr
        assert len(asked) == 2  # what was written is not asked for again
        assert "too few" in run("--persons", str(tmp_path / "passages.jsonl")).stderr
        (tmp_path / "rows.jsonl").write_text("{}\n")
        assert "no row of an earlier run" in run().stderr
