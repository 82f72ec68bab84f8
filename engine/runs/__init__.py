"""Run folders and their files.

folder        names of run folders, launches, locks
checkpoint    checkpoints: saved, found, loaded
tracking      TensorBoard events and metrics.jsonl
pictures      clips as the network gets them, curves
growing_file  files that a full disk does not damage
environment   versions, commit and machine of a run
"""
