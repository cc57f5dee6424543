"""The gateway's secret: its own file, and what is locked under it."""

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernel.errors import SettingsError
from quernel.gateway.vault import SECRET_BYTES, Vault, derive, read_secret_file

SECRET = bytes(range(32))
VAULT = Vault(SECRET)

texts = st.text(st.characters(exclude_categories=("Cs",)))


@given(texts, texts)
def test_what_is_locked_opens_for_its_owner(text, owner):
    assert VAULT.open(VAULT.lock(text, owner=owner), owner=owner) == text


def test_what_is_locked_opens_for_nobody_else_and_under_no_other_secret():
    ciphertext = VAULT.lock("sk-secret", owner="a/b")
    assert b"sk-secret" not in ciphertext
    for vault, owner in ((VAULT, "a/c"), (Vault(SECRET[::-1]), "a/b")):
        with pytest.raises(SettingsError, match="cannot be opened"):
            vault.open(ciphertext, owner=owner)


@given(st.integers(0, 27), st.integers(1, 255))
def test_a_ciphertext_with_a_changed_byte_does_not_open(place, change):
    ciphertext = bytearray(VAULT.lock("", owner="a"))
    ciphertext[place] ^= change
    with pytest.raises(SettingsError):
        VAULT.open(bytes(ciphertext), owner="a")


def test_one_text_is_locked_differently_each_time():
    assert len({VAULT.lock("same", owner="a") for _ in range(50)}) == 50


def test_each_purpose_has_a_key_of_its_own():
    assert len({derive(SECRET, "a"), derive(SECRET, "b"), derive(SECRET[::-1], "a"), SECRET}) == 4
    assert derive(SECRET, "a") == derive(SECRET, "a")
    assert len(derive(SECRET, "a")) == SECRET_BYTES


def test_a_secret_is_made_once_and_for_its_owner_alone(tmp_path):
    path = tmp_path / "folder" / "secret"
    secret = read_secret_file(path, create=True)
    assert len(secret) == SECRET_BYTES
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_secret_file(path, create=True) == read_secret_file(path, create=False) == secret
    assert list(path.parent.iterdir()) == [path], "no draft is left"
    assert read_secret_file(tmp_path / "another", create=True) != secret


def test_many_that_start_at_once_agree_on_one_secret(tmp_path):
    barrier, secrets = threading.Barrier(8, timeout=20), []

    def start():
        barrier.wait()
        secrets.append(read_secret_file(tmp_path / "secret", create=True))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(secrets) == 8
    assert len(set(secrets)) == 1
    assert os.listdir(tmp_path) == ["secret"]


def test_a_draft_that_a_crash_left_stops_nobody(tmp_path):
    (tmp_path / f"secret.{os.getpid()}").write_bytes(b"half")
    assert len(read_secret_file(tmp_path / "secret", create=True)) == SECRET_BYTES


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [(None, 0, "cannot be read"), (b"short", 0o600, "holds 5 bytes"), (bytes(32), 0o644, "read by others")],
)
def test_a_secret_that_cannot_be_trusted_is_refused(tmp_path, content, mode, message):
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(SettingsError, match=message) as caught:
        read_secret_file(path, create=False)
    assert caught.value.param == "secret_file"


def test_a_secret_that_cannot_be_made_is_said_so(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_secret_file(tmp_path / "file" / "secret", create=True)
