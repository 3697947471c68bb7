"""The command line: parse, call one function, exit code. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence

from distilpose import __version__
from distilpose.cli import commands, training
from distilpose.cli.command import Command, completion_script, examples_text, read_options
from distilpose.cli.doctor import DOCTOR
from distilpose.compat import current_options
from distilpose.errors import ConfigError, DistilPoseError, missing_package, printable
from distilpose.files import DISK_ERRORS

COMMANDS: dict[str, Command] = {
    "predict": commands.PREDICT,
    "predict-bulk": commands.PREDICT_BULK,
    "train": training.TRAIN,
    "ablate": training.ABLATE,
    "label": commands.LABEL,
    "evaluate": commands.EVALUATE,
    "export": commands.EXPORT,
    "serve": commands.SERVE,
    "web": commands.WEB,
    "models": commands.MODELS,
    "convert": commands.CONVERT,
    "benchmark": commands.BENCHMARK,
    "doctor": DOCTOR,
}
# What installs all that a command needs.
_EXTRAS = {
    "train": "train",
    "ablate": "train",
    "label": "train",
    "export": "export",
    "evaluate": "evaluate",
    "serve": "serve",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``distilpose`` with these arguments and return its exit code.

    0: all went well. 1: bad input, or part of a batch failed. 2: wrong usage. 130: interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal in another encoding gets escapes, not an exception
            stream.reconfigure(errors="backslashreplace")
    args = current_options(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(_overview())
        return 0 if args else 2
    if args[0] == "--version":
        print(f"distilpose {__version__}")
        return 0
    name = args[0]
    if name not in (*COMMANDS, "--completion"):
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(COMMANDS)}"
        print(f"error: {printable(repr(name))} is no command of distilpose; {hint}", file=sys.stderr)
        return 2
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler])
    _end_on_hang_up()
    try:
        return _print_completion(args[1:]) if name == "--completion" else _run(name, args[1:])
    except DistilPoseError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("distilpose"):
            raise
        print(f"error: {missing_package(error.name, f'distilpose {name}', _EXTRAS.get(name))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        again = "; --resume goes on from the last whole epoch" if name in ("train", "ablate") else ""
        print(f"interrupted: what was written stays{again}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has left, as in `distilpose models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        print(f"error: {printable(error)}: expected folders that can be written to, with room", file=sys.stderr)
        return 1


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """A line without control characters of file names."""
        return printable(super().format(record))


def _end_on_hang_up() -> None:
    """Let a closed terminal end a command as SIGTERM does: files whole, processes gone. Under nohup it goes on."""
    hang_up = getattr(signal, "SIGHUP", None)  # none on Windows
    if hang_up is None or threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(hang_up) == signal.SIG_DFL:
        signal.signal(hang_up, lambda *_: signal.raise_signal(signal.SIGTERM))


def _print_completion(args: Sequence[str]) -> int:
    shells = ("bash", "zsh", "tcsh")
    if len(args) != 1 or args[0] not in shells:
        print(f"error: expected --completion and one of {', '.join(shells)}", file=sys.stderr)
        return 2
    print(completion_script(COMMANDS, args[0]))
    return 0


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [
        "usage: distilpose COMMAND ...",
        "",
        "Fast 2D human pose: distil heatmap teachers into regression students.",
        "",
        "commands:",
        *(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()),
        "",
        "examples:",
        *(examples_text(name, COMMANDS[name].examples[:1]) for name in ("predict", "serve", "train")),
        "",
        "distilpose COMMAND --help explains a command. --version prints the version, --completion bash|zsh|tcsh the",
        "completion of commands and options for a shell.",
    ]
    return "\n".join(lines)


def _run(name: str, words: list[str]) -> int:
    command = COMMANDS[name]
    if isinstance(command.options, str):
        return command.run(read_options(command, name, words))
    from jsonargparse import ArgumentParser

    training.bound_yaml()
    parser = ArgumentParser(
        prog=f"distilpose {name}",
        description=command.summary,
        epilog=f"examples:\n{examples_text(name, command.examples)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    try:
        options = command.options(parser, words)
    except ValueError as error:  # of jsonargparse, where it asks whether a text is the name of a file, and reads that
        raise ConfigError(
            f"the configuration cannot be read ({error}): expected UTF-8, and texts without null characters"
        ) from error
    return command.run(options)
