#!/usr/bin/env python3
"""Validates what stands on standard input: {"schema": ..., "reports": [...], "llmd": [...]}."""
import json
import sys

import jsonschema
import llmd_benchmark_report

given = json.load(sys.stdin)

jsonschema.Draft202012Validator.check_schema(given["schema"])
validator = jsonschema.Draft202012Validator(given["schema"])
for report in given["reports"]:
    validator.validate(report)
    # A validator that takes everything would prove nothing.
    assert not validator.is_valid({**report, "kind": "walk"})
    assert not validator.is_valid({key: value for key, value in report.items() if key != "runs"})

for report in given["llmd"]:
    loaded = llmd_benchmark_report.load_benchmark_report(report)
    assert isinstance(loaded, llmd_benchmark_report.BenchmarkReportV02), type(loaded)
    try:
        llmd_benchmark_report.load_benchmark_report({**report, "latency": 1})
    except Exception:
        continue
    sys.exit("llm-d's validator takes a field that it does not know")

print(f"OK: {len(given['reports'])} reports, {len(given['llmd'])} of llm-d")
