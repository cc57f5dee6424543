"""What Alembic runs: the migrations, in the transaction that `quernel.gateway.migrate` has begun."""

from alembic import context

from quernel.gateway.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
