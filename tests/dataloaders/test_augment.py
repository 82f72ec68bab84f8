"""Changes at random on the device: what they change, and that all frames of a clip change alike."""

import numpy as np
import pytest
import torch

import train
from common.errors import UsageError
from dataloaders.augment import Augment, grey_of
from engine.training.config import TrainConfig
from tests.helpers.training import assert_equal_weights, run_tiny, stop_after, weights_of

pytestmark = pytest.mark.usefixtures("one_thread")


def rows(count: int, **values: float) -> np.ndarray:
    """(count, 6) as Augment.draw gives it: nothing changes but what is named."""
    named = {"bright": 1, "contrast": 1, "colourful": 1, "side": 1, "down": 0, "right": 0} | values
    return np.tile(np.array(list(named.values()), np.float32), (count, 1))


def random_clips(num_clips: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num_clips, 3, 20, 20, 3), dtype=torch.uint8, generator=generator)


def test_colours_change_as_the_factors_say():
    clips, augment = random_clips(), Augment(colours=0.4)
    assert torch.equal(augment.change_colours(clips, rows(2)), clips)

    dark = augment.change_colours(clips, rows(2, bright=0.5))
    assert torch.allclose(dark.float(), clips.float() / 2, atol=0.51)
    flat = augment.change_colours(clips, rows(2, contrast=0.0)).float()
    assert all(
        (clip - grey_of(before.float()).mean()).abs().max() <= 0.51 for clip, before in zip(flat, clips, strict=True)
    )
    grey = augment.change_colours(clips, rows(2, colourful=0.0)).float()
    assert torch.allclose(grey, grey_of(clips.float()).expand_as(grey), atol=0.51)
    assert augment.change_colours(clips, rows(2, bright=1.4)).max() == 255, "bright is not to wrap around to dark"


def test_all_frames_of_a_clip_change_alike_and_each_clip_otherwise():
    still = random_clips(4)[:, :1].expand(-1, 3, -1, -1, -1)
    augment = Augment(colours=0.4, seed=1)
    changed = augment.change_colours(still, augment.draw(0, 4))
    assert torch.equal(changed[:, 1:], changed[:, :1].expand(-1, 2, -1, -1, -1))
    shares = changed.float().mean((1, 2, 3, 4)) / still.float().mean((1, 2, 3, 4))
    assert np.ptp(shares.numpy()) > 0.05

    x = torch.rand(4, 3, 1, 20, 20).expand(-1, -1, 5, -1, -1)
    augment = Augment(zoom=0.5)
    enlarged = augment.enlarge(x, augment.draw(0, 4))
    assert torch.equal(enlarged[:, :, 1:], enlarged[:, :, :1].expand(-1, -1, 4, -1, -1))
    assert enlarged.is_contiguous(memory_format=torch.channels_last_3d)


def test_zoom_shows_the_square_that_was_drawn():
    """A picture whose value is its own place: down from -1 to 1 in one channel, right in the other."""
    line = (torch.arange(40.0) + 0.5) / 20 - 1
    x = torch.stack([line[:, None].expand(40, 40), line.expand(40, 40)]).view(1, 2, 1, 40, 40)
    augment = Augment(zoom=0.5)
    assert torch.allclose(augment.enlarge(x, rows(1)), x, atol=1e-5)
    for down, right in ((-1, -1), (0, 1), (0.5, 0)):
        y = augment.enlarge(x, rows(1, side=0.5, down=down, right=right))[0, :, 0]
        for place, centre in ((y[0, :, 0], down), (y[1, 0], right)):
            expected = 0.5 * centre + 0.5 * line
            assert torch.allclose(place, expected.clamp(line[0], line[-1]), atol=1e-5)


def test_draws_stay_in_their_range_and_belong_to_seed_and_epoch():
    drawn = Augment(0.3, 0.6, seed=5).draw(2, 2000)
    assert 0.7 <= drawn[:, :3].min() < 0.72 and 1.28 < drawn[:, :3].max() <= 1.3
    assert 0.6 <= drawn[:, 3].min() < 0.62 and 0.98 < drawn[:, 3].max() <= 1
    assert np.array_equal(drawn, Augment(0.3, 0.6, seed=5).draw(2, 2000))
    assert not np.array_equal(drawn, Augment(0.3, 0.6, seed=5).draw(3, 2000))
    assert not np.array_equal(drawn, Augment(0.3, 0.6, seed=6).draw(2, 2000))


@pytest.mark.slow
def test_an_augmented_run_goes_on_bit_for_bit_and_differs_from_a_plain_one(toy_project, monkeypatch):
    settings = {"zoom": 0.6, "colour_jitter": 0.3, "input": "rgb+diff"}
    whole = run_tiny(**settings, workers=2)
    with monkeypatch.context() as patch:
        stop_after(4, patch)
        with pytest.raises(train.Stopped):
            run_tiny(**settings, name="stopped", workers=0)
    assert_equal_weights(whole / "last.pth", train.main(TrainConfig(resume="stopped")) / "last.pth")
    for name in ("zoom", "colour_jitter"):
        other = run_tiny(**{key: value for key, value in settings.items() if key != name})
        left, right = weights_of(whole / "last.pth"), weights_of(other / "last.pth")
        assert not torch.equal(left["fc.weight"], right["fc.weight"]), name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"zoom": 0.0}, "--zoom must be greater than 0 and at most 1"),
        ({"zoom": 1.5}, "--zoom must be greater than 0 and at most 1"),
        ({"colour_jitter": 1.0}, "--colour-jitter must be smaller than 1"),
    ],
)
def test_wrong_settings_are_refused_in_the_users_words(values, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig(**values)
