"""Checks of a data set before training: `python -m dataloaders.audit`.

__main__  the command line
run       one audit, from videos to findings
probe     properties of each video file, read in child processes
duplicates  equal files and frames
findings  leaks, duplicates and problems
frames_folders  folders of extracted frames and their size on disk
report    findings as text and as JSON
"""
