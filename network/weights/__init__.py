"""Pretrained weights: reading files of any known format, loading them into a model.

read         the entry point: a name, a run or a file -> LoadedWeights
load         LoadedWeights into a model, with a report of every key
loaded       LoadedWeights and checks that all formats share
caffe        Caffe's C3D (.caffemodel)
convlstm     CNN + LSTM checkpoints of other programs
keras        C3D in Keras (.h5)
mean         mean volumes of Caffe and VMZ
pytorch      state dicts of other PyTorch programs
torchvision  torchvision's Kinetics-400 and ImageNet weights
vmz          R3D and R(2+1)D of VMZ (.pkl)
"""
