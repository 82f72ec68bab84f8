r"""Where your data lies. This is the one file to edit; paths that do not begin with / count from this file's folder.

Each data set is an entry:

    layout   "ucf101"   videos are named v_<Class>_gNN_cNN.avi; the three official splits follow from the names
             "hmdb51"   the three official splits follow from the list files
             "folder"   any folder of class folders:  <videos>/<class>/<video>
                        or, already divided:          <videos>/<train|val|test>/<class>/<video>
    videos   the folder of class folders
    list     instead of class folders: a text or csv file with a line a video, path,label[,group[,split]]; its paths
             count from `videos` where that is given, else from the list's folder (docs/data.md)
    classes  optional, with a list: a file with the names of the classes in their order
    frames   where the extracted JPEG frames go (UCF101 needs about 22 GB); they are made on first use
    splits   the folder of the official list files (UCF101: optional; HMDB51: needed, and found beside the videos)
    flip     True where a mirrored video shows the same action; False where left and right are different actions
    groups   optional, for "folder": a regular expression on the file name. Videos with the same match were cut from
             one recording and are never divided between training and test: r"^(person\d+)_"
"""

DATASETS = {
    "ucf101": {
        "layout": "ucf101",
        "videos": "/path/to/UCF-101",  # the folder that holds ApplyEyeMakeup/ ... YoYo/
        "frames": "/path/to/UCF-101-frames",
        "splits": None,  # "/path/to/ucfTrainTestlist"; without it the rule that the lists follow is used
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

# What a bare `python train.py` does.
DEFAULT_DATASET = "ucf101"
DEFAULT_MODEL = "r2plus1d_18"

# Runs are written here, one folder each; `tensorboard --logdir run` shows them.
RUNS = "run"
