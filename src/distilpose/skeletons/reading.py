"""Skeletons from what people and tools write: YAML files by name, and the category of a COCO annotation file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from distilpose.errors import ConfigError
from distilpose.files import read_yaml
from distilpose.skeletons.definition import Pairs, Skeleton
from distilpose.skeletons.names import index_of, name_key, pairs_by_name
from distilpose.skeletons.people import COCO_17, SKELETONS

logger = logging.getLogger(__name__)

# For a keypoint without a constant: the middle of COCO's 17, which run from an eye (0.025) to a hip (0.107).
DEFAULT_OKS_SIGMA = 0.072
FILE_ENDINGS = (".yaml", ".yml", ".json")
_FIELDS = ("name", "keypoints", "flip_pairs", "edges", "upper_body", "lower_body", "oks_sigmas")


def find_skeleton(name_or_file: str, root: str | Path = ".", *, only_labels: bool = False) -> Skeleton:
    """A built-in skeleton by its name (`SKELETONS`), or one of a YAML or JSON file (`skeleton_from_file`).

    Args:
        name_or_file: of the skeleton.
        root: folder that a relative path starts from.
        only_labels: it is needed for its names alone, so that nothing is said of what it leaves out.

    Raises:
        ConfigError: there is no such skeleton, or the file is unusable.
    """
    if name_or_file in SKELETONS:
        return SKELETONS[name_or_file]
    if name_or_file.endswith(FILE_ENDINGS):
        return skeleton_from_file(Path(root) / name_or_file, only_labels=only_labels)
    raise ConfigError(
        f"skeleton must be one of {', '.join(SKELETONS)}, or a file ending in {', '.join(FILE_ENDINGS)}; got "
        f"{name_or_file!r}"
    )


def skeleton_from_file(file: str | Path, *, only_labels: bool = False) -> Skeleton:
    """Read a skeleton that a person wrote, in YAML or JSON; everything is said by name.

    Fields: ``keypoints``, a list of names, is needed. ``name``; ``flip_pairs`` and ``edges``, lists of pairs of names;
    ``upper_body`` and ``lower_body``, lists of names; ``oks_sigmas``, one number, a list, or numbers by name. In a
    flip pair the left keypoint comes first; two whose names tell their sides are put in this order. What is missing is
    assumed as in `skeleton_from_category`, and logged once, if not ``only_labels``.

    Raises:
        ConfigError: the file cannot be read, a field is unknown or broken, or names a keypoint that is not there.
    """
    path = Path(file)
    content = read_yaml(path, "a skeleton")
    try:
        skeleton, assumed = _from_fields(content, path.stem)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not only_labels:
        _say(str(path), assumed)
    return skeleton


def skeleton_from_category(category: Mapping[str, Any], *, only_labels: bool = False) -> Skeleton:
    """Read the skeleton of an entry of ``categories`` in a COCO annotation file.

    COCO's own fields are ``keypoints`` and ``skeleton`` (edges, numbered from 1); ``flip_pairs``, ``oks_sigmas``,
    ``upper_body`` and ``lower_body`` are read as in `skeleton_from_file` if a file has them. A category with the
    keypoints of a built-in skeleton gives that skeleton, changed by what it has of the latter. For others, what is
    missing is assumed and logged once: pairs by names with left and right, COCO's OKS constant or else
    `DEFAULT_OKS_SIGMA`, no halves of the body.

    Raises:
        ConfigError: it has no keypoints, or a field is broken.

    Example:
        >>> skeleton_from_category({"name": "person", "keypoints": list(COCO_17.keypoint_names)}).name
        'coco_17'
    """
    if not isinstance(category.get("keypoints"), list):
        raise ConfigError(f"expected a COCO category with keypoints, a list of names; got {dict(category)}")
    title = str(category.get("name", "custom"))
    try:
        return _from_category(category, title, only_labels)
    except ConfigError as error:
        raise ConfigError(f"category {title!r}: {error}") from error


def _from_category(category: Mapping[str, Any], title: str, only_labels: bool) -> Skeleton:
    names = _names(category["keypoints"])
    extra = {name: category[name] for name in _FIELDS[2:] if name in category}
    known = next((known for known in SKELETONS.values() if known.has_keypoints(names)), None)
    if known is not None and not extra:
        return known
    base = {} if known is None else replace(known, keypoint_names=names).to_fields()
    if known is not None and isinstance(extra.get("oks_sigmas"), Mapping):
        extra["oks_sigmas"] = {**base["oks_sigmas"], **extra["oks_sigmas"]}
    if edges := _edges(category.get("skeleton"), names, title):
        base["edges"] = edges
    skeleton, assumed = _from_fields({**base, **extra, "name": title, "keypoints": list(names)}, title)
    if not only_labels:
        _say(f"the category {title!r}", assumed)
    return skeleton


def _edges(given: Any, names: Sequence[str], title: str) -> list[list[str]]:
    """Pairs of names of COCO's pairs of indices, from 1; broken ones are left out with a warning."""
    edges = given if isinstance(given, list) else []
    pairs = [edge for edge in edges if isinstance(edge, list) and len(edge) == 2 and all(type(i) is int for i in edge)]
    zero = any(0 in edge for edge in pairs)
    good = [edge for edge in pairs if not zero and edge[0] != edge[1] and all(1 <= i <= len(names) for i in edge)]
    if given and len(good) < max(1, len(edges)):
        logger.warning(
            "category %r: skeleton must hold pairs of whole numbers from 1 to %d%s: %d of %d are left out",
            title, len(names), "; COCO counts from 1, not from 0" if zero else "", len(edges) - len(good), len(edges),
        )  # fmt: skip
    return [[names[a - 1], names[b - 1]] for a, b in good]


