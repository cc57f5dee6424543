"""The gateway's own secret: what keys are hashed under, and customers' credentials to providers encrypted.

Without it the database gives nobody a key, neither ours nor a provider's.
"""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from quernel.errors import SettingsError

SECRET_BYTES = 32
NONCE_BYTES = 12


def read_secret_file(path: Path, *, create: bool) -> bytes:
    """The secret in a file.

    Args:
        path: The file.
        create: Whether to make it, for its owner alone, where it is missing.

    Raises:
        SettingsError: It is missing, too short, cannot be read, or can be read by others.
    """
    try:
        if create and not path.exists():
            _make_secret_file(path)
        secret = path.read_bytes()
        mode = path.stat().st_mode
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.", param="secret_file") from error
    if len(secret) < SECRET_BYTES:
        raise SettingsError(
            f"{path} holds {len(secret)} bytes.", param="secret_file", hint=f"It needs {SECRET_BYTES} random ones."
        )
    if os.name == "posix" and mode & 0o077:
        raise SettingsError(f"{path} can be read by others.", param="secret_file", hint=f"Run chmod 600 {path}.")
    return secret


def _make_secret_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written elsewhere and linked, so that two that start at once agree and neither reads half of it.
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")  # for its owner alone
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        Path(draft).unlink()


def derive(secret: bytes, purpose: str) -> bytes:
    """A key for one purpose, so that none is used for two."""
    return HKDF(algorithm=hashes.SHA256(), length=SECRET_BYTES, salt=None, info=purpose.encode()).derive(secret)


class Vault:
    """Encrypts what must be read again, such as customers' keys to providers.

    Args:
        secret: The gateway's.
    """

    def __init__(self, secret: bytes) -> None:
        self._cipher = AESGCM(derive(secret, "credentials"))

    def lock(self, text: str, *, owner: str) -> bytes:
        """The ciphertext of a text, which opens for this owner alone."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, text.encode(), owner.encode())

    def open(self, ciphertext: bytes, *, owner: str) -> str:
        """The text of a ciphertext.

        Raises:
            SettingsError: It was encrypted under another secret, or for another owner.
        """
        try:
            nonce, sealed = ciphertext[:NONCE_BYTES], ciphertext[NONCE_BYTES:]
            return self._cipher.decrypt(nonce, sealed, owner.encode()).decode()
        except InvalidTag as error:
            raise SettingsError(
                "A stored credential cannot be opened.", param="secret_file", hint="It was stored under another secret."
            ) from error
