"""Imported once by the verifier's zygote: what every comparison would pay for again.

math-verify reads LaTeX with a parser that builds its tables while it parses, about half a
second for the first answer. Importing this module compares a few answers of the usual
shapes, so that each comparison's process is forked with those tables filled.
"""

from aster_jax.reward import check

SHAPES = (
    r"\boxed{\frac{3}{4}}", r"\boxed{-\frac{1+\sqrt{17}}{2}}", r"\boxed{2^{25} \cdot 26!}",
    r"\boxed{1-\frac{2}{\pi}}", r"\boxed{(3, \frac{\pi}{2})}", r"\boxed{[0, 9)}",
    r"\boxed{\{1, 2, 3\}}", r"\boxed{x \le 2}", r"\boxed{x = 11}", r"\boxed{28\%}",
    r"\boxed{\begin{pmatrix}1 & 2 \\ 3 & 4\end{pmatrix}}", r"\boxed{3 \pm 2\sqrt{2}}",
    r"\boxed{5 \text{ cm}}", r"\boxed{1,234.5}", r"\boxed{(-\infty, 3) \cup (5, \infty)}",
    r"\boxed{x^2 + 2x + 1}", r"\boxed{\log_2 3}", r"\boxed{90^\circ}",
)  # fmt: skip

for _shape in SHAPES:
    check.compare(_shape, _shape, ("latex", "expr"), 6)
