"""Options of the AI SDK's gateway and of OpenRouter, as one."""

from decimal import Decimal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernel.errors import InvalidRequestError
from quernel.protocols.provider_options import (
    GATEWAY_SORTS,
    MAX_NAME,
    MAX_NAMES,
    OPENROUTER_SORTS,
    ProviderOptions,
    Sort,
    decode_openrouter_provider,
    decode_provider_options,
    decode_routing,
    encode_provider_options,
)

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
countries = st.lists(st.sampled_from(["US", "DE", "CN", "SG"]), unique=True).map(tuple)
formats = st.lists(st.sampled_from(["fp8", "bf16", "int4"]), unique=True)
passed_on = st.builds(
    ProviderOptions,
    sort=st.none() | st.sampled_from(Sort),
    user=st.none() | names,
    tags=st.lists(names, max_size=3).map(tuple),
    zero_data_retention=st.booleans(),
    disallow_prompt_training=st.booleans(),
    has=st.lists(st.sampled_from(["vision", "tool-use"]), unique=True).map(tuple),
    quantizations=formats.map(lambda words: tuple(words[:1])),
    not_quantizations=formats.map(tuple),
    quota_entity=st.none() | names,
)
EVERYTHING = {
    "order": ["alibaba", "deepinfra"],
    "only": ["alibaba", "deepinfra", "nebius"],
    "sort": "ttft",
    "models": ["qwen/qwen3-embedding-4b"],
    "user": "user-7",
    "tags": ["chat", "v2"],
    "byok": {"alibaba": [{"apiKey": "first"}, {"apiKey": "second", "region": "eu"}]},
    "zeroDataRetention": True,
    "disallowPromptTraining": True,
    "headquarters": ["us", "DE"],
    "has": ["tool-use", "quantization:FP8", "!quantization:int4"],
    "providerTimeouts": {"byok": {"alibaba": 2500}},
    "quotaEntityId": "team-1",
}


def test_every_option_of_the_ai_sdk_is_read():
    assert decode_provider_options({"gateway": EVERYTHING}) == ProviderOptions(
        order=("alibaba", "deepinfra"),
        only=("alibaba", "deepinfra", "nebius"),
        sort=Sort.LATENCY,
        models=("qwen/qwen3-embedding-4b",),
        user="user-7",
        tags=("chat", "v2"),
        byok={"alibaba": ({"apiKey": "first"}, {"apiKey": "second", "region": "eu"})},
        zero_data_retention=True,
        disallow_prompt_training=True,
        headquarters=("US", "DE"),
        has=("tool-use",),
        quantizations=("fp8",),
        not_quantizations=("int4",),
        provider_timeouts={"alibaba": 2.5},
        quota_entity="team-1",
    )


def test_every_option_of_openrouter_is_read():
    raw = {
        "order": ["deepinfra"],
        "only": ["deepinfra", "nebius"],
        "ignore": ["nebius"],
        "allow_fallbacks": False,
        "zdr": True,
        "data_collection": "deny",
        "quantizations": ["FP8", "bf16"],
        "sort": "throughput",
        "max_price": {"prompt": 0.02, "completion": 1, "request": "0.001"},
    }
    assert decode_openrouter_provider(raw) == ProviderOptions(
        order=("deepinfra",),
        only=("deepinfra", "nebius"),
        ignore=("nebius",),
        allow_fallbacks=False,
        zero_data_retention=True,
        disallow_prompt_training=True,
        quantizations=("fp8", "bf16"),
        sort=Sort.THROUGHPUT,
        max_price=Decimal("0.02"),
        max_request_price=Decimal("0.001"),
    )


@pytest.mark.parametrize("raw", [None, {}, {"gateway": None}, {"gateway": {}}, {"openai": {"user": "x"}}])
def test_no_options_are_no_demands(raw):
    assert decode_provider_options(raw) == ProviderOptions()
    assert decode_routing(raw, None) == ProviderOptions()


@pytest.mark.parametrize("raw", [None, {}])
def test_no_provider_object_is_no_demand(raw):
    assert decode_openrouter_provider(raw) == ProviderOptions()


def test_an_option_that_is_null_is_absent():
    assert decode_provider_options({"gateway": dict.fromkeys(EVERYTHING)}) == ProviderOptions()
    null = dict.fromkeys(["order", "only", "ignore", "allow_fallbacks", "zdr", "data_collection", "sort", "max_price"])
    assert decode_openrouter_provider(null) == ProviderOptions()


@pytest.mark.parametrize(("word", "sort"), GATEWAY_SORTS.items())
def test_a_sort_of_the_ai_sdk_is_one_of_ours(word, sort):
    assert decode_provider_options({"gateway": {"sort": word}}).sort is sort


@pytest.mark.parametrize(("word", "sort"), OPENROUTER_SORTS.items())
def test_a_sort_of_openrouter_is_one_of_ours_in_either_form(word, sort):
    assert decode_openrouter_provider({"sort": word}).sort is sort
    assert decode_openrouter_provider({"sort": {"by": word, "partition": None}}).sort is sort


