"""How a run ended: summary.json and report.html."""
