"""The HTML around a report's content: one page that asks nothing of the network, in light, dark and print, on a phone and on paper.

Enters: texts and rows of cells. Leaves: HTML in which every text is escaped: a column may be called `<script>`. The page holds no script, and its policy
forbids whatever would be fetched, so that opening it tells nobody.
"""

from __future__ import annotations

import base64
import html
import re
import struct
import unicodedata
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fivestep import files
from fivestep.errors import UsageError

STYLE = """
:root{--ink:#1b1f24;--soft:#57606a;--paper:#fff;--panel:#f5f6f8;--edge:#d0d7de;--link:#0757a8;
--c1:#0072B2;--c2:#C24E00;--c3:#00795A;--c4:#9C4A82;--c5:#7A6A00;--c6:#2B6F9E;--good:#0b6b3a;--bad:#b3261e;--warn:#8a5300;--goodbg:#e3f4ea;--badbg:#fde8e6;--warnbg:#fff2dc;--heat:0,114,178;--wrong:213,94,0}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#a9b1bb;--paper:#15181c;--panel:#1e2329;--edge:#3a424c;--link:#7cc0ff;
--c1:#56B4E9;--c2:#F0A040;--c3:#3CCB9E;--c4:#DE9CC4;--c5:#F0E442;--c6:#8FB8DE;--good:#6fdc9c;--bad:#ff9d94;--warn:#ffc46b;--goodbg:#123021;--badbg:#3d1a18;--warnbg:#38280f;--heat:86,180,233;--wrong:240,140,50}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"DejaVu Sans",sans-serif}
main,header,footer,nav{max-width:64rem;margin:0 auto;padding:0 1rem}
header{padding-top:1.6rem}
h1{font-size:1.65rem;line-height:1.2;margin:0 0 .3rem;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:2.2rem 0 .6rem;padding-top:.8rem;border-top:1px solid var(--edge)}
h3{font-size:1.02rem;margin:1.3rem 0 .4rem}
p,ul{margin:.5rem 0;max-width:46rem}
p,li{overflow-wrap:anywhere}
a{color:var(--link)}
nav ul{display:flex;flex-wrap:wrap;gap:.1rem 1rem;list-style:none;padding:0;max-width:none}
nav a{display:inline-block;padding:.2rem 0}
.soft,.note,figcaption{color:var(--soft)}
.verdict{border-left:5px solid;padding:.7rem 1rem;border-radius:.3rem;margin:1rem 0;max-width:none}
.verdict p{margin:.25rem 0;max-width:52rem}
.verdict.good{border-color:var(--good);background:var(--goodbg)}
.verdict.bad{border-color:var(--bad);background:var(--badbg)}
.verdict.warn{border-color:var(--warn);background:var(--warnbg)}
.tag{font-weight:600;white-space:nowrap}
.tag.good{color:var(--good)}.tag.bad{color:var(--bad)}.tag.warn{color:var(--warn)}
.scroll{overflow-x:auto;margin:.6rem 0;border:1px solid var(--edge);border-radius:.4rem}
.scroll:focus{outline:2px solid var(--link)}
table{border-collapse:collapse;font-size:.9rem;width:100%;font-variant-numeric:tabular-nums}
.scroll+.note{margin:-.2rem 0 .9rem;font-size:.86rem;max-width:none}
th,td{padding:.32rem .6rem;text-align:left;vertical-align:middle;border-bottom:1px solid var(--edge)}
tbody tr:last-child>*{border-bottom:0}
th{font-weight:600;background:var(--panel)}
tbody th{position:sticky;left:0;max-width:11rem;overflow-wrap:break-word}
tbody th:not(.n){min-width:6rem}tbody th.n{max-width:none}
td.n,th.n{text-align:right}td.n,tbody th.n{white-space:nowrap}
td.w{min-width:11rem}thead th.far{min-width:9rem}
td.long{overflow-wrap:anywhere;min-width:9rem;max-width:22rem}
.heat td:not(.n),.heat thead th:not(:first-child):not(.n){text-align:center}
"""
STYLE += "".join(f".h{level}{{background:rgba(var(--heat),{level * 0.035:.3f})}}" for level in range(1, 11))
STYLE += "".join(f".x{level}{{background:rgba(var(--wrong),{level * 0.035:.3f})}}" for level in range(1, 11))  # light tints: numbers on them stay readable
STYLE += """
.grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:1rem 1.5rem;align-items:start}
figure{margin:.4rem 0;min-width:0}
figcaption{font-size:.86rem}
svg.chart{width:100%;height:auto;display:block;max-width:31rem}
svg.spark{width:9.5rem;height:1.5rem;display:block}
.pair{display:grid;grid-template-columns:5rem 6rem;align-items:end;color:var(--soft);font-size:.84rem}.pair svg.spark{width:6rem}
svg.key{width:26px;height:12px;margin-right:.35rem;vertical-align:middle}
svg text{fill:var(--ink);font-size:12px}
.grid{stroke:var(--edge);fill:none}.axis{stroke:var(--soft);fill:none}.guide{stroke:var(--soft);stroke-dasharray:3 4;stroke-width:1.4;fill:none}
.line{fill:none;stroke:var(--c);stroke-width:2;stroke-linejoin:round}.line.thin{stroke-width:1.5}.line.thick{stroke-width:5;opacity:.45}.line.ink{stroke:var(--ink);stroke-width:1.3}
.dots{fill:none;stroke:var(--c);stroke-width:4;stroke-linecap:round;opacity:.55}.dots.big{stroke-width:8;opacity:.9}
.fill{fill:var(--c);opacity:.5;stroke:none}
.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}.c5{--c:var(--c5)}.c6{--c:var(--c6)}
.legend{list-style:none;padding:0;margin:.1rem 0;display:flex;flex-wrap:wrap;gap:.1rem 1.1rem;font-size:.88rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.7rem;padding:0;margin:1rem 0;max-width:none;list-style:none}
.tiles li{background:var(--panel);border:1px solid var(--edge);border-radius:.4rem;padding:.55rem .8rem}
.tiles b{display:block;font-size:1.35rem;line-height:1.25;overflow-wrap:anywhere}
.tiles span{font-size:.86rem;color:var(--soft);display:block}
.finding{border:1px solid var(--edge);border-left:5px solid var(--soft);border-radius:.3rem;padding:.4rem .8rem;margin:.6rem 0}
.finding.error{border-left-color:var(--bad)}.finding.warning{border-left-color:var(--warn)}
.finding p{margin:.2rem 0}
pre{background:var(--panel);border:1px solid var(--edge);border-radius:.4rem;padding:.7rem .9rem;overflow-x:auto;font:.86rem/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.9em}
details{margin:.5rem 0}summary{cursor:pointer;padding:.2rem 0;font-weight:600}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(7.5rem,1fr));gap:.8rem;padding:0;list-style:none;max-width:none}
.pictures img{width:100%;image-rendering:pixelated;border:1px solid var(--edge);border-radius:.25rem;display:block;background:#fff}
.pictures span{font-size:.84rem;display:block;overflow-wrap:anywhere}
footer{padding:1.5rem 1rem 2.5rem;font-size:.86rem;color:var(--soft)}
@media screen and (min-width:34rem){tbody th.far{min-width:10.4rem;max-width:22rem}}
@media screen and (max-width:34rem){body{font-size:15px}th,td{padding:.28rem .45rem}h1{font-size:1.35rem}svg.chart text{font-size:14px}td.long{min-width:15rem}td:not(.long){white-space:nowrap}}
@media print{:root{color-scheme:light;--ink:#000;--soft:#444;--paper:#fff;--panel:#f3f3f3;--edge:#bbb;--link:#000}
body{font-size:9.5pt}nav{display:none}.scroll{overflow:visible;border:0}
table{font-size:8pt}th,td{padding:.2rem .3rem;overflow-wrap:break-word}td.long{overflow-wrap:anywhere}table.wide,table.wide thead th{font-size:6.6pt}td.n,th.n,.tag{white-space:normal}thead th{font-size:7.5pt}tbody th:not(.n),td.long,td.w,thead th.far{min-width:0}table:not(.wide) td.long{min-width:5.5rem}
.grid2{grid-template-columns:1fr 1fr}.tiles{grid-template-columns:repeat(5,1fr)}svg.spark{width:6.5rem}
figure,p,tr,.finding,.tiles li,.scroll:not(:has(tbody tr:nth-child(16))){break-inside:avoid}h2,h3,h2+p,p:has(+details),summary,.scroll{break-after:avoid}svg.chart text{font-size:14px}
details::details-content{content-visibility:visible;block-size:auto;opacity:1}pre{white-space:pre-wrap;font-size:7pt}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""

BREAKS = re.compile(r"[_/\\]+(?=[^\s_/\\])|(?:[.,:;=-]|(?<=\S)\()(?=[^\W\d])|[a-z](?=[A-Z][a-z])")
LONG_WORD = re.compile(r"[^\W_]{20}(?=[^\W_]{5})")
MANY_COLUMNS = 9  # more are set smaller on paper
SHORT_NAME = 18  # characters of a row's name that is never broken
LONG_HEAD = 24  # a name that would stand in five to ten short lines if its column were as narrow as its numbers leave it
SHORT = 40  # characters of a cell that stays in one line on a phone, where tables scroll anyway: broken words would make rows as high as they are wide

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def page(title: str, body: str) -> str:
    """The whole document."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><meta name="color-scheme" content="light dark">'
        f'<meta name="referrer" content="no-referrer"><title>{text(title, 200)}</title><style>{STYLE.strip()}</style></head><body>\n{body}\n</body></html>\n'
    )


