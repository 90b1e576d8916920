"""What units are built of, in Amaranth: row streams, pipelines, arithmetic and storage. They know no method."""

from importlib.util import find_spec

if find_spec("amaranth") is None:
    raise ModuleNotFoundError(
        "hardware units need the package amaranth: pip install 'softmaxkit[hardware]'", name="amaranth"
    )
