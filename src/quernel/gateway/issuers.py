"""Whose OIDC tokens are accepted, and what their claims mean here: the `[[issuers]]` tables of the gateway's file.

    [[issuers]]
    preset = "github-actions"
    name = "ci"
    audience = "https://gateway.example.com"
    required_claims = { repository_owner = "acme" }
    account = "acme"

Nothing is a wildcard. A claim is named by its path, `kubernetes.io.namespace`, and put into a template in braces,
`{repository_owner}`; a value is used as it is or not at all.

An issuer that signs for everybody (GitHub, GitLab, Google, Vercel) also lets everybody choose the audience, so its
preset demands that `required_claims` say whose tokens are meant. An account that is named by a claim can be chosen by
whoever can choose the claim: let it begin with something (`ci-{owner}`) where other accounts must be out of reach.

With a `client_id` people sign in to the storefront's console by the issuer: it sends them back to `/sign-in/callback`,
and their ID token is their credential from then on. What they may do there is what `scopes` and their membership say.

    [[issuers]]
    preset = "google"
    name = "google"
    client_id = "1234.apps.googleusercontent.com"
    client_secret = "env:GOOGLE_CLIENT_SECRET"
    sign_in = "Sign in with Google"
    required_claims = { hd = "acme.com" }
    account = "acme"

Source of the presets:
    vercel: https://vercel.com/docs/oidc/reference; one key set signs for all teams: `verify.py` of
        https://pypi.org/project/vercel-oidc 0.10.
    github-actions: https://docs.github.com/en/actions/reference/security/oidc
    gitlab: https://docs.gitlab.com/ci/secrets/id_token_authentication
    kubernetes: https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin; the algorithms:
        `pkg/serviceaccount/jwt.go` of https://github.com/kubernetes/kubernetes.
    google: https://developers.google.com/identity/openid-connect/openid-connect
    azure: https://learn.microsoft.com/en-us/entra/identity-platform/access-token-claims-reference
    keycloak: https://www.keycloak.org/securing-apps/oidc-layers
    auth0: https://auth0.com/docs/secure/tokens/access-tokens/validate-access-tokens
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec

from quernel.errors import SettingsError
from quernel.gateway.fetch import host_of
from quernel.gateway.providers import SECRET
from quernel.settings import check_keys

ALGORITHMS = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "Ed25519",
)
"""Signatures that are accepted at all: those whose checking key is public."""

SLUG = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
"""Names of accounts and issuers."""

MAX_LABEL = 512
"""Characters of a claim's value that is used."""

MAX_INTEGER = 2**63

MAX_LEEWAY_SECONDS = 300

MAX_SIGN_IN = 60
"""Characters of a button."""

_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")

_SEGMENT = re.compile(r"[A-Za-z0-9_-]{1,100}")

