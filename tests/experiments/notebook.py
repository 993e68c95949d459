"""A notebook's cells, run in order; for its tests, and to keep the outputs of a real run in it.

    python -m tests.experiments.notebook [NAME...]

runs notebooks of experiments/colabs/ with their own parameters in a kernel, as Jupyter does,
and writes what came out into them (needs `pip install nbclient ipykernel`).
"""

import base64
import io
import json
import os
import pathlib
import re
import sys

import PIL.Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "experiments" / "colabs"
NAMES = ("quickstart", "1_trajectory", "2_sandbox", "3_collapse", "4_plan")
LONGEST_RUN_S = 3600
WIDEST, COLOURS = 1100, 64  # of a picture that is kept, in pixels and entries of its palette


def cells(name: str) -> list[dict]:
    """The code cells."""
    found = json.loads((FOLDER / f"{name}.ipynb").read_text("utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


def tags(cell: dict) -> list[str]:
    """What a cell is marked as: setup, parameters, or run (it trains)."""
    return cell["metadata"].get("tags", [])


def execute(name: str, parameters: dict, skip: tuple[str, ...] = ()) -> dict:
    """Run the cells in one namespace, as a kernel would; what they leave there.

    `parameters` take the place of what the cell of that mark sets; cells with a tag of `skip`
    are passed over.
    """
    names = {"__name__": "__main__"}
    for number, cell in enumerate(cells(name), 1):
        if not set(skip) & set(tags(cell)):
            exec(compile("".join(cell["source"]), f"{name}, code cell {number}", "exec"), names)
        if "parameters" in tags(cell):
            assert set(parameters) <= set(names), "a parameter that the notebook does not have"
            names.update(parameters)
    return names


def in_kernel(name: str, parameters: dict) -> dict:
    """The notebook as nbclient leaves it, with the outputs; `parameters` as in `execute`."""
    import nbclient
    import nbformat

    book = nbformat.read(FOLDER / f"{name}.ipynb", 4)
    if parameters:
        at = next(i for i, cell in enumerate(book.cells) if "parameters" in tags(cell))
        values = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
        book.cells.insert(at + 1, nbformat.v4.new_code_cell(values))
    # The kernel's own process is this Python, whatever kernels the machine has.
    nbclient.NotebookClient(
        book, timeout=LONGEST_RUN_S, resources={"metadata": {"path": str(FOLDER)}},
        record_timing=False,
    ).execute()  # fmt: skip
    return book


def small(png: str) -> str:
    """A picture, base64, in fewer pixels and colours: a checkout carries it for ever."""
    picture = PIL.Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    picture.thumbnail((WIDEST, WIDEST), PIL.Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.quantize(COLOURS).save(out, "png", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def tidy(book: dict) -> dict:
    """Without what is of this machine or differs from run to run: paths, ids, versions; pictures
    small."""
    book["metadata"] = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in book["cells"]:
        for output in cell.get("outputs", []):
            if "data" in output:  # what a page shows; beside it stands the object's address
                shown = {"image/png", "text/html", "text/markdown"} & set(output["data"])
                kept = {k: v for k, v in output["data"].items() if not shown or k in shown}
                if "image/png" in kept:
                    kept["image/png"] = small(kept["image/png"])
                output["data"] = kept
            if "text" in output:
                output["text"] = re.sub(re.escape(str(ROOT)) + "/?", "", "".join(output["text"]))
    return book


def main() -> None:
    """Run and keep."""
    import nbformat

    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    for name in sys.argv[1:] or NAMES:
        book = tidy(in_kernel(name, {}))
        nbformat.validate(book)
        text = json.dumps(book, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        (FOLDER / f"{name}.ipynb").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
