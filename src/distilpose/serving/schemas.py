"""Answers as OpenAPI describes them, with examples. The answers themselves are written without these."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from distilpose.serving.uploads import MULTIPART, RAW_TYPES

_KEYPOINTS = 17  # of the example; a model has those of its skeleton
_ROW: dict[str, Any] = {
    "image": "photo.jpg",
    "image_id": 1,
    "category_id": 1,
    "keypoints": [241.5, 120.25, 0.93] * _KEYPOINTS,
    "score": 0.87,
    "box_xyxy": [200.0, 100.0, 300.0, 400.0],
    "box_score": 1.0,
    "raw_score": [0.93] * _KEYPOINTS,
    "sigma": [[2.5, 3.0]] * _KEYPOINTS,
}
_ANSWER: dict[str, Any] = {"request_id": "6f1c", "model": "distilpose_s", "size_hw": [480, 640], "people": [_ROW]}
_FAULT: dict[str, Any] = {
    "error": "boxes",
    "message": "boxes must be a list of [x1, y1, x2, y2], got dict",
    "request_id": "6f1c",
}


class Person(BaseModel):
    """An entry of ``predictions.json``."""

    image: str = Field(description="name of the file, empty if it came without one")
    image_id: int = Field(description="the number that the file's name is, else the first free one of the request")
    category_id: int = Field(description="1, COCO's person")
    keypoints: list[float] = Field(description="x, y in image pixels and score in [0, 1] of each keypoint")
    score: float = Field(description="of the pose")
    box_xyxy: list[float] = Field(description="left, top, right, bottom in image pixels")
    box_score: float = Field(description="of the detector; 1 for boxes that came with the image")
    raw_score: list[float] | None = Field(description="of each keypoint as the model gave it")
    sigma: list[list[float]] | None = Field(description="spread of each keypoint along x and y in image pixels")


class Poses(BaseModel):
    """The people of an image, in the order of the boxes."""

    model_config = ConfigDict(json_schema_extra={"examples": [_ANSWER]})

    request_id: str
    model: str
    size_hw: list[int] = Field(description="height and width of the upright image in pixels")
    people: list[Person]


class Fault(BaseModel):
    """Why there is no answer."""

    model_config = ConfigDict(json_schema_extra={"examples": [_FAULT]})

    error: str = Field(description="short name of the problem, for programs")
    message: str = Field(description="what was expected, what came, what to do")
    request_id: str


class ImageAnswer(BaseModel):
    """What became of one of several images: ``people`` with status 200, else ``error`` and ``message``."""

    image: str
    status: int = Field(description="what the image alone would have been answered with")
    size_hw: list[int] | None = None
    people: list[Person] | None = None
    error: str | None = None
    message: str | None = None


class SeveralPoses(BaseModel):
    """One answer for each image, in their order."""

    request_id: str
    model: str
    results: list[ImageAnswer]


class State(BaseModel):
    """Of the server."""

    status: str


class ModelCard(BaseModel):
    """What the server runs, and its limits."""

    model: str
    precision: str
    backend: str = Field(description="library that runs the model, and its version")
    device: str = Field(description="such as cpu or cuda:0")
    skeleton: str = Field(description="name of the set of keypoints")
    keypoints: list[str] = Field(description="names, in the order of the answers")
    edges: list[list[int]] = Field(description="pairs of keypoints that are drawn as lines")
    flip_pairs: list[list[int]] = Field(description="left and right keypoints that a mirror swaps")
    oks_sigmas: list[float] = Field(description="constants of object keypoint similarity")
    input_size_hw: list[int]
    max_bytes: int
    max_pixels: int
    max_people: int
    max_images: int


_FAULTS = {
    400: "the body is not what its Content-Type says",
    401: "the key is missing or wrong",
    408: "the upload took too long",
    413: "too many bytes, pixels or images",
    415: "a Content-Type that is not read",
    422: "an image, box or field that cannot be used",
    500: "the server or its model failed",
    503: "too much to do, loading, or about to end: try again after Retry-After",
    504: "no answer within the deadline",
}


def faults(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Descriptions of answers that are none; all of them without arguments."""
    return {status: {"model": Fault, "description": _FAULTS[status]} for status in statuses or _FAULTS}


_IMAGE = {"type": "string", "format": "binary", "description": "JPEG, PNG, WebP, TIFF, BMP or GIF"}
_MAX_PEOPLE = {"type": "integer", "minimum": 1, "description": "of detected people, so many of the best"}
_SEVERAL_BOXES = "a JSON list with an entry for each image: its boxes, or null"
_BOXES_TEXT = "person boxes as JSON, [[x1, y1, x2, y2], ...] in image pixels; without it the server looks for people"


def _form(name: str, image: dict[str, Any], boxes: str, example: str) -> dict[str, Any]:
    of_boxes = {"type": "string", "description": boxes, "example": example}
    properties = {name: image, "boxes": of_boxes, "max_people": _MAX_PEOPLE}
    return {"schema": {"type": "object", "required": [name], "properties": properties, "additionalProperties": False}}


_ONE_FORM = _form("image", _IMAGE, _BOXES_TEXT, "[[200, 100, 300, 400]]")
_RAW = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in RAW_TYPES}
_IMAGES = {"type": "array", "items": _IMAGE, "minItems": 1}
# Body and parameters of /v1/predict, and the body of /v1/predict/batch
ONE_REQUEST = {
    "requestBody": {"required": True, "content": {MULTIPART: _ONE_FORM, **_RAW}},
    "parameters": [
        {"name": "boxes", "in": "query", "schema": {"type": "string"}, "description": f"without a form: {_BOXES_TEXT}"},
        {"name": "max_people", "in": "query", "schema": _MAX_PEOPLE, "description": "without a form"},
    ],
}
_SEVERAL_FORM = _form("images", _IMAGES, _SEVERAL_BOXES, "[[[200, 100, 300, 400]], null]")
SEVERAL_REQUEST = {"requestBody": {"required": True, "content": {MULTIPART: _SEVERAL_FORM}}}
