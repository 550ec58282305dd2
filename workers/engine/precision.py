"""The number formats in which a replica may compute, and how far each may deviate from float32. Pure.

candidates         precisions to try, in order
out_of_tolerance   why a replica must not work in a precision, or None
difference         of float32 vectors from their reference, relative to its reach; SAME is the most that is accepted
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.config import Precision
from workers.errors import UsageError

SAME = 1e-4  # largest accepted difference of float32 vectors, relative to the largest component


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Smallest cosine to the float32 vectors that is accepted: of each golden text, and on average."""

    least: float
    mean: float


TOLERANCES = {
    Precision.FLOAT32: Tolerance(0.99999, 0.999995),
    Precision.FLOAT16: Tolerance(0.9999, 0.9999),
    Precision.BFLOAT16: Tolerance(0.998, 0.9995),
    Precision.INT8: Tolerance(0.97, 0.99),
    Precision.FLOAT8: Tolerance(0.97, 0.99),
}


def candidates(wanted: Precision, *, cuda: bool, bfloat16_cpu: bool) -> tuple[Precision, ...]:
    """Precisions to try until one reproduces the golden vectors; more than one only for auto.

    On CUDA, float16 first: as fast as bfloat16, with three more bits of mantissa, but some models overflow it. On a CPU,
    bfloat16 where oneDNN has it; a processor may emulate it, slower than float32, which the trial finds (trial.py).

    Args:
        bfloat16_cpu: bfloat16 can be computed on this processor.

    Raises:
        UsageError: int8 on CUDA, float8 on a CPU.
    """
    if wanted is Precision.INT8 and cuda:
        raise UsageError("model.precision=int8 is for replicas on CPUs; use float16 on GPUs, or cluster.gpus_per_replica=0")
    if wanted is Precision.FLOAT8 and not cuda:
        raise UsageError("model.precision=float8 is for replicas on GPUs; use int8 on CPUs")
    if wanted is not Precision.AUTO:
        return (wanted,)
    if cuda:
        return (Precision.FLOAT16, Precision.BFLOAT16, Precision.FLOAT32)
    return (Precision.BFLOAT16, Precision.FLOAT32) if bfloat16_cpu else (Precision.FLOAT32,)


def out_of_tolerance(precision: Precision, cosines: NDArray[np.float64]) -> str | None:
    """What is wrong with these cosines [texts] to the float32 vectors; None if they are within the precision's tolerance."""
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


def difference(vectors: NDArray[np.floating[Any]], reference: NDArray[np.floating[Any]]) -> float:
    """The largest difference of two components, relative to the largest component of the reference.

    Components that are not finite in the reference are left out: an empty sequence has no vector in either. Where only those
    of `vectors` are not finite, or the shapes differ, the difference is infinite.
    """
    if vectors.shape != reference.shape:
        return float("inf")
    usable = np.isfinite(reference)
    reach = max(float(np.abs(reference[usable]).max(initial=0.0)), 1e-9)
    apart = np.abs(vectors[usable] - reference[usable])
    return float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0)) / reach
