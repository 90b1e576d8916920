"""What a key channel much larger than the others costs attention with a cache, and with 8-bit products and no cache.

Keys, values and queries are normal; in one channel keys are so many times larger, and queries as much smaller, as in
models, or not. Printed are root mean squares: the error of the scores over their spread, and that of EXAQ's results
over their size, for a few queries over a cache and for all at once without one.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

import softmaxkit
from softmaxkit import Exaq, KeyValueCache
from softmaxkit.kernels.attention import FEW
from softmaxkit.kernels.codes import BITS

QUERIES, CHANNELS, PLACE = 96, 64, 3
SPEC, CLIP = Exaq(bits=3), -6.0
KINDS = {
    "none": (False, False),
    "in all tokens": (True, False),
    "in all, queries not smaller": (False, False),
    "in later tokens alone": (True, True),
}
"""Where the outliers are: are queries smaller there, and have the first tokens none?"""


def share(found: Tensor, exact: Tensor) -> float:
    """Return the root mean square of a difference over the spread of what is exact."""
    return float((found.double() - exact).square().mean().sqrt() / exact.std())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratio", type=float, default=50.0, help="how many times larger the channel is")
    parser.add_argument("--tokens", type=int, default=1024)
    arguments = parser.parse_args()
    half = arguments.tokens // 2
    print(f"a channel {arguments.ratio:g} times larger, {arguments.tokens} tokens: errors of scores, of results")
    for kind, (balanced, late) in KINDS.items():
        random = torch.Generator().manual_seed(0)
        query, key, value = (
            torch.randn(1, 2, n, CHANNELS, generator=random) for n in (QUERIES, arguments.tokens, arguments.tokens)
        )
        query = query * 2
        if kind != "none":
            key[:, :, half if late else 0 :, PLACE] *= arguments.ratio
            query[..., PLACE] /= arguments.ratio if balanced else 1.0
        scores = query.double() @ key.double().mT / CHANNELS**0.5
        exact = SPEC.module(heads=2, clip=CLIP)(scores).detach() @ value.double()
        found = {}
        for bits in BITS:
            cache = KeyValueCache(key[:, :, :half], value[:, :, :half], bits)
            cache.append(key[:, :, half:], value[:, :, half:])
            of_codes = query.double() @ cache.keys.double().mT / CHANNELS**0.5
            few = [cache.attention(some, SPEC, clip=CLIP) for some in query.split(FEW, 2)]
            found[f"{bits}-bit cache"] = f"{share(of_codes, scores):.2%}, {share(torch.cat(few, 2), exact):.1%}"
        choice = softmaxkit.explain(SPEC, query, key, value, clip=CLIP)
        without = share(softmaxkit.attention(query, key, value, SPEC, clip=CLIP), exact)
        found[f"no cache ({choice.backend})"] = f"{without:.1%}"
        print(f"  {kind:28}" + "; ".join(f"{name} {errors}" for name, errors in found.items()))


if __name__ == "__main__":
    main()
