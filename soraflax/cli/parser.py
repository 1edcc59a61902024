"""What every command line of the project shares: a parser, argument types, a runner.

A command is a function that takes parsed arguments. `Parser` reads them and shows every
default in `--help`; `run_command` runs it, and turns what goes wrong into one line on
standard error and an exit status:

    0    done
    2    bad input: the line says what is wrong and the nearest right value
    3    refused by a filter (`--guard`)
    130  Ctrl-C
    141  the reader of standard output went away (`soraflax info DIR | head -1`)

Nothing here imports JAX, NumPy or PyAV, so that `--help` is quick.
"""

import _thread
import argparse
import atexit
import contextlib
import dataclasses
import gc
import importlib
import importlib.util
import math
import os
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn, Protocol, runtime_checkable

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE

# The extras of the package, and what each adds to the one before, or to `BASES`.
EXTRAS = {
    "media": ("PIL", "av", "scipy", "sentencepiece", "tqdm"),
    "data": (
        "absl",
        "array_record",
        "fsspec",
        "grain",
        "importlib_resources",
        "pymunk",
        "tensorflow_datasets",
    ),
    "train": (
        "matplotlib",
        "ml_collections",
        "optax",
        "orbax",
        "tensorboardX",
    ),
    "parquet": ("pyarrow",),
    "c2pa": ("c2pa", "cryptography"),
    "plan": ("libtpu",),
    "ui": ("gradio",),
}
BASES = {
    "data": "media",
    "train": "data",
    "parquet": "data",
    "c2pa": "media",
    "plan": "train",
    "ui": "media",
}


class HelpFormatter(argparse.HelpFormatter):
    """Shows the default of every option; keeps indented lines of a text as they are."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        optional = action.option_strings or action.nargs in ("?", "*")
        nothing = default is None or default is False or default in ("", [], ())
        if nothing or default == argparse.SUPPRESS or not optional or "default" in text:
            return text
        return f"{text} (default: {spelled(default).replace('%', '%%')})"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip("\n").split("\n\n")
        return "\n\n".join(
            "\n".join(indent + line for line in paragraph.splitlines())
            if "\n " in f"\n{paragraph}"
            else super(HelpFormatter, self)._fill_text(paragraph, width, indent)
            for paragraph in paragraphs
        )


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and exits with 2.

    An optional positional argument, such as a prompt, may stand after flags: argparse
    of Python 3.11 takes it for absent where the arguments before it stand apart.

    Attributes:
      overrides: name of the argument that takes a list of everything unknown, such as
        fields of a config; None, the default, refuses what is unknown.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **{"formatter_class": HelpFormatter} | settings)
        self.overrides: str | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = super().parse_known_args(args, namespace)
        if self.overrides is not None:
            return argparse.Namespace(**vars(parsed) | {self.overrides: unknown}), []
        for action in self._actions:
            if action.option_strings or action.nargs != "?":
                continue
            if getattr(parsed, action.dest) == action.default and _is_text(unknown):
                setattr(parsed, action.dest, unknown[-1])
                return parsed, []
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: {message} (see --help)\n")


def _is_text(words: Sequence[str]) -> bool:
    """Whether the words are one argument, and no flag."""
    if len(words) == 1:
        return not words[0].startswith("-") or " " in words[0]
    return len(words) == 2 and words[0] == "--"


def spelled(value: object) -> str:
    """A value as it is typed: `96x64` for tuples of integers, `0.1,0.9` for others."""
    if isinstance(value, tuple):
        whole = all(isinstance(part, int) for part in value)
        return ("x" if whole else ",").join(map(spelled, value))
    return str(value)


@runtime_checkable
class Command(Protocol):
    """A module with one command: what it reads, and what it does."""

    def add_parser(self, subparsers: Any) -> Parser:
        """Add the command's parser to what `Parser.add_subparsers` gave."""
        ...

    def run(self, args: argparse.Namespace) -> None:
        """Do it; ValueError, OSError and ImportError become one line."""
        ...


@dataclasses.dataclass(frozen=True)
class Delegate:
    """A command whose module parses for itself, and is loaded when it is named.

    Attributes:
      name: of the command.
      module: dotted name of a module with `main(argv) -> int`.
      summary: its line in the list of commands.
      EXTRA: the extra that it needs.
    """

    name: str
    module: str
    summary: str
    EXTRA: str

    def add_parser(self, subparsers: Any) -> Parser:
        parser = subparsers.add_parser(self.name, help=self.summary, add_help=False)
        parser.overrides = "words"
        return parser

    def run(self, args: argparse.Namespace) -> None:
        status = importlib.import_module(self.module).main(args.words)
        if status:
            sys.exit(status)


def dispatch(
    commands: Iterable[Command],
    argv: Sequence[str] | None = None,
    *,
    prog: str = "soraflax",
    description: str | None = None,
    version: str | None = None,
) -> int:
    """Parse the name of a command and its arguments, and run it; the exit status.

    Args:
      commands: modules, each with one command; an attribute `EXTRA` of theirs is the
        extra that they need.
      argv: the words after the program's name; those of this process by default.
      prog: the program's name.
      description: the first paragraph of its help.
      version: what `--version` prints.
    """
    parser = Parser(prog=prog, description=description)
    if version is not None:
        parser.add_argument(
            "--version", action="version", version=version, help="print it, and exit"
        )
    subparsers = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=Parser
    )
    modules = {}
    for command in commands:
        name = command.add_parser(subparsers).prog.split()[-1]
        modules[name] = command
    args = parser.parse_args(argv)
    command = modules[args.command]
    return run_command(
        f"{prog} {args.command}",
        lambda: command.run(args),
        extra=getattr(command, "EXTRA", "media"),
    )


