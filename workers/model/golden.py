"""The golden texts: a replica embeds them before its first shard, and compares the vectors with a float32 reference.

They are short and long: prose, code, lists, numbers, several scripts, unusual characters. One is longer than any sliding
window in use. They also calibrate 8-bit products, so changing them changes 8-bit vectors. Written for this project.
"""

from __future__ import annotations

_HARBOUR = (
    "The harbour froze in January, and for eleven days nothing moved but the gulls. When the ice broke, the first boat out "
    "was the pilot's; the second carried flour, lamp oil and three letters that nobody had expected. "
)
_MANUAL = (
    "To replace the filter, switch the pump off, close both valves and wait until the gauge reads zero. Unscrew the housing "
    "counter-clockwise, keep the old gasket for comparison, and grease the new one before it is seated. "
)

GOLDEN_TEXTS = (
    "snow",
    "Yes.",
    "How do I reset my password?",
    "A small library for reading and writing compressed archives.",
    "The committee postponed its decision because the figures for the second quarter had not been audited.",
    "Utility that watches directories and runs a command whenever a file in them changes; useful in development.",
    "def area(radius):\n    return 3.14159 * radius ** 2  # square units",
    "SELECT city, count(*) FROM orders WHERE placed >= '2024-03-01' GROUP BY city ORDER BY 2 DESC;",
    "Error 504: upstream timed out after 30.0 s (attempt 3 of 5), request id 8f3c-11a9",
    "Ingredients: 250 g flour, 3 eggs, 1 l milk, a pinch of salt. Rest for 30 minutes, then fry in butter.",
    "https://example.org/a/b?c=1&d=two#three user@example.org +41 44 000 00 00",
    "GmbH & Co. KG, Müllerstraße 12, 8004 Zürich - geöffnet täglich außer sonntags",
    "Le vent s'est levé vers midi ; à quatre heures, la moitié des tuiles avaient quitté le toit.",
    "La biblioteca abre a las nueve y cierra cuando se va el último lector.",
    "日本語の文章には空白がありません。検索には形態素解析が必要です。",
    "Поезд пришёл вовремя, но вагон-ресторан был закрыт.",
    "مرحبا بالعالم، هذا نص قصير للاختبار",
    "Emoji 👩🏽\u200d🚀 and flags 🇩🇪, zero\u200bwidth, naïve café, ﬁne ligature",
    "patient presented with acute dyspnea; SpO2 88%, HR 121, BP 95/60; started on O2 4 l/min",
    "It was, she thought, neither the best idea nor the worst: merely the only one that anybody had had since Tuesday.",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z 0 1 2 3 4 5 6 7 8 9",
    "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG!!! (again, and again, and again…)",
    "supercalifragilisticexpialidocious" * 4,
    _HARBOUR,
    _MANUAL,
    _HARBOUR + _MANUAL + "Both accounts agree on the date and on little else. " + _MANUAL + _HARBOUR,
)