def text(value: Any, most: int = 300) -> str:
    """Any value as escaped text of at most `most` characters. What has no picture, or turns the direction of writing, is shown by its number.

    >>> text("<b>" + chr(0x202E)) == "&lt;b&gt;" + chr(92) + "u202e"
    True
    """
    whole = str(value)
    if len(whole) > most:
        whole = whole[: most - 1] + "…"
    if not whole.isprintable():
        whole = "".join(sign if sign in "\n\t" or not unicodedata.category(sign).startswith("C") else f"\\u{ord(sign):04x}" for sign in whole)
    return html.escape(whole)


def write_page(html_text: str, path: str | Path) -> Path:
    """Writes a page as `path`, or as report.html in the folder `path`; returns its path. Raises UsageError for a name that is no page's: `-o data.csv` would be
    the end of the data."""
    target = Path(path)
    target = target / "report.html" if target.is_dir() else target
    if target.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{target}: a report is an HTML file. Give a folder, or a name that ends in .html.")
    files.write_atomic(target, html_text.encode("utf-8", "replace"))
    return target


def breakable(value: Any, most: int = 300) -> str:
    """As `text`, with the places at which a narrow column may break it: after signs that part words, between the words of a CamelCase name, and inside words
    only where they are longer than any word is. A number stays whole.

    >>> breakable("body_mass_g")
    'body_<wbr>mass_<wbr>g'
    >>> breakable("CrossEntropyLoss(lr=0.001)")
    'Cross<wbr>Entropy<wbr>Loss(<wbr>lr=0.001)'
    >>> breakable("run-7 (linear)")
    'run-7 (linear)'
    """
    marked = LONG_WORD.sub("\\g<0>\0", BREAKS.sub("\\g<0>\0", html.unescape(text(value, most))))
    return html.escape(marked).replace("\0", "<wbr>")


