import asyncio
import hashlib
import hmac
import json
import logging
from base64 import urlsafe_b64encode
from contextlib import suppress
from dataclasses import replace
from functools import cache

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from quernel.errors import AuthenticationError, PermissionDeniedError, ProviderError, SettingsError, UnavailableError
from quernel.gateway.issuers import ALGORITHMS, Issuer, parse_issuer
from quernel.gateway.jwks import FRESH_SECONDS, MAX_AGE_SECONDS, RETRY_SECONDS
from quernel.gateway.oidc import CACHE_SECONDS, MAX_TOKEN_BYTES, Identity, OidcVerifier, looks_like_jwt

NOW = 1_800_000_000.0
URL = "https://id.example.com"
KEYS_URL = f"{URL}/keys"
VERCEL_KEYS_URL = "https://oidc.vercel.com/.well-known/jwks"

GENERATORS = {
    "RSA": lambda: RSAKey.generate_key(2048),
    "P-256": lambda: ECKey.generate_key("P-256"),
    "P-384": lambda: ECKey.generate_key("P-384"),
    "P-521": lambda: ECKey.generate_key("P-521"),
    "Ed25519": lambda: OKPKey.generate_key("Ed25519"),
    "Ed448": lambda: OKPKey.generate_key("Ed448"),
}
KIND_OF = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519", "Ed25519": "Ed25519"}


def key(kind="RSA", number=1):
    """A private key, made once; another for another number."""
    return made(kind, number)


@cache
def made(kind, number):
    return GENERATORS[kind]()


def public(private, kid="k1", **members):
    return private.as_dict(private=False) | {"kid": kid} | members


def segment(part):
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(claims, *, by=None, header=(), sign=None):
    """A token of these claims; `header` goes over `{"alg": "RS256", "kid": "k1", "typ": "JWT"}`."""
    header = {"alg": "RS256", "kid": "k1", "typ": "JWT"} | dict(header)
    text = f"{segment({name: value for name, value in header.items() if value is not None})}.{segment(claims)}"
    if sign is None:
        algorithm = JWSRegistry.algorithms[header["alg"]]
        signature = algorithm.sign(text.encode(), by or key(KIND_OF.get(header["alg"], "RSA")))
    else:
        signature = sign(text.encode())
    return f"{text}.{segment(signature)}"


def claims(**changes):
    """Claims that the issuer below accepts; those that are None are left out."""
    usual = {"iss": URL, "sub": "someone", "aud": "us", "exp": NOW + 300, "iat": NOW, "nbf": NOW, "owner": "acme"}
    return {name: value for name, value in (usual | changes).items() if value is not None}


def token(*, by=None, header=(), sign=None, **changes):
    return signed(claims(**changes), by=by, header=header, sign=sign)


class Clock:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


class FakeIssuer:
    """What an issuer publishes, and who asked for it."""

    def __init__(self, *keys):
        self.documents = {}
        self.publish(*(keys or [public(key())]))
        self.fetched = []
        self.failing = False
        self.gate = None

    def publish(self, *keys, url=KEYS_URL):
        self.documents[url] = {"keys": list(keys)}

    async def fetch(self, url):
        self.fetched.append(url)
        if self.gate is not None:
            await self.gate.wait()
        if self.failing or url not in self.documents:
            raise ProviderError(f"{url} is away.")
        document = self.documents[url]
        return document if isinstance(document, bytes) else json.dumps(document).encode()


ISSUER = Issuer(name="ours", issuer=URL, audience=("us", "us-too"), account="{owner}", jwks_url=KEYS_URL)


def verifier_of(*issuers, keys=(), **changes):
    """A verifier, the fake it asks, and its clock."""
    fake, clock = FakeIssuer(*keys), Clock()
    return OidcVerifier(issuers or [replace(ISSUER, **changes)], fake.fetch, clock), fake, clock


def verified(text, *issuers, keys=(), **changes):
    verifier, _, _ = verifier_of(*issuers, keys=keys, **changes)
    return asyncio.run(verifier.verify(text))


def refused(text, *issuers, error=AuthenticationError, **changes):
    """Why a token is not accepted."""
    with pytest.raises(error) as caught:
        verified(text, *issuers, **changes)
    assert str(caught.value).startswith("The OIDC token is not accepted: ")
    assert text not in str(caught.value)
    return str(caught.value)


# Accepted


