"""`PoseResult` in the forms of other tools: COCO rows, tables, supervision, skeletons with other keypoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distilpose.errors import ConfigError, InputError, require_package
from distilpose.geometry import xywh_to_xyxy
from distilpose.skeletons import Skeleton
from distilpose.types import FloatArray

if TYPE_CHECKING:
    import pandas as pd
    import supervision as sv

    from distilpose.inference.result import PoseResult

# A keypoint that some skeletons have is the middle of two that others have
_MIDDLE_OF = {"neck": ("left_shoulder", "right_shoulder"), "hip": ("left_hip", "right_hip")}
Arrays = dict[str, Any]  # of a `PoseResult`, by name
BOX_COLUMNS = ("box_x1", "box_y1", "box_x2", "box_y2")


def boxes_around(xy: FloatArray, score: FloatArray | None = None) -> FloatArray:
    """(N, 4) box around each person's keypoints (N, K, 2); around those with a score above 0, if there are any."""
    shown = np.ones(xy.shape[:2], dtype=bool) if score is None else score > 0
    shown |= ~shown.any(axis=1, keepdims=True)
    low = np.where(shown[..., None], xy, np.inf).min(axis=1, initial=np.inf)
    high = np.where(shown[..., None], xy, -np.inf).max(axis=1, initial=-np.inf)
    return np.concatenate([low, high], axis=-1)


def read_coco(rows: Sequence[Mapping[str, Any]], skeleton: Skeleton) -> Arrays:
    """See `PoseResult.from_coco`."""
    for place, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InputError(f"row {place}: expected an entry of COCO keypoint results, got {str(row)[:80]}")
    images = {(row.get("image_id"), row.get("image")) for row in rows}
    if len(images) > 1:
        raise InputError(f"expected the rows of one image, got rows of {len(images)}: choose by image_id or image")
    count = skeleton.num_keypoints
    what = f"{count} times x, y, score ({skeleton.name})"
    keypoints = [_array(row, "keypoints", 3 * count, what, place) for place, row in enumerate(rows)]
    xy, score = np.split(np.array(keypoints).reshape(-1, count, 3), [2], axis=-1)
    box = boxes_around(xy, score[..., 0])
    for place, row in enumerate(rows):
        if row.get("box_xyxy") is not None:
            box[place] = _array(row, "box_xyxy", 4, "4 numbers", place)
        elif row.get("bbox") is not None:
            box[place] = xywh_to_xyxy(_array(row, "bbox", 4, "4 numbers", place))[0]
    box_score, pose_score = _column(rows, "box_score"), _column(rows, "score")
    return {
        "xy": xy,
        "box": box,
        "box_score": np.ones(len(rows)) if box_score is None else box_score,
        "pose_score": np.ones(len(rows)) if pose_score is None else pose_score,
        "raw_score": _column(rows, "raw_score") if any("raw_score" in row for row in rows) else score[..., 0],
        "sigma": _column(rows, "sigma"),
        "track_id": _column(rows, "track_id"),
    }


def _array(row: Mapping[str, Any], name: str, size: int, what: str, place: int) -> FloatArray:
    try:
        return np.asarray(row[name], dtype=np.float64).reshape(size)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"row {place}: expected {name} as {what}, got {str(row.get(name))[:80]}") from error


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> Any:
    """A field of every row; None where no row has it."""
    values = [row.get(name) for row in rows]
    lacking = [position for position, value in enumerate(values) if value is None]
    if 0 < len(lacking) < len(values):
        raise InputError(f"expected {name} in every row or in none, row {lacking[0]} has none")
    return None if lacking or not values else values


