"""Images: ROS messages <-> arrays.

Role: the one way in and out for pictures. cv_bridge does the conversion where it is installed, `rosbags-image`
otherwise, with the same arrays from both; the 8-bit encodings that cameras usually send need neither. Works on any
object with the fields of sensor_msgs/Image or CompressedImage, so a bag is read like a camera. Does not import rclpy.
"""

from __future__ import annotations

import array
from typing import Any

import numpy as np

from whetstone.errors import InputError

# encoding -> (bytes per pixel in a row, column order that gives RGB)
_DIRECT: dict[str, tuple[int, tuple[int, int, int]]] = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
    "8UC3": (3, (2, 1, 0)),
    "8UC1": (1, (0, 0, 0)),
}
# encoding -> bytes per pixel: left to the conversion library
_CONVERTED = {
    **{f"bayer_{order}8": 1 for order in ("rggb", "bggr", "gbrg", "grbg")},
    "yuv422": 2,
    "uyvy": 2,
    "yuv422_yuy2": 2,
    "yuyv": 2,
}
SUPPORTED = (*_DIRECT, *_CONVERTED)
"""Encodings of sensor_msgs/Image that to_array takes. (CompressedImage: whatever the decoder reads, JPEG and PNG among them.)"""

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


def _from_image(message: Any) -> np.ndarray:
    encoding, height, width, step = str(message.encoding), int(message.height), int(message.width), int(message.step)
    direct = _DIRECT.get(encoding)
    pixel = direct[0] if direct else _CONVERTED.get(encoding)
    if pixel is None:
        raise InputError(f"image encoding '{encoding}' is not supported; supported: {', '.join(SUPPORTED)}")
    if not 0 < height * width <= _MAX_PIXELS:
        raise InputError(f"image size {width}x{height} is not usable")
    if step < width * pixel:
        raise InputError(f"image {width}x{height} {encoding}: step {step} is less than a row of {width * pixel} bytes")
    data = np.frombuffer(message.data, np.uint8)
    # The last row may come without its padding.
    if data.size < step * (height - 1) + width * pixel or data.size > step * height:
        raise InputError(f"image {width}x{height} {encoding} with step {step} must hold {step * height} bytes, not {data.size}")
    rows = np.lib.stride_tricks.as_strided(data, (height, width * pixel), (step, 1), writeable=False)
    if direct is None:
        return _convert(np.ascontiguousarray(rows), height, width, encoding, pixel)
    pixels = rows.reshape(height, width, pixel)
    if encoding == "rgb8":
        return np.ascontiguousarray(pixels)
    return np.ascontiguousarray(pixels[:, :, list(direct[1])])


class _Plain:
    """An Image message without ROS: rows are packed, so that every converter reads the same bytes."""

    def __init__(self, rows: np.ndarray, height: int, width: int, encoding: str, pixel: int) -> None:
        self.data, self.height, self.width, self.encoding = rows, height, width, encoding
        self.step, self.is_bigendian = width * pixel, 0


def _convert(rows: np.ndarray, height: int, width: int, encoding: str, pixel: int) -> np.ndarray:
    bridge = _bridge()
    # cv_bridge and rosbags-image spell the two YUV 4:2:2 orders differently.
    if bridge is None:
        from rosbags.image import message_to_cvimage

        image = message_to_cvimage(_Plain(rows, height, width, encoding, pixel), "rgb8")  # type: ignore[arg-type]
    else:
        from sensor_msgs.msg import Image

        encoding = {"uyvy": "yuv422", "yuyv": "yuv422_yuy2"}.get(encoding, encoding)
        message = Image(height=height, width=width, encoding=encoding, step=width * pixel, data=array.array("B", rows.tobytes()))
        image = bridge.imgmsg_to_cv2(message, "rgb8")
    return np.ascontiguousarray(image, np.uint8)


def _from_compressed(message: Any) -> np.ndarray:
    size = len(message.data)
    shown = f"compressed image (format '{message.format}', {size} bytes)"
    if not size:
        raise InputError(f"{shown} is empty")
    try:
        bridge = _bridge()
        if bridge is None:
            from rosbags.image import message_to_cvimage

            image = message_to_cvimage(message)
        else:
            image = bridge.compressed_imgmsg_to_cv2(message, "passthrough")
    except ImportError:
        raise
    except Exception as error:
        # Decoders fail in ways of their own (assertion, cv2.error): to us each means the same.
        raise InputError(f"{shown} cannot be decoded") from error
    if image is None or image.ndim not in (2, 3) or image.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{shown} cannot be decoded")
    if image.dtype == np.uint16:
        image = (image // 257).astype(np.uint8)
    if image.ndim == 2 or image.shape[2] == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(image[:, :, 2::-1])


def _bridge() -> Any:
    """A CvBridge, or None where there is none that works."""
    try:
        from cv_bridge import CvBridge
    except ImportError:
        return None
    return CvBridge()