def test_a_token_says_who_it_speaks_for():
    text = token(actor="ada", project="search", environment="prod")
    found = verified(
        text,
        user="{actor}",
        project="{project}",
        tags=("env:{environment}", "fixed", "branch:{branch}"),
        scopes=("embed",),
        auto_provision=True,
    )
    assert found == Identity(
        issuer="ours",
        subject="someone",
        account="acme",
        is_by_claim=True,
        user="ada",
        tags=("env:prod", "fixed"),
        project="search",
        scopes=("embed",),
        auto_provision=True,
        expires_at=NOW + 300,
        digest=found.digest,
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_allowed_signature_is_checked(algorithm):
    private = key(KIND_OF.get(algorithm, "RSA"))
    verifier, _, _ = verifier_of(algorithms=(algorithm,), keys=[public(private)])
    text = token(header={"alg": algorithm})
    assert asyncio.run(verifier.verify(text)).account == "acme"
    forged = token(header={"alg": algorithm}, by=key(KIND_OF.get(algorithm, "RSA"), 2))
    with pytest.raises(AuthenticationError, match="signature is wrong"):
        asyncio.run(verifier.verify(forged))


@pytest.mark.parametrize("aud", ["us", "us-too", ["us"], ["others", "us-too"]])
def test_one_accepted_audience_is_enough(aud):
    assert verified(token(aud=aud)).account == "acme"


@pytest.mark.parametrize("typ", [None, "JWT", "jwt", "at+jwt", "application/at+jwt"])
def test_the_types_of_credentials_are_accepted(typ):
    assert verified(token(header={"typ": typ})).account == "acme"


def test_tokens_of_one_origin_have_one_digest_and_those_of_another_have_another():
    verifier, _, clock = verifier_of()

    def digest(**changes):
        return asyncio.run(verifier.verify(token(**changes))).digest

    first = digest(project="a", environment="prod", aud=["us", "us-too"])
    clock.now += 100
    assert digest(project="a", environment="prod", aud=["us-too", "us"], exp=NOW + 900, iat=NOW + 90, jti="2") == first
    others = [
        {"sub": "b"},
        {"aud": "us"},
        {"owner": "b"},
        {"project": "b"},
        {"project": None},
        {"environment": "b"},
        {"environment": "", "project": "aprod"},
    ]
    same = {"project": "a", "environment": "prod", "aud": ["us", "us-too"]}
    assert len({first, *(digest(**(same | change)) for change in others)}) == len(others) + 1


# The signature


def test_an_unsigned_token_is_refused():
    assert "algorithm" in refused(token(header={"alg": "none"}, sign=lambda text: b""))
    assert "signature" in refused(token(sign=lambda text: b""))


@pytest.mark.parametrize("form", ["pem", "der", "jwk", "n"])
def test_the_public_key_is_no_shared_secret(form):
    published = public(key())
    secret = {
        "pem": key().as_pem(private=False),
        "der": key().as_der(private=False),
        "jwk": json.dumps(published).encode(),
        "n": published["n"].encode(),
    }[form]
    forged = token(header={"alg": "HS256"}, sign=lambda text: hmac.digest(secret, text, "sha256"))
    assert "algorithm is not one of RS256" in refused(forged)


def test_an_algorithm_that_the_issuer_does_not_use_is_refused_though_the_key_would_fit():
    assert "algorithm" in refused(token(header={"alg": "PS256"}))
    assert "algorithm" in refused(token(header={"alg": "RS512"}))


def test_a_key_of_another_type_with_the_same_kid_is_not_tried():
    changes = {"algorithms": ("RS256", "ES256"), "keys": [public(key("P-256"))]}
    assert "no RSA key" in refused(token(), **changes)
    assert "no EC key" in refused(token(header={"alg": "ES256"}), algorithms=("RS256", "ES256"))


def test_a_key_of_another_curve_is_not_tried():
    for algorithm, kind in (("ES256", "P-384"), ("ES384", "P-256"), ("ES512", "P-256")):
        text = token(header={"alg": algorithm}, by=key("P-256"), sign=lambda text: b"\1" * 64)
        assert "is not for its algorithm" in refused(text, algorithms=(algorithm,), keys=[public(key(kind))])
    text = token(header={"alg": "EdDSA"}, by=key("Ed448"))
    assert "no OKP key" in refused(text, algorithms=("EdDSA",), keys=[public(key("Ed448"))])


@pytest.mark.parametrize("members", [{"use": "enc"}, {"key_ops": ["encrypt"]}, {"alg": "RS512"}, {"alg": "PS256"}])
def test_a_key_for_something_else_is_not_used(members):
    assert "is not for its algorithm" in refused(token(), keys=[public(key(), **members)])


@pytest.mark.parametrize("members", [{"use": "sig"}, {"key_ops": ["verify"]}, {"alg": "RS256"}, {"x5u": 5, "x5c": "?"}])
def test_a_key_for_this_is_used(members):
    assert verified(token(), keys=[public(key(), **members)]).account == "acme"


def test_of_two_keys_with_the_same_kid_the_one_of_the_right_type_is_used():
    both = [public(key("P-256")), public(key())]
    assert verified(token(), keys=both).account == "acme"
    assert verified(token(header={"alg": "ES256"}), keys=both, algorithms=("ES256",)).account == "acme"


def test_a_token_without_the_name_of_its_key_is_refused_though_there_is_only_one():
    assert "kid" in refused(token(header={"kid": None}))
    assert "kid" in refused(token(header={"kid": ""}))
    assert "kid" in refused(token(header={"kid": 1}))


def test_keys_and_addresses_in_a_token_are_not_read():
    theirs = key("RSA", 2)
    header = {
        "jku": "https://evil.example/keys",
        "x5u": "https://evil.example/cert",
        "x5c": ["MIIB"],
        "jwk": public(theirs),
    }
    verifier, fake, _ = verifier_of()
    fake.publish(public(theirs), url="https://evil.example/keys")
    with pytest.raises(AuthenticationError, match="signature is wrong"):
        asyncio.run(verifier.verify(token(header=header, by=theirs)))
    assert asyncio.run(verifier.verify(token(header=header))).account == "acme"
    assert fake.fetched == [KEYS_URL]


@pytest.mark.parametrize("crit", [["b64"], [], None, "exp"])
def test_an_extension_that_must_be_understood_is_refused(crit):
    header = json.dumps({"alg": "RS256", "kid": "k1", "crit": crit, "b64": False}).encode()
    text = f"{segment(header)}.{segment(claims())}"
    signature = JWSRegistry.algorithms["RS256"].sign(text.encode(), key())
    assert "crit" in refused(f"{text}.{segment(signature)}")


@pytest.mark.parametrize("typ", ["logout+jwt", "dpop+jwt", "JWE", ""])
def test_a_token_for_something_else_is_refused(typ):
    assert "typ" in refused(token(header={"typ": typ}))


@pytest.mark.parametrize(
    "jwk",
    [
        public(key("P-256"), x="AA"),
        public(key("P-256"), crv="P-999"),
        {"kty": "RSA", "kid": "k1"},
        {"kty": "RSA", "kid": "k1", "n": 5, "e": None},
        {"kty": "RSA", "kid": "k1", "n": segment(b"\xff" * 128), "e": "AQAB"},
        {"kty": ["RSA"], "kid": "k1"},
        {"kty": "AKP", "kid": "k1"},
        {"kid": "k1"},
        public(key(), use="???"),
        public(key(), kid=7),
        {},
    ],
)
def test_a_key_that_is_broken_or_weak_or_unknown_does_not_hide_the_others(jwk):
    good = public(key("RSA", 2), kid="k2")
    assert verified(token(header={"kid": "k2"}, by=key("RSA", 2)), keys=[jwk, good]).account == "acme"
    assert "no RSA key" in refused(token(), keys=[jwk, good])


@pytest.mark.parametrize(
    "secret",
    [key().as_dict(private=True), key("P-256").as_dict(private=True), OctKey.generate_key(256).as_dict(private=True)],
)
def test_a_key_that_must_be_secret_is_ignored_and_told_of_once(secret, caplog):
    verifier, fake, clock = verifier_of(keys=[secret | {"kid": "k1"}, public(key("RSA", 2), kid="k2")])
    with caplog.at_level(logging.WARNING, logger="quernel.gateway"):
        for _ in range(3):
            with pytest.raises(AuthenticationError, match="no RSA key"):
                asyncio.run(verifier.verify(token()))
            clock.now += FRESH_SECONDS
    assert len(fake.fetched) == 3
    assert [record.getMessage() for record in caplog.records] == [
        "The OIDC issuer ours publishes keys that must be secret; they are ignored."
    ]


# The claims


@pytest.mark.parametrize("aud", ["them", "US", "us ", "*", "", [], ["them", "others"], [["us"]], {"us": 1}, 1, None])
def test_a_token_for_another_audience_is_refused(aud):
    assert "aud" in refused(token(aud=aud))


@pytest.mark.parametrize(
    "iss",
    [
        "https://evil.example",
        f"{URL}/",
        f"{URL}.evil.example",
        f"{URL}@evil.example",
        "http://id.example.com",
        "HTTPS://id.example.com",
        f" {URL}",
        "",
        None,
        [URL],
        7,
    ],
)
def test_a_token_of_another_issuer_is_refused_and_fetches_nothing(iss):
    verifier, fake, _ = verifier_of()
    with pytest.raises(AuthenticationError, match="iss"):
        asyncio.run(verifier.verify(token(iss=iss)))
    assert fake.fetched == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": None}, "exp"),
        ({"exp": "never"}, "cannot be"),
        ({"exp": True}, "cannot be"),
        ({"exp": 10**40}, "cannot be"),
        ({"exp": NOW - 60}, "expired"),
        ({"exp": 0}, "expired"),
        ({"nbf": NOW + 61}, "not valid yet"),
        ({"nbf": "now"}, "cannot be"),
        ({"iat": NOW + 61}, "issued in the future"),
        ({"sub": None}, "sub"),
        ({"sub": ""}, "sub"),
        ({"sub": 5}, "sub"),
        ({"sub": "a\n"}, "sub"),
        ({"sub": "\x1b[2J"}, "sub"),
        ({"sub": "x" * 513}, "sub"),
    ],
)
def test_a_token_that_is_not_valid_now_or_lacks_a_claim_is_refused(changes, reason):
    assert reason in refused(token(**changes))