class Cell(str):
    """HTML of a table's cell that is made already, with the class that it is shown by."""

    look: str

    def __new__(cls, content: str, look: str = "") -> Cell:
        made = super().__new__(cls, content)
        made.look = look
        return made


def number(value: float | None, digits: int = 4) -> Cell:
    """A number as a right-aligned cell; a dash where there is none."""
    return Cell("–" if value is None else number_text(value, digits), "n")


def number_text(value: float, digits: int = 4) -> str:
    """
    >>> number_text(1234567.0), number_text(0.000123), number_text(-3.0)
    ('1,234,567', '0.000123', '-3')
    """
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e12:
        return f"{int(value):,}"
    if 10 ** (digits - 1) <= abs(value) < 1e12:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[Any]], *, look: str = "") -> str:
    """A table that scrolls by itself where it is wider than the screen. A cell is a `Cell` (HTML) or any value (escaped); the first cell heads its row.

    The head of a column stands where its cells do: right over numbers.
    """
    looks = [{cell.look for row in rows if isinstance(cell := row[position], Cell)} for position in range(len(heads))]
    head = ""
    for name, kinds in zip(heads, looks):
        kind = " ".join([*(["n"] if "n" in kinds else []), *(["far"] if len(name) > LONG_HEAD else [])])
        attribute = f' class="{kind}"' if kind else ""
        head += f'<th scope="col"{attribute}>{breakable(name, 80)}</th>'
    body = []
    for row in rows:
        cells = []
        for position, cell in enumerate(row):
            if isinstance(cell, Cell):
                content, kind = cell, f' class="{cell.look}"' if cell.look else ""
            else:
                content = text(cell) if position == 0 and len(str(cell)) <= SHORT_NAME else breakable(cell)
                kind = ' class="far"' if position == 0 and len(str(cell)) > LONG_HEAD else ' class="long"' if len(str(cell)) > SHORT else ""
            cells.append(f'<th scope="row"{kind}>{content}</th>' if position == 0 else f"<td{kind}>{content}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    look = f"{look} wide".strip() if len(heads) > MANY_COLUMNS else look
    kind = f' class="{look}"' if look else ""
    told = text(caption)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{told}"><table{kind} aria-label="{told}">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        f'<p class="note">{told}.</p>'  # not a <caption>: that would scroll away with a wide table
    )


