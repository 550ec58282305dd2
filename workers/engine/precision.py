"""Which numbers a replica computes in, and how far they may stray from float32. Pure policy and its figures.

candidates(wanted, device)   precisions to try, in order
strays(precision, cosines)   why a replica must not work at it, or None
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.config import Precision
from workers.errors import UsageError


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Least cosine to float32, of every golden text and on average."""

    least: float
    mean: float


TOLERANCES = {
    Precision.FLOAT32: Tolerance(0.99999, 0.999995),
    Precision.FLOAT16: Tolerance(0.9999, 0.9999),
    Precision.BFLOAT16: Tolerance(0.998, 0.9995),
    Precision.INT8: Tolerance(0.97, 0.99),
}


def candidates(wanted: Precision, *, cuda: bool, bfloat16_cpu: bool) -> tuple[Precision, ...]:
    """What to try until one reproduces the golden texts; more than one only for auto.

    On CUDA float16 first: as fast as bfloat16 with three more bits of mantissa; some models overflow it. On a CPU bfloat16
    where the processor multiplies it; elsewhere it would be emulated, slower than float32.

    Raises:
        UsageError: int8 on CUDA.
    """
    if wanted is Precision.INT8 and cuda:
        raise UsageError("model.precision=int8 is for replicas on CPUs; use float16 on GPUs, or cluster.gpus_per_replica=0")
    if wanted is not Precision.AUTO:
        return (wanted,)
    if cuda:
        return (Precision.FLOAT16, Precision.BFLOAT16, Precision.FLOAT32)
    return (Precision.BFLOAT16, Precision.FLOAT32) if bfloat16_cpu else (Precision.FLOAT32,)


def strays(precision: Precision, cosines: NDArray[np.float64]) -> str | None:
    """In words how far these cosines to float32 are from what the precision must reach; None where they reach it."""
    tolerance = TOLERANCES[precision]
    if not np.isfinite(cosines).all():
        return (
            f"{int((~np.isfinite(cosines)).sum())} of {len(cosines)} golden texts gave no finite vector in {precision.value}"
        )
    least, mean = float(cosines.min()), float(cosines.mean())
    if least >= tolerance.least and mean >= tolerance.mean:
        return None
    return (
        f"golden texts in {precision.value} have cosines of {least:.6f} and more to float32, {mean:.6f} on average; "
        f"{tolerance.least} and {tolerance.mean} are the least allowed"
    )
