import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernel.errors import SettingsError
from quernel.gateway.issuers import ALGORITHMS, PRESETS, Issuer, claim_of, fill, parse_issuer, plain_value, satisfies

PLACE = "gateway.toml, [[issuers]] 1"

TENANT = "0a1b2c3d-0000-1111-2222-0123456789ab"

TABLES = {
    "vercel": {"required_claims": {"owner_id": "team_1"}},
    "github-actions": {"required_claims": {"repository_owner": "acme"}},
    "gitlab": {"required_claims": {"namespace_path": ["acme", "acme-labs"]}},
    "kubernetes": {"issuer": "https://kubernetes.default.svc.cluster.local"},
    "google": {"required_claims": {"hd": "example.com"}},
    "azure": {"issuer": f"https://login.microsoftonline.com/{TENANT}/v2.0"},
    "keycloak": {"issuer": "https://id.example.com/auth/realms/main"},
    "auth0": {"issuer": "https://acme.eu.auth0.com/"},
}


def table(**values):
    return {"name": "ours", "issuer": "https://id.example.com", "audience": "us", "account": "acme"} | values


def refusal(**values):
    with pytest.raises(SettingsError) as caught:
        parse_issuer(table(**values), PLACE)
    assert caught.value.message.startswith(PLACE)
    return caught.value


def test_a_table_of_toml_becomes_an_issuer():
    text = """
        preset = "github-actions"
        name = "ci"
        audience = ["https://gateway.example.com"]
        account = "acme"
        required_claims = { repository_owner = "acme", ref = ["refs/heads/main"] }
        scopes = "embed"
        max_age_seconds = 600
    """
    assert parse_issuer(tomllib.loads(text), PLACE) == Issuer(
        name="ci",
        issuer="https://token.actions.githubusercontent.com",
        audience=("https://gateway.example.com",),
        account="acme",
        algorithms=("RS256",),
        required_claims={"repository_owner": ("acme",), "ref": ("refs/heads/main",)},
        user="{actor}",
        project="{repository}",
        tags=("environment:{environment}",),
        scopes=("embed",),
        max_age_seconds=600,
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_each_preset_needs_no_more_than_it_cannot_know(preset):
    issuer = parse_issuer({"preset": preset, "name": "x", "audience": "us", "account": "acme"} | TABLES[preset], PLACE)
    assert issuer.issuer.startswith("https://")
    assert set(issuer.algorithms) <= set(ALGORITHMS)


@pytest.mark.parametrize("preset", [name for name, preset in PRESETS.items() if preset.owners])
def test_an_issuer_of_everybody_must_say_whose_tokens_are_meant(preset):
    found = {"preset": preset, "name": "x", "audience": "us", "account": "a", "required_claims": {"environment": "p"}}
    with pytest.raises(SettingsError, match="signs for everybody"):
        parse_issuer(found, PLACE)


@pytest.mark.parametrize(
    ("preset", "issuer"),
    [
        ("vercel", "https://oidc.vercel.com.evil.example/x"),
        ("vercel", "https://oidc.vercel.com/a/b"),
        ("vercel", "https://oidc.vercel.com/{project}"),
        ("azure", "https://login.microsoftonline.com/common/v2.0"),
        ("keycloak", "https://id.example.com/main"),
        ("auth0", "https://acme.eu.auth0.com"),
    ],
)
def test_an_address_that_the_preset_cannot_have_is_refused(preset, issuer):
    found = refusal(preset=preset, issuer=issuer, **{k: v for k, v in TABLES[preset].items() if k != "issuer"})
    assert found.param == "issuer"
    assert found.hint


@pytest.mark.parametrize("algorithm", ["none", "HS256", "HS384", "HS512", "rs256", "ES256K", "RSA-OAEP", ""])
def test_only_signatures_with_a_public_key_can_be_allowed(algorithm):
    assert refusal(algorithms=["RS256", algorithm]).param == "algorithms"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("audience", []),
        ("audience", ""),
        ("audience", [""]),
        ("algorithms", []),
        ("name", "Ours"),
        ("name", ""),
        ("issuer", "http://id.example.com"),
        ("issuer", "https://user@id.example.com"),
        ("issuer", "https://id.example.com/?a=b"),
        ("issuer", "https://*.example.com"),
        ("issuer", "https://{owner}.example.com"),
        ("issuer", "https://id.example.com/a/{owner}"),
        ("issuer", "https://id.example.com/{owner}/b"),
        ("jwks_url", "http://id.example.com/keys"),
        ("jwks_hosts", ["https://keys.example.com"]),
        ("jwks_hosts", ["keys.example.com/path"]),
        ("account", ""),
        ("account", "Acme"),
        ("account", "a/b"),
        ("account", "-a"),
        ("account", "{owner}-{project}"),
        ("account", "{owner"),
        ("account", "a" * 65),
        ("user", ""),
        ("user", "{}"),
        ("project", "{a}}"),
        ("tags", ["ok", "{"]),
        ("scopes", [""]),
        ("required_claims.ref", None),
        ("max_age_seconds", 0),
        ("leeway_seconds", -1),
        ("leeway_seconds", 3600),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_name(key, value):
    found = refusal(required_claims={"ref": []}) if "." in key else refusal(**{key: value})
    assert found.param == key


def test_an_issuer_with_a_claim_in_its_address_needs_the_address_of_its_keys():
    assert refusal(issuer="https://id.example.com/{owner}").param == "jwks_url"
    parse_issuer(table(issuer="https://id.example.com/{owner}", jwks_url="https://id.example.com/keys"), PLACE)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("audience", 1),
        ("auto_provision", "yes"),
        ("max_age_seconds", True),
        ("required_claims", ["owner"]),
        ("name", 1),
    ],
)
def test_a_value_of_another_type_is_refused(key, value):
    assert f"$.{key}" in refusal(**{key: value}).message


