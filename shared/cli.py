"""Command lines made from frozen dataclasses: one flag for each field, one sentence for whatever is wrong.

Every runnable module of the course goes through here, so that all of them behave alike: exit status 0 when done, 2 for
wrong use, 1 for a failure, 130 when stopped by Ctrl-C, 143 by SIGTERM.
"""

import argparse
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from functools import wraps
from io import TextIOWrapper
from itertools import pairwise, takewhile
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")


class UsageError(Exception):
    """Wrong use: a flag, a file or a combination that cannot work. The message says what to do instead."""


class RunError(Exception):
    """A run that had to stop through no fault of the command line. The message says where it stands."""


def command(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """Make `main(argv)` answer with an exit status and one sentence on stderr where it would raise."""

    @wraps(main)
    def guarded(argv: Sequence[str] | None = None) -> int:
        if isinstance(sys.stdout, TextIOWrapper):  # a terminal that cannot show a character shows another one
            sys.stdout.reconfigure(errors="replace")
        try:
            with _sigterm_raises():
                return main(argv)
        except UsageError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except BrokenPipeError:  # whoever read our output has left, as `head` does
            silence_stdout()
            return 1
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0]
            print(f"error: out of memory; a smaller model or batch is needed ({reason})", file=sys.stderr)
            return 1
        except (RunError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return 130
        except _Terminated:
            print("stopped", file=sys.stderr)
            return 143

    return guarded


def parse(
    defaults: Config,
    argv: Sequence[str] | None,
    prog: str,
    description: str,
    examples: Sequence[str],
    positional: str = "",
) -> Config:
    """`defaults` with the fields that `argv` names as flags (`--n-layer 6`) replaced; nested dataclasses are flattened.

    A field is declared as `name: Annotated[type, "help text"] = default` with type int, float, str, bool, a Literal of
    strings, or one of these with None. The fields named in `positional` ("what path [rest]"), each a Literal or a str, are
    given without their names, in the fields' order, and must be, but for those in brackets.
    Raises UsageError for anything it does not understand.
    """
    parser = _Parser(
        prog=prog,
        description=description,
        epilog="examples:\n" + "\n".join(f"  {example}" for example in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for name, kind, help_text, default in _leaves(defaults):
        flag, shown = "--" + name.replace("_", "-"), f"{help_text} (default: {default!r})".replace("%", "%%")
        if name in positional.split():
            parser.add_argument(name, choices=get_args(kind) or None, help=help_text)
        elif f"[{name}]" in positional.split():
            parser.add_argument(name, nargs="?", default=default, choices=get_args(kind) or None, help=shown)
        elif kind is bool:
            short = ["-q"] if name == "quiet" else []
            parser.add_argument(*short, flag, action="store_true", help=shown)
        elif get_origin(kind) is Literal:
            parser.add_argument(flag, choices=get_args(kind), help=shown)
        else:
            parser.add_argument(flag, type=kind, metavar=kind.__name__.upper(), help=shown)
    parser.refuse_unknown_flags(sys.argv[1:] if argv is None else argv)
    given = vars(parser.parse_args(argv))
    try:
        return _replaced(defaults, given)
    except ValueError as error:
        raise UsageError(_with_flags(str(error), {leaf[0] for leaf in _leaves(defaults)})) from None


@contextmanager
def stop_between_steps() -> Iterator[Callable[[], int]]:
    """Within this block the first Ctrl-C, SIGTERM or SIGHUP only makes the yielded function say so; the next one is as always.

    The function returns the signal's number, 0 before there is one. A program that a signal ends exits with 128 + number.
    A signal that whoever started the program has told it to ignore stays ignored.
    """
    asked = [0]
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    previous = {number: signal.getsignal(number) for number in numbers}
    previous = {number: handler for number, handler in previous.items() if handler not in (signal.SIG_IGN, None)}

    def note(number: int, frame: object) -> None:
        asked[0] = number
        again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
        for each, handler in previous.items():
            signal.signal(each, handler)
        with suppress(OSError):  # Ctrl-C may have ended the reader of stderr too
            os.write(2, f"\nfinishing this step{again}\n".encode())  # print may not interrupt another print

    for number in previous:
        signal.signal(number, note)
    try:
        yield lambda: asked[0]
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def silence_stdout() -> None:
    """Nobody reads what is printed any more: let it go nowhere, without an error at every line."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def first_values(argv: Sequence[str] | None, prog: str, *names: str) -> dict[str, str]:
    """The values of some flags, for what must be known before `parse` has its defaults; wrong flags are left to `parse`."""
    parser = _Parser(prog=prog, add_help=False, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    for name in names:
        parser.add_argument("--" + name)
    return vars(parser.parse_known_args(argv)[0])


def duration(seconds: float) -> str:
    """A length of time as a reader would say it: 40 s, 6 min, 3 h, 5 days."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} s"


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation has failed: Python's, or PyTorch's, whose error on a CPU has no class of its own."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in said or "can't allocate memory" in said


class _Terminated(BaseException):
    """SIGTERM, where nobody has asked to hear of it between two steps."""


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Within this block SIGTERM raises _Terminated, as Ctrl-C raises KeyboardInterrupt, unless it is handled already."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def terminate(number: int, frame: object) -> NoReturn:
        raise _Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Parser(argparse.ArgumentParser):
    def refuse_unknown_flags(self, argv: Sequence[str]) -> None:
        """Raises UsageError for the first one; argparse would first take its value for something else."""
        known = self._option_string_actions
        for before, argument in pairwise(["", *takewhile(lambda argument: argument != "--", argv)]):
            flag = argument.partition("=")[0]
            is_value = before in known and known[before].nargs != 0  # argparse says how to give it
            if re.fullmatch(r"--[\w-]+", flag) and flag not in known and not is_value:
                near = get_close_matches(flag, known, n=1, cutoff=0.75)
                self.error(f"there is no flag {flag}" + (f" (perhaps {near[0]} is meant)" if near else ""))

    def error(self, message: str) -> NoReturn:
        if message.endswith("expected one argument"):
            message += " (one that begins with a dash is given as --flag=value)"
        raise UsageError(f"{message}; {self.prog} --help lists what there is")


def _leaves(config: Any) -> Iterator[tuple[str, Any, str, Any]]:
    hints = get_type_hints(type(config), include_extras=True)
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from _leaves(value)
        elif get_origin(hints[field.name]) is Annotated:
            kind, help_text = get_args(hints[field.name])
            if isinstance(kind, UnionType):  # `int | None`: the flag takes an int
                kind = get_args(kind)[0]
            yield field.name, kind, help_text, value


def _replaced(config: Config, given: dict[str, Any]) -> Config:
    changes = {}
    for field in fields(config):
        value: Any = getattr(config, field.name)
        if is_dataclass(value) and not isinstance(value, type):
            changes[field.name] = _replaced(value, given)
        elif field.name in given:
            changes[field.name] = given[field.name]
    return replace(config, **changes)


def _with_flags(message: str, names: set[str]) -> str:
    """The message of a configuration, which speaks of `n_head`, as its user on the command line knows it: `--n-head`."""
    return re.sub(r"^\w+|\w+_\w+", lambda m: "--" + m[0].replace("_", "-") if m[0] in names else m[0], message)
