"""Extraction of videos into JPEG frames: `python -m dataloaders.preprocess`.

__main__       the command line
run            one extraction, from plan to manifest
plan           frames that exist, videos that remain
ensure         extracts missing frames before training and evaluation
worker         worker processes and their limits
extract        decodes one video and writes its frames, in a worker process
resample       frames at another rate
skip_b_frames  leaves unneeded B-frames undecoded
mpeg4_headers  picture types in MPEG-4 part 2 streams
shards         extraction on several machines
locks          one extraction per folder at a time
messages       what preprocessing prints
"""