def test_clocks_may_differ_by_the_leeway():
    assert verified(token(exp=NOW - 59.5, nbf=NOW + 60, iat=NOW + 60)).account == "acme"
    assert "expired" in refused(token(exp=NOW), leeway_seconds=0)


def test_a_token_may_be_no_older_than_the_issuer_allows():
    day = {"exp": NOW + 86_400, "nbf": None}
    assert verified(token(iat=NOW - 659, **day), max_age_seconds=600).account == "acme"
    assert "600 seconds" in refused(token(iat=NOW - 660, **day), max_age_seconds=600)
    assert "iat" in refused(token(iat=None, **day), max_age_seconds=600)
    assert verified(token(iat=None, nbf=None)).account == "acme"


@pytest.mark.parametrize("owner", [None, "evil", "Acme", "acme ", "*", ["evil"], {"acme": 1}, 1])
def test_a_claim_rule_that_does_not_hold_denies(owner):
    found = refused(token(owner=owner), required_claims={"owner": ("acme",)}, account="a", error=PermissionDeniedError)
    assert "owner" in found
    assert "ours" in found
    assert "evil" not in found


def test_every_claim_rule_must_hold():
    rules = {"owner": ("acme", "acme-labs"), "kubernetes.io.namespace": ("prod",)}
    good = token(**{"kubernetes.io": {"namespace": "prod"}})
    assert verified(good, required_claims=rules).account == "acme"
    refused(token(), required_claims=rules, error=PermissionDeniedError)
    refused(token(**{"kubernetes.io": {"namespace": "dev"}}), required_claims=rules, error=PermissionDeniedError)


