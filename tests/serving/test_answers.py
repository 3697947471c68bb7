"""What the server answers: the predictor's own poses, under any load the right ones, described by its own schema."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving_client import (
    BOX,
    IMAGE_HW,
    Telltale,
    ask,
    encoded,
    form,
    metric,
    number_of,
    plain,
    send,
    send_image,
    wait_for,
)

from background_server import BackgroundServer
from distilpose.data.images import read_image
from distilpose.errors import CheckpointError
from distilpose.formats.boxes import PersonBoxes
from distilpose.formats.writers import PoseRecord, prediction_rows
from distilpose.inference.people import open_detector
from distilpose.inference.predictor import PosePredictor
from distilpose.serving.app import create_app, model_card
from distilpose.serving.options import ServeOptions
from distilpose.serving.server import PoseServer
from distilpose.serving.service import PoseService


def test_an_answer_is_what_predict_writes(address: str, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (80, 60, 3), dtype=np.uint8)
    boxes = [[5.5, 2, 40, 70], [-3, -8, 20.25, 30], [10, 10, 60, 80]]
    file = tmp_path / "noise.jpg"
    Image.fromarray(image).save(file, quality=90)
    decoded = read_image(file)
    result = PosePredictor(Telltale())(decoded, boxes)
    expected = prediction_rows(PoseRecord("noise.jpg", result, (80, 60), 1))
    answer = send(address, ("image", file.read_bytes(), "noise.jpg"), ("boxes", json.dumps(boxes)))
    assert answer.status == 200
    assert answer.json["people"] == expected
    assert answer.json["size_hw"] == [80, 60]
    assert answer.json["model"] == "telltale"
    raw = ask(
        address,
        f"/v1/predict?boxes={json.dumps(boxes).replace(' ', '')}",
        file.read_bytes(),
        {"Content-Type": "image/jpeg"},
    )
    assert [{**row, "image": "noise.jpg"} for row in raw.json["people"]] == expected


def test_images_are_upright(address: str) -> None:
    file = BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(plain(7)).save(file, "JPEG", exif=exif)
    assert send(address, ("image", file.getvalue(), "x.jpg")).json["size_hw"] == [IMAGE_HW[1], IMAGE_HW[0]]


def test_without_boxes_the_image_is_one_person_and_no_boxes_are_nobody(address: str) -> None:
    whole = send_image(address, 1234)
    assert [number_of(person) for person in whole.json["people"]] == [1234]
    assert whole.json["people"][0]["box_xyxy"] == [0, 0, IMAGE_HW[1], IMAGE_HW[0]]
    assert send_image(address, 1234, []).json["people"] == []


class Spread(Telltale):
    """Sees a person in the middle of each crop."""

    def __call__(self, images: Any) -> Any:
        found = super().__call__(images)
        found.xy_norm[:] = np.linspace([0.4, 0.3], [0.6, 0.7], 17)
        return found


def test_a_whole_image_is_fitted_to_its_pose_as_by_predict(start: Any) -> None:
    (people,) = open_detector("whole-image", PosePredictor(Spread()))([plain(5, size_hw=(300, 200))])
    box = people.boxes_xyxy.tolist()
    assert 0 < box[0][0] < box[0][2] < 200
    answer = send(start(Spread()).address, ("image", encoded(plain(5, size_hw=(300, 200))), "x.png"))
    np.testing.assert_allclose([row["box_xyxy"] for row in answer.json["people"]], box)


class Crowd:
    """Finds three people, the best first."""

    def __call__(self, images: Any) -> list[PersonBoxes]:
        boxes = np.array([[0, 0, 10, 20], [5, 5, 20, 30], [1, 1, 30, 40]], dtype=float)
        return [PersonBoxes(boxes, np.array([0.9, 0.8, 0.7])) for _ in images]


def test_a_detector_looks_for_people_unless_boxes_came(start: Any) -> None:
    address = start(detector=Crowd(), max_people=2).address
    assert [row["box_score"] for row in send_image(address, 5).json["people"]] == [0.9, 0.8]
    one = send(address, ("image", encoded(plain(5)), "x.png"), ("max_people", "1"))
    assert [row["box_score"] for row in one.json["people"]] == [0.9]
    assert [row["box_xyxy"] for row in send_image(address, 5, BOX).json["people"]] == BOX


def test_a_crowd_of_more_people_than_are_cut_at_once_is_answered(start: Any) -> None:
    address = start(max_people=300).address
    assert len(send_image(address, 5, BOX * 257).json["people"]) == 257


def test_of_several_images_one_that_fails_does_not_spoil_the_others(address: str) -> None:
    good = encoded(plain(300))
    fields = [("images", good, "a.png"), ("images", b"no image", "b.png"), ("images", encoded(plain(400)), "c.png")]
    answer = send(address, *fields, ("boxes", json.dumps([BOX, BOX, None])), path="/v1/predict/batch")
    assert answer.status == 200
    first, second, third = answer.json["results"]
    assert [entry["status"] for entry in (first, second, third)] == [200, 422, 200]
    assert [entry["image"] for entry in (first, second, third)] == ["a.png", "b.png", "c.png"]
    assert number_of(first["people"][0]) == 300
    assert number_of(third["people"][0]) == 400
    assert second["error"] == "image"
    spoilt = send(address, *fields[::2], ("boxes", json.dumps([[[1, 2, 3]], BOX])), path="/v1/predict/batch")
    assert [entry["status"] for entry in spoilt.json["results"]] == [422, 200]


def test_a_model_that_fails_on_one_image_fails_it_alone(start: Any) -> None:
    backend = Telltale()
    backend.poison = 99
    address = start(backend).address
    bad = encoded(plain(1, blue=99))
    assert send(address, ("image", bad, "x.png")).json["error"] == "model"
    both = send(address, ("images", bad, "a"), ("images", encoded(plain(2)), "b"), path="/v1/predict/batch")
    assert [entry["status"] for entry in both.json["results"]] == [500, 200]
    assert send_image(address, 2).status == 200


def test_an_image_that_fails_among_others_is_counted_and_logged(start: Any, caplog: pytest.LogCaptureFixture) -> None:
    address = start().address
    fields = [("images", b"no image", "a"), ("images", encoded(plain(2)), "b"), ("images", b"", "c")]
    with caplog.at_level("INFO", "distilpose.serving.access_log"):
        assert send(address, *fields, path="/v1/predict/batch").status == 200
        wait_for(lambda: any(record.message == "request" for record in caplog.records))
    (line,) = (record.fields for record in caplog.records if record.message == "request")  # type: ignore[attr-defined]
    assert line["failed"] == ["image", "empty-image"]
    assert "error" not in line
    assert metric(address, "distilpose_rejected_total") == 2


def test_a_long_path_is_short_in_answer_and_log(start: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "distilpose.serving.access_log"):
        reply = ask(start().address, "/" + "a" * 50_000)
        wait_for(lambda: any(record.message == "request" for record in caplog.records))
    (line,) = (record.fields for record in caplog.records if record.message == "request")  # type: ignore[attr-defined]
    assert (reply.status, len(line["path"])) == (404, 200)
    assert len(reply.body) < 500


class Broken:
    """Fails as a backend and as a detector, like a runtime that has exceptions of its own."""

    description = Telltale.description

    def __init__(self, good_runs: int = 0) -> None:
        self.good_runs, self.good = good_runs, Telltale()

    def __call__(self, images: Any) -> Any:
        self.good_runs -= 1
        if self.good_runs < 0:
            raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION")
        return self.good(images)


def test_what_nobody_expected_is_an_answer_like_any_other(start: Any, caplog: pytest.LogCaptureFixture) -> None:
    address = start(detector=Broken(), cors=("https://example.org",)).address
    reply = send_image(address, 1, Origin="https://example.org", X_Request_ID="mine")
    assert (reply.status, reply.json["error"], reply.json["request_id"]) == (500, "internal", "mine")
    assert "RUNTIME" not in reply.json["message"]  # the inside is for the log
    assert reply.headers["access-control-allow-origin"] == "https://example.org"
    assert metric(address, "distilpose_rejected_total") == 1
    wait_for(lambda: "a request failed" in caplog.messages)
    (record,) = (record for record in caplog.records if record.message == "a request failed")
    assert record.fields == {"id": "mine"}  # type: ignore[attr-defined]
    assert "RUNTIME_EXCEPTION" in caplog.text
    assert send_image(address, 2, BOX).status == 200


def test_an_error_of_the_runtime_is_one_of_the_model(start: Any) -> None:
    address = start(Broken(good_runs=2)).address  # those of the warming up
    reply = send_image(address, 1)
    assert (reply.status, reply.json["error"]) == (500, "model")
    assert "RUNTIME_EXCEPTION" in reply.json["message"]


def test_a_model_that_fails_on_its_first_crops_ends_the_server(caplog: pytest.LogCaptureFixture) -> None:
    for good_runs in (0, 1):
        server = PoseServer(ServeOptions(model=Broken(good_runs), port=0, detector="whole-image"))
        with pytest.raises(CheckpointError, match=r"first crops .*RUNTIME_EXCEPTION"), BackgroundServer(server):
            pass
        assert "the model failed on its first crops" in caplog.messages


def test_many_at_once_share_batches_and_nobody_gets_anothers_answer(start: Any) -> None:
    backend = Telltale(seconds=0.005)
    address = start(backend).address
    people = [1, 3, 2, 0, 9]  # nine are more than a batch
    backend.batches.clear()

    def one(number: int) -> tuple[list[int], int]:
        reply = send_image(address, number, BOX * people[number % 5])
        return [number_of(person) for person in reply.json["people"]], reply.status

    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(one, range(300)))
    assert found == [([number] * people[number % 5], 200) for number in range(300)]
    assert max(backend.batches) <= 8
    assert max(backend.batches) > 1
    assert sum(backend.batches) == sum(people) * 60
    assert metric(address, "distilpose_batch_crops_sum") >= sum(backend.batches)
    assert metric(address, "distilpose_batch_crops_count") < 900


def test_request_ids(address: str) -> None:
    assert send_image(address, 1, X_Request_ID="my-id.7").headers["x-request-id"] == "my-id.7"
    made = send_image(address, 1, X_Request_ID="a b\tc" * 30)
    assert made.headers["x-request-id"] == made.json["request_id"]
    assert len(made.json["request_id"]) == 32
    fault = send(address, ("image", b"x"), X_Request_ID="mine")
    assert fault.json["request_id"] == fault.headers["x-request-id"] == "mine"


def test_state_and_metrics(address: str) -> None:
    assert ask(address, "/healthz").json == {"status": "alive"}
    assert ask(address, "/readyz").json == {"status": "ready"}
    before = metric(address, "distilpose_people_total")
    send_image(address, 3, BOX * 4)
    send(address, ("image", b"broken", "x"))
    assert metric(address, "distilpose_people_total") == before + 4
    ask(address, "/nothing/like/it")
    text = ask(address, "/metrics").body.decode()
    for line in (
        'distilpose_requests_total{code="200",path="/v1/predict"}',
        'distilpose_requests_total{code="422",path="/v1/predict"}',
        'distilpose_requests_total{code="404",path="other"}',
        'distilpose_request_seconds_bucket{le="0.1",path="/v1/predict"}',
        'distilpose_rejected_total{reason="image"}',
        "distilpose_queue_length 0.0",
        "distilpose_uploads_bytes 0.0",
        "distilpose_ready 1.0",
        "distilpose_batch_crops_bucket",
        "distilpose_model_seconds_count",
        "distilpose_images_total",
    ):
        assert line in text, line
    assert "nothing/like/it" not in text


def test_the_model_describes_itself(address: str) -> None:
    card = ask(address, "/v1/model").json
    assert card["keypoints"][0] == "nose"
    assert card["input_size_hw"] == [32, 24]
    assert card["max_people"] == 50
    assert (card["backend"], card["device"]) == ("Telltale", "cpu")


def test_the_key_is_asked_for_before_anything_else(start: Any) -> None:
    address = start(api_key="secret-7").address
    for headers in ({}, {"X_API_Key": "secret-8"}, {"X_API_Key": "sécret".encode().decode("latin-1")}):
        reply = send_image(address, 1, **headers)
        assert (reply.status, reply.json["error"]) == (401, "unauthorized")
        assert "X-API-Key" in reply.json["message"]
    assert ask(address, "/v1/model").status == 401
    assert send_image(address, 1, X_API_Key="secret-7").status == 200
    assert ask(address, "/healthz").status == ask(address, "/metrics").status == 200
    schema = ask(address, "/openapi.json").json
    assert schema["paths"]["/v1/predict"]["post"]["security"] == [{"APIKeyHeader": []}]


def test_other_sites_may_ask_only_when_told(address: str, start: Any) -> None:
    origin = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in ask(address, "/v1/predict", headers=origin, method="OPTIONS").headers
    assert "access-control-allow-origin" not in send_image(address, 1, Origin="https://example.org").headers
    open_one = start(cors=("https://example.org",)).address
    preflight = ask(open_one, "/v1/predict", headers=origin, method="OPTIONS")
    assert preflight.status == 200
    assert preflight.headers["access-control-allow-origin"] == "https://example.org"
    reply = send_image(open_one, 1, Origin="https://example.org")
    assert reply.headers["access-control-allow-origin"] == "https://example.org"
    other = send_image(open_one, 1, Origin="https://example.com")
    assert "access-control-allow-origin" not in other.headers


async def _ask_app(app: Any, path: str, method: str = "GET") -> tuple[int, dict[bytes, bytes]]:
    sent: list[Any] = []
    body = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Any:
        return next(body, None) or await asyncio.Event().wait()

    async def send_message(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "headers": [],
        "root_path": "", "scheme": "http", "http_version": "1.1", "asgi": {"version": "3.0"},
    }  # fmt: skip
    await app(scope, receive, send_message)
    return sent[0]["status"], dict(sent[0]["headers"])


@pytest.mark.parametrize("page", [True, False])
def test_the_page_is_isolated_and_takes_no_path_of_the_api(tmp_path: Path, page: bool) -> None:
    if page:
        (tmp_path / "index.html").write_text("<p>hello")
    options = ServeOptions()

    async def check() -> None:
        service = PoseService(PosePredictor(Telltale()), Crowd(), options)
        app = create_app(service, model_card(Telltale(), options), static=tmp_path)
        status, headers = await _ask_app(app, "/")
        assert status == 200
        assert (headers.get(b"cross-origin-embedder-policy") == b"require-corp") == page
        assert (headers.get(b"cross-origin-opener-policy") == b"same-origin") == page
        assert (headers.get(b"cache-control") == b"no-cache") == page  # what `make web` changed is seen at once
        assert (await _ask_app(app, "/nothing.js"))[0] == 404
        assert (await _ask_app(app, "/../conftest.py"))[0] == 404
        status, headers = await _ask_app(app, "/v1/predict")
        assert (status, headers[b"allow"]) == (405, b"POST")
        assert (await _ask_app(app, "/healthz"))[0] == 200
        service.close()

    asyncio.run(check())


def test_the_example_in_the_schema_is_an_answer(address: str) -> None:
    schema = ask(address, "/openapi.json").json
    example = schema["components"]["schemas"]["Poses"]["examples"][0]
    answer = send_image(address, 1).json
    assert set(example) == set(answer)
    row = answer["people"][0]
    assert set(example["people"][0]) == {name for name in row if row[name] is not None}  # OpenAPI leaves out nulls
    assert len(example["people"][0]["keypoints"]) == len(answer["people"][0]["keypoints"])
    assert set(schema["paths"]["/v1/predict"]["post"]["requestBody"]["content"]) >= {
        "multipart/form-data",
        "image/jpeg",
    }


def test_a_form_may_come_in_any_order_and_pieces(address: str) -> None:
    body, kind = form(("boxes", json.dumps(BOX)), ("image", encoded(plain(77)), "ü.png"))
    reply = ask(address, "/v1/predict", body, kind)
    assert number_of(reply.json["people"][0]) == 77
    assert reply.json["people"][0]["image"] == "ü.png"
