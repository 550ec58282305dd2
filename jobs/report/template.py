"""The jinja2 template, style sheet and content security policy of report.html, which jobs/report/page.py fills in.

The style sheet alone adapts the page to light and dark mode, phone, desktop and print: no script, no network request.
"""

from __future__ import annotations

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #ffffff; --card: #f6f6f4; --grid: #c4c4c0; --quiet: #595959;
  --main: #0072b2; --pale: #74b3dc; --second: #d98200; --good: #00684a; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececec; --paper: #121314; --card: #1d1f21; --grid: #4a4d50;
  --quiet: #a9adb1; --main: #56b4e9; --pale: #2b6f99; --second: #e69f00; --good: #4fc59b; --bad: #ff8a80; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 16px 12px 48px; max-width: 1216px; background: var(--paper); color: var(--ink);
  font: 16px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
.foreign { overflow-wrap: anywhere; }
h1 { font-size: 22px; line-height: 1.25; margin: 0 0 4px; } h2 { font-size: 17px; margin: 0 0 8px; }
p { margin: 0 0 8px; } ul { margin: 0; padding-left: 20px; } li { margin-bottom: 6px; }
.quiet, dd small { color: var(--quiet); font-size: 14px; } code { font-size: 14px; }
header { border-left: 6px solid var(--quiet); padding-left: 12px; margin-bottom: 16px; }
header.good, .next.good { border-color: var(--good); } header.bad, .next.bad { border-color: var(--bad); }
header.good h1 span, td.good { color: var(--good); } header.bad h1 span, td.bad { color: var(--bad); font-weight: 600; }
dl.figures { display: grid; grid-template-columns: 1fr 1fr; gap: 8px; margin: 0 0 12px; }
dl.figures div, section { background: var(--card); border-radius: 8px; padding: 12px; }
dt { font-size: 14px; color: var(--quiet); }
dd { margin: 0; font-size: 20px; font-weight: 600; font-variant-numeric: tabular-nums; }
dd small { display: block; font-weight: 400; }
main { display: grid; grid-template-columns: minmax(0, 1fr); gap: 12px; }
section.next { border-left: 6px solid var(--quiet); margin-bottom: 12px; }
figure { margin: 8px 0; } figure svg { display: block; width: 100%; height: auto; overflow: visible; }
figure .wide { display: none; }
table { border-collapse: collapse; width: 100%; font-size: 15px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 5px 10px 5px 0; border-top: 1px solid var(--grid); }
thead th { border-top: 0; font-size: 14px; color: var(--quiet); font-weight: 400; }
th[scope=row] { font-weight: 400; } td.number, th.number { text-align: right; white-space: nowrap; }
table.reasons th[scope=row] { width: 45%; } table.reasons td.number { white-space: normal; }
details summary { cursor: pointer; } details table { margin-top: 8px; } details th { width: 40%; }
@media (max-width: 639px) {
  table.stack thead { display: none; } table.stack tr { display: block; border-top: 1px solid var(--grid); padding: 6px 0; }
  table.stack th, table.stack td { display: block; border: 0; padding: 1px 0; text-align: left; white-space: normal; }
  table.stack th[scope=row] { font-weight: 600; } table.stack td:empty { display: none; }
  table.stack td[data-is]::before { content: attr(data-is) ": "; color: var(--quiet); } }
@media (min-width: 640px) { body { padding: 24px 24px 64px; } h1 { font-size: 26px; }
  dl.figures { grid-template-columns: repeat(4, 1fr); } figure .wide { display: block; max-width: 700px; }
  figure .narrow { display: none; } }
