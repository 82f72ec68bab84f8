"""Comparison of runs: charts, tables and a page.

run_result  settings, curves and test results of one run
find_runs   the folders of the runs
    groups      runs that differ in their seed only
tables      comparison as text, Markdown and csv
charts      curves and cost against accuracy
page        comparison as one HTML page
"""
