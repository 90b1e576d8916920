"""What the modules with a command of their own share: errors in one line, as those of `softmaxkit`."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_line_errors(parser: ArgumentParser) -> Iterator[None]:
    """End the process with one line: exit code 2 for wrong input, 1 for a failure, 130 if stopped by Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        parser.exit(130, "error: stopped\n")
    except (ValueError, OSError) as error:
        parser.error(" ".join(str(error).split()))
    except RuntimeError as error:  # those of tools end with the tool's last output, verbatim
        parser.exit(1, f"error: {error}\n")