@media (min-width: 1100px) { main { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); } .broad { grid-column: 1 / -1; } }
@media print { :root { color-scheme: light; --ink: #000; --paper: #fff; --card: #fff; --grid: #b5b5b5; --quiet: #444;
    --main: #0072b2; --pale: #8fc3e4; --second: #d98200; --good: #00513a; --bad: #8c1d18; }
  body { padding: 0; font-size: 11pt; } dl.figures div, section { border: 1px solid var(--grid); }
  figure .wide { max-width: 540px; } section, tr { break-inside: avoid; } section.long { break-inside: auto; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ headline.word }}: run {{ summary.run_id }}</title>
<style>{{ style|safe }}</style>
</head>
<body>
{% macro chart(name) %}{% if name in charts %}
<figure><div class="narrow">{{ charts[name].narrow|safe }}</div><div class="wide">{{ charts[name].wide|safe }}</div></figure>
{% endif %}{% endmacro %}
<header class="{{ headline.mood }}">
<h1 class="foreign"><span>{{ headline.word }}.</span> {{ headline.sentence }}</h1>
<p class="quiet foreign">Run {{ summary.run_id }}{% if model.name %} · {{ model.name }}, {{ model.pooling }}, \
{{ model.dim }} &times; {{ model.vector }}{% endif %} · {{ summary.data }}</p>
</header>
<dl class="figures">
{% for card in cards %}<div><dt>{{ card.name }}</dt><dd>{{ card.value }}<small>{{ card.note }}</small></dd></div>
{% endfor %}</dl>
<section class="next {{ headline.mood }}">
<h2>What to do next</h2>
<ul class="foreign">{% for step in steps %}<li>{{ step }}</li>{% endfor %}</ul>
</section>
<main>
{% if gate %}
<section class="broad long">
<h2>Checks before publishing</h2>
<table class="stack">
<thead><tr><th scope="col">check</th><th scope="col">result</th><th scope="col">measured</th><th scope="col">allowed</th>\
<th scope="col">note</th></tr></thead>
<tbody>{% for check in gate %}
<tr><th scope="row">{{ check.name }}</th><td class="{{ check.mood }}">{{ check.result }}</td>\
<td data-is="measured">{{ check.measured }}</td><td data-is="allowed">{{ check.allowed }}</td>\
<td class="foreign">{{ check.note }}</td></tr>
{% endfor %}</tbody>
</table>
</section>
{% endif %}
<section>
<h2>Rows</h2>
{{ chart("rows") }}
<table>
<tbody>{% for name, value, note in origins %}
<tr><th scope="row">{{ name }}</th><td class="number">{{ value }}</td><td class="quiet">{{ note }}</td></tr>
{% endfor %}</tbody>
</table>
</section>
<section>
<h2>Predicted and actual</h2>
<table class="stack">
<thead><tr><th scope="col"></th><th scope="col" class="number">predicted</th><th scope="col" class="number">actual</th>\
<th scope="col" class="number">actual / predicted</th></tr></thead>
<tbody>{% for name, predicted, actual, ratio in forecasts %}
<tr><th scope="row">{{ name }}</th><td class="number" data-is="predicted">{{ predicted }}</td>\
<td class="number" data-is="actual">{{ actual }}</td><td class="number" data-is="actual / predicted">{{ ratio }}</td></tr>
{% endfor %}</tbody>
</table>
<p class="quiet">Predicted at planning time, from a sample of the texts and the rate of the previous run. Before a first \
run has measured a rate, hours and cost are not known.</p>
</section>
<section>
<h2>Throughput</h2>
{{ chart("throughput") }}
{% if "throughput" not in charts %}<p>No receipt holds an end time.</p>{% endif %}
{% for pause in pauses %}<p class="quiet">Dashed line: {{ pause }}.</p>{% endfor %}
{% if untimed %}<p class="quiet">Without {{ untimed }}.</p>{% endif %}
</section>
<section>
<h2>Timeline of the replicas</h2>
{{ chart("timeline") }}
{% if "timeline" in charts %}<p class="quiet">A block is a shard, from the end of the one before it to its own end, by the \
replica's clock{% if timeline_note %}; {{ timeline_note }}{% endif %}.</p>
{% else %}<p>No replica embedded a shard.</p>{% endif %}
</section>
<section>
<h2>Stages</h2>
<p>{{ facts.stages.sentence }}</p>
{{ chart("stages") }}
{% if "stages" in charts %}<p class="quiet">Shares of the encoder's time (encode + wait). Stages run \
concurrently; the one near 100% limits the speed.</p>{% endif %}
</section>
<section>
<h2>Text lengths</h2>
<p>{{ truncation }}</p>
<p>{{ padding }}</p>
{{ chart("lengths") }}
{% if "lengths" in charts %}<p class="quiet">{{ "{:,}".format(facts.lengths.counted) }} documents by number of tokens, \
special tokens included{% if facts.origins.carried %}; carried documents are counted as in their own snapshot{% endif %}.</p>
{% else %}<p class="quiet">No receipt holds the lengths of its texts.</p>{% endif %}
</section>
<section class="broad long">
<h2>Quarantine by reason</h2>
{% if reasons %}
<table class="stack reasons">
<thead><tr><th scope="col">reason</th><th scope="col" class="number">rows</th><th scope="col">for example</th></tr></thead>
<tbody>{% for reason in reasons %}
<tr><th scope="row" class="foreign">{{ reason.text }}</th><td class="number" data-is="rows">{{ reason.rows }}</td>\
<td class="quiet foreign">{{ reason.example }}</td></tr>
{% endfor %}</tbody>
</table>
{% if reasons_note %}<p class="quiet">{{ reasons_note }}</p>{% endif %}
{% else %}<p>Every row has a vector.</p>{% endif %}
</section>
<section class="broad long">
<details>
<summary>All of summary.json</summary>
<table><tbody>{% for name, value in everything %}
<tr><th scope="row" class="foreign">{{ name }}</th><td class="foreign">{{ value }}</td></tr>
{% endfor %}</tbody></table>
</details>
</section>
</main>
</body>
</html>
"""