def test_an_unknown_key_is_refused_with_the_nearest_known_one():
    assert refusal(audiences="us").hint == "Did you mean 'audience'?"
    assert "Known keys: preset, name" in refusal(zzz=1).hint


@pytest.mark.parametrize("preset", ["vercell", [], 1])
def test_an_unknown_preset_is_refused(preset):
    assert refusal(preset=preset).param == "preset"


def test_a_missing_key_is_named():
    with pytest.raises(SettingsError, match="`audience`"):
        parse_issuer({"name": "x", "issuer": "https://id.example.com", "account": "a"}, PLACE)


def test_a_claim_whose_dots_made_tables_is_explained():
    nested = tomllib.loads('required_claims.kubernetes.namespace = "prod"')
    assert "quotes" in refusal(**nested).hint


CLAIMS = {"sub": "a", "kubernetes.io": {"namespace": "prod", "pod": {"name": "p"}}, "a": {"b": 1}, "a.b": 2, "n": None}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sub", "a"),
        ("kubernetes.io.namespace", "prod"),
        ("kubernetes.io.pod.name", "p"),
        ("a.b", 2),
        ("n", None),
        ("sub.x", None),
        ("kubernetes", None),
        ("kubernetes.io.pod.name.x", None),
        ("", None),
        (".", None),
    ],
)
def test_a_claim_is_found_by_its_path(path, value):
    assert claim_of(CLAIMS, path) == value


@pytest.mark.parametrize("value", [None, 1.5, {}, [], ["a"], "", "a\nb", "a\u202eb", "x" * 513, 10**30])
def test_what_is_not_one_plain_value_is_no_text(value):
    assert plain_value(value) is None
    assert fill("x-{claim}", {"claim": value}) is None


def test_a_template_is_filled_with_texts_numbers_and_truths():
    assert fill("{a}:{b.c}/{d}", {"a": "x", "b": {"c": 7}, "d": True}) == "x:7/true"
    assert fill("plain", {}) == "plain"


@given(st.text(), st.text())
def test_a_value_cannot_bring_a_template_of_its_own(first, second):
    found = fill("{a}", {"a": first, "b": second})
    assert found in (first, None)


def test_a_rule_holds_for_exact_values_and_for_one_element_of_a_list():
    assert satisfies({"ref": "main"}, "ref", ("dev", "main"))
    assert satisfies({"groups": ["a", "b"]}, "groups", ("b",))
    assert satisfies({"email_verified": True}, "email_verified", ("true",))
    for claims in ({}, {"ref": "Main"}, {"ref": "main "}, {"ref": None}, {"ref": {"main": 1}}, {"ref": [["main"]]}):
        assert not satisfies(claims, "ref", ("main",))
    assert not satisfies({"ref": "*"}, "ref", ("main",))
    assert not satisfies({"ref": "main"}, "ref", ("*",))
