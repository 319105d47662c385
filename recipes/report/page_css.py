"""The style sheet of the report: one column on a phone, two on a desktop; light or dark theme as
the system setting."""

CSS = """
:root {
  color-scheme: light dark;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "DejaVu Sans", sans-serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  --bg: #f4f6f9; --card: #ffffff; --ink: #1b2431; --muted: #5f6b7a; --line: #dfe4ea; --soft: #eef1f5;
  --good: #17936c; --bad: #d4532a; --mark: #ffe9a8;
  --c1: #2f6bd8; --c2: #d9822b; --c3: #17936c; --c4: #9a4cc2; --c5: #c93468; --c6: #8a7714; --c7: #1f8fae;
  --c8: #6c7683;
}
@media (prefers-color-scheme: dark) {
  :root {
    --bg: #10151c; --card: #181f29; --ink: #e6ebf2; --muted: #98a4b3; --line: #2b3542; --soft: #212a36;
    --good: #45c79a; --bad: #ff8a5c; --mark: #5d4a12;
    --c1: #6d9dff; --c2: #f2a65a; --c3: #45c79a; --c4: #c78bea; --c5: #f47ba2; --c6: #d2bd55; --c7: #5cc3e0;
  --c8: #93a0b0;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--bg); color: var(--ink); font: 16px/1.5 var(--sans); }
main { max-width: 1120px; margin: 0 auto; padding: clamp(1rem, 3vw, 2.5rem) clamp(.8rem, 3vw, 2rem) 3rem; }
h1 { font-size: clamp(1.5rem, 4.5vw, 2.3rem); line-height: 1.15; letter-spacing: -.02em; margin: .1em 0 .35em;
  overflow-wrap: anywhere; text-wrap: balance; }
h2 { font-size: 1.05rem; margin: 0 0 .15rem; letter-spacing: -.005em; }
.brand { color: var(--c1); font-weight: 700; font-size: .78rem; letter-spacing: .14em; text-transform: uppercase; }
.note { color: var(--muted); font-size: .86rem; margin: 0 0 .7rem; }
.facts { color: var(--muted); font-size: .92rem; margin: 0; display: flex; flex-wrap: wrap; gap: .1rem .9rem; }
.facts b { color: var(--ink); font-weight: 600; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.2rem, 1fr)); gap: .8rem; margin: 1.4rem 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: .8rem 1rem .75rem; }
.tile .name { color: var(--muted); font-size: .8rem; overflow-wrap: anywhere; }
.tile .value { font-size: 1.65rem; font-weight: 650; letter-spacing: -.02em; line-height: 1.25;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
.tile .beside { color: var(--muted); font-size: .8rem; font-variant-numeric: tabular-nums; }
.tile.first { background: var(--c1); border-color: transparent; color: #fff; grid-column: span 2; }
@media (prefers-color-scheme: dark) { .tile.first { background: #2a57b0; } }
.tile.first .name, .tile.first .beside { color: #ffffffd0; }
.tile.first .value { font-size: 2.5rem; line-height: 1.1; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 1rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 1rem 1.1rem 1.1rem;
  min-width: 0; }
.wide { grid-column: 1 / -1; }
.card svg + table { margin-top: .8rem; }
.card svg { display: block; width: 100%; height: auto; max-width: 34rem; margin: 0 auto; }
pre { background: var(--soft); border-radius: 9px; padding: .75rem .9rem; margin: 0; overflow-x: auto;
  font: .82rem/1.5 var(--mono); tab-size: 2; }
pre, pre.command { white-space: pre-wrap; overflow-wrap: anywhere; }
pre.command { user-select: all; }
details + details { margin-top: .6rem; }
summary { cursor: pointer; font-weight: 600; padding: .2rem 0; }
details[open] summary { margin-bottom: .4rem; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th { color: var(--muted); font-weight: 500; text-align: left; }
th, td { padding: .32rem .5rem .32rem 0; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
tr:last-child td { border-bottom: 0; }
td.n, th.n { text-align: right; white-space: nowrap; padding: .32rem 0 .32rem .8rem; }
.bar { height: 6px; border-radius: 3px; background: var(--soft); overflow: hidden; min-width: 3rem; }
.bar i { display: block; height: 100%; border-radius: 3px; background: var(--c1); }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .7rem; }
.sheet.texts { grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
.view { border: 1px solid var(--line); border-radius: 10px; padding: .55rem; min-width: 0; }
.view .pair { display: grid; grid-template-columns: 1fr 1fr; gap: .35rem; }
.view img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 5px;
  background: var(--soft); }
.view img.small { image-rendering: pixelated; }
.view.dropped { border-style: dashed; }
.view.dropped .pair { opacity: .62; }
.gallery { display: grid; grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); gap: .45rem;
  margin: 0 auto .6rem; max-width: calc(var(--columns) * 7.2rem); }
.gallery .view { padding: .35rem; }
.gallery .is-right { border-color: var(--good); } .gallery .is-wrong { border-color: var(--bad); }
.gallery p { font-size: .74rem; }
.view .label { display: flex; justify-content: space-between; gap: .4rem; font-size: .84rem; margin: .45rem 0 .3rem; }
.view .label b { overflow-wrap: anywhere; }
.view .label span { color: var(--muted); white-space: nowrap; }
.view .truth { font-size: .76rem; color: var(--muted); margin-top: .3rem; overflow-wrap: anywhere; }
.right { color: var(--good); } .wrong { color: var(--bad); }
.view.dropped .bar i { background: var(--c8); }
.view p { margin: 0 0 .35rem; font-size: .86rem; line-height: 1.45; overflow-wrap: anywhere; }
.view p small { color: var(--muted); display: block; font-size: .7rem; text-transform: uppercase;
  letter-spacing: .06em; }
mark { background: var(--mark); color: inherit; border-radius: 3px; padding: 0 .12em; }
del { color: var(--muted); text-decoration-color: var(--bad); }
.chips { display: flex; flex-wrap: wrap; gap: .35rem; margin-top: .8rem; }
.chips span { background: var(--soft); border-radius: 99px; padding: .12rem .6rem; font-size: .78rem;
  color: var(--muted); }
footer { color: var(--muted); font-size: .8rem; margin-top: 1.6rem; text-align: center; }
@media (max-width: 44rem) { .tile.first { grid-column: 1 / -1; } }
@media (max-width: 30rem) { .sheet { grid-template-columns: 1fr 1fr; } .card { padding: .85rem .8rem; } .tiles {
  grid-template-columns: 1fr 1fr; gap: .6rem; } }
@media print { body { background: #fff; } .card, .tile { break-inside: avoid; } }
"""
