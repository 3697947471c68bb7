"""Names of earlier versions that files and command lines may still use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distilpose.errors import ConfigError

# Keys of configuration files, model descriptions and records of runs.
RENAMED_KEYS = {
    "colour": "color",
    "colour_jitter": "color_jitter",
    "normalisation": "normalization",
    "normalise": "normalize",
    "optimiser": "optimizer",
    "rungs": "variants",
    "teacher_store": "teacher_cache",
}
# Values that have a new name under one key alone.
RENAMED_VALUES = {("start", "pointing"): "pointer", ("fit", "letterbox-centre"): "letterbox-center"}
RENAMED_OPTIONS = {
    "--anonymise": "--anonymize",
    "--runtimes": "--backends",
    "--no-pictures": "--no-images",
    "--no-smoothing": "--no-smooth",
    "--save-crops": "--crops",
    "--json-lines": "--format=jsonl",
    "--parquet": "--format=parquet",
}
# Keys of a training configuration that stand under another key now.
MOVED_KEYS = {"backbone_heatmap": "losses"}
# Deleted options, with the value that changes nothing: files that hold it keep loading.
DELETED_KEYS = {
    "cycles": 1, "cycle_token": 0.05, "cycle_keypoint": 1.0, "prune_after": None, "keep_tokens": None, "fade": None,
}  # fmt: skip
ANONYMIZE = ("none", "face", "body")


def current_names(values: Any, parent: str | None = None) -> Any:
    """Plain values with the keys of this version, at every depth; everything else is returned as it is.

    A deleted option is left out where it has the value that changes nothing.
    """
    if isinstance(values, list):
        return [current_names(value) for value in values]
    if not isinstance(values, Mapping):
        return values
    current = {
        RENAMED_KEYS.get(key, key): current_names(_value(key, value), key)
        for key, value in values.items()
        if key not in DELETED_KEYS or value != DELETED_KEYS[key]
    }
    for key, place in MOVED_KEYS.items():
        if key in current and parent != place and isinstance(current.get(place, {}), Mapping):
            current[place] = {key: current.pop(key), **current.get(place, {})}
    return current


def refuse_deleted(values: Any) -> None:
    """Look for deleted options in plain values, at every depth.

    Raises:
        ConfigError: there is one; the text names it.
    """
    for key, value in values.items() if isinstance(values, Mapping) else ():
        if key in DELETED_KEYS:
            raise ConfigError(f"the option {key} is gone (CHANGELOG.md says why): leave it out")
        refuse_deleted(value)
    for value in values if isinstance(values, list) else ():
        refuse_deleted(value)


def current_options(words: Sequence[str]) -> list[str]:
    """Words of a command line with the options of this version, dotted keys such as ``--optimiser.lr`` included."""
    current = []
    for word, following in zip(words, [*words[1:], ""], strict=False):
        option, equals, value = word.partition("=")
        if option.startswith("--"):
            keys = [RENAMED_KEYS.get(key, key) for key in RENAMED_OPTIONS.get(option, option)[2:].split(".")]
            if keys[-1] in MOVED_KEYS and MOVED_KEYS[keys[-1]] not in keys:
                keys.insert(-1, MOVED_KEYS[keys[-1]])
            if keys[-1] == "anonymize" and not equals and following not in ANONYMIZE and _is_source(following):
                equals, value = "=", "face"  # it had no value
            word = f"--{'.'.join(keys)}{equals}{value}"
        current.append(word)
    return current


def _value(key: Any, value: Any) -> Any:
    return RENAMED_VALUES.get((key, value), value) if isinstance(value, str) else value


def _is_source(word: str) -> bool:
    """Whether a word is another option or an input, not a value that is misspelled."""
    return not word or word[0] == "-" or not word.isalpha() or Path(word).exists()
