"""The names that mean something in an answer, as LaTeX, Python and sympy spell them."""

CONSTANTS = {"pi": "pi", "oo": "oo", "inf": "oo", "infty": "oo", "infinity": "oo"}
GREEK = set(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau "
    "upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega "
    "varrho varsigma varpi ell hbar aleph".split()
)
FUNCTIONS = {
    name: name for name in
    "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh ln log lg exp sqrt "
    "cbrt abs floor ceiling factorial binomial gcd lcm max min gamma re im sign".split()
} | {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "acot": "arccot", "Abs": "abs",
    "ceil": "ceiling", "comb": "binomial", "binom": "binomial", "Max": "max", "Min": "min",
    "Rational": "ratio", "Fraction": "ratio", "Integer": "same", "Float": "same", "S": "same",
    "simplify": "same", "float": "same", "int": "same", "log10": "log10", "log2": "log2",
    "arsinh": "asinh", "asinh": "asinh", "acosh": "acosh", "atanh": "atanh", "root": "root",
    "Re": "re", "Im": "im", "lb": "log2", "fabs": "abs", "Pow": "power", "pow": "power",
    "tg": "tan", "ctg": "cot", "arctg": "arctan", "sympify": "same", "nthroot": "root",
}  # fmt: skip
CALLED_ONLY = {  # a name of these is a function only before a parenthesis
    "S", "re", "im", "max", "min", "gcd", "lcm", "gamma", "root", "sign", "int", "float",
    "simplify", "same", "Rational", "Fraction", "Integer", "Float", "abs", "floor", "pow",
}  # fmt: skip
COMMANDS = set(FUNCTIONS) - {"gamma", "S", "int", "root", "sqrt", "binom", "float"}
MODULES = {"math", "np", "numpy", "sp", "sympy", "mp", "mpmath", "cmath"}
MATRICES = {"pmatrix", "bmatrix", "matrix", "array", "Bmatrix", "smallmatrix"}
CALCULUS = {"sum", "prod", "int", "lim"}
CALCULUS_COMMANDS = CALCULUS | {
    "frac", "sqrt", "infty", "pi", "sin", "cos", "tan", "ln", "log", "exp", "arctan", "arcsin",
    "cdot", "times", "to", "binom",
}  # fmt: skip
ENDS = {"rfloor", "rceil", "rangle", "cdot", "times", "div", "pm", "mp", "choose", "cup",
         "cap", "degree", "pmod", "mod", "bmod"}  # fmt: skip
DECORATIONS = {"overline", "vec", "hat", "angle", "triangle", "tilde"}