def to_supervision(people: PoseResult) -> sv.KeyPoints:
    """See `PoseResult.to_supervision`."""
    require_package("supervision", "this")
    import supervision as sv

    arrays: Any = people.filter(np.arange(len(people)))  # copies of 64 bits; supervision's annotations say 32
    found = {"xyxy": arrays.box} | {n: getattr(arrays, n) for n in ("box_score", "raw_score", "sigma", "track_id")}
    data = {name: value for name, value in found.items() if value is not None}
    if people.sigma is not None:
        data["covariance"] = people.sigma[..., None] ** 2 * np.eye(2)
    raw = arrays.raw_score
    return sv.KeyPoints(
        xy=arrays.xy,
        keypoint_confidence=arrays.score,
        detection_confidence=arrays.pose_score,
        visible=None if raw is None else raw > 0,
        data=data,
    )


def read_supervision(key_points: sv.KeyPoints) -> Arrays:
    """See `PoseResult.from_supervision`."""
    try:
        data: dict[str, Any] = dict(key_points.data)
        xy = np.asarray(key_points.xy, dtype=np.float64)
        confidence, pose_score = key_points.keypoint_confidence, key_points.detection_confidence
        visible = key_points.visible
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"expected supervision.KeyPoints, got {type(key_points).__name__}") from error
    if xy.ndim == 3:
        xy = xy[..., :2]  # some sources add a depth
    raw_score: Any = data.get("raw_score", confidence)
    if visible is not None:
        hidden = ~np.asarray(visible, dtype=bool)
        raw_score = np.ones(hidden.shape) if raw_score is None else np.asarray(raw_score, dtype=np.float64)
        raw_score = np.where(hidden, np.minimum(raw_score, 0), raw_score)
    sigma = data.get("sigma")
    if sigma is None and "covariance" in data:
        sigma = np.sqrt(np.diagonal(np.asarray(data["covariance"], dtype=np.float64), axis1=-2, axis2=-1))
    scores = np.ones(len(xy)) if pose_score is None else np.asarray(pose_score, dtype=np.float64)
    box = data.get("xyxy")
    return {
        "xy": xy,
        "box": boxes_around(xy, None if raw_score is None else np.asarray(raw_score)) if box is None else box,
        "box_score": data.get("box_score", scores),
        "pose_score": scores,
        "raw_score": raw_score,
        "sigma": sigma,
        "track_id": data.get("track_id", data.get("tracker_id")),
    }


def to_table(people: PoseResult) -> pd.DataFrame:
    """See `PoseResult.to_pandas`."""
    require_package("pandas", "this")
    import pandas as pd

    columns = table_columns(people)
    return pd.DataFrame({**columns, "keypoint": pd.Series(columns["keypoint"].tolist(), dtype="str")})


def table_columns(people: PoseResult) -> dict[str, NDArray[Any]]:
    """The columns of `PoseResult.to_pandas`, (N K,) each."""
    count, names = len(people.xy), people.skeleton.keypoint_names

    def each(values: NDArray[Any]) -> NDArray[Any]:
        return np.repeat(values, len(names))  # one value per person, on all rows of the person

    columns = {"person": each(np.arange(count))}
    if people.track_id is not None:
        columns["track_id"] = each(people.track_id)
    columns |= {"keypoint": np.tile(names, count), "x": people.xy[..., 0].ravel(), "y": people.xy[..., 1].ravel()}
    if people.raw_score is not None and people.score is not None:
        columns |= {"score": people.score.ravel(), "raw_score": people.raw_score.ravel()}
    if people.sigma is not None:
        columns |= {"sigma_x": people.sigma[..., 0].ravel(), "sigma_y": people.sigma[..., 1].ravel()}
    columns |= {name: each(people.box[:, side]) for side, name in enumerate(BOX_COLUMNS)}
    return columns | {"box_score": each(people.box_score), "pose_score": each(people.pose_score)}


