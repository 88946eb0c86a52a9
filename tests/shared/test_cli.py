"""Command lines from dataclasses: every kind of field, and one sentence for whatever is wrong."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from shared.cli import RunError, UsageError, command, first_values, parse, stop_between_steps


@dataclass(frozen=True)
class Inner:
    n_layer: Annotated[int, "blocks"] = 4

    def __post_init__(self):
        if self.n_layer < 1:
            raise ValueError(f"n_layer is {self.n_layer}; at least 1 of n_layer is expected")


@dataclass(frozen=True)
class Outer:
    name: Annotated[str, "a name, 100% free"] = "x"
    inner: Inner = Inner()
    rate: Annotated[float, "a rate"] = 0.5
    top: Annotated[int | None, "a limit"] = None
    kind: Annotated[Literal["a", "b"], "a kind"] = "a"
    quiet: Annotated[bool, "say nothing"] = False


def parsed(*argv):
    return parse(Outer(), argv, prog="prog", description="Does it.", examples=["prog --name y"])


def test_every_kind_of_field_becomes_a_flag():
    assert parsed() == Outer()
    changed = parsed("--name", "y", "--n-layer", "6", "--rate=1e-3", "--top", "3", "--kind", "b", "-q")
    assert changed == Outer("y", Inner(6), 1e-3, 3, "b", True)


def test_help_shows_text_default_and_example_of_every_flag(capsys):
    with pytest.raises(SystemExit, match="0"):
        parsed("--help")
    shown = " ".join(capsys.readouterr().out.split())
    for part in ("Does it.", "--n-layer INT blocks (default: 4)", "a name, 100% free (default: 'x')", "prog --name y"):
        assert part in shown


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--nlayer", "3"], r"^there is no flag --nlayer \(perhaps --n-layer is meant\); prog --help lists"),
        (["--n-lay=3"], r"^there is no flag --n-lay \(perhaps --n-layer is meant\); prog"),
        (["--heads", "3"], "^there is no flag --heads; prog"),
        (["-x"], "unrecognized arguments: -x"),
        (["--name", "--nlayer"], "argument --name: expected one argument .one that begins with a dash"),
        (["--n-layer", "many"], "argument --n-layer: invalid int value: 'many'"),
        (
            ["--n-layer"],
            "argument --n-layer: expected one argument .one that begins with a dash is given as --flag=value.; prog",
        ),
        (["--kind", "c"], "argument --kind: invalid choice: 'c'"),
        (["--n-layer", "0"], "^--n-layer is 0; at least 1 of --n-layer is expected$"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(argv, message):
    with pytest.raises(UsageError, match=message) as caught:
        parsed(*argv)
    assert "\n" not in str(caught.value)


def test_positional_fields_are_given_without_their_names():
    def given(*argv):
        return parse(Outer(), argv, prog="prog", description="", examples=[], positional="name kind")

    assert given("y", "b", "--rate", "1") == Outer("y", rate=1, kind="b")
    for argv, message in (
        (["y"], "the following arguments are required: kind;"),
        (["y", "c"], "argument kind: invalid choice: 'c'"),
        (["y", "b", "z"], "unrecognized arguments: z;"),
    ):
        with pytest.raises(UsageError, match=message):
            given(*argv)


def test_a_positional_field_in_brackets_may_be_left_out():
    def given(*argv):
        return parse(Outer(), argv, prog="prog", description="", examples=[], positional="name [kind]")

    assert given("y") == Outer("y")
    assert given("y", "b") == Outer("y", kind="b")
    for argv, message in (
        ([], "the following arguments are required: name"),
        (["y", "c"], "argument kind: invalid choice: 'c'"),
        (["y", "b", "z"], "unrecognized arguments: z;"),
        (["y", "--rat", "1"], "there is no flag --rat .perhaps --rate is meant"),
    ):
        with pytest.raises(UsageError, match=message):
            given(*argv)
    assert given("y", "--", "b") == Outer("y", kind="b")


def test_first_values_ignore_all_but_the_flags_asked_for():
    assert first_values(["--steps", "3", "--preset=debug", "--other"], "prog", "preset", "data") == {"preset": "debug"}


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [(UsageError("no"), 2, "error: no\n"), (RunError("no"), 1, "error: no\n"), (KeyboardInterrupt(), 130, "stopped\n")],
)
def test_a_command_answers_with_a_status_and_a_sentence(capsys, error, status, said):
    @command
    def main(argv):
        raise error

    assert main([]) == status
    assert capsys.readouterr().err == said


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no such signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_first_signal_is_noted_and_the_second_is_as_always(capfd, name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with stop_between_steps() as stop_asked:
        assert stop_asked() == 0
        os.kill(os.getpid(), number)
        assert stop_asked() == number and signal.getsignal(number) == before
    assert signal.getsignal(number) == before
    assert capfd.readouterr().err.startswith("\nfinishing this step")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no such signals")
def test_a_signal_that_is_to_be_ignored_stays_ignored():
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_between_steps() as stop_asked:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop_asked() == 0
    finally:
        signal.signal(signal.SIGINT, previous)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no such signals")
def test_sigterm_is_answered_like_ctrl_c(capsys):
    @command
    def main(argv):
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    assert main([]) == 143
    assert capsys.readouterr().err == "stopped\n" and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_reader_that_leaves_ends_the_command_without_a_word():
    program = (
        "import sys; from shared.cli import command; sys.exit(command(lambda argv: [print('line') for _ in iter(int, 1)])())"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None and run.stderr is not None
        run.stdout.readline()
        run.stdout.close()
        assert (run.stderr.read(), run.wait()) == (b"", 1)


@pytest.mark.parametrize(
    "raised",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 TB\nstack of C++"),
        RuntimeError("CUDA out of memory. Tried to allocate 20 GiB"),
    ],
)
def test_out_of_memory_is_one_sentence_with_the_way_out(raised, capsys):
    def main(argv=None):
        raise raised

    assert command(main)() == 1
    error = capsys.readouterr().err
    assert error.startswith("error: out of memory; a smaller model or batch is needed") and error.count("\n") == 1


def test_other_runtime_errors_are_bugs_and_keep_their_traceback():
    def main(argv=None):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        command(main)()
