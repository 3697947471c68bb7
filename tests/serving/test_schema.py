"""The server against its own description: whatever fits the schema, or nearly, is answered as the schema says."""

from __future__ import annotations

import pytest
from serving_client import ask

schemathesis = pytest.importorskip("schemathesis")

OPERATIONS = [
    ("POST", "/v1/predict"), ("POST", "/v1/predict/batch"), ("GET", "/v1/model"), ("GET", "/healthz"),
    ("GET", "/readyz"), ("GET", "/metrics"),
]  # fmt: skip


def test_every_operation_is_tried(address: str) -> None:
    paths = ask(address, "/openapi.json").json["paths"]
    assert {(method.upper(), path) for path, methods in paths.items() for method in methods} == set(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_answers_fit_the_schema(address: str, method: str, path: str, mode: str) -> None:
    from hypothesis import HealthCheck, given, settings
    from hypothesis.errors import InvalidArgument, Unsatisfiable
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    operation = schema[path][method]
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

    @settings(max_examples=40, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(GenerationMode(mode)))
    def every_answer(case: schemathesis.Case) -> None:
        case.call_and_validate(base_url=address, checks=checks, timeout=30)

    try:
        every_answer()
    except (Unsatisfiable, InvalidArgument):
        assert mode == "negative", (
            "what fits the schema can be made"
        )  # nothing of a GET without parameters can be wrong