_TEMPLATE_AT_END = re.compile(r"https?://[^/{}]+/\{[^{}]+\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """Tokens of one issuer, and what they may do. Several may have the same `issuer`: the first that fits counts.

    Attributes:
        name: What it is called here.
        issuer: The `iss` of its tokens, exactly; or `https://host/{claim}`: exactly one path segment, which that claim
            of the token must be equal to.
        audience: Accepted values of `aud`; a token with several needs only one of them.
        account: The account that pays: its name, or a template with one claim.
        jwks_url: Where its public keys are; `None` to ask its discovery document.
        jwks_hosts: Hosts besides its own on which the discovery document may say that the keys are.
        algorithms: Accepted signatures; what a token says of itself never widens them.
        required_claims: Claims that a token must have, each with one of these values. Of a claim that is a list, one
            element must be.
        user: Template of the user; `None` for no user.
        project: Template of the project; `None` for no project.
        tags: Templates of tags; one whose claim is missing is left out.
        scopes: What its tokens may do.
        auto_provision: Whether an account that does not exist yet is made.
        max_age_seconds: Longest time since `iat`, which is then required; `None` for as long as `exp` says.
        leeway_seconds: How far clocks may differ.
        client_id: What the issuer calls this gateway; with it people sign in to the pages by the issuer.
        client_secret: Where the secret is that the issuer gave the gateway: `env:NAME` or `file:PATH`; `None` for a
            public client.
        sign_in: What the button says; by default the name.

    Raises:
        SettingsError: A field that cannot be as it is.
    """

    name: str
    issuer: str
    audience: tuple[str, ...]
    account: str
    jwks_url: str | None = None
    jwks_hosts: tuple[str, ...] = ()
    algorithms: tuple[str, ...] = ("RS256",)
    required_claims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    user: str | None = None
    project: str | None = None
    tags: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    auto_provision: bool = False
    max_age_seconds: int | None = None
    leeway_seconds: int = 60
    client_id: str | None = None
    client_secret: str | None = None
    sign_in: str | None = None

    def __post_init__(self) -> None:
        _require(SLUG.fullmatch(self.name), "name", self.name, "Use a-z, 0-9, '-', '_' and '.', at most 64.")
        self._check_addresses()
        _require(
            self.audience and all(self.audience),
            "audience",
            self.audience,
            "Name the audience that tokens are made for; without it, tokens for others would open this gateway.",
        )
        _require(
            self.algorithms and set(self.algorithms) <= set(ALGORITHMS),
            "algorithms",
            self.algorithms,
            f"Known: {', '.join(ALGORITHMS)}. Shared secrets and unsigned tokens are never accepted.",
        )
        for claim, allowed in self.required_claims.items():
            _require(claim and allowed and all(allowed), f"required_claims.{claim}", allowed, "Name accepted values.")
        # Two claims in one name could be joined to it in two ways ("a" and "b-c", "a-b" and "c").
        _require(
            SLUG.fullmatch(_PLACEHOLDER.sub("a", self.account)) and len(_PLACEHOLDER.findall(self.account)) <= 1,
            "account",
            self.account,
            "Write the name of an account, or one with at most one claim in it, such as 'ci-{owner}'.",
        )
        for label, template in (("user", self.user), ("project", self.project), *(("tags", tag) for tag in self.tags)):
            is_template = template is None or (template and not re.search("[{}]", _PLACEHOLDER.sub("", template)))
            _require(is_template, label, template, "Write a text with claims in braces, such as '{sub}'.")
        _require(all(self.scopes), "scopes", self.scopes, "Leave out what is empty.")
        age = self.max_age_seconds
        _require(age is None or age > 0, "max_age_seconds", age, "Set more than 0, or leave it out.")
        leeway = self.leeway_seconds
        _require(0 <= leeway <= MAX_LEEWAY_SECONDS, "leeway_seconds", leeway, f"Set 0 to {MAX_LEEWAY_SECONDS}.")
        self._check_client()

    def _check_client(self) -> None:
        client, secret = self.client_id, self.client_secret
        _require(client is None or client, "client_id", client, "Write what the issuer calls this gateway.")
        for name in ("client_secret", "sign_in") if client is None else ():
            value = getattr(self, name)
            _require(value is None, name, value, "It is for signing in, which takes a client_id too.")
        _require(
            client is None or "{" not in self.issuer,
            "client_id",
            client,
            "People sign in by one issuer: write its address without a claim in it.",
        )
        is_named = secret is None or SECRET.fullmatch(secret) is not None
        _require(is_named, "client_secret", "...", "Write env:VARIABLE or file:PATH; the secret does not belong here.")
        label = self.sign_in
        is_label = label is None or (0 < len(label) <= MAX_SIGN_IN and label.isprintable())
        _require(is_label, "sign_in", label, f"Write what a button says, at most {MAX_SIGN_IN} characters.")

    def _check_addresses(self) -> None:
        is_template = _TEMPLATE_AT_END.fullmatch(self.issuer) is not None
        address = _PLACEHOLDER.sub("a", self.issuer) if is_template else self.issuer
        is_plain = host_of(address) is not None and not re.search(r"[{}?]", address)
        _require(is_plain, "issuer", self.issuer, "Write its https address exactly as its tokens have it in iss.")
        _require(self.jwks_url is None or host_of(self.jwks_url), "jwks_url", self.jwks_url, "Write an https address.")
        _require(
            self.jwks_url is not None or not is_template,
            "jwks_url",
            self.jwks_url,
            "An issuer with a claim in its address needs it: a token never says where its own keys are.",
        )
        for host in self.jwks_hosts:
            is_host = "/" not in host and host_of(f"https://{host}") is not None
            _require(is_host, "jwks_hosts", host, "Write a host, such as 'www.googleapis.com'.")

    def recognises(self, iss: str) -> bool:
        """Whether this may be the issuer of a token with that `iss`; `fill` decides where it has a claim in it."""
        prefix, is_template, _ = self.issuer.partition("{")
        if not is_template:
            return iss == self.issuer
        return iss.startswith(prefix) and _SEGMENT.fullmatch(iss.removeprefix(prefix)) is not None


def _require(condition: object, name: str, value: object, hint: str) -> None:
    if not condition:
        raise SettingsError(f"{name} is {value!r}.", param=name, hint=hint)


def claim_of(claims: Mapping[str, Any], path: str) -> Any:
    """The claim at a path, `None` where there is none. Names with dots in them are found too, the longest first."""
    if path in claims:
        return claims[path]
    head = path
    while "." in head:
        head = head.rpartition(".")[0]
        inner = claims.get(head)
        if isinstance(inner, dict) and (found := claim_of(inner, path.removeprefix(f"{head}."))) is not None:
            return found
    return None


def plain_value(claim: Any) -> str | None:
    """A claim's value as text; `None` where it is not one plain value that can be shown."""
    if isinstance(claim, bool):
        return str(claim).lower()
    if isinstance(claim, int):
        return str(claim) if abs(claim) < MAX_INTEGER else None
    usable = isinstance(claim, str) and 0 < len(claim) <= MAX_LABEL and claim.isprintable()
    return claim if usable else None


def satisfies(claims: Mapping[str, Any], path: str, allowed: tuple[str, ...]) -> bool:
    """Whether a claim, or one element of it if it is a list, is one of the allowed values exactly."""
    found = claim_of(claims, path)
    return any(plain_value(value) in allowed for value in (found if isinstance(found, list) else [found]))


def fill(template: str, claims: Mapping[str, Any]) -> str | None:
    """A template with its claims in place; `None` where one is missing or is not one plain value."""
    parts = _PLACEHOLDER.split(template)
    for index in range(1, len(parts), 2):  # every other part is the path of a claim
        value = plain_value(claim_of(claims, parts[index]))
        if value is None:
            return None
        parts[index] = value
    return "".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """What is known of an issuer beforehand.

    Attributes:
        defaults: Fields of `Issuer`.
        shape: What its address looks like, where it is not the same for all.
        example: Such an address.
        owners: Claims of which one must be required, since the issuer signs for everybody.
    """

    defaults: Mapping[str, Any]
    shape: str = r".*"
    example: str = ""
    owners: tuple[str, ...] = ()


_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"

PRESETS: Mapping[str, Preset] = {
    "vercel": Preset(
        defaults={
            "issuer": "https://oidc.vercel.com/{owner}",
            "jwks_url": "https://oidc.vercel.com/.well-known/jwks",
            "project": "{project}",
            "tags": ["environment:{environment}"],
        },
        shape=r"https://oidc\.vercel\.com(?:/(?:\{owner\}|[A-Za-z0-9_-]+))?",
        example="https://oidc.vercel.com/TEAM (or without the team in global mode)",
        owners=("owner_id", "owner", "project_id", "sub"),
    ),
    "github-actions": Preset(
        defaults={
            "issuer": "https://token.actions.githubusercontent.com",
            "user": "{actor}",
            "project": "{repository}",
            "tags": ["environment:{environment}"],
        },
        owners=("repository_owner_id", "repository_owner", "repository_id", "repository", "sub"),
    ),
    "gitlab": Preset(
        defaults={
            "issuer": "https://gitlab.com",
            "user": "{user_login}",
            "project": "{project_path}",
            "tags": ["environment:{environment}"],
        },
        owners=("namespace_id", "namespace_path", "project_id", "project_path", "sub"),
    ),
    "kubernetes": Preset(
        defaults={
            "algorithms": ["RS256", "ES256", "ES384", "ES512"],
            "user": "{sub}",
            "project": "{kubernetes.io.namespace}",
        },
    ),
    "google": Preset(
        defaults={
            "issuer": "https://accounts.google.com",
            "jwks_hosts": ["www.googleapis.com"],
            "user": "{sub}",
        },
        owners=("sub", "hd"),
    ),
    "azure": Preset(
        defaults={"user": "{sub}"},
        shape=rf"https://login\.microsoftonline\.com/{_UUID}/v2\.0",
        example="https://login.microsoftonline.com/TENANT-ID/v2.0",
    ),
    "keycloak": Preset(
        defaults={"user": "{sub}"}, shape=r".*/realms/[^/]+", example="https://keycloak.example.com/realms/REALM"
    ),
    "auth0": Preset(
        defaults={"user": "{sub}"}, shape=r"https://[^/]+/", example="https://TENANT.auth0.com/ (with the slash)"
    ),
}


def parse_issuer(table: Mapping[str, Any], place: str) -> Issuer:
    """The issuer of an `[[issuers]]` table: the fields of `Issuer`, over those of its `preset`.

    `audience`, `algorithms`, `tags`, `scopes` and values of `required_claims` may be a text instead of a list of one.
    Where there is a `client_id` and no `audience`, tokens must be made for that client.

    Args:
        table: As it is in the file.
        place: Where that is, for messages.

    Raises:
        SettingsError: An unknown key or preset, a missing key, or a value that cannot be.
    """
    check_keys(table, ["preset", *(declared.name for declared in fields(Issuer))], place=place)
    name = table.get("preset")
    if name is not None and name not in list(PRESETS):  # a list: what a file has may not be hashable
        raise SettingsError(f"{place}: preset is {name!r}.", param="preset", hint=f"Known: {', '.join(PRESETS)}.")
    preset = Preset(defaults={}) if name is None else PRESETS[name]
    values = {**preset.defaults, **{key: value for key, value in table.items() if key != "preset"}}
    if "client_id" in values:
        values.setdefault("audience", values["client_id"])
    for key in ("audience", "algorithms", "tags", "scopes", "jwks_hosts"):
        if isinstance(values.get(key), str):
            values[key] = [values[key]]
    if isinstance(rules := values.get("required_claims"), Mapping):
        values["required_claims"] = {
            claim: [allowed] if isinstance(allowed, str) else allowed for claim, allowed in rules.items()
        }
    try:
        issuer = msgspec.convert(values, Issuer)
        _require(re.fullmatch(preset.shape, issuer.issuer), "issuer", issuer.issuer, f"Write {preset.example}.")
    except SettingsError as error:
        raise SettingsError(f"{place}: {error.message}", param=error.param, hint=error.hint) from error
    except msgspec.ValidationError as error:
        is_nested = "$.required_claims" in str(error)
        hint = "Put the path of a claim into quotes: its dots make tables otherwise." if is_nested else None
        raise SettingsError(f"{place}: {error}.", hint=hint) from error
    if preset.owners and not set(preset.owners) & set(issuer.required_claims):
        raise SettingsError(
            f"{place}: required_claims does not say whose tokens are accepted, and {name} signs for everybody.",
            param="required_claims",
            hint=f"Require one of: {', '.join(preset.owners)}.",
        )
    return issuer
