"""What a command is, and the parser that is made from its options."""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from distilpose.errors import printable, require_package
from distilpose.options import OptionType, option_types

if TYPE_CHECKING:
    import jsonargparse
    from rich.console import Console

_METAVARS = {int: "N", float: "X"}


class Command(NamedTuple):
    """One subcommand.

    ``options`` is ``module:Class`` of the frozen dataclass that ``run`` takes, imported when the command is called;
    or a function (jsonargparse parser, words) that adds arguments and parses; ``run`` takes its namespace.
    """

    summary: str  # what it does, in one line
    examples: tuple[str, ...]  # its arguments, the simplest first
    options: str | Callable[[jsonargparse.ArgumentParser, Sequence[str]], jsonargparse.Namespace]
    run: Callable[[Any], int]  # does it and returns the exit code


def table_console() -> Console:
    """For tables on the standard output: in a file or pipe as wide as they are, not 80 columns with cut words."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=200)


@dataclass(frozen=True)
class NoOptions:
    """Nothing to choose."""


def read_options(command: Command, name: str, words: Sequence[str]) -> Any:
    """Words of a command line -> an instance of the command's options class; a wrong one exits with 2."""
    parser = _Parser(name, command)
    options = add_options(parser, command, explain="-h" in words or "--help" in words)
    values = vars(parser.parse_args(words))
    if values["verbose"]:
        logging.getLogger("distilpose").setLevel(logging.INFO)
    return _build(options, values)


def add_options(parser: argparse.ArgumentParser, command: Command, *, explain: bool = True) -> type:
    """Give a parser the options of a command with an options class, and return the class."""
    assert isinstance(command.options, str)
    module, _, class_name = command.options.partition(":")
    options: type = getattr(import_module(module), class_name)
    _add_arguments(parser, options, explain=explain)
    parser.add_argument("--verbose", action="store_true", help="say which library, device and threads run a network")
    return options


def completion_script(commands: Mapping[str, Command], shell: str) -> str:
    """The script that completes commands and their options in a shell: ``bash``, ``zsh`` or ``tcsh``."""
    require_package("shtab", "completion")
    import shtab

    parser = argparse.ArgumentParser("distilpose")
    parsers = parser.add_subparsers()
    for name, command in commands.items():
        one = parsers.add_parser(name, help=command.summary)
        if isinstance(command.options, str):  # the others take a configuration file
            add_options(one, command)
    script: str = shtab.complete(parser, shell)
    return script


def examples_text(name: str, examples: Sequence[str]) -> str:
    """The examples of a command as lines to type."""
    return "\n".join(f"  distilpose {name} {example}".rstrip() for example in examples)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors show what a right call looks like."""

    def __init__(self, name: str, command: Command) -> None:
        super().__init__(
            prog=f"distilpose {name}",
            description=command.summary,
            epilog=f"examples:\n{examples_text(name, command.examples)}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._shown = examples_text(name, command.examples[:3])

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit with 2."""
        wrong = [word for word in message.split() if word.startswith("--")] if message.startswith("unrec") else []
        for word in wrong:
            near = difflib.get_close_matches(word, self._option_string_actions, 1)
            message += f" (did you mean {near[0]}?)" if near else ""
        if message.startswith("argument --") and message.endswith("expected one argument"):
            name = message.removeprefix("argument ").partition(":")[0]
            message += f" (one that begins with - is written {name.partition('/')[0]}=VALUE)"
        print(f"error: {printable(message)}\nexamples:\n{self._shown}", file=sys.stderr)
        self.exit(2, f"{self.prog} --help explains all options.\n")


def _flat(options: type) -> Iterator[tuple[Field[Any], OptionType, type]]:
    """The fields of an options class and of those in it, with the class that declares each."""
    types = option_types(options)
    for item in fields(options):
        kind = types[item.name]
        if is_dataclass(kind.base):
            yield from _flat(kind.base)  # type: ignore[arg-type]
        else:
            yield item, kind, options


def _add_arguments(parser: argparse.ArgumentParser, options: type, *, explain: bool) -> None:
    helps: dict[type, dict[str, str]] = {}
    for item, kind, owner in _flat(options):
        if explain and owner not in helps:
            helps[owner] = _attribute_texts(owner)
        default = item.default if item.default_factory is MISSING else item.default_factory()
        required = default is MISSING
        text = helps[owner][item.name] if explain else ""
        if explain and "default" not in text and default not in (None, False, True, "", MISSING, [], ()):
            text += f" (default: {default})"
        flag = f"--{item.name.replace('_', '-')}"
        arguments: dict[str, Any] = {"help": text.replace("%", "%%")}
        if kind.base is bool:
            switch = argparse.BooleanOptionalAction if default else "store_true"
            parser.add_argument(flag, action=switch, default=default, **arguments)
            continue
        arguments["type"] = _reader(kind)
        arguments["metavar"] = item.metadata.get("metavar") or _METAVARS.get(kind.base, item.name.upper())
        if kind.choices:
            arguments.update(choices=kind.choices, metavar=None)
        if kind.several is not None:
            arguments["nargs"] = "+"
            if not item.metadata.get("positional"):
                arguments["action"], default = "extend", None  # a default would stay in front of what is given
        if item.metadata.get("bare"):
            arguments.update(nargs="?", const=item.metadata["bare"])
        if item.metadata.get("positional"):
            parser.add_argument(item.name, **arguments)
        else:
            parser.add_argument(flag, default=None if required else default, required=required, **arguments)


def _attribute_texts(options: type) -> dict[str, str]:
    """Help texts from the class's docstring."""
    from docstring_parser import parse

    parsed = parse(options.__doc__ or "")
    return {item.arg_name: " ".join((item.description or "").replace("``", "").split()) for item in parsed.params}


def _reader(kind: OptionType) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            value = (kind.read or kind.base)(text)
        except ValueError as error:
            expected = str(error) if kind.read else {int: "a whole number", float: "a number"}[kind.base]
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}") from error
        if kind.range is not None and value not in kind.range:
            raise argparse.ArgumentTypeError(f"must be {kind.range}, got {text}")
        return value

    return read


def _build(options: type, values: dict[str, Any]) -> Any:
    """An instance, with those in it, from parsed values of all of their fields."""
    arguments = {}
    for name, kind in option_types(options).items():
        if is_dataclass(kind.base):
            arguments[name] = _build(kind.base, values)  # type: ignore[arg-type]
        else:
            value = values[name]
            if kind.several is None:
                arguments[name] = value
            elif value is not None:
                arguments[name] = kind.several(value)
    return options(**arguments)
