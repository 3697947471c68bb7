"""The server against its own description: whatever fits the schema, or nearly, is answered as the schema says."""

from typing import Any

import pytest
from serving_client import ask, encoded, plain

from distilpose.serving.uploads import RAW_TYPES

OPERATIONS = [
    ("POST", "/v1/predict"), ("POST", "/v1/predict/batch"), ("GET", "/v1/model"), ("GET", "/healthz"),
    ("GET", "/readyz"), ("GET", "/metrics"),
]  # fmt: skip


def test_every_operation_is_tried(address: str) -> None:
    paths = ask(address, "/openapi.json").json["paths"]
    assert {(method.upper(), path) for path, methods in paths.items() for method in methods} == set(OPERATIONS)


BOXES = {"/v1/predict": ("[]", "[[0, 0, 9, 9]]"), "/v1/predict/batch": ("[null]", "[[[0, 0, 9, 9], [1, 1, 5, 7]]]")}


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_answers_fit_the_schema(address: str, method: str, path: str, mode: str) -> None:
    schemathesis = pytest.importorskip("schemathesis")  # here: it takes seconds that not every process needs
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st
    from hypothesis.errors import InvalidArgument, Unsatisfiable
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    _let_binary_data_be_images()
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    operation = schema[path][method]
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    statuses = set()

    @settings(max_examples=30, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(GenerationMode(mode)), boxes=st.sampled_from((None, *BOXES.get(path, ()))))
    def every_answer(case: Any, boxes: str | None) -> None:
        if mode == "positive" and boxes is not None and isinstance(case.body, dict):  # any text fits the schema
            case.body = {name: value for name, value in case.body.items() if name != "max_people"} | {"boxes": boxes}
        statuses.add(case.call_and_validate(base_url=address, checks=checks, timeout=30).status_code)

    try:
        every_answer()
    except (Unsatisfiable, InvalidArgument):
        assert (method, mode) == ("GET", "negative"), "what fits the schema can be made"
        return  # nothing of a GET without parameters can be wrong
    if mode == "positive":
        assert 200 in statuses, statuses


def _let_binary_data_be_images() -> None:
    import schemathesis
    from hypothesis import strategies as st
    from schemathesis.transport.serialization import Binary

    images = st.sampled_from([encoded(plain(number)) for number in (1, 300)])
    mostly = st.one_of(images, images, images, st.binary())
    schemathesis.openapi.format("binary", mostly.map(Binary))
    for kind in RAW_TYPES:
        schemathesis.openapi.media_type(kind, mostly)
