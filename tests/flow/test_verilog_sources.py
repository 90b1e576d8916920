"""Users' Verilog as it is passed to Yosys: files, included files, macros and parameters."""

from __future__ import annotations

from pathlib import Path

import pytest

from softmaxkit.flow.sources import SETTING, Source, explained, read_verilog
from softmaxkit.flow.tools import DesignError, ToolError


def written(folder: Path, **files: str) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    paths = {name: folder / f"{name}.v" for name in files}
    for name, text in files.items():
        paths[name].write_text(text, encoding="utf-8")
    return paths


def test_included_files_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Searched in the folder of the including file, then in the include folders, then in the working directory."""
    one = written(tmp_path / "one", part='`include "defs.v"\nmodule one; endmodule', defs="// one\n")
    two = written(tmp_path / "two", part='`include "defs.v"\n`include "far.v"\nmodule two; endmodule', defs="// two\n")
    written(tmp_path / "given", far='`include "near.v"\n', defs="// wrong\n")
    written(tmp_path / "here", near="// near\n", far="// wrong\n")
    monkeypatch.chdir(tmp_path / "here")
    source = read_verilog([one["part"], two["part"], one["part"]], "two", [tmp_path / "given"])
    texts = dict(source.included)
    assert list(source.files) == ["source/part.v", next(name for name in source.files if name != "source/part.v")]

    def included(text: str) -> list[str]:
        return [texts[line.split('"')[1]] for line in text.splitlines() if line.startswith("`include")]

    first, second = source.files.values()
    assert included(first) == ["// one\n"]
    assert included(second)[0] == "// two\n"
    assert included(included(second)[1]) == ["// near\n"]
    source.write(tmp_path / "here")
    assert (tmp_path / "here" / "source" / "part.v").read_text() == first


def test_files_that_include_one_another(tmp_path: Path) -> None:
    paths = written(tmp_path, a='`include "b.v"\nmodule a; endmodule', b='`include "a.v"\n`include "absent.v"\n')
    source = read_verilog([paths["a"]], None)
    assert dict(source.included) == {"source/b.v": '`include "source/a.v"\n`include "absent.v"\n'}


@pytest.mark.parametrize(
    ("text", "modules"),
    [
        ("module a; endmodule module b; endmodule", "a, b"),
        ("macromodule a; endmodule\nmodule automatic b; endmodule", "a, b"),
        ('module a; initial $display("// module c;"); endmodule module b; endmodule', "a, b"),
        ("module a; submodule c; endmodule /* module d; */ // module e;\nmodule b; endmodule", "a, b"),
    ],
)
def test_modules_are_listed(text: str, modules: str, tmp_path: Path) -> None:
    paths = written(tmp_path, design=text)
    with pytest.raises(ValueError, match=f"with --top; the files define {modules}$"):
        read_verilog([paths["design"]], None)


def test_macros_and_parameters(tmp_path: Path) -> None:
    paths = written(tmp_path, design="module top; endmodule")
    values = ["A=7", "B=8'hfF", "C=-2", 'D="ab"', "A=9"]
    source = read_verilog([paths["design"]], None, (), ["X", "Y=a + b", "Z="], values)
    assert list(source.files) == ["defines.v", "source/design.v"]
    assert source.files["defines.v"] == "`define X 1\n`define Y a + b\n`define Z \n"
    assert dict(source.parameters) == {"A": "9", "B": "8'hfF", "C": "-2", "D": '"ab"'}
    source.write(tmp_path)
    assert 'top #(.A(9), .B(8\'hfF), .C(-2), .D("ab")) top ();' in (tmp_path / f"{SETTING}.v").read_text()
    assert source.commands().splitlines()[-1] == "rename -top top"
    for wrong in ("A", "A=", "A=b", 'A="b', "A=1; shell", "1A=1", "A=8'q1"):
        with pytest.raises(ValueError, match="--parameter must be NAME=VALUE"):
            read_verilog([paths["design"]], None, (), (), [wrong])
    with pytest.raises(ValueError, match="'wire' is a keyword of Verilog; give the parameter another name"):
        read_verilog([paths["design"]], None, (), (), ["wire=1"])
    for wrong in ("", "=1", "A B", "A=1\n2", "aé=1"):
        with pytest.raises(ValueError, match="--define must be NAME=VALUE"):
            read_verilog([paths["design"]], None, (), [wrong])


def test_only_errors_of_verilog_are_explained() -> None:
    verilog, unit = Source("top", {"source/a.sv": ""}), Source("unit", {"design.il": ""})
    syntax = ToolError("yosys failed:\n  source/a.sv:3: ERROR: syntax error, unexpected TOK_ID")
    assert "sv2v" in str(explained(syntax, verilog))
    assert explained(syntax, unit) is syntax
    other = ToolError("ERROR: FF q cannot be legalized: dffs with async set and reset are not supported")
    assert isinstance(explained(other, verilog), DesignError)
    assert explained(other, unit) is other
    late = ToolError("yosys did not finish within 3600 s while reading top")
    assert explained(late, verilog) is late
