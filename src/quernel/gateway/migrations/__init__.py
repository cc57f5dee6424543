"""Migrations of the gateway's database, for Alembic; `quernel.gateway.migrate` runs them."""
