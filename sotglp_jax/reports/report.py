"""Writes the report of a folder of runs: tables, figures, and one page that holds them all."""

import base64
import html
import io
from collections.abc import Sequence

from sotglp_jax import paths
from sotglp_jax.errors import InputError
from sotglp_jax.paths import AnyPath
from sotglp_jax.reports import beyond, closeup, figures, formats, paper, results
from sotglp_jax.reports.figures import Picture
from sotglp_jax.reports.paper import Table
from sotglp_jax.reports.tables import counted

TABLES = {"md": formats.markdown, "csv": formats.comma_separated, "tex": formats.latex}
DPI = 160
# Says that a box scrolls where it does, which no style sheet can know.
SCRIPT = """
for (const box of document.querySelectorAll(".wide")) new ResizeObserver(() =>
  box.classList.toggle("scrolls", box.scrollWidth > box.clientWidth + 1)).observe(box);
"""
STYLE = """
body { font: 16px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 70rem; margin: 0 auto; padding: 0 1rem 3rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2.5rem; }
.wide { overflow-x: auto; }
.scrolls { box-shadow: inset -1.2rem 0 1rem -1.2rem #0006; }
.scrolls::before { content: "scroll sideways for more →"; display: block; position: sticky;
  left: 0; font-size: .8rem; color: #a33; padding: .2rem 0; }
nav { columns: 20rem; font-size: .875rem; } nav a { display: block; padding: .15rem 0; }
table { border-collapse: separate; border-spacing: 0; font-size: .875rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: right; }
td { white-space: nowrap; } .label { text-align: left; }
th[scope=row] { position: sticky; left: 0; background: #fff; font-weight: normal; min-width: 6rem; }
@media (min-width: 50rem) { th[scope=row] { white-space: nowrap; } }
.published { color: #666; }
thead th { border-bottom: 2px solid #555; vertical-align: bottom; }
img { width: 100%; display: block; }
figure { margin: 2.5rem 0 0; } figcaption, .notes { font-size: .875rem; color: #444; }
.warning { border-left: 4px solid #D55E00; padding-left: .75rem; }
"""


def write(folder: AnyPath, out: AnyPath, classes: Sequence[str] = ()) -> list[str]:
    """Reads the runs below a folder and writes their report.

    Args:
      folder: holds the run folders, at any depth.
      out: gets table1 to table4, and those of `beyond` and `closeup`, as .md, .csv and .tex, the
        figures as .png and .pdf, report.html.
      classes: names of those in Figure 2; the first few where there are none.

    Returns:
      Warnings: which runs were left out, and where seeds are missing.

    Raises:
      InputError: no run is finished, runs may not stand together, no run has a class, or `out`
        cannot be written.
    """
    found, warnings = results.load(folder)
    seen = closeup.seen(found)
    tables = paper.make(found) + beyond.make(found) + closeup.tables(seen, found)
    pictures = figures.make(found, classes) + closeup.pictures(seen, found)
    files = {f"{t.name}.{end}": of(t).encode() for t in tables for end, of in TABLES.items()}
    files |= {f"{p.name}.{end}": _drawn(p, end) for p in pictures for end in ("png", "pdf")}
    parts = [f"<p class=warning>{html.escape(warning)}</p>" for warning in warnings]
    parts += [_contents(tables, pictures), *map(_section, tables)]
    parts += [_figure(p, files[f"{p.name}.png"]) for p in pictures]
    page = _page(f"{counted(len(found), 'run')} below {folder}", parts)
    try:
        paths.make(out)
        for name, content in (files | {"report.html": page.encode()}).items():
            paths.write(out / name, content)
    except OSError as error:
        raise InputError(
            f"the report cannot be written to {out} ({error.strerror}): choose another --out."
        ) from None
    return warnings


def _drawn(picture: Picture, ending: str) -> bytes:
    file = io.BytesIO()
    picture.figure.savefig(file, format=ending, dpi=DPI)
    return file.getvalue()


def _page(title: str, parts: Sequence[str]) -> str:
    """Writes the page, for which nothing is fetched from anywhere."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title>",
            f"<style>{STYLE}</style></head>",
            f"<body><h1>{html.escape(title)}</h1>",
            *parts,
            f"<script>{SCRIPT}</script>",
            "</body></html>\n",
        ]
    )


def _contents(tables: Sequence[Table], pictures: Sequence[Picture]) -> str:
    places = [(t.name, t.title.partition("; ")[0]) for t in tables]
    places += [(p.name, p.title) for p in pictures]
    links = (f'<a href="#{html.escape(name)}">{html.escape(title)}</a>' for name, title in places)
    return f"<nav>{''.join(links)}</nav>"


def _section(table: Table) -> str:
    notes = "".join(f"<p class=notes>{html.escape(note)}</p>" for note in table.notes)
    title, _, setting = map(html.escape, table.title.partition("; "))
    heading = f"<h2>{title}</h2>\n<p class=notes>{setting}</p>"
    body = f"{heading}\n<div class=wide>{formats.web(table)}</div>\n{notes}"
    return f'<section id="{html.escape(table.name)}">{body}</section>'


def _figure(picture: Picture, png: bytes) -> str:
    """Writes a picture, no smaller than its text can be read, in a box that scrolls."""
    caption, data = html.escape(picture.caption), base64.b64encode(png).decode()
    width = round(72 * picture.figure.get_figwidth())
    image = (
        f'<img alt="{caption}" style="min-width:{width}px;max-width:{2 * width}px" '
        f'src="data:image/png;base64,{data}">'
    )
    title, name = html.escape(picture.title), html.escape(picture.name)
    return (
        f'<figure id="{name}"><h2>{title}</h2><div class=wide>{image}</div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )
