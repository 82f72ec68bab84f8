"""The work of the scripts, a folder for each.

fusion      several runs as one network
predictor   class probabilities for clips, from a checkpoint or an exported file
training    train.py
evaluation  evaluate.py
comparison  compare.py
inference   inference.py
features    features.py
export      export.py
serving     serve.py
runs        run folders, checkpoints, TensorBoard
hardware    devices, precision, distributed processes
"""
