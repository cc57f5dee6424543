"""An OpenID Connect issuer on this machine, with whom visitors sign in; it is as strict as its standards are."""

import base64
import hashlib
import secrets
import time
from contextlib import contextmanager
from functools import cache
from urllib.parse import parse_qs, parse_qsl, unquote_plus, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.responses import JSONResponse, RedirectResponse
from starlette.routing import Route

from quernel.server.config import ServerConfig
from quernel.server.serve import running

CLIENT = "the gateway"
SECRET = "s3cret/+ of the gateway"


@cache
def signing_key(number=1):
    """A key of an issuer, made once; another for another number."""
    return RSAKey.generate_key(2048)


class Issuer:
    """Signs people in, and gives a token for a code, once.

    Attributes:
        claims: What is in its tokens besides what must be.
        discovery: What its discovery document says besides.
        tokens: What the reply with the tokens has besides; `None` takes a field away.
        asked: Forms that came for a token, with their `authorization`.
        is_public: Whether the client has no secret.
        key: What it signs with; what it publishes is its first.
    """

    def __init__(self):
        self.url = ""
        self.claims = {"owner": "acme"}
        self.discovery = {}
        self.tokens = {}
        self.asked = []
        self.is_public = False
        self.key = signing_key()
        self._codes = {}
        self.app = Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._discover),
                Route("/keys", self._keys),
                Route("/authorize", self._authorize),
                Route("/token", self._token, methods=["POST"]),
            ]
        )

    def token(self, **claims):
        """A token; claims that are `None` are left out."""
        now = int(time.time())
        usual = {"iss": self.url, "sub": "ada", "aud": CLIENT, "iat": now, "exp": now + 300, **self.claims}
        said = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        return jwt.encode({"alg": "RS256", "kid": "k1"}, said, self.key)

    def authorize(self, address, **changes):
        """Where a browser is sent back to by the page at an address, once somebody has signed in there."""
        asked = dict(parse_qsl(urlsplit(address).query))
        assert urlsplit(address).path == "/authorize"
        assert asked["response_type"] == "code"
        assert asked["client_id"] == CLIENT
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        code = secrets.token_urlsafe(16)
        self._codes[code] = asked
        reply = {"code": code, "state": asked["state"], **changes}
        said = {name: value for name, value in reply.items() if value is not None}
        return f"{asked['redirect_uri']}?{urlencode(said)}"

    async def _discover(self, request):
        known = {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/keys",
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
        }
        return JSONResponse({**known, **self.discovery})

    async def _authorize(self, request):
        return RedirectResponse(self.authorize(str(request.url)), status_code=303)

    async def _keys(self, request):
        return JSONResponse({"keys": [signing_key().as_dict(private=False) | {"kid": "k1", "use": "sig"}]})

    async def _token(self, request):
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        authorization = request.headers.get("authorization")
        self.asked.append({**form, "authorization": authorization})
        asked = self._codes.pop(form.get("code"), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        is_right = (
            asked is not None
            and self._is_client(form, authorization)
            and form.get("grant_type") == "authorization_code"
            and form.get("redirect_uri") == asked["redirect_uri"]
            and challenge == asked["code_challenge"]
        )
        if not is_right:
            return JSONResponse({"error": "invalid_grant"}, status_code=400)
        given = {"id_token": self.token(nonce=asked["nonce"]), "token_type": "Bearer", **self.tokens}
        return JSONResponse({name: value for name, value in given.items() if value is not None})

    def _is_client(self, form, authorization):
        if self.is_public:
            return form.get("client_id") == CLIENT and authorization is None
        if authorization is None:
            return form.get("client_id") == CLIENT and form.get("client_secret") == SECRET
        pair = base64.b64decode(authorization.removeprefix("Basic ")).decode().split(":")
        return [unquote_plus(part) for part in pair] == [CLIENT, SECRET]


@contextmanager
def issuer():
    """An issuer that is running."""
    made = Issuer()
    with running(made.app, ServerConfig(port=0, shutdown_grace_seconds=1)) as url:
        made.url = url
        yield made


def table(made, **changes):
    """The `[[issuers]]` table with which a gateway lets people sign in by it."""
    return {
        "name": "house",
        "issuer": made.url,
        "client_id": CLIENT,
        "client_secret": "env:HOUSE_SECRET",
        "sign_in": "Sign in with the house",
        "account": "acme",
        "scopes": ["read"],
        **changes,
    }


ENVIRONMENT = {"HOUSE_SECRET": SECRET}
