"""What the handlers of a gateway share."""

from dataclasses import dataclass

from quernel.gateway.config import GatewayConfig
from quernel.gateway.keys import KeyMint
from quernel.gateway.principals import Principals
from quernel.gateway.service import Gateway
from quernel.gateway.vault import Vault
from quernel.server.served import Application


@dataclass(frozen=True, kw_only=True)
class Site(Application):
    """A gateway behind HTTP.

    Attributes:
        gateway: Answers requests.
        principals: Knows who asks.
        mint: Makes keys.
        vault: Encrypts customers' credentials.
        settings: Of the gateway.
    """

    gateway: Gateway
    principals: Principals
    mint: KeyMint
    vault: Vault
    settings: GatewayConfig
