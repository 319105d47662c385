"""Draw a tiny data set: circles, squares and triangles in folders, a class a folder."""

import random
from pathlib import Path

from PIL import Image, ImageDraw

SIDE = 40
CLASSES = ("circle", "square", "triangle")


def draw(shape: str, rng: random.Random) -> Image.Image:
    """One shape of random size, place and colours."""
    background = tuple(rng.randrange(100) for _ in range(3))
    colour = tuple(rng.randrange(130, 256) for _ in range(3))
    radius = rng.randint(8, 14)
    x = rng.randint(radius + 2, SIDE - radius - 2)
    y = rng.randint(radius + 2, SIDE - radius - 2)
    box = (x - radius, y - radius, x + radius, y + radius)

    picture = Image.new("RGB", (SIDE, SIDE), background)
    pen = ImageDraw.Draw(picture)
    if shape == "circle":
        pen.ellipse(box, fill=colour)
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    else:
        pen.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], colour)
    return picture


def save(folder: Path, names: str, count: int, rng: random.Random) -> None:
    """`count` pictures of each class, named by `names`, a path with {shape} and {number}."""
    for shape in CLASSES:
        for number in range(count):
            path = folder / names.format(shape=shape, number=number)
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(shape, rng).save(path)


if __name__ == "__main__":
    rng = random.Random(0)
    save(Path("shapes/train"), "{shape}/{number}.png", 40, rng)
    save(Path("shapes/test"), "{shape}/{number}.png", 15, rng)
    save(Path("new"), "{shape}_{number}.png", 2, rng)
