"""Evaluation of checkpoints and exported files on videos.

evaluate      probabilities of clips -> accuracies of videos
metrics       top-k and means on the device
bootstrap     confidence intervals
leaks         test recordings that training has seen
report        files of an evaluation
confusion     confusion matrix as picture and csv
worst_videos  picture of the videos that the network is most wrong about
job           one evaluation, from checkpoint to files
summary       the lines that evaluate.py prints
fusion        several runs that answer together
learning_curve  what more recordings would bring
pooled        the answers of a cross-validation as one result
published     accuracies from papers
"""
