"""Images: every encoding gives the picture it holds, from either converter; what does not fit is named."""

from __future__ import annotations

import array
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whetstone import images
from whetstone.errors import InputError

PICTURE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
GREY = PICTURE[:, :, 0]
ALPHA = np.full((6, 8, 1), 7, np.uint8)


def message(rows: np.ndarray, encoding: str = "rgb8", padding: int = 0, **changes: object) -> SimpleNamespace:
    height, width = rows.shape[:2]
    flat = np.pad(rows.reshape(height, -1), ((0, 0), (0, padding)), constant_values=99)
    fields = {"height": height, "width": width, "encoding": encoding, "step": flat.shape[1], "is_bigendian": 0}
    return SimpleNamespace(**{**fields, "data": array.array("B", flat.tobytes()), **changes})


ENCODED = [
    ("rgb8", PICTURE, PICTURE),
    ("bgr8", PICTURE[:, :, ::-1], PICTURE),
    ("rgba8", np.concatenate([PICTURE, ALPHA], 2), PICTURE),
    ("bgra8", np.concatenate([PICTURE[:, :, ::-1], ALPHA], 2), PICTURE),
    ("mono8", GREY, np.stack([GREY] * 3, 2)),
]
UNNAMED = [
    ("8UC1", GREY, np.stack([GREY] * 3, 2)),
    ("8UC3", PICTURE[:, :, ::-1], PICTURE),
    ("8UC4", np.concatenate([PICTURE[:, :, ::-1], ALPHA], 2), PICTURE),
]


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(("encoding", "rows", "expected"), ENCODED + UNNAMED)
def test_direct_encodings(encoding: str, rows: np.ndarray, expected: np.ndarray, padding: int) -> None:
    out = images.to_array(message(np.ascontiguousarray(rows), encoding, padding), "front")
    assert out.dtype == np.uint8 and out.flags.c_contiguous
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(("encoding", "rows", "expected"), ENCODED)
def test_direct_encodings_agree_with_the_library(encoding: str, rows: np.ndarray, expected: np.ndarray) -> None:
    from rosbags.image import message_to_cvimage

    other = message_to_cvimage(message(np.ascontiguousarray(rows), encoding), "rgb8")  # type: ignore[arg-type]
    np.testing.assert_array_equal(other, expected)


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize("encoding", ["bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"])
def test_bayer_keeps_colours_apart(encoding: str, padding: int) -> None:
    """A field of one colour comes back as that colour."""
    for channel, colour in enumerate("rgb"):
        pattern = np.array([255 * (letter == colour) for letter in encoding[6:10]]).reshape(2, 2)
        out = images.to_array(message(np.tile(pattern, (4, 4)).astype(np.uint8), encoding, padding), "front")
        np.testing.assert_array_equal(out[2:-2, 2:-2], np.eye(3, dtype=np.uint8)[channel] * 255 + np.zeros((4, 4, 3), np.uint8))


@pytest.mark.parametrize(("encoding", "order"), [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")])
def test_yuv(encoding: str, order: str) -> None:
    """BT.601: R = 1.164 (Y - 16) + 1.596 (V - 128), G = ... - 0.813 (V - 128) - 0.391 (U - 128), B = ... + 2.018 (U - 128)."""
    values = {"y": 180, "u": 100, "v": 190}
    rows = np.tile(np.array([values[letter] for letter in order], np.uint8), (4, 3))
    out = images.to_array(message(rows.reshape(4, 6, 2), encoding, 3), "front")
    assert out.shape == (4, 6, 3)
    np.testing.assert_allclose(out, np.broadcast_to([255, 151, 134], (4, 6, 3)), atol=1)


REFERENCE = {
    **{f"bayer_{order}8": getattr(cv2, f"COLOR_Bayer{order.upper()}2RGB") for order in ("rggb", "bggr", "gbrg", "grbg")},
    **dict.fromkeys(("yuv422", "uyvy"), cv2.COLOR_YUV2RGB_UYVY),
    **dict.fromkeys(("yuv422_yuy2", "yuyv"), cv2.COLOR_YUV2RGB_YUYV),
}


@pytest.mark.parametrize("encoding", REFERENCE)
def test_converted_encodings_are_opencv_s(encoding: str) -> None:
    """Of noise, of odd sizes where the encoding allows them."""
    size = (7, 9, 1) if "bayer" in encoding else (7, 10, 2)
    rows = np.random.default_rng(3).integers(0, 256, size, np.uint8)
    expected = cv2.cvtColor(rows, REFERENCE[encoding])
    np.testing.assert_array_equal(images.to_array(message(rows, encoding, 3), "front"), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 3), (2, 7), (5, 2)])
