"""`SummaryWriter`: numbers, histograms, pictures and texts for TensorBoard's event files.

The package `tensorboard` writes the files and has the messages in them; it is imported with this
module. Floor 7; imports the tensor.
"""

from __future__ import annotations

import io
import os
import socket
import time
import wave
from datetime import datetime
from typing import Any

import numpy as np

from ..tensor import Tensor

try:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("utils.tensorboard needs the package tensorboard: "
                              "pip install tensorboard", name=error.name) from error

__all__ = ["FileWriter", "SummaryWriter"]

_FLOAT, _DOUBLE, _STRING = 1, 2, 7  # TensorProto's numbers of dtypes


def _array(value: Any) -> np.ndarray:
    """A tensor, array, sequence or number as an array."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        if value.is_floating_point() and value.dtype.itemsize < 4:
            value = value.float()
        return np.asarray(value.numpy())
    return np.asarray(value)


def _number(value: Any, what: str) -> float:
    array = _array(value)
    if array.size != 1:
        raise ValueError(f"{what}: one number is needed, not {array.size} (shape {array.shape})")
    return float(array.reshape(()))


def _texts(texts: list[bytes], shape: list[int]) -> Any:
    dims = [TensorShapeProto.Dim(size=n) for n in shape]
    return TensorProto(dtype=_STRING, string_val=texts, tensor_shape=TensorShapeProto(dim=dims))


def _plugin(name: str, content: bytes = b"") -> Any:
    return SummaryMetadata(
        plugin_data=SummaryMetadata.PluginData(plugin_name=name, content=content))


def _eight_bits(array: np.ndarray) -> np.ndarray:
    """Pixels of 0..255; numbers with a fraction are taken to lie in 0..1."""
    scale = 1 if array.dtype == np.uint8 else 255
    return np.clip(array.astype(np.float32) * scale, 0, 255).astype(np.uint8)


def _hwc(image: np.ndarray, dataformats: str) -> np.ndarray:
    """An image, or several in a grid, as height x width x 3 or 4 channels."""
    formats = dataformats.upper()
    if len(set(formats)) != len(formats) or len(formats) != image.ndim:
        raise ValueError(f"an image of shape {image.shape} is not described by dataformats "
                         f"{dataformats!r}")
    if "N" in formats:
        image = _grid(image.transpose([formats.index(c) for c in "NCHW"]))
    elif "C" in formats:
        image = image.transpose([formats.index(c) for c in "HWC"])
    else:
        image = image.transpose([formats.index(c) for c in "HW"])[..., None]
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def _grid(images: np.ndarray, columns: int = 8) -> np.ndarray:
    """Images (N, C, H, W) next to each other, as one of (H', W', C)."""
    n, c, h, w = images.shape
    columns = min(n, columns)
    rows = -(-n // columns)
    grid = np.zeros((rows * h, columns * w, c), images.dtype)
    for k in range(n):
        y, x = divmod(k, columns)
        grid[y * h:(y + 1) * h, x * w:(x + 1) * w] = images[k].transpose(1, 2, 0)
    return grid


def _image(pixels: np.ndarray) -> Any:
    """The message of one image (H, W, channels) of bytes."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    height, width, channels = pixels.shape
    return Summary.Image(height=height, width=width, colorspace=channels,
                         encoded_image_string=out.getvalue())


def _bins() -> np.ndarray:
    """Edges that grow by a tenth from 1e-12 to 1e20, on both sides of 0."""
    up = 1e-12 * 1.1 ** np.arange(774)
    return np.concatenate([-up[::-1], [0.0], up])


def _histogram(values: np.ndarray, bins: Any, max_bins: int | None) -> Any:
    values = values.reshape(-1).astype(np.float64)
    if values.size == 0:
        raise ValueError("add_histogram: the input has no element")
    edges = _bins() if isinstance(bins, str) and bins == "tensorflow" else bins
    counts, limits = np.histogram(values, bins=edges)
    if max_bins is not None and len(counts) > max_bins:
        step = len(counts) // max_bins
        pad = -len(counts) % step
        counts = np.pad(counts, (0, pad)).reshape(-1, step).sum(1)
        limits = np.append(limits[:-1:step], limits[-1])
    used = np.flatnonzero(counts)
    first, last = (used[0], used[-1] + 1) if used.size else (0, 0)
    # one empty bin before the first, so that its left edge is known
    return HistogramProto(
        min=values.min(), max=values.max(), num=values.size, sum=values.sum(),
        sum_squares=values.dot(values), bucket=[0.0, *counts[first:last].astype(float)],
        bucket_limit=[float(limits[first]), *limits[first + 1:last + 1]])


