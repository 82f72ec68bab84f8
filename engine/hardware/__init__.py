"""The machine: devices, precision, processes.

device          devices, mixed precision, memory format, torch.compile
distributed     process groups and collectives
low_precision   bf16 on CPUs and GPUs, checked against float32
fast_kernels    layers in forms that GPUs compute fast
autocast_check  convolutions that a machine computes wrongly in bf16
deterministic   bit-identical results (--deterministic)
__main__        python -m engine.hardware: what this machine can do
"""
