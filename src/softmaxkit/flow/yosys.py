"""Short Yosys scripts, whose results are cached by content."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from softmaxkit.files import cache_folder, content_key, whole_folder
from softmaxkit.flow.tools import call, need, yosys_version


def run_yosys(script: str, inputs: Mapping[str, str], outputs: Sequence[str], doing: str) -> list[str]:
    """Run a script of Yosys and return the files that it writes.

    Args:
        script: the script; its result depends on the inputs only.
        inputs: text by file name.
        outputs: names of the files to return.
        doing: the purpose, for the error message.

    Raises:
        ToolError: Yosys is missing or failed.
        OSError: there is no writable folder for the cache.
    """
    folder = cache_folder() / "yosys" / content_key(script, dict(inputs), yosys_version())
    if not folder.is_dir():
        with tempfile.TemporaryDirectory() as temporary:
            work = Path(temporary)
            for name, text in {**inputs, "script.ys": script}.items():
                (work / name).write_text(text, encoding="utf-8")
            call([need("yosys"), "-q", "-s", "script.ys"], work, doing)
            with whole_folder(folder) as kept:
                for name in outputs:
                    (kept / name).write_bytes((work / name).read_bytes())
    return [(folder / name).read_text(encoding="utf-8") for name in outputs]
