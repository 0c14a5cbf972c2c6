"""Images in chat completions and responses: their captions, their tokens, and those that are refused."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image

from batch_assets.local_api.endpoints import chat, responses
from batch_assets.local_api.engines import images
from batch_assets.local_api.engines.engine import ExtractiveEngine, InstantEngine
from batch_assets.local_api.wire.errors import ApiError
from batch_assets_tests.local_api.support import chat_body, post_json, request_line, results, submit
from batch_assets_tests.local_api_client import LocalApi

SEES = "(Described by the built-in engine, which sees colours only.)"
UNSUPPORTED = (
    "You uploaded an unsupported image. Please make sure your image has of one the following formats: "
    "['png', 'jpeg', 'gif', 'webp']."
)


def encode(kind: str, size: tuple[int, int] = (640, 480), colour: object = (20, 30, 110), **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def half_white() -> bytes:
    file, bitmap = io.BytesIO(), Image.new("RGB", (640, 480), (20, 30, 110))
    bitmap.paste((255, 255, 255), (0, 0, 300, 480))
    bitmap.save(file, "PNG")
    return file.getvalue()


def data_url(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def chat_part(url: object, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def chat_with(*parts: dict[str, Any], **changes: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": "What is in this picture?"}, *parts]
    return chat_body(messages=[{"role": "user", "content": content}], **changes)


def response_with(**part: Any) -> dict[str, Any]:
    content = [{"type": "input_text", "text": "What is this?"}, {"type": "input_image", **part}]
    return {"model": "gpt-4.1-mini", "input": [{"role": "user", "content": content}]}


def text_of(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


@pytest.mark.parametrize(("kind", "name"), [("PNG", "A PNG"), ("JPEG", "A JPEG"), ("WEBP", "A WebP"), ("GIF", "A GIF")])
def test_a_caption_has_format_size_and_colours_and_says_what_it_is(kind: str, name: str) -> None:
    body = chat_with(chat_part(data_url(encode(kind), kind.lower())))
    answer = chat.answer(ExtractiveEngine(), body)
    assert text_of(answer) == f"{name} image of 640 × 480 pixels, mostly dark blue. {SEES}"


@pytest.mark.parametrize(
    ("content", "colours"),
    [
        (half_white(), "dark blue and white"),
        (encode("PNG", colour=(255, 255, 255)), "white"),
        (encode("PNG", colour=(0, 0, 0)), "black"),
        (encode("PNG", colour=(200, 200, 200)), "light grey"),
        (encode("PNG", colour=(250, 10, 10)), "red"),
        (encode("PNG", colour=(120, 70, 20)), "brown"),
        (encode("PNG", colour=(160, 220, 160)), "light green"),
        (encode("PNG", size=(1, 1), colour=(240, 200, 10)), "yellow"),
    ],
)
def test_colours_have_names(content: bytes, colours: str) -> None:
    caption = images.describe(images.Image(content, "", "low")).caption
    assert caption.partition(", mostly ")[2].removesuffix(f". {SEES}") == colours


def test_each_image_of_the_last_user_message_has_a_caption() -> None:
    first, second = chat_part(data_url(encode("PNG"))), chat_part(data_url(encode("GIF", size=(5, 7)), "gif"))
    lines = text_of(chat.answer(ExtractiveEngine(), chat_with(first, second))).split("\n")
    assert [line.split(" pixels")[0] for line in lines] == ["A PNG image of 640 × 480", "A GIF image of 5 × 7"]


def test_an_earlier_image_counts_its_tokens_but_is_not_described() -> None:
    body = chat_body()
    before = chat.answer(ExtractiveEngine(), body)
    image = {"role": "user", "content": [chat_part(data_url(encode("PNG")), detail="low")]}
    after = chat.answer(ExtractiveEngine(), {**body, "messages": [image, *body["messages"]]})
    assert text_of(after) == text_of(before)
    assert after["usage"]["prompt_tokens"] == before["usage"]["prompt_tokens"] + 85 + 3


def test_with_a_schema_the_caption_is_in_the_json() -> None:
    schema = {
        "type": "object",
        "properties": {"summary": {"type": "string"}},
        "required": ["summary"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "picture", "strict": True, "schema": schema}}
    body = chat_with(chat_part(data_url(encode("PNG"))), response_format=wanted)
    answer = json.loads(text_of(chat.answer(ExtractiveEngine(), body)))
    assert answer == {"summary": f"A PNG image of 640 × 480 pixels, mostly dark blue. {SEES}"}


def test_the_limit_of_tokens_cuts_a_caption() -> None:
    answer = chat.answer(ExtractiveEngine(), chat_with(chat_part(data_url(encode("PNG"))), max_tokens=5))
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] <= 5


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://example.com/pictures/a%20dog.jpg?size=5", "a dog.jpg"),
        ("http://127.0.0.1:9/", "127.0.0.1"),
        ("http://169.254.169.254/latest/\u202emeta%0adata", "metadata"),
    ],
)
def test_a_url_is_named_and_never_opened(url: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the engine opened a connection")

    monkeypatch.setattr("socket.socket.connect", refuse)
    expected = f"An image at a URL: {name}. (The built-in engine does not open URLs, so it has not seen the image.)"
    assert text_of(chat.answer(ExtractiveEngine(), chat_with(chat_part(url)))) == expected


@pytest.mark.parametrize(
    ("size", "detail", "tokens"),
    [
        ((640, 480), "low", 85),
        # The three examples of OpenAI's guide, and the smallest image.
        ((1024, 1024), "high", 765),
        ((2048, 4096), "high", 1105),
        ((1, 1), "auto", 255),
    ],
)
def test_tokens_are_counted_as_for_gpt_4o(size: tuple[int, int], detail: str, tokens: int) -> None:
    assert images.describe(images.Image(encode("PNG", size), "", detail)).tokens == tokens


def test_a_response_describes_an_image_too() -> None:
    answer = responses.answer(ExtractiveEngine(), response_with(image_url=data_url(encode("PNG")), detail="low"))
    assert answer["output"][0]["content"][0]["text"].startswith("A PNG image of 640 × 480 pixels")
    assert answer["usage"]["input_tokens"] > 85


def test_the_instant_engine_looks_at_no_image() -> None:
    answer = chat.answer(InstantEngine(), chat_with(chat_part(data_url(b"no image"))))
    assert text_of(answer) == "An image. (The engine `instant` looks at no image.)"


def animated() -> bytes:
    more = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    return encode("GIF", (8, 8), save_all=True, append_images=more)


@pytest.mark.parametrize(
    ("url", "code", "message"),
    [
        (data_url(b"no image"), "invalid_image_format", UNSUPPORTED),
        (data_url(encode("BMP"), "bmp"), "invalid_image_format", UNSUPPORTED),
        (data_url(animated(), "gif"), "invalid_image_format", UNSUPPORTED),
        (
            data_url(encode("PNG")[:120]),
            "image_parse_error",
            "The image could not be parsed. Please make sure that the file is complete and valid.",
        ),
        (
            "data:application/pdf;base64,JVBERi0=",
            "invalid_image_format",
            "Invalid MIME type. Only image types are supported.",
        ),
        ("data:image/png;base64,no base64!", "invalid_base64", "Invalid base64 image_url."),
        ("data:image/png;base64,", "invalid_base64", "Invalid base64 image_url."),
        ("data:image/png,abc", "invalid_base64", "Invalid base64 image_url."),
        (
            "file:///etc/passwd",
            "invalid_value",
            "Invalid 'messages[0].content[1].image_url.url'. Expected a valid URL, "
            "but got a value with an invalid format.",
        ),
        (
            None,
            "missing_required_parameter",
            "Missing required parameter: 'messages[0].content[1].image_url.url'.",
        ),
        (
            5,
            "invalid_type",
            "Invalid type for 'messages[0].content[1].image_url.url': expected a string, but got an integer instead.",
        ),
    ],
)
def test_an_image_that_is_none_is_refused(url: object, code: str, message: str) -> None:
    with pytest.raises(ApiError) as refusal:
        chat.answer(ExtractiveEngine(), chat_with(chat_part(url)))
    assert (refusal.value.status, refusal.value.code, refusal.value.message) == (400, code, message)


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAXIMUM_PIXELS", 1000)
    monkeypatch.setattr(images, "_main_colours", lambda _: pytest.fail("the image was decoded"))
    with pytest.raises(
        ApiError, match=r"The image has 100 × 11 pixels. The local Batch API accepts at most 1,000."
    ) as e:
        images.describe(images.Image(encode("PNG", (100, 11)), "", "low"))
    assert (e.value.status, e.value.code) == (400, "image_too_large")


IMAGE_URL = "input[0].content[1].image_url"
DATA_URL = (
    f"Invalid '{IMAGE_URL}'. Expected a base64-encoded data URL with an image MIME type "
    "(e.g. 'data:image/png;base64,aGVsbG8='), but got "
)


@pytest.mark.parametrize(
    ("part", "code", "message"),
    [
        (
            {"image_url": "x"},
            "invalid_value",
            f"Invalid '{IMAGE_URL}'. Expected a valid URL, but got a value with an invalid format.",
        ),
        ({"image_url": "data:image/png;base64,!"}, "invalid_value", f"{DATA_URL}an invalid base64-encoded value."),
        ({"image_url": "data:image/png;base64,"}, "invalid_value", f"{DATA_URL}empty base64-encoded bytes."),
        (
            {"image_url": "data:text/plain;base64,YQ=="},
            "invalid_value",
            f"{DATA_URL}unsupported MIME type 'text/plain'.",
        ),
        ({}, "missing_required_parameter", f"Missing required parameter: '{IMAGE_URL}'."),
        (
            {"file_id": "file-1"},
            "unsupported_parameter",
            "Unsupported parameter: 'input[0].content[1].file_id' is not supported with the built-in engine of the "
            "local Batch API.",
        ),
        (
            {"image_url": "https://x/y.png", "detail": "x"},
            "invalid_value",
            "Invalid value: 'x'. Supported values are: 'auto', 'low', 'high', and 'original'.",
        ),
    ],
)
def test_an_image_of_a_response_that_is_none_is_refused(part: dict[str, Any], code: str, message: str) -> None:
    with pytest.raises(ApiError) as refusal:
        responses.answer(ExtractiveEngine(), response_with(**part))
    assert (refusal.value.status, refusal.value.code, refusal.value.message) == (400, code, message)


def test_only_a_user_sends_images() -> None:
    body = chat_body(messages=[{"role": "tool", "content": [chat_part("https://x/y.png")]}])
    with pytest.raises(ApiError, match="Image URLs are only allowed for messages with role 'user'"):
        chat.answer(ExtractiveEngine(), body)


def test_a_batch_has_a_caption_for_each_image_and_an_error_for_a_broken_one(local_api: LocalApi) -> None:
    lines = [
        request_line(f"image-{number}", body=chat_with(chat_part(data_url(content))))
        for number, content in enumerate([encode("PNG"), b"broken", encode("PNG", (3, 3))])
    ]
    output, (failure,) = results(local_api, local_api.wait(submit(local_api, lines).id))
    captions = {line["custom_id"]: text_of(line["response"]["body"]).split(",")[0] for line in output}
    assert captions == {
        "image-0": "A PNG image of 640 × 480 pixels",
        "image-2": "A PNG image of 3 × 3 pixels",
    }
    assert failure["custom_id"] == "image-1"
    assert failure["response"]["body"]["error"]["code"] == "invalid_image_format"
    direct = post_json(local_api, "/v1/chat/completions", lines[1]["body"])
    assert (direct.status, direct.json) == (400, failure["response"]["body"])
