"""Pretrained weights: reading files of any known format, loading them into a model.

read         the entry point: a name, a run or a file -> LoadedWeights
load         LoadedWeights into a model, with a report of every key
known        names of weights and the models that have them
loaded       LoadedWeights and checks that all formats share
caffe        C3D of its authors, in their own Caffe
convlstm     ConvLSTM of eriklindernoren/Action-Recognition
keras        C3D in Keras (.h5)
mean         mean files of C3D (.binaryproto, .npy)
pytorch      state dicts of other PyTorch programs
safetensors  safetensors files, of export.py and of others
torchvision  torchvision's Kinetics-400 and ImageNet weights
trunk        2D networks for networks over frames
vmz          R3D and R(2+1)D of VMZ (.pkl)
"""