@pytest.mark.parametrize(
    "owner",
    [None, "", "../admin", "a/b", "Acme", "a b", "a\n", "-a", ".", "a" * 65, "acmé", ["acme"], {"a": 1}, 1.5, "{sub}"],
)
def test_a_claim_that_makes_no_name_of_an_account_denies(owner):
    refused(token(owner=owner), error=PermissionDeniedError)


def test_an_account_may_be_a_name_or_a_claim_with_something_before_it():
    assert verified(token(), account="team-a").account == "team-a"
    assert not verified(token(), account="team-a").is_by_claim
    assert verified(token(), account="ci-{owner}").account == "ci-acme"
    assert verified(token(owner=42), account="ci-{owner}").account == "ci-42"


def test_a_user_or_project_that_is_mapped_must_be_there():
    for label in ("user", "project"):
        assert label in refused(token(), error=PermissionDeniedError, **{label: "{someone}"})
        refused(token(someone="a\x1b[2J"), error=PermissionDeniedError, **{label: "{someone}"})


def test_what_a_token_says_of_its_claims_is_shown_short_and_printable():
    found = refused(token(aud="\x1b[2Jevil\u202e" + "x" * 500))
    assert found.isascii()
    assert found.isprintable()
    assert len(found) < 300
    found = refused(token(header={"kid": "\r\nset-cookie: a" + "x" * 500}))
    assert found.isprintable()
    assert len(found) < 300


# Vercel: a team in the path


def vercel(**changes):
    table = {"preset": "vercel", "name": "vercel", "audience": "https://vercel.com/acme", "account": "{owner}"}
    return parse_issuer(table | {"required_claims": {"owner": ["acme", "b"]}} | changes, "here")


def vercel_token(iss="https://oidc.vercel.com/acme", **changes):
    usual = {"aud": "https://vercel.com/acme", "project": "site", "environment": "preview"}
    return token(iss=iss, **(usual | changes))


def verified_by_vercel(text, *issuers):
    verifier, fake, _ = verifier_of(*issuers)
    fake.publish(public(key()), url=VERCEL_KEYS_URL)
    return asyncio.run(verifier.verify(text))


def test_a_team_of_vercel_is_known_by_its_path():
    found = verified_by_vercel(vercel_token(), vercel())
    assert (found.account, found.project, found.tags) == ("acme", "site", ("environment:preview",))


def test_the_global_issuer_of_vercel_is_another_one():
    bare = "https://oidc.vercel.com"
    assert verified_by_vercel(vercel_token(bare), vercel(issuer=bare)).account == "acme"
    for iss, issuer in ((bare, vercel()), ("https://oidc.vercel.com/acme", vercel(issuer=bare))):
        with pytest.raises(AuthenticationError, match="iss"):
            verified_by_vercel(vercel_token(iss), issuer)