def section(anchor: str, title: str, *parts: str) -> str:
    """A part of the page under its title; nothing where it has no content."""
    content = "\n".join(part for part in parts if part)
    return f'<section id="{anchor}" aria-labelledby="{anchor}-title"><h2 id="{anchor}-title">{text(title)}</h2>\n{content}\n</section>' if content else ""


def figure(drawn: str, caption: str) -> str:
    return f"<figure>{drawn}<figcaption>{text(caption, 600)}</figcaption></figure>" if drawn else ""


def paragraph(*sentences: str) -> str:
    """Sentences of plain text as one paragraph."""
    return f"<p>{' '.join(text(sentence, 2000) for sentence in sentences if sentence)}</p>"


def code(*lines: str) -> str:
    return f'<pre tabindex="0"><code>{html.escape(chr(10).join(lines))}</code></pre>'


def folded(title: str, content: str) -> str:
    """What is long and seldom read: opened by a click, and open in print."""
    return f"<details><summary>{text(title)}</summary>{content}</details>"


def image_png(pixels: np.ndarray) -> bytes:
    """A PNG file of uint8 pixels (height, width) grey or (height, width, 3) colours (PNG specification, third edition: chunks, filter 0)."""
    height, width = pixels.shape[:2]
    lines = np.ascontiguousarray(pixels, dtype=np.uint8).reshape(height, -1)
    raw = b"".join(b"\0" + line.tobytes() for line in lines)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")


def image(pixels: np.ndarray, told: str) -> str:
    """An `<img>` that holds its picture itself."""
    return f'<img alt="{text(told)}" src="data:image/png;base64,{base64.b64encode(image_png(pixels)).decode()}">'
