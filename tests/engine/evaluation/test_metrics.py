import numpy as np
import pytest
import torch
import torch.nn.functional as F

from engine.evaluation.metrics import Mean, topk_correct


def test_topk_is_top_min_k_classes():
    logits = torch.tensor([[0.1, 0.9, 0.0], [0.9, 0.5, 0.1]])
    assert topk_correct(logits, torch.tensor([1, 2])).tolist() == [True, False]
    assert topk_correct(logits, torch.tensor([0, 1]), 2).tolist() == [True, True]
    assert topk_correct(logits, torch.tensor([2, 2]), 5).tolist() == [True, True]


def test_a_mean_counts_samples_not_batches():
    """Trap 22: the mean of batch means gives the last, smaller batch too much weight."""
    mean = Mean()
    mean.add(torch.tensor([1.0, 1.0, 1.0]))
    mean.add(torch.tensor([5.0]))
    assert mean.value() == 2.0
    again = Mean()
    again.load(mean.state())
    assert again.value() == 2.0
    assert np.isnan(Mean().value())


def test_cross_entropy_of_logits_can_reach_zero():
    """Trap 16: with a softmax in front, 101 classes cannot get below 3.63."""
    logits = torch.full((1, 101), -50.0)
    logits[0, 7] = 50.0
    assert F.cross_entropy(logits, torch.tensor([7])).item() < 1e-6
    assert F.cross_entropy(logits.softmax(1), torch.tensor([7])).item() == pytest.approx(3.63, abs=0.01)
