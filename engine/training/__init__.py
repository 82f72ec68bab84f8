"""Training runs. The loop itself is in train.py.

config         TrainConfig: every setting, flag and default
command_line   command line -> one TrainConfig per model
recipes        sets of defaults (--recipe)
setup          a run begun or resumed, in named steps
checks         checks and messages before training
checkpointing  what a run saves and restores; a full disk
run            Run, Progress, model input
optimizer      optimiser, schedule, class weights
ema            moving average of the weights
divergence     losses that are not finite, out of memory
records        curves, metrics.jsonl, best.pth, console lines
several        several runs from one command; cross-validation
stop_request   Ctrl-C, SIGTERM and SIGHUP
"""
