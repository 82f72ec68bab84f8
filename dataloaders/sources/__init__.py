"""Data sets as their owners have them: videos, classes, groups and splits.

data_source  DataSource and SourceVideo, groups and class order
find         a name, a folder or a list -> DataSource; its videos
entries      entries of mypath.py: keys, spelling and types
layout       Layout: base class and registry of data sets
ucf101       UCF101: names, official splits, archives
hmdb51       HMDB51: names, official splits, archives
folder       class folders, stray files, archives in the way
video_list   a text or csv file with one line per video
list_rows    classes, groups and parts from a list, for videos and frames
recordings   which videos were cut from one source
splits       training, validation and test
demo         the generated demo data set
demo_scene   drawing of its pictures
"""
