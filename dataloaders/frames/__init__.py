"""Frames on disk: how they are stored, found and read.

settings      size, rate and quality of stored frames
manifest      manifest.csv: a row for each video
store         FrameStore: folders and packs behind one interface
pack_volumes  tar volumes of packs
pack_check    packs verified and repaired
foreign       frames that other programs extracted
memory_cache  decoded frames kept in memory (--cache ram)
shared_memory memory shared with worker processes
"""