def read_table(table: pd.DataFrame, skeleton: Skeleton) -> Arrays:
    """See `PoseResult.from_pandas`."""
    lacking = [name for name in ("person", "keypoint", "x", "y") if name not in table]
    if lacking:
        raise InputError(f"expected the columns of PoseResult.to_pandas(), {', '.join(lacking)} missing")
    names = skeleton.keypoint_names
    unknown = set(table["keypoint"]) - set(names)
    if unknown:
        raise InputError(f"expected keypoints of {skeleton.name}, got {min(map(str, unknown))!r}: pass its skeleton")
    order = table.assign(_place=table["keypoint"].map({name: place for place, name in enumerate(names)}))
    order = order.sort_values(["person", "_place"], kind="stable")
    people = order["person"].nunique()
    if order["_place"].tolist() != list(range(len(names))) * people:
        raise InputError(
            f"expected each of the {len(names)} keypoints of {skeleton.name} once per person, got {len(order)} rows "
            f"for {people} people: pass the rows of one image"
        )

    def grid(*columns: str) -> FloatArray | None:
        if not set(columns) <= set(order):
            return None
        try:
            values = [order[name].to_numpy(dtype=np.float64).reshape(people, len(names)) for name in columns]
        except (TypeError, ValueError) as error:
            raise InputError(f"expected numbers in {', '.join(columns)}: {error}") from error
        return np.stack(values, axis=-1)

    def person(*columns: str) -> FloatArray | None:
        values = grid(*columns)
        if values is not None and (values != values[:, :1]).any():
            raise InputError(f"expected one value of {', '.join(columns)} per person, got several")
        return None if values is None else values[:, 0]

    xy, raw_score, sigma = grid("x", "y"), grid("raw_score"), grid("sigma_x", "sigma_y")
    assert xy is not None
    raw_score = grid("score") if raw_score is None else raw_score
    raw_score = None if raw_score is None else raw_score[..., 0]
    box, box_score, pose_score, track_id = (
        person(*columns) for columns in (BOX_COLUMNS, ("box_score",), ("pose_score",), ("track_id",))
    )
    scores = np.ones(people) if box_score is None else box_score[:, 0]
    return {
        "xy": xy,
        "box": boxes_around(xy, raw_score) if box is None else box,
        "box_score": scores,
        "pose_score": scores if pose_score is None else pose_score[:, 0],
        "raw_score": raw_score,
        "sigma": sigma,
        "track_id": None if track_id is None else track_id[:, 0],
    }


def keypoints_by_name(people: PoseResult, names: Sequence[str], target: str) -> Arrays:
    """Pick ``xy``, ``raw_score`` and ``sigma`` by keypoint names of ``target``, see `PoseResult.to_skeleton`."""
    source = people.skeleton
    at = {name: index for index, name in enumerate(source.keypoint_names)}
    parts = [(name,) if name in at else _MIDDLE_OF.get(name, ()) for name in names]
    origin = [tuple(at[part] for part in each) if set(each) <= set(at) else () for each in parts]
    if not any(origin):
        raise ConfigError(f"{target} has no keypoint that {source.name} has or gives: {tuple(names)}")
    raw_score = people.raw_score
    if raw_score is None and not all(origin):
        raw_score = np.ones(people.xy.shape[:2])
    shape = (len(people.xy), len(names))
    xy, score, sigma = np.zeros((*shape, 2)), np.zeros(shape), np.zeros((*shape, 2))
    for place, indices in enumerate(origin):
        if not indices:
            continue
        a, b = indices[0], indices[-1]  # the same for a keypoint that the source has
        xy[:, place] = people.xy[:, a] if a == b else (people.xy[:, a] + people.xy[:, b]) / 2
        if people.sigma is not None:  # of a mean of independent numbers
            first, second = people.sigma[:, a], people.sigma[:, b]
            sigma[:, place] = first if a == b else np.hypot(first, second) / 2
        if raw_score is not None:
            score[:, place] = np.minimum(raw_score[:, a], raw_score[:, b])  # no surer than the worse end
            absent = [(people.xy[:, end] == 0).all(-1) & (raw_score[:, end] == 0) for end in (a, b)]
            for values in (xy, sigma) if a != b else ():  # no middle of what is not there
                values[absent[0] | absent[1], place] = 0
    return {
        "xy": xy,
        "raw_score": None if raw_score is None else score,
        "sigma": None if people.sigma is None else sigma,
    }
