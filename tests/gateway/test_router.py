import pytest

from quernel.errors import FailureKind, NoRouteError, UnavailableError
from quernel.gateway.health import HealthTable
from quernel.gateway.money import Price
from quernel.gateway.providers import Offer, Provider
from quernel.gateway.router import Demands, find_route
from quernel.protocols.provider_options import Sort

MODEL = "Qwen/Qwen3-Embedding-0.6B"


def provider(slug, *, token=10, quantization="bf16", max_tokens=None, dimensions=None, **more):
    offer = Offer(
        model=MODEL,
        quantization=quantization,
        prices=(Price(token=token),),
        max_tokens=max_tokens,
        dimensions=dimensions,
    )
    return Provider(slug=slug, format="openai", models=(offer,), **more)


def route(providers, *, health=None, refuses=lambda provider, offer: None, **demands):
    return find_route(
        MODEL,
        providers,
        Demands(**demands),
        health or HealthTable(),
        now=0.0,
        now_ms=1,
        refuses=refuses,
    )


def slugs(found):
    return [candidate.provider.slug for candidate in found.candidates]


def observed(**seconds):
    table = HealthTable()
    for slug, (latency, tokens) in seconds.items():
        health = table.of(slug, MODEL, "full")
        for _ in range(10):
            health.begin(0.0)
            health.succeed(0.0, seconds=latency, tokens=tokens)
    return table


def test_the_cheapest_comes_first():
    assert slugs(route([provider("dear", token=9), provider("cheap", token=1)])) == ["cheap", "dear"]


def test_the_price_of_the_moment_counts():
    cheap_later = Offer(model=MODEL, prices=(Price(token=9), Price(token=1, valid_from=100)))
    others = [provider("other", token=5), Provider(slug="falling", format="openai", models=(cheap_later,))]
    assert slugs(route(others)) == ["other", "falling"]
    found = find_route(MODEL, others, Demands(), HealthTable(), now=0.0, now_ms=100)
    assert slugs(found) == ["falling", "other"]


def test_the_fastest_comes_first_where_that_is_asked():
    health = observed(slow=(0.5, 100), quick=(0.01, 1))
    assert slugs(route([provider("slow"), provider("quick")], health=health, sort=Sort.LATENCY)) == ["quick", "slow"]
    found = route([provider("quick"), provider("slow")], health=health, sort=Sort.THROUGHPUT)
    assert slugs(found) == ["slow", "quick"]


def test_order_promotes_and_keeps_the_rest():
    found = route([provider("a", token=1), provider("b", token=2), provider("c", token=3)], order=["c", "b"])
    assert slugs(found) == ["c", "b", "a"]


def test_only_never_falls_through():
    assert slugs(route([provider("a"), provider("b")], only=["b"])) == ["b"]
    with pytest.raises(NoRouteError, match="a: it is not in `only`"):
        route([provider("a")], only=["b"])


@pytest.mark.parametrize(
    ("demands", "reason"),
    [
        ({"zdr": True}, "zero data retention"),
        ({"no_training": True}, "not to train"),
        ({"regions": ["eu"]}, "another region"),
        ({"headquarters": ["DE"]}, "headquarters are elsewhere"),
        ({"not_headquarters": ["US"]}, "ruled out"),
        ({"ignore": ["a"]}, "`ignore`"),
        ({"allowed": frozenset({"b"})}, "may not use"),
        ({"max_token_price": 5}, "costs more"),
        ({"tokens": 600}, "reads 512 tokens"),
        ({"dimensions": 1024}, "gives 256 dimensions"),
        ({"quantizations": ["int8"]}, "weights are bf16"),
        ({"not_quantizations": ["bf16"]}, "weights are bf16"),
    ],
)
def test_what_is_demanded_and_not_there_is_an_error_that_says_so(demands, reason):
    one = provider("a", region="us", headquarters="US", max_tokens=512, dimensions=256)
    with pytest.raises(NoRouteError, match=reason):
        route([one], **demands)


def test_a_provider_that_fits_is_left():
    good = provider("good", zdr=True, no_training=True, region="eu", headquarters="DE", token=99)
    found = route(
        [provider("bad"), good], zdr=True, no_training=True, regions=["eu"], headquarters=["DE", "FR"], tokens=100
    )
    assert slugs(found) == ["good"]
    assert set(found.left_out) == {"bad"}


def test_vectors_of_different_weights_are_never_mixed():
    offers = [provider("int8", quantization="int8", token=1), provider("full", token=9), provider("fp16", token=5)]
    offers[2] = provider("fp16", quantization="fp16", token=5)
    assert slugs(route(offers)) == ["fp16", "full"]
    assert slugs(route(offers, quantizations=["int8"])) == ["int8"]
    assert slugs(route(offers, not_quantizations=["bf16"])) == ["int8"]


def test_without_full_weights_the_first_provider_says_which():
    offers = [provider("a", quantization="fp8", token=9), provider("b", quantization="int8", token=1)]
    assert slugs(route(offers)) == ["a"]
    # Which pool is asked hangs on no figure that moves: the cheaper one is not chosen today and the other tomorrow.
    health = observed(b=(0.001, 1000))
    assert slugs(route(offers, health=health, sort=Sort.LATENCY)) == ["a"]


def test_a_paused_provider_is_left_out_and_the_answer_says_when_to_come_back():
    health = HealthTable()
    bad = health.of("a", MODEL, "full")
    for _ in range(3):
        bad.begin(0.0)
        bad.fail(0.0, FailureKind.TIMEOUT)
    found = route([provider("a", token=1), provider("b", token=2)], health=health)
    assert slugs(found) == ["b"]
    assert "timeout" in found.left_out["a"]
    with pytest.raises(UnavailableError) as caught:
        route([provider("a")], health=health)
    assert caught.value.retry_after == 5.0


def test_a_provider_whose_vectors_drifted_is_left_out():
    health = HealthTable()
    health.of("a", MODEL, "full").drifted = "its vectors are not the model's"
    found = route([provider("a", token=1), provider("b", token=2)], health=health)
    assert slugs(found) == ["b"]
    assert found.left_out == {"a": "its vectors are not the model's"}


def test_a_full_provider_comes_after_one_that_has_room():
    health = HealthTable()
    health.of("a", MODEL, "full").begin(0.0)
    assert slugs(route([provider("a", token=1, concurrency=1), provider("b", token=2)], health=health)) == ["b", "a"]


def test_a_format_that_cannot_say_the_request_is_left_out():
    found = route(
        [provider("a", token=1), provider("b", token=2)],
        refuses=lambda provider, offer: "it has no instructions" if provider.slug == "a" else None,
    )
    assert slugs(found) == ["b"]
    assert found.left_out == {"a": "it has no instructions"}


def test_without_fallbacks_there_is_one():
    assert slugs(route([provider("a", token=1), provider("b", token=2)], allow_fallbacks=False)) == ["a"]


def test_switched_off_providers_and_other_models_do_not_count():
    other = Provider(slug="other", format="openai", models=(Offer(model="another/model"),))
    with pytest.raises(NoRouteError, match="off: it is switched off"):
        route([other, provider("off", enabled=False)])
