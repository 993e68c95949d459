"""Command line: `python -m aster_jax.report RUN [RUN ...]`.

Of one run, its report is made anew, also while the run goes on. Of several, a page that
compares them and holds the episodes of all is written to --out.
"""

import argparse
import pathlib
import sys

from aster_jax.errors import InputError
from aster_jax.report import run as report


def main() -> int:
    """Makes the pages and says where they are."""
    parser = argparse.ArgumentParser(prog="python -m aster_jax.report", description=__doc__)
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN", help="a workdir")
    parser.add_argument("--out", type=pathlib.Path, help="default: RUN/report, or report-compared")
    parser.add_argument("--page_mib", type=float, default=32.0, help="episodes in one page, MiB")
    asked = parser.parse_args()
    is_one = len(asked.runs) == 1
    out = asked.out or (asked.runs[0] / report.DIRECTORY if is_one else pathlib.Path("report-compared"))
    try:
        print(report.write_pages(asked.runs, out, asked.page_mib))
    except InputError as e:
        print(f"aster_jax.report: {e}", file=sys.stderr)
        return 1
    print(f"see {out / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