@pytest.mark.parametrize("encoding", images.SUPPORTED)
def test_every_encoding_of_any_size_is_a_picture_or_a_line(encoding: str, size: tuple[int, int]) -> None:
    rows = np.zeros((*size, images._PIXEL[encoding]), np.uint8)
    try:
        assert images.to_array(message(rows, encoding, 3), "front").shape == (*size, 3)
    except InputError as error:
        assert "must be even" in str(error) and size[1] % 2


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("order", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_of_16_bits(order: str, padding: int, big: bool) -> None:
    for channel, colour in enumerate("rgb"):
        pattern = np.array([51400 * (letter == colour) for letter in order]).reshape(2, 2)
        field = np.tile(pattern, (4, 4)).astype(">u2" if big else "<u2")
        rows = field.view(np.uint8).reshape(8, 8, 2)
        out = images.to_array(message(rows, f"bayer_{order}16", padding, is_bigendian=int(big)), "front")
        np.testing.assert_array_equal(out[2:-2, 2:-2], np.eye(3, dtype=np.uint8)[channel] * 200 + np.zeros((4, 4, 3), np.uint8))


@pytest.mark.parametrize("big", [0, 1])
@pytest.mark.parametrize(
    ("encoding", "values", "expected"),
    [
        # 257 levels to one; 65535 is white.
        ("mono16", [[0, 256, 257, 514, 65535]], [[[0] * 3, [0] * 3, [1] * 3, [2] * 3, [255] * 3]]),
        ("rgb16", [[[257, 514, 771], [65535, 0, 256]]], [[[1, 2, 3], [255, 0, 0]]]),
        ("bgr16", [[[257, 514, 771], [65535, 0, 256]]], [[[3, 2, 1], [0, 0, 255]]]),
        ("16UC3", [[[257, 514, 771]]], [[[3, 2, 1]]]),
        ("rgba16", [[[257, 514, 771, 9]]], [[[1, 2, 3]]]),
        ("bgra16", [[[257, 514, 771, 9]]], [[[3, 2, 1]]]),
        # mm: unknown, 9 mm, 1 cm, 1 m, 2.549 m, 2.55 m, far
        ("16UC1", [[0, 9, 10, 1000, 2549, 2550, 65535]], [[[v] * 3 for v in (0, 0, 1, 100, 254, 255, 255)]]),
        # m: unknown, too near, too far, below zero, 0.5 m, 3 m, more than a float holds in cm
        ("32FC1", [[np.nan, -np.inf, np.inf, -1.0, 0.5, 3.0, 3e38]], [[[v] * 3 for v in (0, 0, 255, 0, 50, 255, 255)]]),
    ],
)
def test_wide_encodings(encoding: str, values: list, expected: list, big: int) -> None:
    kind = "f4" if encoding == "32FC1" else "u2"
    array = np.array(values).astype((">" if big else "<") + kind)
    out = images.to_array(message(array.view(np.uint8).reshape(*array.shape[:2], -1), encoding, 2, is_bigendian=big), "front")
    assert out.dtype == np.uint8 and out.flags.c_contiguous
    np.testing.assert_array_equal(out, expected)


def test_the_two_converters_agree() -> None:
    bridge = pytest.importorskip("cv_bridge").CvBridge()
    from rosbags.image import message_to_cvimage
    from sensor_msgs.msg import Image

    for encoding, rows, _ in ENCODED:
        rows = np.ascontiguousarray(rows)
        ros = Image(height=6, width=8, encoding=encoding, step=rows.nbytes // 6, data=array.array("B", rows.tobytes()))
        np.testing.assert_array_equal(bridge.imgmsg_to_cv2(ros, "rgb8"), message_to_cvimage(message(rows, encoding), "rgb8"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoding": "64FC1"}, "'64FC1' is not supported; supported: rgb8, bgr8"),
        ({"encoding": ""}, "'' is not supported"),
        ({"height": 0}, "size 8x0 is not usable"),
        ({"width": 1 << 31}, "is not usable"),
        ({"step": 23}, "step 23 is less than a row of 24 bytes"),
        ({"height": 7}, "must hold 168 bytes, not 144"),
        ({"height": 5}, "must hold 120 bytes, not 144"),
        ({"data": b""}, "must hold 144 bytes, not 0"),
        ({"encoding": "yuyv", "width": 7}, "7x6 yuyv: two pixels share their colour, so the width must be even"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict, words: str) -> None:
    with pytest.raises(InputError) as caught:
        images.to_array(message(PICTURE, **changes), "front")
    assert str(caught.value).startswith("camera 'front': ") and words in str(caught.value)


def test_size_is_named_with_its_camera() -> None:
    assert images.check_size(PICTURE, 6, 8, "front") is PICTURE
    with pytest.raises(InputError, match=r"camera 'front': image is 8x6, but 128x96 is needed"):
        images.check_size(PICTURE, 96, 128, "front")


@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_compressed(extension: str) -> None:
    smooth = np.stack(np.broadcast_arrays(np.arange(0, 128, 8)[:, None], np.arange(0, 256, 8)[None], 200), 2).astype(np.uint8)
    for picture in (smooth, smooth[:, :, 0]):
        encoded = cv2.imencode(extension, picture[:, :, ::-1] if picture.ndim == 3 else picture)[1].tobytes()
        out = images.to_array(SimpleNamespace(format=extension[1:], data=array.array("B", encoded)), "front")
        expected = picture if picture.ndim == 3 else np.stack([picture] * 3, 2)
        assert out.shape == expected.shape and out.dtype == np.uint8
        assert np.abs(out.astype(int) - expected).max() <= (0 if extension == ".png" else 12)


def _png(array: np.ndarray) -> bytes:
    return cv2.imencode(".png", array)[1].tobytes()


def test_compressed_depth() -> None:
    """As image_transport's plug-ins write it: compressed (a PNG of 16 bits) and compressedDepth (12 bytes before it)."""
    depth = np.array([[0, 10, 1000, 9000]], np.uint16)
    grey = np.array([[[v] * 3 for v in (0, 1, 100, 255)]])
    plain = SimpleNamespace(format="16UC1; png compressed ", data=_png(depth))
    np.testing.assert_array_equal(images.to_array(plain, "depth"), grey)
    header = np.array([0], "<i4").tobytes()
    whole = SimpleNamespace(format="16UC1; compressedDepth png", data=header + bytes(8) + _png(depth))
    np.testing.assert_array_equal(images.to_array(whole, "depth"), grey)
    # 32FC1: the PNG holds a / depth + b.
    a, b = 1000.0, 10.0
    quantised = np.array([[0, round(a / 0.5 + b), round(a / 2.0 + b), round(a / 8.0 + b)]], np.uint16)
    floats = SimpleNamespace(format="32FC1; compressedDepth png", data=header + np.array([a, b], "<f4").tobytes() + _png(quantised))
    np.testing.assert_array_equal(images.to_array(floats, "depth"), np.array([[[v] * 3 for v in (0, 50, 200, 255)]]))
    with pytest.raises(InputError, match=r"camera 'depth': .*compressedDepth rvl.* is not supported; of compressedDepth only png is"):
        images.to_array(SimpleNamespace(format="16UC1; compressedDepth rvl", data=b"abc"), "depth")
    mono = SimpleNamespace(format="mono16; png compressed ", data=_png(np.array([[257, 65535]], np.uint16)))
    np.testing.assert_array_equal(images.to_array(mono, "ir"), np.array([[[1] * 3, [255] * 3]]))


@given(st.binary(max_size=64))
def test_compressed_rubbish_is_named(data: bytes) -> None:
    with pytest.raises(InputError, match=r"format 'jpeg'"):
        images.to_array(SimpleNamespace(format="jpeg", data=data), "front")


def test_to_message_and_back() -> None:
    pytest.importorskip("sensor_msgs")
    out = images.to_message(PICTURE[:, ::-1], 12_000_000_034, "camera_front")
    assert (out.header.stamp.sec, out.header.stamp.nanosec, out.header.frame_id) == (12, 34, "camera_front")
    assert isinstance(out.data, array.array)
    np.testing.assert_array_equal(images.to_array(out, "front"), PICTURE[:, ::-1])
    for wrong in (PICTURE[:, :, :2], PICTURE.astype(float), PICTURE[0], PICTURE[:0]):
        with pytest.raises(InputError, match=r"uint8"):
            images.to_message(wrong, 0, "f")
