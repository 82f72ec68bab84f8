r"""Folders of your data sets: the one file to edit. Relative paths start at this file's folder.

Each entry is a data set:

    layout   "ucf101"   videos are named v_<Class>_gNN_cNN.avi; the three official splits follow from the names
             "hmdb51"   the three official splits are read from the list files
             "folder"   any folder of class folders:  <videos>/<class>/<video>
                        or, with a given split:       <videos>/<train|val|test>/<class>/<video>
    videos   the folder of class folders
    list     instead of class folders: a text or CSV file with lines of path,label[,group[,split]]; its paths start
             at `videos` if given, else at the list's folder (docs/data.md)
    classes  optional, with a list: a file with the names of the classes in their order
    frames   folder for the extracted JPEG frames, created on first use (UCF101 needs about 22 GB)
    splits   folder of the official list files (UCF101: optional; HMDB51: needed, and found beside the videos)
    flip     True if a mirrored video shows the same action; False if left and right are different actions
    groups   optional, for "folder": a regular expression on the file name. Videos with the same match were cut from
             one recording and are never divided between training and test: r"^(person\d+)_"
"""

import importlib.util

DATASETS = {
    "ucf101": {
        "layout": "ucf101",
        "videos": "/path/to/UCF-101",  # the folder that holds ApplyEyeMakeup/ ... YoYo/
        "frames": "/path/to/UCF-101-frames",
        "splits": None,  # "/path/to/ucfTrainTestlist"; None: the same splits from the file names
        "flip": True,
    },
    "hmdb51": {
        "layout": "hmdb51",
        "videos": "/path/to/hmdb51",  # the folder that holds brush_hair/ ... wave/
        "frames": "/path/to/hmdb51-frames",
        "splits": "/path/to/testTrainMulti_7030_splits",
        "flip": True,
    },
    # Generated on first use; eight motions, nothing to download.
    "demo": {
        "layout": "ucf101",
        "videos": ".cache/demo/videos",
        "frames": ".cache/demo/frames",
        "flip": False,  # mirrored, a move to the left is a move to the right
    },
}

# Used by `python train.py` without flags.
DEFAULT_DATASET = "ucf101"
DEFAULT_MODEL = "r2plus1d_18"

# Folder of the runs, one folder each; `tensorboard --logdir run` shows them.
RUNS = "run"

# A file mypath_local.py beside this one, which git ignores, may set any of these names: its data sets are added, and an
# update of this file changes nothing of them.
if importlib.util.find_spec("mypath_local"):
    import mypath_local

    DATASETS |= getattr(mypath_local, "DATASETS", {})
    DEFAULT_DATASET = getattr(mypath_local, "DEFAULT_DATASET", DEFAULT_DATASET)
    DEFAULT_MODEL = getattr(mypath_local, "DEFAULT_MODEL", DEFAULT_MODEL)
    RUNS = getattr(mypath_local, "RUNS", RUNS)