class FileWriter:
    """Writes events to one file of a folder."""

    def __init__(self, log_dir: Any, max_queue: int = 10, flush_secs: int = 120,
                 filename_suffix: str = "") -> None:
        self.event_writer = EventFileWriter(str(log_dir), max_queue, flush_secs, filename_suffix)

    def get_logdir(self) -> str:
        """The folder."""
        return str(self.event_writer.get_logdir())

    def add_event(self, event: Any, step: Any = None, walltime: float | None = None) -> None:
        """Write an event."""
        event.wall_time = time.time() if walltime is None else walltime
        if step is not None:
            event.step = int(step)
        self.event_writer.add_event(event)

    def add_summary(self, summary: Any, global_step: Any = None,
                    walltime: float | None = None) -> None:
        """Write a summary as an event."""
        self.add_event(Event(summary=summary), global_step, walltime)

    def flush(self) -> None:
        """Write what waits."""
        self.event_writer.flush()

    def close(self) -> None:
        """Write what waits and close the file."""
        self.event_writer.close()

    def reopen(self) -> None:
        """Go on after `close`, in a new file."""
        self.event_writer.reopen()


class SummaryWriter:
    """Writes what a training run reports to a folder that TensorBoard shows.

    The folder is `log_dir`, or runs/TIME_HOST`comment`. Files are made with the first entry.
    Tensors, arrays and numbers are taken from any device; `global_step` orders the entries.
    """

    def __init__(self, log_dir: Any = None, comment: str = "", purge_step: Any = None,
                 max_queue: int = 10, flush_secs: int = 120, filename_suffix: str = "") -> None:
        if not log_dir:
            now = datetime.now().strftime("%b%d_%H-%M-%S")
            log_dir = os.path.join("runs", f"{now}_{socket.gethostname()}{comment}")
        self.log_dir = str(log_dir)
        self.purge_step = purge_step
        self._options = (max_queue, flush_secs, filename_suffix)
        self.file_writer: FileWriter | None = None
        self.all_writers: dict[str, FileWriter] | None = None
        self._get_file_writer()

    def _get_file_writer(self) -> FileWriter:
        if self.file_writer is None or self.all_writers is None:
            self.file_writer = FileWriter(self.log_dir, *self._options)
            self.all_writers = {self.file_writer.get_logdir(): self.file_writer}
            if self.purge_step is not None:
                self.file_writer.add_event(Event(file_version="brain.Event:2"), self.purge_step)
                self.purge_step = None
        return self.file_writer

    def get_logdir(self) -> str:
        """The folder."""
        return self.log_dir

    def _add(self, step: Any, walltime: float | None, **value: Any) -> None:
        self._get_file_writer().add_summary(Summary(value=[Summary.Value(**value)]), step,
                                            walltime)

    def add_scalar(self, tag: str, scalar_value: Any, global_step: Any = None,
                   walltime: float | None = None, new_style: bool = False,
                   double_precision: bool = False) -> None:
        """A number. `new_style` writes it as a tensor, in `double_precision` if asked for."""
        number = _number(scalar_value, "add_scalar")
        if not new_style:
            self._add(global_step, walltime, tag=tag, simple_value=number)
            return
        made = TensorProto(dtype=_DOUBLE, double_val=[number]) if double_precision else \
            TensorProto(dtype=_FLOAT, float_val=[number])
        self._add(global_step, walltime, tag=tag, tensor=made, metadata=_plugin("scalars"))

    def add_scalars(self, main_tag: str, tag_scalar_dict: dict[str, Any], global_step: Any = None,
                    walltime: float | None = None) -> None:
        """Several numbers in one chart; each in a folder of its own under the folder."""
        folder = self._get_file_writer().get_logdir()
        assert self.all_writers is not None
        for tag, value in tag_scalar_dict.items():
            place = f"{folder}/{main_tag.replace('/', '_')}_{tag}"
            if place not in self.all_writers:
                self.all_writers[place] = FileWriter(place, *self._options)
            made = Summary.Value(tag=main_tag, simple_value=_number(value, "add_scalars"))
            self.all_writers[place].add_summary(Summary(value=[made]), global_step, walltime)

    def add_tensor(self, tag: str, tensor: Any, global_step: Any = None,
                   walltime: float | None = None) -> None:
        """A whole tensor, in float32."""
        array = _array(tensor).astype(np.float32)
        dims = [TensorShapeProto.Dim(size=n) for n in array.shape]
        made = TensorProto(dtype=_FLOAT, tensor_shape=TensorShapeProto(dim=dims),
                           float_val=array.reshape(-1).tolist())
        self._add(global_step, walltime, tag=tag, tensor=made, metadata=_plugin("tensor"))

    def add_histogram(self, tag: str, values: Any, global_step: Any = None,
                      bins: Any = "tensorflow", walltime: float | None = None,
                      max_bins: int | None = None) -> None:
        """How often values occur; `bins` as NumPy's `histogram` takes them. ValueError if there
        are none."""
        self._add(global_step, walltime, tag=tag, histo=_histogram(_array(values), bins, max_bins))

    def add_histogram_raw(self, tag: str, min: float, max: float, num: int, sum: float,
                          sum_squares: float, bucket_limits: Any, bucket_counts: Any,
                          global_step: Any = None, walltime: float | None = None) -> None:
        """A histogram that has been counted already."""
        limits, counts = _array(bucket_limits).tolist(), _array(bucket_counts).tolist()
        if len(limits) != len(counts):
            raise ValueError("len(bucket_limits) != len(bucket_counts), see the document.")
        made = HistogramProto(min=min, max=max, num=num, sum=sum, sum_squares=sum_squares,
                              bucket_limit=limits, bucket=counts)
        self._add(global_step, walltime, tag=tag, histo=made)

    def add_image(self, tag: str, img_tensor: Any, global_step: Any = None,
                  walltime: float | None = None, dataformats: str = "CHW") -> None:
        """A picture of bytes, or of numbers from 0 to 1; `dataformats` orders its dims."""
        pixels = _eight_bits(_hwc(_array(img_tensor), dataformats))
        self._add(global_step, walltime, tag=tag, image=_image(pixels))

    def add_images(self, tag: str, img_tensor: Any, global_step: Any = None,
                   walltime: float | None = None, dataformats: str = "NCHW") -> None:
        """Pictures in rows of eight, as one."""
        self.add_image(tag, img_tensor, global_step, walltime, dataformats)

    def add_figure(self, tag: str, figure: Any, global_step: Any = None, close: bool = True,
                   walltime: float | None = None) -> None:
        """Matplotlib's figure (or several), as a picture; `close` closes it afterwards."""
        figures = figure if isinstance(figure, list) else [figure]
        drawn = []
        for f in figures:
            f.canvas.draw()
            drawn.append(np.asarray(f.canvas.buffer_rgba()))
            if close:
                import matplotlib.pyplot as plt

                plt.close(f)
        if isinstance(figure, list):
            self.add_image(tag, np.stack(drawn), global_step, walltime, "NHWC")
        else:
            self.add_image(tag, drawn[0], global_step, walltime, "HWC")

    def add_audio(self, tag: str, snd_tensor: Any, global_step: Any = None,
                  sample_rate: int = 44100, walltime: float | None = None) -> None:
        """A sound of one channel, of numbers from -1 to 1."""
        sound = np.clip(_array(snd_tensor).squeeze(), -1, 1)
        if sound.ndim != 1:
            raise ValueError(f"add_audio: one channel is needed, not the shape {sound.shape}")
        out = io.BytesIO()
        with wave.open(out, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(sample_rate)
            file.writeframes((sound * np.iinfo(np.int16).max).astype("<i2").tobytes())
        made = Summary.Audio(sample_rate=sample_rate, num_channels=1, length_frames=len(sound),
                             encoded_audio_string=out.getvalue(), content_type="audio/wav")
        self._add(global_step, walltime, tag=tag, audio=made)

    def add_text(self, tag: str, text_string: str, global_step: Any = None,
                 walltime: float | None = None) -> None:
        """A text, shown as Markdown."""
        self._add(global_step, walltime, tag=f"{tag}/text_summary", metadata=_plugin("text"),
                  tensor=_texts([text_string.encode()], [1]))

    def add_hparams(self, hparam_dict: dict[str, Any], metric_dict: dict[str, Any],
                    hparam_domain_discrete: Any = None, run_name: str | None = None,
                    global_step: Any = None) -> None:
        """The settings of a run and what they led to, in a folder of their own."""
        if not isinstance(hparam_dict, dict) or not isinstance(metric_dict, dict):
            raise TypeError("hparam_dict and metric_dict should be dictionary.")
        from tensorboard.plugins.hparams import summary_v2 as hp

        domains = hparam_domain_discrete or {}
        plain = {k: _array(v).item() if isinstance(v, Tensor) else v
                 for k, v in hparam_dict.items()}
        experiment = hp.hparams_config_pb(
            hparams=[hp.HParam(k, hp.Discrete(domains[k]) if k in domains else None)
                     for k in plain],
            metrics=[hp.Metric(k) for k in metric_dict])
        folder = os.path.join(self._get_file_writer().get_logdir(), run_name or str(time.time()))
        with SummaryWriter(log_dir=folder) as writer:
            for summary in (experiment, hp.hparams_pb(plain)):
                writer._get_file_writer().add_summary(summary, global_step)
            for name, value in metric_dict.items():
                writer.add_scalar(name, value, global_step)

    def flush(self) -> None:
        """Write what waits, in all files."""
        for writer in (self.all_writers or {}).values():
            writer.flush()

    def close(self) -> None:
        """Write what waits and close the files; a later entry opens new ones."""
        for writer in (self.all_writers or {}).values():
            writer.close()
        self.file_writer = self.all_writers = None

    def __enter__(self) -> SummaryWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()