def run_command(
    name: str,
    run: Callable[[], object],
    *,
    extra: str = "media",
    interrupted: str = "nothing was written",
) -> int:
    """Run a command; its exit status, after one line on standard error if it fails.

    Args:
      name: how messages begin, `soraflax generate`.
      run: the work, its arguments bound; imports that take time belong inside.
      extra: the extra of `EXTRAS` with all that it needs, named where a module is
        missing.
      interrupted: what Ctrl-C or SIGTERM leaves behind, where `run` raises
        KeyboardInterrupt without saying.
    """
    try:
        with interruptible(), terminable(), few_collections():
            run()
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes standard output once more at exit, which must not fail.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except (ValueError, OSError, ImportError) as error:
        message = one_line(_missing_modules(error, extra) or words_of(error))
        print(f"{name}: {message}", file=sys.stderr)
        # `generation.guardrails.RefusedError` has its own.
        return getattr(error, "exit_status", EXIT_BAD_INPUT)
    except KeyboardInterrupt as stop:
        print(f"{name}: stopped; {str(stop) or interrupted}", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def words_of(error: Exception) -> str:
    """What an error says; one of the system without its number, the file first."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    said = error.strerror[0].lower() + error.strerror[1:]
    names = (error.filename, error.filename2)
    files = [os.fsdecode(n) for n in names if isinstance(n, str | bytes | os.PathLike)]
    return ": ".join([" to ".join(files)] * bool(files) + [said])


def one_line(text: str) -> str:
    """A message in one line; what names of files hold besides text is escaped."""
    text = " ".join(text.split())
    escaped = (
        f"\\x{ord(c):02x}" if unicodedata.category(c) == "Cc" else c for c in text
    )
    return "".join(escaped).encode("utf-8", "backslashreplace").decode("utf-8")


@contextlib.contextmanager
def few_collections() -> Iterator[None]:
    """Looks for cycles of garbage a hundredth as often, and not at the very end.

    Importing and tracing make many objects that stay, over which Python's collector
    goes again and again: a tenth of the time until the first step. At its end a process
    would go over all of them once more, to free what the system frees anyway.
    """
    before = gc.get_threshold()
    gc.set_threshold(100 * before[0], *before[1:])
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C stops the work even where Python ignores it.

    What interrupts a callback of the garbage collector is printed and forgotten, and
    JAX has such a callback.
    """
    previous, timers = sys.unraisablehook, []

    def hook(unraisable: Any) -> None:
        if unraisable.exc_type is not KeyboardInterrupt:
            previous(unraisable)
            return
        # Not at once: inside the callback it would be ignored again.
        timer = threading.Timer(0.1, _thread.interrupt_main)
        timer.daemon = True
        timers.append(timer)
        timer.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = previous
        for timer in timers:
            timer.cancel()


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM stops the work as Ctrl-C does: drafts are removed, and it is said.

    Training, caching and exporting heed it themselves, at places of their own
    (`train.stopping`). Of several processes it is JAX's preemption service that has the
    signal, which this does not take away.
    """

    def stop(_: int, __: object) -> None:
        raise KeyboardInterrupt

    jax = sys.modules.get("jax")
    several = jax is not None and jax.distributed.is_initialized()
    main = threading.current_thread() is threading.main_thread()
    if several or not main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _missing_modules(error: Exception, extra: str) -> str:
    """All modules of an extra that are missing, if one could not be imported."""
    module = (getattr(error, "name", None) or "").partition(".")[0]
    sources = [name for name in EXTRAS if module in EXTRAS[name]]
    if not sources:
        return ""
    needed = extra if module in modules_of(extra) else sources[0]
    modules = modules_of(needed)
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    names = ", ".join(missing or [module])
    return f"{names} not installed: pip install 'soraflax[{needed}]'"


def modules_of(extra: str) -> tuple[str, ...]:
    """Everything that an extra installs, that of the extra in it first."""
    inner = modules_of(BASES[extra]) if extra in BASES else ()
    return (*inner, *EXTRAS[extra])


def size(text: str) -> tuple[int, int]:
    """`WIDTHxHEIGHT` in pixels."""
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not WIDTHxHEIGHT, for example 96x64"
        ) from None
    return width, height


def positive_int(text: str) -> int:
    """A whole number above 0."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is too small: use 1 or more")
    return value


def int_up_to(maximum: int) -> Callable[[str], int]:
    """The type of a whole number from 1 to `maximum`."""

    def convert(text: str) -> int:
        value = positive_int(text)
        if value > maximum:
            raise argparse.ArgumentTypeError(
                f"{value} is too large: use {maximum} or less"
            )
        return value

    return convert


def finite_float(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text}: use a finite number")
    return value


def non_negative_float(text: str) -> float:
    """A finite number from 0."""
    value = finite_float(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is too small: use 0 or more")
    return value


def positive_float(text: str) -> float:
    """A finite number above 0."""
    value = finite_float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text}: use a number above 0")
    return value


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 <= value <= 1:
        nearest = "1" if value > 1 else "0"
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1]: use {nearest}")
    return value


def block_numbers(text: str) -> tuple[int, ...]:
    """`N,N,...`, numbers of blocks from 0."""
    if not all(part.isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not N or N,N, numbers from 0, for example 3"
        )
    return tuple(int(part) for part in text.split(","))


def interval(text: str) -> tuple[float, float]:
    """`LOW,HIGH`, noise levels in [0, 1]."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not LOW,HIGH, for example 0.1,0.9"
        ) from None
    if not 0 <= low <= high <= 1:
        raise argparse.ArgumentTypeError(f"{text}: need 0 <= LOW <= HIGH <= 1")
    return low, high
