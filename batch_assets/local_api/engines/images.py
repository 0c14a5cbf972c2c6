"""Captions of images, which the built-in engine makes of size, format and colours. It recognizes nothing.

Pillow decodes the images. It is imported with the first one, since most servers never get one.
"""

from __future__ import annotations

import io
import threading
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from batch_assets.local_api.wire.errors import ApiError

if TYPE_CHECKING:
    from PIL.Image import Image as Bitmap

# A PNG of so many pixels needs 200 MB while it is decoded. OpenAI's limit is not known.
MAXIMUM_PIXELS = 50_000_000
# One at a time, so that the memory has a bound.
_DECODING = threading.Lock()
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
# Cameras write several JPEG images into one file, which Pillow gives a format of its own.
_FORMAT_NAMES = {"MPO": "JPEG", "WEBP": "WebP"}
_SAMPLE_SIDE = 64
_MAXIMUM_NAME = 100

_LOW_TOKENS = 85
_TILE_TOKENS = 170
_TILE_SIDE = 512


@dataclass(frozen=True)
class Image:
    """An image of a request.

    data: the content of its file; None if the request has only its URL.
    url: the URL, unless it is a data URL. The engine never opens it: a server that did so for its clients would open
    addresses that only this machine reaches.
    detail: "low", "high", "auto" or "original".
    """

    data: bytes | None
    url: str
    detail: str


@dataclass(frozen=True)
class Description:
    """caption: a sentence for a reader. tokens: how much the image adds to the prompt."""

    caption: str
    tokens: int


def describe(image: Image) -> Description:
    """Raises ApiError for data that is no image, or one that OpenAI would refuse."""
    if image.data is None:
        name = _file_name(image.url)
        caption = f"An image at a URL: {name}. (The built-in engine does not open URLs, so it has not seen the image.)"
        return Description(caption, _LOW_TOKENS)
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    try:
        with _DECODING, Pillow.open(io.BytesIO(image.data), formats=_FORMATS) as bitmap:
            kind, (width, height) = bitmap.format or "", bitmap.size
            _check(bitmap)
            colours = _main_colours(bitmap)
    except ApiError:
        raise
    except UnidentifiedImageError as error:
        raise unsupported_format() from error
    except Exception as error:  # whatever a broken file makes Pillow raise: OSError, SyntaxError, ValueError, …
        message = "The image could not be parsed. Please make sure that the file is complete and valid."
        raise ApiError(400, message, code="image_parse_error") from error
    caption = (
        f"A {_FORMAT_NAMES.get(kind, kind)} image of {width} × {height} pixels, mostly {colours}. "
        "(Described by the built-in engine, which sees colours only.)"
    )
    return Description(caption, _tokens(width, height, image.detail))


def _check(bitmap: Bitmap) -> None:
    if bitmap.format == "GIF" and getattr(bitmap, "is_animated", False):
        raise unsupported_format()
    width, height = bitmap.size
    if width * height > MAXIMUM_PIXELS:
        message = f"The image has {width} × {height} pixels. The local Batch API accepts at most {MAXIMUM_PIXELS:,}."
        raise ApiError(400, message, code="image_too_large")


def unsupported_format() -> ApiError:
    """OpenAI's words, as its users report them. OpenAI takes GIFs that are not animated."""
    message = (
        "You uploaded an unsupported image. Please make sure your image has of one the following formats: "
        "['png', 'jpeg', 'gif', 'webp']."
    )
    return ApiError(400, message, code="invalid_image_format")


def _tokens(width: int, height: int, detail: str) -> int:
    """The tokens that GPT-4o counts: other models have other rules.

    85 with `low`. Otherwise the image is scaled to fit into 2,048 × 2,048 pixels, and then so that its shorter side has
    at most 768; it costs 85, and 170 for each tile of 512 × 512 [OpenAI's guide "Images and vision", "Calculating
    costs"].
    """
    if detail == "low":
        return _LOW_TOKENS
    scale = min(1.0, 2048 / max(width, height))
    scale = min(scale, 768 / min(width, height))
    tiles = [max(1, -(-round(side * scale) // _TILE_SIDE)) for side in (width, height)]
    return _LOW_TOKENS + _TILE_TOKENS * tiles[0] * tiles[1]


def _file_name(url: str) -> str:
    """The last part of a URL's path, or its host, in characters that can be printed."""
    parts = urlsplit(url)
    name = unquote(parts.path.rstrip("/").rpartition("/")[2]) or parts.hostname or ""
    return "".join(character for character in name[:_MAXIMUM_NAME] if character.isprintable())


def _main_colours(bitmap: Bitmap) -> str:
    """The names of the one or two most frequent colours of a sample of the pixels."""
    bitmap.draft("RGB", (_SAMPLE_SIDE, _SAMPLE_SIDE))  # a JPEG is decoded at this size, in little memory
    sample = bitmap.resize([min(side, _SAMPLE_SIDE) for side in bitmap.size], resample=0).convert("RGBA")
    values = sample.tobytes()
    counts = Counter(map(_colour, values[::4], values[1::4], values[2::4], values[3::4]))
    (first, most), *rest = counts.most_common(2)
    if not rest or most >= 0.9 * counts.total():
        return first
    return f"{first} and {rest[0][0]}"


_HUES = ((15, "red"), (42, "orange"), (70, "yellow"), (165, "green"), (195, "turquoise"), (255, "blue"))
_LATE_HUES = ((290, "purple"), (340, "pink"), (361, "red"))


def _colour(red: int, green: int, blue: int, alpha: int) -> str:
    if alpha < 128:
        return "transparent"
    most, least = max(red, green, blue), min(red, green, blue)
    spread = most - least
    if spread < 0.12 * most or most < 40:
        return _grey(most)
    if most == red:
        hue = 60 * (green - blue) / spread % 360
    elif most == green:
        hue = 60 * (blue - red) / spread + 120
    else:
        hue = 60 * (red - green) / spread + 240
    name = next(name for limit, name in (*_HUES, *_LATE_HUES) if hue < limit)
    if name == "orange" and most < 170:
        return "brown"
    if most < 130:
        return f"dark {name}"
    return f"light {name}" if spread < 0.5 * most and most > 180 else name


def _grey(brightness: int) -> str:
    for limit, name in ((40, "black"), (100, "dark grey"), (180, "grey"), (230, "light grey")):
        if brightness < limit:
            return name
    return "white"
