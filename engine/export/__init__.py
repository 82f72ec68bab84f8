"""Export of trained models to ONNX and torch.export files.

program      the network with resize, crop and softmax inside
write        .onnx and .pt2 files
metadata     metadata stored in exported files
check        comparison of a file with its network
runtimes     execution of exported files
pt2_archive  reading of .pt2 archives
"""