def test_each_vendors_words_reach_every_sort():
    assert set(GATEWAY_SORTS.values()) == set(OPENROUTER_SORTS.values()) == set(Sort)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ("x", ""),
        ({"order": "alibaba"}, ".order"),
        ({"order": ["alibaba", 2]}, ".order[1]"),
        ({"order": [""]}, ".order[0]"),
        ({"tags": ["x" * (MAX_NAME + 1)]}, ".tags[0]"),
        ({"tags": ["x"] * (MAX_NAMES + 1)}, ".tags"),
        ({"only": []}, ".only"),
        ({"sort": "speed"}, ".sort"),
        ({"sort": 1}, ".sort"),
        ({"models": [{"model": "m", "when": {}}]}, ".models[0]"),
        ({"user": 7}, ".user"),
        ({"byok": {"alibaba": {"apiKey": "secret"}}}, ".byok[...]"),
        ({"byok": {"alibaba": ["secret"]}}, ".byok[...][0]"),
        ({"byok": {"alibaba": []}}, ".byok[...]"),
        ({"zeroDataRetention": "true"}, ".zeroDataRetention"),
        ({"disallowPromptTraining": 1}, ".disallowPromptTraining"),
        ({"headquarters": ["USA"]}, ".headquarters[0]"),
        ({"headquarters": ["US", "!CN"]}, ".headquarters"),
        ({"headquarters": []}, ".headquarters"),
        ({"has": ["quantization:"]}, ".has[0]"),
        ({"has": ["Vision"]}, ".has[0]"),
        ({"has": ["quantization:fp8", "quantization:bf16"]}, ".has"),
        ({"providerTimeouts": {"byok": {"alibaba": 0}}}, ".providerTimeouts.byok[...]"),
        ({"providerTimeouts": {"byok": {"alibaba": "1s"}}}, ".providerTimeouts.byok[...]"),
        ({"quotaEntityId": []}, ".quotaEntityId"),
    ],
)
def test_an_option_that_cannot_be_read_is_named(options, param):
    with pytest.raises(InvalidRequestError) as caught:
        decode_provider_options({"gateway": options})
    assert caught.value.param == f"providerOptions.gateway{param}"
    assert str(caught.value).startswith(caught.value.param)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        ({"order": {}}, "provider.order"),
        ({"ignore": [1]}, "provider.ignore[0]"),
        ({"allow_fallbacks": "no"}, "provider.allow_fallbacks"),
        ({"zdr": 1}, "provider.zdr"),
        ({"data_collection": "maybe"}, "provider.data_collection"),
        ({"quantizations": []}, "provider.quantizations"),
        ({"sort": "cost"}, "provider.sort"),
        ({"sort": {"by": "cost"}}, "provider.sort"),
        ({"max_price": 1}, "provider.max_price"),
        ({"max_price": {"prompt": "cheap"}}, "provider.max_price.prompt"),
        ({"max_price": {"prompt": -1}}, "provider.max_price.prompt"),
        ({"max_price": {"request": "NaN"}}, "provider.max_price.request"),
    ],
)
def test_an_option_of_openrouter_that_cannot_be_read_is_named(raw, param):
    with pytest.raises(InvalidRequestError) as caught:
        decode_openrouter_provider(raw)
    assert caught.value.param == param


def test_a_word_that_is_no_choice_is_answered_with_the_choices():
    with pytest.raises(InvalidRequestError, match="cost, ttft, tps"):
        decode_provider_options({"gateway": {"sort": "price"}})


def test_unknown_options_are_collected_and_the_others_hold():
    options = decode_provider_options({"gateway": {"caching": "auto", "user": "u", "serviceTier": None}})
    assert options == ProviderOptions(
        user="u", unknown=("providerOptions.gateway.caching", "providerOptions.gateway.serviceTier")
    )
    assert decode_openrouter_provider({"require_parameters": True}).unknown == ("provider.require_parameters",)


def test_an_option_that_somebody_else_reads_is_not_unknown():
    options = decode_provider_options({"gateway": {"dimensions": 64, "x": 1}}, read_elsewhere={"dimensions"})
    assert options.unknown == ("providerOptions.gateway.x",)


def test_a_thousand_unknown_options_are_not_all_repeated():
    options = decode_provider_options({"gateway": {"x" * 10_000 + str(index): 1 for index in range(1000)}})
    assert len(options.unknown) <= MAX_NAMES
    assert max(map(len, options.unknown)) < 2 * MAX_NAME


def test_excluded_countries_are_told_from_allowed_ones():
    options = decode_provider_options({"gateway": {"headquarters": ["!us", "!CN", "!US"]}})
    assert (options.headquarters, options.not_headquarters) == ((), ("US", "CN"))


def test_credentials_are_not_shown():
    assert "first" not in repr(decode_provider_options({"gateway": EVERYTHING}))


def test_either_form_serves():
    assert decode_routing({"gateway": {"order": ["a"]}}, None).order == ("a",)
    assert decode_routing({"openai": {"user": "x"}}, {"order": ["a"]}).order == ("a",)


def test_both_forms_at_once_are_refused():
    with pytest.raises(InvalidRequestError, match="both") as caught:
        decode_routing({"gateway": {}}, {})
    assert caught.value.param == "provider"


@given(passed_on, countries, st.booleans())
def test_what_binds_another_gateway_survives_the_wire(options, codes, excluded):
    bound = ProviderOptions(
        **{name: getattr(options, name) for name in options.__slots__}
        | {"not_headquarters" if excluded else "headquarters": codes}
    )
    raw = orjson.loads(orjson.dumps(encode_provider_options(bound)))
    assert decode_provider_options(raw) == bound


def test_what_names_our_own_providers_and_keys_stays_here():
    raw = encode_provider_options(decode_provider_options({"gateway": EVERYTHING}))
    assert set(raw["gateway"]).isdisjoint({"order", "only", "models", "byok", "providerTimeouts"})
    assert "first" not in str(raw)
    assert encode_provider_options(ProviderOptions(order=("alibaba",), byok={"a": ({},)})) == {}


def test_a_demand_that_the_other_gateway_has_no_word_for_is_not_dropped_in_silence():
    with pytest.raises(InvalidRequestError, match="fp8 or bf16"):
        encode_provider_options(ProviderOptions(quantizations=("fp8", "bf16")))
