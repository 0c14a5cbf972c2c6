"""Draws the pictures of the sample: `python tools/draw_pictures.py`. Each is a function from a place to a colour."""

import math
from collections.abc import Callable
from pathlib import Path

from PIL import Image

WIDTH, HEIGHT = 240, 160
FOLDER = Path(__file__).parent.parent / "batch_assets" / "sample" / "pictures"

Colour = tuple[int, int, int]
SKY, SEA, NIGHT, SAND = (142, 197, 232), (24, 78, 119), (18, 22, 54), (233, 196, 106)
GREEN, DARK_GREEN, RED, WHITE, GREY, BLACK = (
    (106, 153, 78), (56, 102, 65), (193, 18, 31), (250, 249, 246), (120, 124, 130), (26, 26, 26),
)  # fmt: skip
YELLOW, ORANGE, BROWN = (255, 214, 10), (244, 140, 6), (127, 85, 57)


def in_circle(x: float, y: float, centre_x: float, centre_y: float, radius: float) -> bool:
    return math.hypot(x - centre_x, y - centre_y) <= radius


def lighthouse(x: int, y: int) -> Colour:
    tower = abs(x - 170) <= 10 + (y - 40) / 12 and 40 <= y <= 120
    if in_circle(x, y, 170, 36, 9):
        return YELLOW
    if tower:
        return RED if (y - 40) // 16 % 2 == 0 else WHITE
    if y > 110 + 4 * math.sin(x / 9):
        return GREY if in_circle(x, y, 170, 150, 50) else SEA
    return SKY


def night_sky(x: int, y: int) -> Colour:
    if in_circle(x, y, 70, 50, 24) and not in_circle(x, y, 82, 44, 22):
        return YELLOW
    if (x * 73 + y * 151) % 997 < 4 and y < 110:
        return WHITE
    return BLACK if y > 120 + 14 * math.sin(x / 28) else NIGHT


def field(x: int, y: int) -> Colour:
    if in_circle(x, y, 190, 38, 20):
        return YELLOW
    if y < 80 + 8 * math.sin(x / 40):
        return SKY
    return GREEN if (x - 120) * 60 // (y - 40) // 12 % 2 else DARK_GREEN


def desert(x: int, y: int) -> Colour:
    cactus = (abs(x - 60) <= 7 and 60 <= y <= 130) or (48 <= y - 30 <= 56 and 60 <= x <= 90) or (
        abs(x - 88) <= 5 and 62 <= y <= 84
    )  # fmt: skip
    if cactus:
        return DARK_GREEN
    if in_circle(x, y, 180, 70, 26) and y < 100:
        return RED
    return SAND if y > 100 + 10 * math.sin(x / 35) else ORANGE


def chessboard(x: int, y: int) -> Colour:
    if 40 <= x < 200 and y < HEIGHT:
        return WHITE if (x // 20 + y // 20) % 2 else BLACK
    return BROWN


def traffic_light(x: int, y: int) -> Colour:
    for centre, colour in ((40, RED), (80, (90, 80, 20)), (120, (20, 70, 30))):
        if in_circle(x, y, 120, centre, 16):
            return colour
    return BLACK if abs(x - 120) <= 24 and 14 <= y <= 146 else GREY


PICTURES: dict[str, Callable[[int, int], Colour]] = {
    "lighthouse": lighthouse,
    "night-sky": night_sky,
    "field": field,
    "desert": desert,
    "chessboard": chessboard,
    "traffic-light": traffic_light,
}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, colour in PICTURES.items():
        pixels = bytes(part for y in range(HEIGHT) for x in range(WIDTH) for part in colour(x, y))
        Image.frombytes("RGB", (WIDTH, HEIGHT), pixels).save(FOLDER / f"{name}.png", optimize=True)
