"""YAML in texts that jsonargparse reads: values of options, and values of a configuration that are texts."""

from __future__ import annotations

from functools import cache
from typing import Any

from distilpose.files import load_yaml


@cache
def bound_yaml() -> None:
    """Let jsonargparse read no YAML that `load_yaml` refuses. It sees a ``yaml.YAMLError`` instead."""
    import yaml
    from jsonargparse import get_loader, set_loader

    load = get_loader("yaml")  # reads 1e-4 as a number and dates as texts

    def load_bounded(text: str) -> Any:
        try:
            load_yaml(text)
        except ValueError as error:
            raise yaml.YAMLError(str(error)) from error
        return load(text)

    set_loader("yaml", load_bounded, (yaml.YAMLError,))
