"""Images: ROS messages <-> arrays.

Role: the one way in and out for pictures. Bayer patterns and YUV go through cv_bridge where it is installed, through
`rosbags-image` otherwise, with the same arrays from both; what is compressed is decoded by OpenCV. Works on any object
with the fields of sensor_msgs/Image or CompressedImage, so a bag is read like a camera. Does not import rclpy.

Every picture becomes 8-bit RGB by a rule that looks at no other pixel: 16-bit intensities (mono16, rgb16 ...) are divided
by 257; depth (16UC1: mm, 32FC1: m, REP 118) becomes grey, 1 cm to a level, white from 2.55 m on, black where unknown.
"""

from __future__ import annotations

import array
from typing import Any, Literal

import numpy as np

from whetstone.errors import InputError

# encoding -> (bytes per pixel in a row, column order that gives RGB)
_DIRECT: dict[str, tuple[int, tuple[int, int, int]]] = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
    "8UC4": (4, (2, 1, 0)),
    "8UC3": (3, (2, 1, 0)),
    "8UC1": (1, (0, 0, 0)),
}
# The same of 16 bits a value.
_WIDE: dict[str, tuple[int, tuple[int, int, int]]] = {
    "mono16": (2, (0, 0, 0)),
    "rgb16": (6, (0, 1, 2)),
    "bgr16": (6, (2, 1, 0)),
    "rgba16": (8, (0, 1, 2)),
    "bgra16": (8, (2, 1, 0)),
    "16UC3": (6, (2, 1, 0)),
}
# encoding -> numpy's type, levels (cm) per unit
_DEPTH: dict[str, tuple[str, float]] = {"16UC1": ("u2", 0.1), "32FC1": ("f4", 100.0)}
_YUV = ("yuv422", "uyvy", "yuv422_yuy2", "yuyv")
_ORDERS = ("rggb", "bggr", "gbrg", "grbg")
# encoding -> bytes per pixel: left to the conversion library
_CONVERTED = {
    **{f"bayer_{order}8": 1 for order in _ORDERS},
    **{f"bayer_{order}16": 2 for order in _ORDERS},
    **dict.fromkeys(_YUV, 2),
}
_PIXEL = {
    **{encoding: pixel for encoding, (pixel, _) in (*_DIRECT.items(), *_WIDE.items())},
    **{encoding: np.dtype(kind).itemsize for encoding, (kind, _) in _DEPTH.items()},
    **_CONVERTED,
}
SUPPORTED = tuple(_PIXEL)
"""Encodings of sensor_msgs/Image that to_array takes. (CompressedImage: whatever OpenCV reads, JPEG and PNG among them, and compressedDepth
as PNG.)"""

_MAX_PIXELS = 8192 * 8192


def to_array(message: Any, camera: str) -> np.ndarray:
    """(height, width, 3) uint8 RGB from sensor_msgs/Image or CompressedImage. May share memory with the message: do not write to it.

    Raises InputError naming the camera and the encoding, the size or the format that does not fit.
    """
    try:
        return _from_compressed(message) if hasattr(message, "format") else _from_image(message)
    except InputError as error:
        raise InputError(f"camera '{camera}': {error}") from None