def _names(given: Sequence[Any]) -> tuple[str, ...]:
    """Names of keypoints; numbers are names too, as YAML reads ``1`` so."""
    for name in given:
        if isinstance(name, bool) or not isinstance(name, str | int | float):
            raise ConfigError(f"keypoints must be a list of names, got {name!r}: put a name like yes or no in quotes")
    return tuple(str(name) for name in given)


def _from_fields(values: Any, title: str) -> tuple[Skeleton, tuple[str, ...]]:
    """A skeleton from fields by name, and what was assumed in place of missing ones."""
    if not isinstance(values, Mapping) or not isinstance(values.get("keypoints"), list):
        raise ConfigError(f"expected fields {', '.join(_FIELDS)}, at least keypoints, a list of names; got {values!r}")
    unknown = sorted(str(key) for key in values if key not in _FIELDS)
    if unknown:
        raise ConfigError(f"unknown {', '.join(unknown)}: the fields of a skeleton are {', '.join(_FIELDS)}")
    names = _names(values["keypoints"])
    assumed: list[str] = []
    flip_pairs = _pairs(values, "flip_pairs", names)
    if flip_pairs is None:
        flip_pairs = pairs_by_name(names)
        text = ", ".join(f"{names[a]} - {names[b]}" for a, b in flip_pairs)
        assumed.append(f"flip_pairs by their names: {text or 'none, a mirrored image keeps its keypoints'}")
    edges = _pairs(values, "edges", names)
    if edges is None:
        assumed.append("edges: none, so that keypoints are drawn without lines")
    skeleton = Skeleton(
        name=str(values.get("name", title)),
        keypoint_names=names,
        flip_pairs=tuple(_left_first(pair, names) for pair in flip_pairs),
        edges=edges or (),
        upper_body=_indices(values, "upper_body", names),
        lower_body=_indices(values, "lower_body", names),
        oks_sigmas=_sigmas(values.get("oks_sigmas"), names, assumed),
    )
    if not skeleton.upper_body and not skeleton.lower_body:
        assumed.append("upper_body and lower_body: none, so that crops of half a body are not drawn in training")
    return skeleton, tuple(assumed)


def _pairs(values: Mapping[str, Any], field: str, names: Sequence[str]) -> Pairs | None:
    given = values.get(field)
    if given is None:
        return None
    if not isinstance(given, list) or any(not isinstance(pair, list) or len(pair) != 2 for pair in given):
        raise ConfigError(f"{field} must be a list of pairs of names, such as [[{names[0]}, {names[-1]}]]; got {given}")
    return tuple((index_of(a, names, field), index_of(b, names, field)) for a, b in given)


def _left_first(pair: tuple[int, int], names: Sequence[str]) -> tuple[int, int]:
    """A flip pair whose names both tell their side, the left one first; any other as it is."""
    sides = tuple(name_key(names[index]).side for index in pair)
    return pair[::-1] if sides == ("right", "left") else pair


def _indices(values: Mapping[str, Any], field: str, names: Sequence[str]) -> tuple[int, ...]:
    given = values.get(field) or ()
    if not isinstance(given, list | tuple):
        raise ConfigError(f"{field} must be a list of names, got {given!r}")
    return tuple(index_of(name, names, field) for name in given)


def _sigmas(given: Any, names: Sequence[str], assumed: list[str]) -> tuple[float, ...]:
    """K constants from one number, K numbers, or numbers by name; what is not given is assumed."""
    by_name: dict[str, Any] = {}
    if isinstance(given, int | float):
        by_name = dict.fromkeys(names, given)
    elif isinstance(given, list) and len(given) == len(names):
        by_name = dict(zip(names, given, strict=True))
    elif isinstance(given, Mapping):
        by_name = {names[index_of(name, names, "oks_sigmas")]: value for name, value in given.items()}
    elif given is not None:
        raise ConfigError(f"oks_sigmas must be a number, {len(names)} numbers, or numbers by name; got {given!r}")
    coco = {name_key(name): sigma for name, sigma in zip(COCO_17.keypoint_names, COCO_17.oks_sigmas, strict=True)}
    if lacking := [name for name in names if name not in by_name]:
        shown = ", ".join(lacking if len(lacking) <= 6 else [*lacking[:5], f"{len(lacking) - 5} more"])
        assumed.append(f"oks_sigmas of {shown}: COCO's where COCO has that keypoint, else {DEFAULT_OKS_SIGMA}")
    sigmas = [by_name.get(name, coco.get(name_key(name), DEFAULT_OKS_SIGMA)) for name in names]
    if not all(type(sigma) in (int, float) and abs(sigma) <= sys.float_info.max for sigma in sigmas):
        raise ConfigError(f"oks_sigmas must be numbers, finite and positive, got {given!r}")
    return tuple(float(sigma) for sigma in sigmas)


@lru_cache(maxsize=256)
def _say(where: str, assumed: tuple[str, ...]) -> None:
    """Tell what was assumed, once for each place; the cache is the memory of what was said."""
    if assumed:
        logger.warning(
            "skeleton of %s, not given and so assumed: %s. To set it, write these fields in a YAML file "
            "(docs/custom_skeleton.md) and name the file: data.skeleton in training, --skeleton in evaluate.",
            where,
            "; ".join(assumed),
        )