@pytest.mark.parametrize(
    "iss",
    [
        "https://oidc.vercel.com.evil.example/acme",
        "https://oidc.vercel.com@evil.example/acme",
        "https://oidc.vercel.com/a/b",
        "https://oidc.vercel.com/acme/",
        "https://oidc.vercel.com/",
        "https://oidc.vercel.com//acme",
        "https://oidc.vercel.com/..",
        "https://oidc.vercel.com/acme?x",
        "https://oidc.vercel.com/acme#x",
        "https://oidc.vercel.com/ac%6de",
        "https://oidc.vercel.com/acme\n",
        "https://oidc.vercel.com/{owner}",
        "https://oidc.vercel.com/" + "a" * 101,
        "http://oidc.vercel.com/acme",
    ],
)
def test_a_look_alike_of_vercel_is_refused(iss):
    with pytest.raises(AuthenticationError, match="iss"):
        verified_by_vercel(vercel_token(iss), vercel())


def test_a_team_of_vercel_cannot_speak_for_another():
    with pytest.raises(PermissionDeniedError, match="different owners"):
        verified_by_vercel(vercel_token("https://oidc.vercel.com/b", owner="acme"), vercel())
    with pytest.raises(PermissionDeniedError, match="different owners"):
        verified_by_vercel(vercel_token(owner=None), vercel())


# Several issuers


def test_of_several_tables_for_one_issuer_the_first_that_accepts_counts():
    deploys = replace(ISSUER, name="deploys", required_claims={"ref": ("main",)}, account="deploys", scopes=("admin",))
    others = replace(ISSUER, name="others", audience=("others",), account="others")
    verifier, fake, _ = verifier_of(deploys, ISSUER, others)
    assert asyncio.run(verifier.verify(token(ref="main"))).account == "deploys"
    assert asyncio.run(verifier.verify(token(ref="dev"))).account == "acme"
    assert asyncio.run(verifier.verify(token(aud="others"))).account == "others"
    assert fake.fetched == [KEYS_URL]


def test_a_refusal_by_a_claim_rule_outweighs_one_by_the_audience():
    others = replace(ISSUER, name="others", audience=("others",))
    strict = replace(ISSUER, name="strict", required_claims={"ref": ("main",)})
    assert "ref" in refused(token(), others, strict, error=PermissionDeniedError)


def test_the_key_of_one_issuer_does_not_open_for_another():
    second = replace(ISSUER, name="second", issuer="https://second.example", jwks_url="https://second.example/keys")
    verifier, fake, _ = verifier_of(ISSUER, second)
    fake.publish(public(key("RSA", 2)), url="https://second.example/keys")
    with pytest.raises(AuthenticationError, match="signature"):
        asyncio.run(verifier.verify(token(by=key("RSA", 2))))
    with pytest.raises(AuthenticationError, match="signature"):
        asyncio.run(verifier.verify(token(iss="https://second.example")))


def test_two_issuers_of_one_name_are_refused():
    with pytest.raises(SettingsError, match="'ours'"):
        verifier_of(ISSUER, ISSUER)


# Fetching keys


def test_a_thousand_unknown_kids_cost_one_fetch_in_thirty_seconds():
    verifier, fake, clock = verifier_of()

    async def storm():
        for number in range(1000):
            with pytest.raises(AuthenticationError, match="no RSA key"):
                await verifier.verify(token(header={"kid": f"x{number}"}, sign=lambda text: b"x"))

    asyncio.run(storm())
    assert len(fake.fetched) == 1
    clock.now += RETRY_SECONDS - 1
    asyncio.run(storm())
    assert len(fake.fetched) == 1
    clock.now += 1
    asyncio.run(storm())
    assert len(fake.fetched) == 2


def test_a_storm_does_not_shut_out_the_tokens_that_are_good():
    verifier, fake, _ = verifier_of()
    asyncio.run(verifier.verify(token()))
    with pytest.raises(AuthenticationError):
        asyncio.run(verifier.verify(token(header={"kid": "x"})))
    assert asyncio.run(verifier.verify(token(jti="another"))).account == "acme"
    assert len(fake.fetched) == 1


def together(verifier, fake, texts):
    """What comes of tokens that are verified while the issuer takes its time."""

    async def run():
        fake.gate = asyncio.Event()
        tasks = [asyncio.create_task(verifier.verify(text)) for text in texts]
        for _ in range(5):
            await asyncio.sleep(0)
        fake.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(run())


def test_fifty_at_once_share_one_fetch():
    verifier, fake, _ = verifier_of()
    found = together(verifier, fake, [token(sub=f"user{number}") for number in range(50)])
    assert [identity.subject for identity in found] == [f"user{number}" for number in range(50)]
    assert len(fake.fetched) == 1


