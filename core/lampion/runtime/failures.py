"""What the result codes of matrix factorizations mean, for whoever computes them.

Floor 2; imports base.
"""

from __future__ import annotations

from ..base.errors import LinAlgError

FAILURES = {
    "cholesky": "The factorization could not be completed because the input is not "
                "positive-definite (the leading minor of order {info} is not positive-definite).",
    "inv": "The diagonal element {info} is zero, the inversion could not be completed because the "
           "input matrix is singular.",
    "solve": "The solver failed because the input matrix is singular.",
    "lu_factor": "U[{info},{info}] is zero and using it on lu_solve would result in a division by "
                 "zero. If you still want to perform the factorization, consider calling "
                 "linalg.lu(A, pivot) or linalg.lu_factor_ex(A, pivot)",
    "ldl": "D[{info},{info}] is zero, so that ldl_solve would divide by it.",
    "eig": "The algorithm failed to converge because the input matrix is ill-conditioned or has "
           "too many repeated eigenvalues (error code: {info}).",
    "svd": "The algorithm failed to converge because the input matrix is ill-conditioned or has "
           "too many repeated singular values (error code: {info}).",
    "finite": "The algorithm failed to converge because the input matrix contained non-finite "
              "values.",
    "lstsq": "The least squares problem could not be solved because the input matrix does not "
             "have full rank (error code: {info}).",
}


def fail(kind: str, name: str, info: int, at: int | None) -> None:
    """Raise the LinAlgError of a matrix; `at` is its number in a batch, or None."""
    where = "" if at is None else f"(Batch element {at}): "
    raise LinAlgError(f"{name}: {where}{FAILURES[kind].format(info=info)}")
