"""Certificates of servers on this machine, that nobody trusts but who is told to."""

import ssl

import trustme


def make_certificate(folder):
    """Settings of a server that speaks TLS on this machine, and what a client trusts it by."""
    authority, trusted = trustme.CA(), ssl.create_default_context()
    made = authority.issue_cert("127.0.0.1")
    files = {"tls_cert": folder / "chain.pem", "tls_key": folder / "key.pem"}
    files["tls_cert"].write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    files["tls_key"].write_bytes(made.private_key_pem.bytes())
    authority.configure_trust(trusted)
    return files, trusted