def test_a_failed_fetch_is_shared_too():
    verifier, fake, _ = verifier_of()
    fake.failing = True
    found = together(verifier, fake, [token(sub=f"user{number}") for number in range(50)])
    assert {type(error) for error in found} == {UnavailableError}
    assert found[0].retry_after == RETRY_SECONDS
    assert len(fake.fetched) == 1


def test_whoever_goes_away_does_not_take_the_fetch_along():
    verifier, fake, _ = verifier_of()

    async def run():
        fake.gate = asyncio.Event()
        first = asyncio.create_task(verifier.verify(token(sub="first")))
        second = asyncio.create_task(verifier.verify(token(sub="second")))
        for _ in range(5):
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        fake.gate.set()
        return await second

    assert asyncio.run(run()).subject == "second"
    assert len(fake.fetched) == 1


def test_a_new_key_is_picked_up_and_a_withdrawn_one_goes():
    verifier, fake, clock = verifier_of()
    asyncio.run(verifier.verify(token()))
    fake.publish(public(key("RSA", 2), kid="k2"))
    clock.now += RETRY_SECONDS
    assert asyncio.run(verifier.verify(token(header={"kid": "k2"}, by=key("RSA", 2)))).account == "acme"
    with pytest.raises(AuthenticationError, match="no RSA key with its kid 'k1'"):
        asyncio.run(verifier.verify(token(jti="another")))


def test_a_withdrawn_key_goes_when_the_keys_are_no_longer_fresh():
    verifier, fake, clock = verifier_of()
    long = {"exp": NOW + 86_400}
    asyncio.run(verifier.verify(token(**long)))
    fake.publish()
    clock.now += FRESH_SECONDS - 1
    assert asyncio.run(verifier.verify(token(jti="2", **long))).account == "acme"
    clock.now += 1
    with pytest.raises(AuthenticationError, match="no RSA key"):
        asyncio.run(verifier.verify(token(jti="3", **long)))
    clock.now += CACHE_SECONDS
    with pytest.raises(AuthenticationError, match="no RSA key"):
        asyncio.run(verifier.verify(token(jti="2", **long)))


def test_a_changed_key_of_the_same_kid_replaces_the_old_one():
    verifier, fake, clock = verifier_of()
    long = {"exp": NOW + 86_400}
    asyncio.run(verifier.verify(token(**long)))
    fake.publish(public(key("RSA", 2)))
    clock.now += FRESH_SECONDS
    with pytest.raises(AuthenticationError, match="signature is wrong"):
        asyncio.run(verifier.verify(token(jti="2", **long)))
    assert asyncio.run(verifier.verify(token(by=key("RSA", 2), **long))).account == "acme"


def test_known_keys_outlive_an_outage_for_a_day_and_no_longer():
    verifier, fake, clock = verifier_of()
    long = {"exp": NOW + 10 * 86_400}
    asyncio.run(verifier.verify(token(**long)))
    fake.failing = True
    clock.now = NOW + MAX_AGE_SECONDS - 1
    assert asyncio.run(verifier.verify(token(jti="2", **long))).account == "acme"
    clock.now = NOW + MAX_AGE_SECONDS
    with pytest.raises(UnavailableError, match="'ours' cannot be fetched"):
        asyncio.run(verifier.verify(token(jti="3", **long)))
    fake.failing = False
    clock.now += RETRY_SECONDS
    assert asyncio.run(verifier.verify(token(jti="3", **long))).account == "acme"


def test_an_outage_is_asked_about_every_thirty_seconds_and_nobody_waits_for_it():
    verifier, fake, clock = verifier_of()
    long = {"exp": NOW + 86_400}
    asyncio.run(verifier.verify(token(**long)))
    fake.failing = True
    clock.now += FRESH_SECONDS
    for number in range(100):
        asyncio.run(verifier.verify(token(jti=number, **long)))
    assert len(fake.fetched) == 2
    clock.now += RETRY_SECONDS

    async def run():
        fake.gate = asyncio.Event()  # never set: who waits, waits for ever
        return await asyncio.wait_for(verifier.verify(token(jti="last", **long)), 5)

    assert asyncio.run(run()).account == "acme"


def test_an_unknown_kid_in_an_outage_may_be_a_new_key_and_after_it_is_unknown():
    verifier, fake, clock = verifier_of()
    asyncio.run(verifier.verify(token()))
    for fake.failing, error in ((True, UnavailableError), (False, AuthenticationError)):
        clock.now += RETRY_SECONDS
        with pytest.raises(error):
            asyncio.run(verifier.verify(token(header={"kid": "k2"})))


def test_a_fetch_that_takes_long_is_not_joined_by_a_second():
    verifier, fake, clock = verifier_of()

    async def run():
        fake.gate = asyncio.Event()
        tasks = []
        for number in range(3):
            tasks.append(asyncio.create_task(verifier.verify(token(jti=number))))
            await asyncio.sleep(0)
            clock.now += RETRY_SECONDS
        fake.gate.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())
    assert len(fake.fetched) == 1


