"""What a SummaryWriter writes, read back by the package tensorboard."""

from __future__ import annotations

import pytest

import lampion

pytest.importorskip("tensorboard")


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"histograms": 0, "images": 0})
    return found.Reload()


def test_entries_are_read_back(tmp_path):
    from lampion.utils.tensorboard import SummaryWriter

    values = lampion.tensor([-1.0, 0.0, 0.5, 2.0])
    with SummaryWriter(tmp_path) as writer:
        for step in range(3):
            writer.add_scalar("loss", lampion.tensor(step / 2), step)
        writer.add_histogram("weights", values, 5)
        writer.add_text("note", "hello")
        writer.add_audio("sound", lampion.zeros(1, 8), sample_rate=8)
        with pytest.raises(ValueError, match="one number"):
            writer.add_scalar("loss", values)
    found = events(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(0, 0.0), (1, 0.5), (2, 1.0)]
    counted = found.Histograms("weights")[0]
    assert counted.step == 5
    h = counted.histogram_value
    assert (h.min, h.max, h.num, h.sum, h.sum_squares) == (-1.0, 2.0, 4.0, 1.5, 5.25)
    assert sum(h.bucket) == 4 and len(h.bucket) == len(h.bucket_limit)
    assert list(h.bucket_limit) == sorted(h.bucket_limit)
    tensor = found.Tensors("note/text_summary")[0].tensor_proto
    assert tensor.string_val[0] == b"hello"
    assert found.Audio("sound")[0].length_frames == 8


def test_pictures(tmp_path):
    image = pytest.importorskip("PIL.Image")
    import io

    import numpy as np

    from lampion.utils.tensorboard import SummaryWriter

    pixels = lampion.tensor([[[0.0, 1.0], [0.5, 2.0]]])
    with SummaryWriter(tmp_path) as writer:
        writer.add_image("one", pixels)
        writer.add_images("many", lampion.ones(3, 3, 2, 2))
        with pytest.raises(ValueError, match="dataformats"):
            writer.add_image("one", pixels, dataformats="HW")
    found = events(tmp_path)
    drawn = np.asarray(image.open(io.BytesIO(found.Images("one")[0].encoded_image_string)))
    assert drawn[:, :, 0].tolist() == [[0, 255], [127, 255]] and drawn.shape == (2, 2, 3)
    assert (found.Images("many")[0].height, found.Images("many")[0].width) == (2, 6)


def test_runs_have_folders(tmp_path):
    from lampion.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(tmp_path)
    writer.add_scalars("loss", {"train": 1.0, "test": 2.0}, 1)
    writer.add_hparams({"lr": 0.1, "name": "x"}, {"accuracy": 0.5}, run_name="first")
    writer.close()
    assert events(tmp_path / "loss_train").Scalars("loss")[0].value == 1.0
    assert events(tmp_path / "first").Scalars("accuracy")[0].value == 0.5
