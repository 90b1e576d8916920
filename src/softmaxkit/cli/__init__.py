"""The command `softmaxkit`: one thin file a verb, and one place where errors become one line."""

from __future__ import annotations

import errno
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
from softmaxkit.cli.study import study
from softmaxkit.cli.synth import synth
from softmaxkit.cli.tasks import tasks
from softmaxkit.cli.train import train
from softmaxkit.cli.verify import verify
from softmaxkit.flow.tools import ToolError

app = typer.Typer(
    help="From a softmax in a PyTorch model to verified gates, and back with the numbers.",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

TRAINING = ("compare", "train", "study", "tasks")
"""Verbs that train, and so can use several processes."""


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
    """Let the first process run the verb, and the others take part in its trainings."""
    if context.invoked_subcommand not in TRAINING:
        raise ValueError(
            f"'softmaxkit {context.invoked_subcommand}' works in one process; torchrun is for {any_of(TRAINING)}"
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
for verb in VERBS:
    app.command()(verb)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: without the program's name; None for those of this process.

    Returns:
        The exit code: 0 for success, 1 for a failure, 2 for wrong arguments, 130 when stopped by Ctrl-C.
    """
    _quieten_libraries()
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning  # type: ignore[assignment]  # which takes all that it is given
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    """Run a command line, with every error as one line."""
    try:
        code = app(None if arguments is None else list(arguments), "softmaxkit", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return _fail("stopped; finished results are kept, and the same command continues from there", 130)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        message = message.replace("Value error, ", "")  # pydantic's words, with which Typer checks
        stop = "" if message.endswith((".", "?")) else "."
        return _fail(f"{message}{stop} See '{context.command_path if context else 'softmaxkit'} --help'.", 2)
    except ToolError as error:
        print("error:", error, file=sys.stderr)  # several lines: the last ones of the tool are shown as they are
        return 1
    except (ValueError, TypeError) as error:
        return _fail(str(error), 2)
    except (FloatingPointError, RuntimeError, ModuleNotFoundError) as error:
        return _fail(str(error), 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        if error.errno in (errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOTDIR):  # a path that was given
            return _fail(f"{where}{error.strerror}", 2)
        return _fail(f"{where}{error.strerror or error}; what was there before is untouched", 1)


def _quieten_libraries() -> None:
    """Keep libraries from drawing bars and giving advice among our own lines. Read when they are first imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    warnings.filterwarnings("ignore", message=".*created but never used")  # units that are only asked for their sizes


def _show_warning(message: Warning | str, *_: object) -> None:
    """Print a warning as one line, without the place in our source that gave it."""
    print("warning:", " ".join(str(message).split()), file=sys.stderr)


def _fail(message: str, code: int) -> int:
    print("error:", " ".join(message.split()), file=sys.stderr)
    return code
