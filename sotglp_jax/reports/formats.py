"""Writes a table as Markdown, CSV, LaTeX and HTML."""

import csv
import html
import io
import re
import statistics
from collections.abc import Callable

from sotglp_jax.reports.paper import METHOD, MISSING, Cell, Table
from sotglp_jax.reports.published import MARK
from sotglp_jax.reports.tables import spread

_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
    "–": "--",
    "−": "$-$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "λ": r"$\lambda$",
    "ε": r"$\varepsilon$",
    "∞": r"$\infty$",
}


def written(cell: Cell | None, signed: bool = False) -> str:
    """Writes mean ± standard deviation, one decimal; of a difference its sign and mean."""
    if not cell or not signed:
        return spread(list(cell.values())) if cell else MISSING
    said = f"{statistics.mean(cell.values()):+.1f}"
    return "0.0" if said in ("+0.0", "-0.0") else said.replace("-", "−")


def _grid(table: Table, bold: Callable[[str], str], escape: Callable[[str], str]) -> list[list]:
    """Returns the rows as text, labels first."""
    best = table.best()
    return [
        [
            *map(escape, labels),
            *(
                (bold if (labels, c) in best else str)(
                    escape(written(numbers.get(c), table.signed(labels)))
                )
                for c in table.columns
            ),
        ]
        for labels, numbers in table.rows.items()
    ]


def markdown(table: Table) -> str:
    """Writes a heading, the table, and the notes."""

    def escape(text: str) -> str:
        return re.sub(r"([\\|*_`<>\[\]])", r"\\\1", text)

    head = [escape(title) for title in (*table.head, *table.columns)]
    rule = ["---"] * len(table.head) + ["---:"] * len(table.columns)
    rows = [head, rule, *_grid(table, lambda text: f"**{text}**", escape)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    notes = [f"- {escape(note)}" for note in table.notes]
    return "\n".join([f"## {escape(table.title)}", "", *lines, "", *notes]) + "\n"


def comma_separated(table: Table) -> str:
    """Writes numbers alone: columns of means and, where there are some, of standard deviations."""
    spread = [
        c for c in table.columns if any(len(row.get(c, ())) > 1 for row in table.rows.values())
    ]
    head = [title for c in table.columns for title in ([c, f"{c} ±"] if c in spread else [c])]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*table.head, *head])
    for labels, numbers in table.rows.items():
        cells = []
        for column in table.columns:
            text = written(numbers.get(column), table.signed(labels)).replace("−", "-")
            mean, _, deviation = text.partition(" ± ")
            cells += ["" if mean == MISSING else mean] + [deviation] * (column in spread)
        writer.writerow([*labels, *cells])
    return file.getvalue()


def latex(table: Table) -> str:
    """Writes a table environment for the package booktabs; a wide table lies on its side."""

    def escape(text: str) -> str:
        return "".join(_LATEX.get(c, c) for c in text)

    environment = "table" if len(table.columns) < 8 else "sidewaystable"
    rows = [[escape(title) for title in (*table.head, *table.columns)]]
    rows += _grid(table, lambda text: rf"\textbf{{{text}}}", escape)
    head, *lines = [f"{' & '.join(row)} \\\\" for row in rows]
    parts = [
        r"% \usepackage{booktabs,graphicx,rotating}",
        rf"\begin{{{environment}}}",
        rf"\caption{{{escape(table.caption)}}}",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{{'l' * len(table.head)}{'r' * len(table.columns)}}}",
        r"\toprule",
        head,
        r"\midrule",
        *lines,
        r"\bottomrule",
        r"\end{tabular}}",
        *(rf"\par\footnotesize {escape(note)}" for note in table.notes),
        rf"\end{{{environment}}}",
    ]
    return "\n".join(parts) + "\n"


def web(table: Table) -> str:
    """Writes a table element; the name of the method heads each row."""

    def escape(text: str) -> str:
        return html.escape(text).replace(MARK, f"&nbsp;{MARK.strip()}")

    count, heading = len(table.head), table.head.index(METHOD)
    head = [f"<th scope=col>{escape(text)}</th>" for text in (*table.head, *table.columns)]
    rows = [[f"<td>{text}</td>" for text in row] for row in _grid(table, _bold, escape)]
    for row in rows:
        row[heading] = row[heading].replace("<td>", "<th scope=row>").replace("</td>", "</th>")
    for row in (head, *rows):
        row[:count] = [cell.replace(">", " class=label>", 1) for cell in row[:count]]
    kinds = [" class=published" * (MARK.strip() in table.method(labels)) for labels in table.rows]
    lines = zip(kinds, rows, strict=True)
    body = "\n".join(f"<tr{kind}>{''.join(row)}</tr>" for kind, row in lines)
    return f"<table>\n<thead><tr>{''.join(head)}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _bold(text: str) -> str:
    return f"<b>{text}</b>"