def to_message(image: np.ndarray, stamp: int, frame: str) -> Any:
    """sensor_msgs/Image (rgb8) from (height, width, 3) uint8 RGB. stamp: ns; frame: frame_id. Raises InputError on other arrays."""
    from builtin_interfaces.msg import Time
    from sensor_msgs.msg import Image

    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise InputError(f"an image must be (height, width, 3) uint8, not {image.shape} {image.dtype}")
    message = Image()
    message.header.stamp = Time(sec=stamp // 1_000_000_000, nanosec=stamp % 1_000_000_000)
    message.header.frame_id = frame
    message.height, message.width = image.shape[:2]
    message.encoding = "rgb8"
    message.step = 3 * image.shape[1]
    # rclpy copies an array.array at once and every other sequence byte by byte.
    message.data = array.array("B", image.tobytes())
    return message


def check_size(image: np.ndarray, height: int, width: int, camera: str) -> np.ndarray:
    """The image, if it is (height, width, 3); raises InputError naming the camera and both sizes."""
    if image.shape[:2] != (height, width):
        raise InputError(f"camera '{camera}': image is {image.shape[1]}x{image.shape[0]}, but {width}x{height} is needed")
    return image


Resize = Literal["no", "stretch", "crop"]
"""What is done with an image of another size: nothing, it is scaled, or its middle is cut out in the wanted proportions and scaled."""


def fitted(image: np.ndarray, height: int, width: int, camera: str, resize: Resize = "no") -> np.ndarray:
    """The image as (height, width, 3). Raises InputError as check_size, where it must not be resized."""
    return check_size(image, height, width, camera) if resize == "no" else resized(image, height, width, resize)


def resized(image: np.ndarray, height: int, width: int, how: Literal["stretch", "crop"]) -> np.ndarray:
    """(height, width, 3): the whole picture, stretched, or the largest part in the middle that has the wanted shape."""
    import cv2

    if image.shape[:2] == (height, width):
        return image
    if how == "crop":
        scale = min(image.shape[0] / height, image.shape[1] / width)
        inner_height, inner_width = round(height * scale), round(width * scale)
        top, left = (image.shape[0] - inner_height) // 2, (image.shape[1] - inner_width) // 2
        image = image[top : top + inner_height, left : left + inner_width]
    return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_AREA)


