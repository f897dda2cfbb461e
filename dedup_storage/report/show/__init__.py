"""The report for people: terminal, Markdown, HTML, comparison.

Needs: ``report.model``.
Gives: text and pages.
May import: ``report.model`` and the rooms that measure.
"""
