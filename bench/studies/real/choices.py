"""Settings of SPARE chosen on one half of the photographs, and what the other half says of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bench.studies.real.halves import said
from bench.studies.real.measure import KEEPS, Maker, plain_spare
from bench.studies.real.measured import Measured

EXPONENTS = (0.25, 0.5, 0.75, 1.0)
LIMITS = (1.1, 1.25, 1.5, 2.0)
COUNTED = (8, 16, 32)  # budgets that choices are made over, and that are confirmed
DEARER = 0.01  # of SPARE's error that a limit on lengths may cost


def candidates() -> dict[str, Maker]:
    """SPARE with every exponent and every limit on lengths that is tried."""
    return {
        **{exponent_name(p): plain_spare(exponent=p) for p in EXPONENTS},
        **{limit_name(c): plain_spare(winsorize=c) for c in LIMITS},
    }


def exponent_name(p: float) -> str:
    """How the page calls SPARE of this exponent."""
    return "spare, exponent 1 (normalize)" if p == 1 else f"spare, exponent {p:g}"


def limit_name(c: float) -> str:
    """How the page calls SPARE with lengths taken at so many medians."""
    return f"spare, winsorize {c:g}"


def over_budgets(found: Measured, what: str, name: str) -> float:
    """Mean over the budgets `COUNTED`."""
    return float(np.mean([found.mean(what, name, k) for k in COUNTED]))


def best_exponent(found: Measured) -> float:
    """The exponent, 0 among them, whose picks hit most regions."""
    names = {0.0: "spare", **{p: exponent_name(p) for p in EXPONENTS}}
    return max(names, key=lambda p: over_budgets(found, "all", names[p]))


def best_limit(found: Measured, injected: Mapping[str, np.ndarray]) -> float:
    """The limit that leaves least error of other tokens beside long ones, and costs little else.

    Of those whose error without long tokens is at most `DEARER` above SPARE's; if there are none,
    the one that costs least.
    """
    spare = over_budgets(found, "error", "spare")
    cost = {c: over_budgets(found, "error", limit_name(c)) / spare - 1 for c in LIMITS}
    cheap = [c for c in LIMITS if cost[c] <= DEARER]
    if not cheap:
        return min(LIMITS, key=lambda c: cost[c])
    return min(cheap, key=lambda c: float(injected[limit_name(c)][:, 2].mean()))


def against(found: Measured, rivals: list[str], comparisons: int) -> list[list[str]]:
    """Rows of a table: each rival minus SPARE, by budget, on the same photographs.

    Differences of the shares of regions in points; of the error, the change of its logarithm in
    hundredths, which is nearly percent.
    """
    rows = []
    for name in rivals:
        for k in COUNTED:
            at = KEEPS.index(k)
            cells = [name, str(k)]
            for what in ("all", "small"):
                values = getattr(found, what)
                difference = values[name][:, at] - values["spare"][:, at]
                cells.append(said(difference[~np.isnan(difference)], comparisons))
            ratio = np.log(found.error[name][:, at] / found.error["spare"][:, at])
            rows.append([*cells, said(ratio, comparisons)])
    return rows
