"""The command `softmaxkit`: one thin file per verb, and one place that turns every error into a single line."""

from __future__ import annotations

import errno
import io
import os
import sys
import warnings
from collections.abc import Sequence

import typer

import softmaxkit
from softmaxkit import processes
from softmaxkit.cli.bench import bench
from softmaxkit.cli.calibrate import calibrate
from softmaxkit.cli.claims import claims
from softmaxkit.cli.compare import compare
from softmaxkit.cli.evaluate import evaluate
from softmaxkit.cli.methods import methods
from softmaxkit.cli.options import any_of
from softmaxkit.cli.recommend import recommend
from softmaxkit.cli.rtl import rtl
from softmaxkit.cli.simulate import simulate
from softmaxkit.cli.streams import unread_is_dropped
from softmaxkit.cli.study import study
from softmaxkit.cli.synth import synth
from softmaxkit.cli.tasks import tasks
from softmaxkit.cli.train import train
from softmaxkit.cli.verify import verify
from softmaxkit.flow.tools import DesignError, ToolError

app = typer.Typer(
    help="From a softmax in a PyTorch model to verified gates, and back with the numbers.",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

STOPPED = 130
"""Exit code after Ctrl-C."""

TRAINING = ("compare", "train", "study", "tasks")
"""Verbs that train, and can therefore use several processes."""

CONTINUING = (*TRAINING, "recommend", "synth")
"""Verbs that keep finished parts of their work, and take them up again."""


def _version(requested: bool) -> None:
    if requested:
        print(f"softmaxkit {softmaxkit.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)
    if processes.count() > 1:
        _join_processes(context)


def _join_processes(context: typer.Context) -> None:
    """Let rank 0 run the verb, and the other processes take part in its training runs."""
    if context.invoked_subcommand not in TRAINING:
        raise ValueError(
            f"'softmaxkit {context.invoked_subcommand}' runs in a single process; use torchrun only for "
            f"{any_of(TRAINING)}"
        )
    from softmaxkit.models.trainer import Interrupted

    context.with_resource(processes.connected())
    if not processes.is_first():
        processes.follow((Interrupted, FloatingPointError, ValueError))
        raise typer.Exit


VERBS = (
    *(compare, methods, train, calibrate, evaluate, recommend, rtl, verify, synth, simulate, bench),
    *(study, tasks, claims),
)


def _unwrapped(docstring: str) -> str:
    """Join the lines of each paragraph, so that help texts wrap at the width of the terminal."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in docstring.split("\n\n"))


for verb in VERBS:
    app.command(help=_unwrapped(verb.__doc__ or ""))(verb)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: the arguments, without the program name; None for those of this process.

    Returns:
        The exit code: 0 for success, 1 for a failure, 2 for invalid arguments, 130 if stopped by Ctrl-C.
    """
    _quieten_libraries()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error is: ± and – are not in every encoding
    with unread_is_dropped(), warnings.catch_warnings():
        warnings.showwarning = _show_warning  # type: ignore[assignment]  # it accepts all of showwarning's arguments
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    """Run a command line and report any error as a single line."""
    try:
        code = app(None if arguments is None else list(arguments), "softmaxkit", standalone_mode=False)
        if code == STOPPED:  # newer releases of Typer return it for Ctrl-C, without a word
            raise KeyboardInterrupt
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a full disk is an error with a line of its own
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        verb = next(iter(sys.argv[1:] if arguments is None else arguments), "")
        kept = "finished results are kept, and the same command continues from there"
        lost = "the same command starts again, and no file is left half written"
        return _fail(f"stopped; {kept if verb in CONTINUING else lost}", STOPPED)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        message = message.replace("Value error, ", "")  # pydantic's prefix, which Typer passes on
        stop = "" if message.endswith((".", "?")) else "."
        return _fail(f"{message}{stop} See '{context.command_path if context else 'softmaxkit'} --help'.", 2)
    except ToolError as error:
        print("error:", error, file=sys.stderr)  # several lines: it ends with the tool's last output, verbatim
        return 2 if isinstance(error, DesignError) else 1
    except (ValueError, TypeError) as error:
        return _fail(str(error), 2)
    except (FloatingPointError, RuntimeError, ModuleNotFoundError) as error:
        return _fail(str(error), 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        if not where and _is_in_deleted_folder():
            return _fail("the folder that this runs in was deleted; change to one that exists, and run it again", 2)
        if error.errno in (errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOTDIR):  # a path argument is wrong
            return _fail(f"{where}{error.strerror}", 2)
        return _fail(f"{where}{error.strerror or error}; existing files are untouched", 1)


def _is_in_deleted_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _quieten_libraries() -> None:
    """Silence progress bars and notices of libraries, which read these variables when first imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # two lines per retry without a network
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    warnings.filterwarnings("ignore", message=".*created but never used")  # Amaranth units built only for their sizes


def _show_warning(message: Warning | str, *_: object) -> None:
    """Print a warning as a single line, without its source location."""
    print("warning:", " ".join(str(message).split()), file=sys.stderr)


def _fail(message: str, code: int) -> int:
    print("error:", " ".join(message.split()), file=sys.stderr)
    return code
