"""The forms that are synthesised, and the papers' ratios compared with ours."""

from __future__ import annotations

import pytest

from softmaxkit import ConSmax, Exaq, Softermax
from softmaxkit.flow.simulate import can_verilate
from softmaxkit.methods import METHODS
from softmaxkit.methods.base.forms import forms_of
from softmaxkit.studies.hardware import of_kind
from softmaxkit.studies.papers import lines, measured, paper_ratios, ratios


def test_every_method_has_forms_that_can_be_built() -> None:
    for name, spec in METHODS.items():
        forms = spec.forms()
        assert forms
        assert len({form.title for form in forms}) == len(forms)
        for form in forms:
            assert form.spec.method == name
            unit = form.unit(lanes=1, max_row=32, storage="latches")
            assert (unit.constants is not None) == form.baked


@pytest.mark.parametrize(
    ("spec", "baked"), [(ConSmax(), [True, False]), (Exaq(), [True, False]), (Softermax(), [False])]
)
def test_forms_of_one_spec(spec: ConSmax | Exaq | Softermax, baked: list[bool]) -> None:
    assert [form.baked for form in forms_of(spec)] == baked


@pytest.mark.slow
@pytest.mark.skipif(not can_verilate(), reason="needs Yosys, Verilator and a C++ compiler")
def test_the_papers_ratios() -> None:
    table = list(lines(paper_ratios(measured(), [])["results"]))
    assert len(table) == 2 + len(ratios())
    for line in table[2:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert len(cells) == 7
        assert all(float(cells[place]) > 0 for place in (2, 5))
    loaded, constant = (float(table[2 + row].split("|")[3]) for row in (0, 1))
    assert loaded < constant  # loadable tables make ConSmax larger, so the other unit's ratio becomes smaller


def test_units_of_one_kind() -> None:
    units = [form.unit(lanes=1, max_row=8) for spec in (ConSmax(), Softermax()) for form in forms_of(spec)]
    kept = {kind: of_kind(units, lambda unit: unit, kind) for kind in (None, "baked", "loadable")}
    assert kept == {None: units, "baked": [units[0]], "loadable": [units[1]]}
    for kind in ("baked", "loadable"):
        with pytest.raises(ValueError, match="softermax has no constants to bake in or to load; leave --constants out"):
            of_kind(units[2:], lambda unit: unit, kind)
    with pytest.raises(ValueError, match="consmax has no unit with loadable constants; leave --constants out"):
        of_kind(units[:1], lambda unit: unit, "loadable")
