"""What prediction returns: aligned arrays for the N people of one image."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image as PillowImage

from distilpose.data.images import IMAGE_SUFFIXES, check_image, write_image
from distilpose.errors import DistilPoseError, InputError
from distilpose.files import disk_errors, utf8_text
from distilpose.formats import conversions
from distilpose.geometry.boxes import check_array
from distilpose.skeletons import COCO_17, Skeleton, find_skeleton
from distilpose.types import FloatArray, ImageArray, IntArray

if TYPE_CHECKING:
    import pandas as pd
    import supervision as sv

    from distilpose.visualization.draw import DrawStyle

PERSON_CATEGORY_ID = 1  # COCO's id of "person"
_OPTIONAL = ("raw_score", "sigma", "track_id")
_ARRAYS = ("xy", "box", "box_score", "pose_score", *_OPTIONAL)
_CANVAS_MARGIN, _LARGEST_CANVAS = 20, 2048  # pixels, of the plain canvas for people without an image
_NOTEBOOK_SIZE = 1024  # longer side of an image in a notebook, in pixels


@dataclass(frozen=True, eq=False, repr=False)
class PoseResult:
    """The poses found in one image; row n of every array belongs to person n.

    Attributes:
        xy: (N, K, 2) keypoints in image pixels, (x, y); they may lie outside the image.
        box: (N, 4) person boxes in image pixels as x1, y1, x2, y2.
        box_score: (N,) confidence of the detector; 1 for boxes given without one.
        pose_score: (N,) confidence of the whole pose, by which people are ranked.
        raw_score: (N, K) the model's own, unbounded confidence; None from a model without a score output.
        sigma: (N, K, 2) spread along x and y in image pixels; None from a model without a sigma output.
        track_id: (N,) whole numbers, the same for the same person in every frame of a video; None outside of videos.
        skeleton: names and order of the K keypoints.
        image: (H, W, 3) uint8 RGB, the image itself, not a copy; None if it was not kept. It is no part of
            `to_dict` and the other conversions.
        source: path of the image, by which `save` names it in a file; empty for an image that was none.

    Raises:
        InputError: the arrays do not fit together or hold numbers that are not finite, or ``image`` is none.
    """

    xy: FloatArray
    box: FloatArray
    box_score: FloatArray
    pose_score: FloatArray
    raw_score: FloatArray | None = None
    sigma: FloatArray | None = None
    track_id: IntArray | None = None
    skeleton: Skeleton = COCO_17
    image: ImageArray | None = field(default=None, compare=False)
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.image is not None:
            check_image(self.image)
        people, count = len(check_array(self.box_score, "box_score", None)), self.skeleton.num_keypoints
        inner: dict[str, tuple[int, ...]] = {"xy": (count, 2), "raw_score": (count,), "sigma": (count, 2), "box": (4,)}
        for name, value in self._rows().items():
            if value is None and name in _OPTIONAL:
                continue
            array = check_array(value, name, people, inner.get(name, ()))
            if name == "sigma" and (array < 0).any():
                raise InputError(f"sigma must not be negative, got {array.min():g}")
            if name == "track_id":
                if (array != np.rint(array)).any():
                    raise InputError(f"track_id must be whole numbers, got {array[array != np.rint(array)][0]:g}")
                array = array.astype(np.int64)
            object.__setattr__(self, name, array)

    def _rows(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _ARRAYS}

    def __len__(self) -> int:
        return len(self.xy)

    def __getitem__(self, people: int | slice | NDArray[Any] | Sequence[int]) -> PoseResult:
        """One person (``result[0]``) or several (``result[1:]``, a mask, indices) as a result; see `filter`."""
        return self.filter(np.arange(len(self))[people].reshape(-1))

    @property
    def score(self) -> FloatArray | None:
        """(N, K) confidence of each keypoint in [0, 1]: ``raw_score`` clipped; None from a model without a score."""
        return None if self.raw_score is None else np.clip(self.raw_score, 0, 1)

    @classmethod
    def from_keypoints(cls, xy: ArrayLike, skeleton: Skeleton, raw_score: Any = None, sigma: Any = None) -> PoseResult:
        """People by keypoints (N, K, 2) alone; the box is the one around them, its score and that of the pose are 1."""
        points = check_array(xy, "xy", None, (skeleton.num_keypoints, 2))
        one = np.ones(len(points))
        return cls(points, conversions.boxes_around(points, raw_score), one, one, raw_score, sigma, skeleton=skeleton)

    @classmethod
    def empty(cls, skeleton: Skeleton = COCO_17) -> PoseResult:
        """Nobody: arrays of zero rows."""
        xy, box, none = np.zeros((0, skeleton.num_keypoints, 2)), np.zeros((0, 4)), np.zeros(0)
        return cls(xy, box, none, none, raw_score=xy[..., 0], sigma=xy, skeleton=skeleton)

    def filter(self, keep: NDArray[np.bool_] | NDArray[np.intp] | Sequence[int]) -> PoseResult:
        """Choose people: a new result with copies of their rows.

        Args:
            keep: (N,) mask, or row indices in the wanted order.

        Example:
            >>> result = PoseResult.empty()
            >>> len(result.filter(result.pose_score > 0.3))
            0
        """
        chosen = np.asarray(keep)
        chosen = chosen.astype(np.intp) if chosen.size == 0 and chosen.dtype != np.bool_ else chosen
        return replace(self, **{n: rows[chosen].copy() for n, rows in self._rows().items() if rows is not None})

    def __repr__(self) -> str:
        """One line, without the arrays."""
        parts = [f"{len(self)} {'person' if len(self) == 1 else 'people'}", self.skeleton.name]
        if len(self):
            low, high = f"{self.pose_score.min():.2f}", f"{self.pose_score.max():.2f}"
            parts.append(f"pose_score {low}" if low == high else f"pose_score {low}..{high}")
        parts += [f"no {name}" for name in ("raw_score", "sigma") if getattr(self, name) is None]
        parts += [] if self.track_id is None else ["track ids"]
        parts += [] if self.image is None else ["image {}x{}".format(*self.image.shape[:2])]
        return f"PoseResult({', '.join(parts)})"

    def draw(self, image: ImageArray | None = None, style: str | DrawStyle | None = None) -> ImageArray:
        """The people on a copy of their image, (H, W, 3) uint8 RGB; see `draw_poses`.

        Args:
            image: (H, W, 3) uint8 RGB; None takes the result's own, and without one a plain canvas.
            style: name in `draw.STYLES`, or a style; None colors by person where there are track ids ("people"), else
                by body side ("sides").
        """
        from distilpose.visualization.draw import draw_poses

        style = style or ("sides" if self.track_id is None else "people")
        return draw_poses(self._image() if image is None else image, self, style)

    def blur_faces(self, image: ImageArray | None = None) -> ImageArray:
        """A copy of the image (the result's own by default) with blurred faces; see `anonymize.blur_faces`."""
        from distilpose.visualization.anonymize import blur_faces

        shown = self.image if image is None else image
        if shown is None:
            raise InputError("expected an image, this result has none: pass the one that it was predicted on")
        return blur_faces(shown, self)

    def plot(self, style: str | DrawStyle | None = None) -> PillowImage.Image:
        """`draw`'s image as a Pillow image, which a notebook shows and ``plot().save("drawn.png")`` writes."""
        return PillowImage.fromarray(self.draw(style=style))

    def save(self, path: str | Path, format: str | None = None, *, size_hw: tuple[int, int] | None = None) -> None:
        """Write the people to a file: the drawn image, or their numbers.

        Args:
            path: ending in .jpg, .png or another suffix of images, .json (COCO results), .jsonl, .csv or .parquet.
            format: name in `formats.writers.WRITERS`, for suffixes that leave it open.
            size_hw: (H, W) of the image in pixels, which some formats need; by default of the result's own image.

        Raises:
            ConfigError: the format is unknown, or its library is missing.
            InputError: the file, or its folder, which is made if missing, cannot be written; or a format needs the size
                of the image. A file that was there stays.
        """
        with disk_errors(Path(path)):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            if format is None and Path(path).suffix.lower() in IMAGE_SUFFIXES:
                write_image(path, self.draw())
                return
            from distilpose.formats.writers import save_result

            save_result(self, path, format, source=utf8_text(self.source), size_hw=size_hw)

    def show(self, style: str | DrawStyle | None = None) -> None:
        """Show `plot`'s image: in a notebook below the cell, else in the system's viewer of images."""
        image = self.plot(style)
        notebook = sys.modules.get("IPython")  # imported by every notebook, never by us
        if notebook is not None and notebook.get_ipython() is not None:
            notebook.display.display(image)
        else:
            image.show()

    def _repr_png_(self) -> bytes:
        """What notebooks show of a result."""
        image, file = self.plot(), BytesIO()
        image.thumbnail((_NOTEBOOK_SIZE, _NOTEBOOK_SIZE))
        image.save(file, format="PNG")
        return file.getvalue()

    def _image(self) -> ImageArray:
        """The result's own, else a plain canvas on which its people have room."""
        if self.image is not None:
            return self.image
        from distilpose.visualization.draw import PLAIN_COLOR

        corners = np.concatenate([self.xy.reshape(-1, 2), self.box.reshape(-1, 2), [[100.0, 100.0]]])
        width, height = np.clip(corners.max(0) + _CANVAS_MARGIN, 1, _LARGEST_CANVAS).astype(int)
        return np.full((height, width, 3), PLAIN_COLOR, dtype=np.uint8)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description without loss; `from_dict` reads it back."""
        lists = {name: None if rows is None else rows.tolist() for name, rows in self._rows().items()}
        return {**lists, "skeleton": self.skeleton.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PoseResult:
        """Read what `to_dict` wrote; raises `InputError` for a field that is missing or broken."""
        try:
            skeleton = Skeleton.from_dict(values["skeleton"])
            rows = {name: values[name] for name in _ARRAYS[:-1]}
            rows["track_id"] = values.get("track_id")  # not in files of version 0.1.0
        except (KeyError, TypeError, DistilPoseError) as error:
            raise InputError(f"a pose result needs all fields of PoseResult.to_dict(): {error!r}") from error
        return cls(**rows, skeleton=skeleton)

    def to_numpy(self) -> NDArray[np.void]:
        """(N,) structured array with a field per attribute that is there, such as ``to_numpy()["xy"]`` (N, K, 2)."""
        rows = {name: value for name, value in self._rows().items() if value is not None}
        array = np.zeros(len(self), [(name, value.dtype, value.shape[1:]) for name, value in rows.items()])
        for name, value in rows.items():
            array[name] = value
        return array

    def to_openpose(self, order: Literal["body_25", "coco_18"] = "body_25") -> dict[str, Any]:
        """What OpenPose's ``--write_json`` writes of an image; see `formats.openpose.openpose_people`."""
        from distilpose.formats.openpose import openpose_people

        return openpose_people(self, order)

    def to_coco(self, image_id: int | None) -> list[dict[str, Any]]:
        """One entry per person in COCO's keypoint results format; ``image_id``: in the annotation file, or None.

        ``keypoints`` is x, y, score in [0, 1] for each keypoint, the score 1 from a model without one; ``score`` is
        the pose score.
        """
        score = np.ones(self.xy.shape[:2]) if self.score is None else self.score
        image_id = None if image_id is None else index(image_id)  # a number of numpy is none of JSON's
        keypoints = np.concatenate([self.xy, score[..., None]], axis=-1).reshape(len(self), 3 * score.shape[1])
        return [
            {"image_id": image_id, "category_id": PERSON_CATEGORY_ID, "keypoints": row.tolist(), "score": float(rank)}
            for row, rank in zip(keypoints, self.pose_score, strict=True)
        ]

    @classmethod
    def from_coco(cls, rows: Sequence[Mapping[str, Any]], skeleton: Skeleton = COCO_17) -> PoseResult:
        """Read COCO keypoint results of one image, or its entries of ``predictions.json``, which lose nothing.

        A row per person: ``keypoints`` (x, y, score each); ``score``, of the pose, else 1; and if there, ``box_xyxy``
        or COCO's ``bbox``, ``box_score``, ``raw_score``, ``sigma``, ``track_id``. Without a box it is the one around
        the keypoints with a score above 0; without ``box_score`` that is 1.

        Raises:
            InputError: a row is broken, the rows are of several images, or only some have a field.
        """
        return cls(**conversions.read_coco(rows, skeleton), skeleton=skeleton)

    def to_supervision(self) -> sv.KeyPoints:
        """The people as ``supervision.KeyPoints``, for its annotators and tools (supervision 0.31 or newer).

        ``keypoint_confidence`` is the score in [0, 1], ``detection_confidence`` the pose score, ``visible`` a score
        above 0. ``data`` has ``xyxy``, ``box_score``, ``raw_score``, ``sigma``, ``track_id``, and ``covariance``
        (N, K, 2, 2), from which supervision draws ellipses. All numbers keep their 64 bits.

        Raises:
            ConfigError: supervision is not installed.
        """
        return conversions.to_supervision(self)

    @classmethod
    def from_supervision(cls, key_points: sv.KeyPoints, skeleton: Skeleton = COCO_17) -> PoseResult:
        """Read ``supervision.KeyPoints``; what `to_supervision` wrote comes back without loss.

        Keypoints that are not ``visible`` get a score of 0. Without ``xyxy`` in ``data`` a box is the one around the
        keypoints. A third coordinate is left out.

        Raises:
            InputError: the arrays are not those of people with this skeleton.
        """
        return cls(**conversions.read_supervision(key_points), skeleton=skeleton)

    def to_pandas(self) -> pd.DataFrame:
        """A long table, one row per person and keypoint; `from_pandas` reads it back without loss.

        Columns: ``person`` (0 to N - 1), ``track_id``, ``keypoint`` (its name), ``x``, ``y``, ``score`` (in [0, 1]),
        ``raw_score``, ``sigma_x``, ``sigma_y``, ``box_x1`` to ``box_y2``, ``box_score``, ``pose_score``; what the
        result does not have has no column. The last six repeat on all rows of a person.

        Raises:
            ConfigError: pandas is not installed.
        """
        return conversions.to_table(self)

    @classmethod
    def from_pandas(cls, table: pd.DataFrame, skeleton: Skeleton = COCO_17) -> PoseResult:
        """Read a table like that of `to_pandas`; rows may come in any order, other columns are left unused.

        It needs ``person``, ``keypoint``, ``x`` and ``y``. Without a box it is the one around the keypoints; without
        ``box_score`` that is 1, without ``pose_score`` the box score.

        Raises:
            InputError: a column or row is missing, or there are several of one.
        """
        return cls(**conversions.read_table(table, skeleton), skeleton=skeleton)

    def to_skeleton(self, target: Skeleton | str) -> PoseResult:
        """The same people with the keypoints of another skeleton, such as `skeletons.OPENPOSE_18`, or its name.

        Keypoints go by name. ``neck`` and ``hip`` are the middle of shoulders and hips, with the lower of their two
        scores and the sigma of a mean of independent numbers. A keypoint that cannot be had (Halpe's head and feet)
        is at (0, 0) with score 0, as in OpenPose; a result without scores then gets them, 1 for all others.

        Raises:
            ConfigError: the skeletons have nothing in common, or there is none of that name.

        Example:
            >>> from distilpose.skeletons import OPENPOSE_18
            >>> PoseResult.empty().to_skeleton(OPENPOSE_18)
            PoseResult(0 people, openpose_18)
        """
        target = find_skeleton(target) if isinstance(target, str) else target
        arrays = conversions.keypoints_by_name(self, target.keypoint_names, target.name)
        return replace(self, **arrays, skeleton=target)
