"""Comparison of runs: charts, tables and a page.

run_result  settings and curves of one run
test_result  the test result in a run's folder
cross_validation  a cross-validation as one entry
find_runs   the folders of the runs
groups      runs on one data set and split, and their differences on the same videos
gate        whether a new run is worse than an old one
tables      comparison as text, Markdown and csv
charts      curves and cost against accuracy
page        comparison as one HTML page
"""