def test_a_clock_that_is_set_back_makes_nothing_last_longer():
    verifier, fake, clock = verifier_of(leeway_seconds=0)
    text = token(iat=None, nbf=None)
    asyncio.run(verifier.verify(text))
    fake.publish()
    clock.now -= 3600
    with pytest.raises(AuthenticationError, match="no RSA key"):
        asyncio.run(verifier.verify(text))


@pytest.mark.parametrize(
    "document", [b"[]", b'{"keys": {}}', b'{"keys": [1]}', b"nonsense", b"\xff", b'{"keys": [{"a":' + b"[" * 100_000]
)
def test_a_document_that_is_no_key_set_leaves_the_known_keys_in_force(document):
    verifier, fake, clock = verifier_of()
    asyncio.run(verifier.verify(token()))
    fake.documents[KEYS_URL] = document
    clock.now += RETRY_SECONDS
    with pytest.raises(UnavailableError):
        asyncio.run(verifier.verify(token(header={"kid": "k2"})))
    assert asyncio.run(verifier.verify(token(jti="2"))).account == "acme"


# Discovery

DISCOVERY_URL = f"{URL}/.well-known/openid-configuration"


def discovering(document, *, issuer=URL, url=DISCOVERY_URL, **changes):
    verifier, fake, _ = verifier_of(jwks_url=None, issuer=issuer, **changes)
    fake.documents[url] = document
    for elsewhere in ("https://keys.example.com/keys", "http://localhost:1/keys", f"{URL}:8443/keys"):
        fake.publish(public(key()), url=elsewhere)
    return asyncio.run(verifier.verify(token(iss=issuer))), fake


def test_keys_are_found_by_the_discovery_document():
    _, fake = discovering({"issuer": URL, "jwks_uri": KEYS_URL, "token_endpoint": 1})
    assert fake.fetched == [DISCOVERY_URL, KEYS_URL]


def test_an_issuer_that_ends_with_a_slash_has_only_one_in_its_discovery_address():
    _, fake = discovering({"issuer": f"{URL}/", "jwks_uri": KEYS_URL}, issuer=f"{URL}/")
    assert fake.fetched == [DISCOVERY_URL, KEYS_URL]


def test_keys_may_be_on_a_host_that_is_listed():
    document = {"issuer": URL, "jwks_uri": "https://keys.example.com/keys"}
    assert discovering(document, jwks_hosts=("keys.example.com",))[0].account == "acme"


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://other.example", "jwks_uri": KEYS_URL},
        {"issuer": f"{URL}/", "jwks_uri": KEYS_URL},
        {"jwks_uri": KEYS_URL},
        {"issuer": URL},
        {"issuer": URL, "jwks_uri": "https://keys.example.com/keys"},
        {"issuer": URL, "jwks_uri": f"{URL}:8443/keys"},
        {"issuer": URL, "jwks_uri": "http://id.example.com/keys"},
        {"issuer": URL, "jwks_uri": "http://localhost:1/keys"},
        {"issuer": URL, "jwks_uri": "https://user@id.example.com/keys"},
        {"issuer": URL, "jwks_uri": "https://id.example.com.evil.example/keys"},
        {"issuer": URL, "jwks_uri": "/keys"},
        {"issuer": URL, "jwks_uri": None},
        b"nonsense",
    ],
)
def test_a_discovery_document_that_leads_elsewhere_is_not_followed(document):
    with pytest.raises(UnavailableError):
        discovering(document)


# Shape and cache


def test_a_token_is_told_from_an_api_key_by_its_shape():
    assert looks_like_jwt(token())
    assert looks_like_jwt(token(header={"alg": "none"}, sign=lambda text: b""))
    assert looks_like_jwt(f"{segment(b'{ }')}.e30.x")
    assert looks_like_jwt(f"{segment(bytes([123, 10]))}.e30.x")
    for text in (
        "",
        "sk-abc",
        "qk_1.2.3",
        "eyJ.e30",
        "eyJ.e30.a.b",
        "eyJ..a",
        "eyJ.e3 0.a",
        "eyJ.e30.a\n",
        "éyJ.e30.a",
    ):
        assert not looks_like_jwt(text)


