"""Claims of the ConSmax paper about silicon and pipelines, and how they are judged."""

from __future__ import annotations

from softmaxkit.methods.base.claims import Claim, Finding, Record, Result, Verdict, only_result
from softmaxkit.methods.base.published import Published
from softmaxkit.methods.base.spec import Spec
from softmaxkit.methods.consmax.spec import ConSmax
from softmaxkit.methods.exact import Exact
from softmaxkit.methods.softermax import Softermax

PROCESS, TOOLS = "sky130", "open"
"""The row of the paper's table with which our figures can be compared."""

RIVALS: dict[str, type[Spec]] = {"Softermax": Softermax, "softmax": Exact}
COSTS = ("area", "power")

STALL_CONTEXT = 1024
"""Context, in tokens, at which the paper cites the stall."""


def silicon_claims() -> list[Claim]:
    """Return the claims of arXiv 2402.10930 about silicon and pipelines."""
    return [
        Claim(
            id="consmax-4",
            place="abstract, table of results",
            claim="Less power and area than Softermax and softmax in FP16, for rows of 256, at one score per cycle.",
            published=(
                "16 nm, commercial tools: 3.35x power, 2.75x area over Softermax; 7.5x, 13.75x over softmax; "
                + _published_text()
            ),
            judge=judge_costs,
            records={
                "silicon/sky130.json": "softmaxkit synth all --no-wires --clock 5 --storage latches "
                "--json results/silicon/sky130.json"
            },
        ),
        Claim(
            id="consmax-5",
            place="Fig. 4a",
            claim="Two INT8 units and a reduction multiplier form one INT16 unit, or work apart: mixed precision.",
            published="built",
            judge=judge_halves,
            records={
                "verification/consmax-16.json": "softmaxkit verify --spec results/verification/consmax-16-spec.json "
                "--lanes 16 --constants loadable --json results/verification/consmax-16.json"
            },
        ),
        Claim(
            id="consmax-6",
            place="Fig. 2",
            claim="An element-wise pipeline removes the stall of softmax during generation.",
            published="no cycle count; the stall is cited as about 20% of attention time, 18.8% at 1,024 tokens",
            judge=judge_stall,
            records={
                "accelerator/generation-gpt2.json": "softmaxkit simulate gpt2 --generate --context 1k --context 4k "
                "--context 16k --context 64k --context 128k --json results/accelerator/generation-gpt2.json"
            },
        ),
    ]


def _comparable(spec: type[Spec]) -> Published:
    """Return the paper's figures of a method with which ours can be compared."""
    return next(row for row in spec.published if (row.process, row.tools) == (PROCESS, TOOLS))


def _ratio(rival: type[Spec], cost: str) -> float:
    """Return the cost of a rival divided by that of ConSmax, in the paper."""
    figure = {"area": "area_um2", "power": "power_mw"}[cost]
    return float(getattr(_comparable(rival), figure) / getattr(_comparable(ConSmax), figure))


def _published_text() -> str:
    over = (
        f"{_ratio(rival, 'power'):.1f}x, {_ratio(rival, 'area'):.1f}x over {name}" for name, rival in RIVALS.items()
    )
    return f"SkyWater 130 nm, open tools: {', '.join(over)}"


def judge_costs(record: Record) -> Finding:
    """Judge consmax-4 by the paper's sky130 figures with open tools, both with and without row buffers.

    The paper does not say whether its figures include row buffers. A ratio reached both ways is reproduced, one reached
    neither way is not; one reached only with row buffers is not comparable.
    """
    own = only_result(record, method=ConSmax.method, form="loadable tables", cells=PROCESS)
    verdicts: set[Verdict] = set()
    parts = []
    for name, rival in RIVALS.items():
        other = only_result(record, method=rival.method, variant="", cells=PROCESS)
        for cost in COSTS:
            without, whole = (_cost(other, cost, rows) / _cost(own, cost, rows) for rows in (False, True))
            wanted = _ratio(rival, cost)
            reached = [ratio >= wanted for ratio in (without, whole)]
            verdicts.add("reproduced" if all(reached) else "not comparable" if any(reached) else "not reproduced")
            parts.append(f"{cost} {without:.2f}x without row buffers, {whole:.1f}x with them, over {name}")
    order: tuple[Verdict, ...] = ("not reproduced", "not comparable", "reproduced")
    why = (
        "Compared with the paper's sky130 figures with open tools, at one clock and one score per cycle; both loadable "
        "tables of ConSmax are counted. The paper does not say whether its figures include tables and row buffers. Our "
        "softmax in FP16 is smaller than the DesignWare one; our buffers are latches, and there is no layout."
    )
    return Finding("; ".join(parts), next(verdict for verdict in order if verdict in verdicts), why)


def _cost(result: Result, cost: str, with_rows: bool) -> float:
    part = "" if with_rows else "without_row_buffer_"
    name = {"area": f"area_{part}um2", "power": f"energy_{part}pj_per_element"}[cost]
    return float(result[name])


def judge_halves(record: Record) -> Finding:
    """Judge consmax-5: the 16-bit unit must equal its golden model, with its halves joined and apart."""
    joined, apart = (only_result(record, method=ConSmax.method, unit=unit) for unit in ("loadable", "halves apart"))
    parts = [
        f"{what}: {result['mismatches']:,} of {result['compared']:,} outputs differ from the integers"
        for what, result in (("joined", joined), ("apart", apart))
    ]
    holds = all(result["compared"] > 0 and not result["faults"] for result in (joined, apart))
    why = (
        f"Measured on the unit with {joined['lanes']} lanes, in {joined['simulator']}. In BF16 many of the 65,536 "
        "codes share a result; the effect of 16 bits on a model is not measured."
    )
    return Finding("; ".join(parts), "reproduced" if holds else "not reproduced", why)


def judge_stall(record: Record) -> Finding:
    """Judge consmax-6: at most a tenth of the cycles in which an engine waits for softmax's last rows may remain."""
    fields = {"context": STALL_CONTEXT}
    element = only_result(record, method=ConSmax.method, pipeline="element", **fields)
    token = only_result(record, method=Exact.method, pipeline="token", **fields)
    deferred = only_result(record, method=Softermax.method, pipeline="deferred", **fields)
    remaining, stalled = (result["stall_percent"] * result["computed_cycles"] for result in (element, token))
    parts = [
        f"{title} {result['stall_percent']:.1f}%"
        for title, result in (
            ("ConSmax", element),
            ("softmax row by row", token),
            ("Softermax, division last", deferred),
        )
    ]
    measured = f"share of an engine's cycles that wait for the last rows, {STALL_CONTEXT:,} tokens: {', '.join(parts)}"
    why = (
        "Cycles of verified engines that share the heads of GPT-2, on the package's edge NPU, with keys and values "
        f"already loaded; loading them takes {element['cycles'] / element['computed_cycles']:.0f} times as long, and "
        "then all pipelines take equally long. The figures cited in the paper are for partial softmax on a GPU, where "
        "parts are joined, not for rows that wait. Dividing after the weighted sum, which the paper does not consider, "
        "removes the stall too."
    )
    removed = stalled > 0 and remaining <= 0.1 * stalled
    return Finding(measured, "reproduced" if removed else "not reproduced", why)
