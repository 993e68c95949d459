"""Imported once by the verifier's zygote: what every comparison would pay for again.

math-verify reads LaTeX with a parser that builds its tables while it parses, about half a
second for the first answer. Importing this module compares a few answers of the usual
shapes, so that each process is forked with those tables filled.
"""

from aster_jax.reward import compare, judge, prose

SHAPES = (
    r"\frac{3}{4}", r"-\frac{1+\sqrt{17}}{2}", r"2^{25} \cdot 26!", r"1-\frac{2}{\pi}",
    r"(3, \frac{\pi}{2})", r"[0, 9)", r"\{1, 2, 3\}", r"x \le 2", r"x = 11", r"28\%",
    r"\begin{pmatrix}1 & 2 \\ 3 & 4\end{pmatrix}", r"3 \pm 2\sqrt{2}", r"5 \text{ cm}",
    r"1,234.5", r"(-\infty, 3) \cup (5, \infty)", r"x^2 + 2x + 1", r"\log_2 3", r"90^\circ",
)  # fmt: skip

for _shape in SHAPES:
    compare.compare(_shape, _shape, 10)
    prose.compare(f"\\boxed{{{_shape}}}", f"\\boxed{{{_shape}}}", ("latex", "expr"))
prose.same_calculus(r"\sum_{k=1}^{3} k", "6")
judge.judge_gold("7", 10)
