"""Where the gateway's books are, for the commands that read and change them."""

import os
from pathlib import Path

from quernel.gateway.config import GatewayConfig


def database_url(settings: GatewayConfig) -> str:
    """The URL of the database: that of the settings, or of a SQLite file in the user's data folder."""
    if settings.database is not None:
        return settings.database
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return f"sqlite:///{data / 'quernel' / 'gateway.db'}"
