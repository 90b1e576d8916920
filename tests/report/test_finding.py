"""Seeds: the claims of the finding, and the spreads and ranges in the table."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from page_records import small_record

from softmaxkit.report import render
from softmaxkit.report.columns import cells, sheet, shown
from softmaxkit.report.finding import finding, leaders, tied
from softmaxkit.report.record import Variant, read_variants

CHANCE = "one seed, so differences of this size may be chance"


def variants(spread: float | None, **more: Any) -> list[Variant]:
    """Return variants whose changes in loss are about 0.05% (Softermax), 0.19% (EXAQ), 2.2% and 35%."""
    record = small_record()
    for result in record["results"]:
        result.update(more)
        if spread is not None:
            result.update({"seeds": [0, 1, 2], "loss_change_percent_spread": spread, "loss_nats_spread": 0.0123})
    return read_variants(record)


def names(chosen: list[Variant]) -> list[str]:
    return [variant.method.name for variant in chosen]


@pytest.mark.parametrize("more", [{}, {"seeds": [4]}, {"seeds": [4], "loss_change_percent_spread": 0.0}])
def test_one_seed_declares_no_winner(more: dict[str, Any]) -> None:
    sentence = finding(variants(None, **more))
    assert sentence.count(CHANCE) == 1
    assert "lowest loss measured" in sentence
    assert "ties" not in sentence
    assert names(leaders(variants(None, **more))) == ["softermax"]


def test_seeds_whose_spread_is_not_known_are_not_called_one() -> None:
    assert "spread over seeds unknown, so differences" in finding(variants(None, seeds=[0, 1]))


def test_intervals_that_overlap_tie() -> None:
    near = variants(0.1)  # 0.05 ± 0.1 and 0.19 ± 0.1
    sentence = finding(near)
    assert "Softermax ties with EXAQ (3 bits, searched clip): 1.7209 ± 0.0123 nats, 0.05 ± 0.10% above" in sentence
    assert "lowest" not in sentence
    assert "chance" not in sentence
    assert names(leaders(near)) == ["softermax", "exaq"]
    page = render({**small_record(), "results": [result for v in near for result in v.results.values()]})
    assert len(re.findall(r'<tr class="[^"]*best', page)) == 2
    assert "The shaded rows are the approximations that tie" in page


def test_intervals_apart_have_a_winner() -> None:
    apart = variants(0.01)
    sentence = finding(apart)
    assert "Softermax has the lowest loss: 1.7209 ± 0.0123 nats, 0.05 ± 0.01% above exact softmax" in sentence
    assert "next is EXAQ (3 bits, searched clip), 0.19 ± 0.01% above it" in sentence
    assert "the highest, EXAQ (2 bits, naive clip), is 35.47 ± 0.01% above it" in sentence
    assert not re.search("chance|ties|measured", sentence)


def test_without_changes_the_losses_decide() -> None:
    for spread, expected in ((0.001, False), (0.5, True)):
        some = variants(None, loss_change_percent=None, loss_nats_spread=spread)
        softermax, exaq = some[2], some[4]
        assert tied(softermax, exaq, "integer") is expected
    assert tied(softermax, some[0]._replace(results={"integer": {"loss_nats": 1.0}}), "integer") is None


def test_many_ties_are_counted() -> None:
    assert "Softermax ties with EXAQ (3 bits, searched clip) and 2 others" in finding(variants(50.0))


def test_spreads_and_ranges_are_below_their_figures() -> None:
    some = variants(0.25, speedup_over_torch=1.5, speedup_over_torch_low=1.25, speedup_over_torch_high=1.75)
    columns = shown(some)
    texts = {(cell.text, cell.remark) for cell in cells(some[1], columns)}
    assert {("1.7570", "± 0.0123"), ("+2.15%", "± 0.25%"), ("1.50×", "1.25× to 1.75×")} <= texts
    plain = variants(None, speedup_over_torch=1.5)
    texts = {(cell.text, cell.remark) for cell in cells(plain[1], shown(plain))}
    assert {("1.7570", ""), ("+2.15%", ""), ("1.50×", "")} <= texts

    headings, rows = sheet(some, columns)
    row = dict(zip(headings, rows[1], strict=True))
    assert row["loss_change_percent_spread_integer"] == 0.25
    assert (row["speedup_over_torch_low"], row["seeds"], row["variant"]) == (1.25, "0 1 2", "")
    assert "loss_nats_spread_float" not in sheet(plain, shown(plain)).headings


@pytest.mark.parametrize("odd", ["wide", -1.0, float("nan"), True, None])
def test_odd_spreads_count_as_none(odd: Any) -> None:
    record = small_record()
    for result in record["results"]:
        result.update(seeds="many", loss_nats_spread=odd, loss_change_percent_spread=odd)
    page = render(record)
    assert CHANCE in page
    assert "±" not in page[: page.index('id="provenance"')].replace("± is", "")
    assert json.loads(re.search(r'id="results-table-sheet">(.*?)</script>', page).group(1))["rows"]  # type: ignore[union-attr]
