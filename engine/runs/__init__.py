"""Run folders and their files.

folder       names of run folders, launches
checkpoint   checkpoints: saved, found, loaded
tracking     TensorBoard events and metrics.jsonl
environment  versions, commit and machine of a run
"""
