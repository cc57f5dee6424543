"""The OpenAPI document against the server: no 5xx, and no answer that the document does not have.

Here a few hundred requests a route; `.ci/run` sets `QUERNEL_FUZZ_CASES=2000`.
"""

import os

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from quernel.server.app import create_app
from quernel.server.config import ServerConfig
from quernel.testing import FakeEmbeddingModel, FakeRerankModel

CASES = int(os.environ.get("QUERNEL_FUZZ_CASES", "100"))
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

app = create_app([FakeEmbeddingModel(), FakeRerankModel()], config=ServerConfig(access_log=False, admin_key="admin"))
schema = schemathesis.openapi.from_asgi("/openapi.json", app)


@schema.parametrize()
@settings(
    max_examples=CASES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_in_the_document(case):
    case.call_and_validate(checks=CHECKS, headers={"authorization": "Bearer admin"})
