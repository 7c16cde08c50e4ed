"""The report's style sheet: one column, light and dark by the reader's setting, readable on a phone and on paper."""

from __future__ import annotations

STYLESHEET = """
:root{color-scheme:light dark;--paper:#fefefe;--wash:#f5f7f9;--ink:#1b1f24;--muted:#5f6978;
--rule:#b9c0ca;--grid:#e6e9ee;--blue:#0072b2;--orange:#d98f00;--green:#00805d;--vermilion:#c85200;--purple:#b4568f;
--good:#e7f5f0;--warn:#fdf3dc;--bad:#fdeae0;--amber:#8a5a00;
--sans:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,
"Noto Sans","Liberation Sans",sans-serif;
--serif:"Iowan Old Style","Palatino Linotype",Palatino,"URW Palladio L","Charter","Bitstream Charter",Georgia,serif;
--mono:ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace}
@media(prefers-color-scheme:dark){:root{--paper:#14171b;--wash:#1b2026;--ink:#e7eaee;--muted:#9aa4b2;--rule:#505a67;--grid:#282e37;
--blue:#56b4e9;--orange:#f0b440;--green:#35c79c;--vermilion:#ff8a4a;--purple:#dd8fbd;--good:#12291f;--warn:#2e2611;--bad:#351d12;
--amber:#f0b440}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.6 var(--sans);
font-variant-numeric:tabular-nums lining-nums}
main,header.top,footer{max-width:62rem;margin:0 auto;padding:0 1.5rem}
header.top{padding-top:4rem}
.kicker{margin:0 0 .5rem;font-size:.8rem;letter-spacing:.09em;text-transform:uppercase;color:var(--muted)}
h1{font:600 clamp(2rem,5vw,3rem)/1.12 var(--serif);letter-spacing:-.012em;margin:0 0 .6rem;
overflow-wrap:anywhere;text-wrap:balance}
h2{font:600 1.6rem/1.25 var(--serif);margin:0 0 .7rem}
h3{font:600 1rem/1.4 var(--sans);margin:2.2rem 0 .3rem}
.about{margin:0;color:var(--muted);max-width:none}
section{padding-top:4rem;scroll-margin-top:0}
p{margin:.6rem 0;max-width:44rem;overflow-wrap:anywhere}
.lead{font-size:1.06rem}
.absent{color:var(--muted);font-style:italic}
a{color:var(--blue);text-underline-offset:.18em;text-decoration-thickness:.06em}
nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1.4rem;list-style:none;margin:1.8rem 0 0;padding:0;font-size:.9rem}
nav a{text-decoration:none}nav a:hover{text-decoration:underline}
.verdict{padding-top:2.4rem}
.verdict>p{font:500 1.25rem/1.45 var(--serif);margin:0 0 1rem;max-width:none;text-wrap:pretty}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(15.5rem,1fr));gap:1rem}
.card{border-radius:.6rem;padding:1rem 1.15rem 1.1rem;border-left:.3rem solid;background:var(--wash)}
.card h3{margin:0;font-size:.8rem;font-weight:500;letter-spacing:.06em;text-transform:uppercase;color:var(--muted)}
.card .state{margin:.15rem 0 .4rem;font-size:1.15rem;font-weight:650}
.card .state span{display:inline-block;width:1.3em}
.card p{margin:.25rem 0;font-size:.9rem;line-height:1.5}
.green{background:var(--good);border-color:var(--green)}.green .state{color:var(--green)}
.amber{background:var(--warn);border-color:var(--orange)}.amber .state{color:var(--amber)}
.red{background:var(--bad);border-color:var(--vermilion)}.red .state{color:var(--vermilion)}
.grey{border-color:var(--rule)}
.scroll{overflow-x:auto;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;width:100%;margin:1.2rem 0 .6rem;font-size:.94rem}
caption{text-align:left;color:var(--muted);font-size:.88rem;padding-bottom:.5rem}
th{font-weight:500;color:var(--muted);font-size:.84rem;vertical-align:bottom}
th,td{padding:.5rem .7rem;text-align:left;border-bottom:1px solid var(--grid);white-space:nowrap}
thead th{border-bottom:1px solid var(--rule)}
tbody th{color:var(--ink);font-weight:600;font-size:inherit}
th:first-child,td:first-child{padding-left:0}th:last-child,td:last-child{padding-right:0}
.n{text-align:right}td.wrap{white-space:normal;min-width:16rem;overflow-wrap:anywhere}
td.bar{width:9rem;min-width:7rem}td.bar svg{display:block;width:100%;height:.9rem}
figure{margin:1.6rem 0 0}
figure .scroll>svg{display:block;width:100%;max-width:var(--w);height:auto;min-width:min(var(--w),32rem)}
figure svg *{stroke-linejoin:round;stroke-linecap:butt}
figure svg text{font-family:var(--sans)}
figcaption{margin-top:.7rem;max-width:44rem;font-size:.88rem;line-height:1.5;color:var(--muted)}
figcaption b{color:var(--ink);font-weight:600}
code,pre{font-family:var(--mono);font-size:.86em}
code{overflow-wrap:anywhere}
pre{background:var(--wash);border-radius:.5rem;padding:.8rem 1rem;overflow-x:auto;
white-space:pre-wrap;overflow-wrap:anywhere}
details{border-top:1px solid var(--grid);padding:.7rem 0}details:last-of-type{border-bottom:1px solid var(--grid)}
figure+details{margin-top:2rem}
summary{cursor:pointer;font-weight:600}
ol.refs{padding-left:1.3rem;font-size:.9rem;max-width:46rem}ol.refs li{margin:.3rem 0}
footer{margin-top:5rem;padding-top:1.4rem;padding-bottom:3rem;color:var(--muted);font-size:.86rem}
@media(max-width:40rem){body{font-size:15.5px}main,header.top,footer{padding-left:1.1rem;padding-right:1.1rem}header.top{padding-top:2.2rem}
section{padding-top:3rem}th,td{padding:.45rem .6rem}}
@media print{:root{color-scheme:light}body{font-size:11pt}nav{display:none}section{padding-top:2rem}
figure,table,.card{break-inside:avoid}h2,h3{break-after:avoid}figure .scroll>svg{min-width:0}}
"""