def test_a_token_of_the_largest_size_is_read_and_one_byte_more_is_not():
    long = token(filling="x" * ((MAX_TOKEN_BYTES - len(token(filling=""))) * 3 // 4))
    assert len(long) > MAX_TOKEN_BYTES - 8
    assert verified(long).account == "acme"
    assert "longer than 16384 bytes" in refused(long + "A" * (MAX_TOKEN_BYTES + 1 - len(long)))


GOOD = token()
HEADER, PAYLOAD, SIGNATURE = GOOD.split(".")
DEEP = b'{"crit":' + b"[" * 11_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "..",
        ".".join([HEADER, PAYLOAD]),
        f"{GOOD}.",
        f"{GOOD}.x",
        f" {GOOD}",
        f"{GOOD}\n",
        f"{HEADER}..{SIGNATURE}",
        f".{PAYLOAD}.{SIGNATURE}",
        f"{HEADER}.{PAYLOAD}.{SIGNATURE}==",
        f"{HEADER}.{PAYLOAD}.{SIGNATURE}AAA",
        f"{HEADER}.{PAYLOAD}.+/",
        f"{segment(b'[]')}.{PAYLOAD}.{SIGNATURE}",
        f"{segment(b'{')}.{PAYLOAD}.{SIGNATURE}",
        f"{segment(b'{}')}.{PAYLOAD}.{SIGNATURE}",
        f"{segment(chr(123).encode('utf-16'))}.{PAYLOAD}.{SIGNATURE}",
        f"{segment(DEEP)}.{PAYLOAD}.{SIGNATURE}",
        f"{HEADER}.{segment(DEEP)}.{SIGNATURE}",
        f"{HEADER}.{segment(b'7' * 11_000)}.{SIGNATURE}",
        f"{HEADER}.{segment(b'5')}.{SIGNATURE}",
        f"{HEADER}.{segment(bytes([255]))}.{SIGNATURE}",
    ],
)
def test_what_is_no_token_is_refused(text):
    verifier, fake, _ = verifier_of()
    with pytest.raises(AuthenticationError):
        asyncio.run(verifier.verify(text))
    assert fake.fetched == []


JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=3)
PARTS = st.binary(max_size=60) | st.dictionaries(st.sampled_from(["alg", "kid", "iss", "exp", "aud"]), JSON)


@settings(max_examples=100, deadline=None)
@given(st.text() | st.tuples(PARTS, PARTS, PARTS).map(lambda parts: ".".join(segment(part) for part in parts)))
def test_random_text_is_refused_as_no_token_and_nothing_else(text):
    verifier, _, _ = verifier_of()
    looks_like_jwt(text)
    with pytest.raises(AuthenticationError):
        asyncio.run(verifier.verify(text))


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(claims())), JSON, min_size=1))
def test_whatever_the_issuer_signs_is_accepted_or_refused_and_nothing_else(changes):
    verifier, _, _ = verifier_of()
    with suppress(AuthenticationError, PermissionDeniedError):
        asyncio.run(verifier.verify(signed(claims() | changes)))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.sampled_from("ABCwxyz0189-_.="))
def test_a_token_with_one_character_changed_is_refused(position, character):
    text = GOOD[:position] + character + GOOD[position + 1 :]
    if text != GOOD:
        refused(text)


def test_a_token_that_was_accepted_is_not_looked_at_again_for_a_minute(monkeypatch):
    verifier, _, clock = verifier_of()
    text = token()
    first = asyncio.run(verifier.verify(text))
    seen = []
    decode = msgspec.json.decode
    monkeypatch.setattr(msgspec.json, "decode", lambda *args, **kwargs: seen.append(args) or decode(*args, **kwargs))
    clock.now += CACHE_SECONDS - 1
    assert asyncio.run(verifier.verify(text)) is first
    assert not seen
    clock.now += 1
    assert asyncio.run(verifier.verify(text)) == first
    assert seen


@pytest.mark.parametrize(
    ("changes", "valid_for"),
    [({"exp": NOW + 5}, 5), ({"exp": NOW + 5, "leeway": 20}, 25), ({"iat": NOW - 95, "max_age": 100}, 5)],
)
def test_having_been_accepted_makes_no_token_valid_for_longer(changes, valid_for):
    rules = {"leeway_seconds": changes.pop("leeway", 0), "max_age_seconds": changes.pop("max_age", None)}
    verifier, _, clock = verifier_of(**rules)
    text = token(**changes)
    for passed in range(valid_for):
        clock.now = NOW + passed
        asyncio.run(verifier.verify(text))
    clock.now = NOW + valid_for
    with pytest.raises(AuthenticationError):
        asyncio.run(verifier.verify(text))


def test_tokens_that_were_refused_are_not_remembered_and_those_accepted_are_not_without_end(monkeypatch):
    monkeypatch.setattr("quernel.gateway.oidc.MAX_CACHED_TOKENS", 3)
    verifier, _, _ = verifier_of()
    for number in range(10):
        asyncio.run(verifier.verify(token(jti=number)))
        with pytest.raises(AuthenticationError):
            asyncio.run(verifier.verify(token(jti=number, aud="them")))
    asyncio.run(verifier.verify(token(jti=7)))  # used last, and so kept longest
    asyncio.run(verifier.verify(token(jti=10)))
    assert set(verifier._accepted) == {hashlib.sha256(token(jti=number).encode()).digest() for number in (7, 9, 10)}