def _from_image(message: Any) -> np.ndarray:
    encoding, height, width, step = str(message.encoding), int(message.height), int(message.width), int(message.step)
    pixel = _PIXEL.get(encoding)
    if pixel is None:
        raise InputError(f"image encoding '{encoding}' is not supported; supported: {', '.join(SUPPORTED)}")
    if not 0 < height * width <= _MAX_PIXELS:
        raise InputError(f"image size {width}x{height} is not usable")
    if step < width * pixel:
        raise InputError(f"image {width}x{height} {encoding}: step {step} is less than a row of {width * pixel} bytes")
    if encoding in _YUV and width % 2:
        raise InputError(f"image {width}x{height} {encoding}: two pixels share their colour, so the width must be even")
    data = np.frombuffer(message.data, np.uint8)
    # The last row may come without its padding.
    if data.size < step * (height - 1) + width * pixel or data.size > step * height:
        raise InputError(f"image {width}x{height} {encoding} with step {step} must hold {step * height} bytes, not {data.size}")
    rows = np.lib.stride_tricks.as_strided(data, (height, width * pixel), (step, 1), writeable=False)
    order = ">" if message.is_bigendian else "<"
    if encoding in _CONVERTED:
        wide = encoding.endswith("16")
        packed = np.ascontiguousarray(rows)
        if wide and order == ">":
            packed = packed.reshape(height, width, 2)[:, :, ::-1].reshape(height, width * pixel)
        image = _convert(np.ascontiguousarray(packed), height, width, encoding, pixel, "rgb16" if wide else "rgb8")
        return _narrow(image) if wide else image
    if encoding in _DEPTH:
        kind, levels = _DEPTH[encoding]
        return _depth(np.ascontiguousarray(rows).view(order + kind), levels)
    if encoding in _WIDE:
        values = np.ascontiguousarray(rows).view(order + "u2").reshape(height, width, pixel // 2)
        return _narrow(values[:, :, list(_WIDE[encoding][1])])
    pixels = rows.reshape(height, width, pixel)
    if encoding == "rgb8":
        return np.ascontiguousarray(pixels)
    return np.ascontiguousarray(pixels[:, :, list(_DIRECT[encoding][1])])


def _narrow(image: np.ndarray) -> np.ndarray:
    """16-bit values to 8 bits: 65535 becomes 255."""
    return np.ascontiguousarray(image // 257, np.uint8)


def _depth(values: np.ndarray, levels: float) -> np.ndarray:
    """(height, width, 3) grey of (height, width) depths; levels: per unit. REP 118: 0, NaN unknown, +Inf too far, -Inf too near."""
    if values.dtype.kind == "f":
        values = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=np.inf, neginf=0.0)
    with np.errstate(over="ignore"):  # as far away as a float can say is white
        grey = np.clip(values.astype(np.float32) * np.float32(levels), 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


class _Plain:
    """An Image message without ROS: rows are packed, so that every converter reads the same bytes."""

    def __init__(self, rows: np.ndarray, height: int, width: int, encoding: str, pixel: int) -> None:
        self.data, self.height, self.width, self.encoding = rows, height, width, encoding
        self.step, self.is_bigendian = width * pixel, 0


def _convert(rows: np.ndarray, height: int, width: int, encoding: str, pixel: int, to: str) -> np.ndarray:
    bridge = _bridge()
    # cv_bridge and rosbags-image spell the two YUV 4:2:2 orders differently.
    if bridge is None:
        from rosbags.image import message_to_cvimage

        image = message_to_cvimage(_Plain(rows, height, width, encoding, pixel), to)  # type: ignore[arg-type]
    else:
        from sensor_msgs.msg import Image

        encoding = {"uyvy": "yuv422", "yuyv": "yuv422_yuy2"}.get(encoding, encoding)
        message = Image(height=height, width=width, encoding=encoding, step=width * pixel, data=array.array("B", rows.tobytes()))
        image = bridge.imgmsg_to_cv2(message, to)
    return np.ascontiguousarray(image)


def _from_compressed(message: Any) -> np.ndarray:
    """`format` is "jpeg", "png", or as image_transport writes it: "rgb8; jpeg compressed bgr8", "16UC1; png compressed",
    "16UC1; compressedDepth png"."""
    import cv2

    size = len(message.data)
    shown = f"compressed image (format '{message.format}', {size} bytes)"
    if not size:
        raise InputError(f"{shown} is empty")
    source, _, how = (part.strip() for part in str(message.format).partition(";"))
    data = np.frombuffer(message.data, np.uint8)
    deep = "compressedDepth" in how
    if deep and not how.endswith(("compressedDepth", "png")):
        raise InputError(f"{shown} is not supported; of compressedDepth only png is")
    quantised = np.frombuffer(data[:_DEPTH_HEADER].tobytes(), _DEPTH_HEADER_TYPE)[0] if deep and size > _DEPTH_HEADER else None
    try:
        image = cv2.imdecode(data[_DEPTH_HEADER:] if deep else data, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        raise InputError(f"{shown} cannot be decoded") from error
    if image is None or image.ndim not in (2, 3) or image.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{shown} cannot be decoded")
    if source in _DEPTH and image.ndim == 2 and image.dtype == np.uint16:
        if source == "32FC1" and quantised is not None:
            return _depth(_unquantised(image, float(quantised["a"]), float(quantised["b"])), _DEPTH[source][1])
        return _depth(image, _DEPTH["16UC1"][1])
    if image.dtype == np.uint16:
        image = _narrow(image)
    if image.ndim == 2:
        return np.repeat(image[:, :, None], 3, axis=2)
    return np.ascontiguousarray(image[:, :, 2::-1])


# compressed_depth_image_transport puts a format number and two parameters of its quantisation before the PNG.
_DEPTH_HEADER_TYPE = np.dtype([("format", "<i4"), ("a", "<f4"), ("b", "<f4")])
_DEPTH_HEADER = _DEPTH_HEADER_TYPE.itemsize


def _unquantised(image: np.ndarray, a: float, b: float) -> np.ndarray:
    """m: compressed_depth_image_transport keeps a / depth + b, 0 where there is no depth."""
    with np.errstate(divide="ignore"):
        return np.where(image == 0, np.nan, a / (image.astype(np.float32) - np.float32(b)))


def _bridge() -> Any:
    """A CvBridge, or None where there is none that works."""
    try:
        from cv_bridge import CvBridge
    except ImportError:
        return None
    return CvBridge()
