"""Comparison of runs: charts, tables and a page.

run_result  settings, curves and test results of one run
groups      runs that differ in their seed only
tables      comparison as text, Markdown and csv
charts      curves and cost against accuracy
marks       shapes of the charts, drawn as SVG and pixels
page        comparison as one HTML page
"""
