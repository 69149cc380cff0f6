"""Make `scripts/assets/sprites` from the npm package `@lobehub/fluent-emoji-3d` (Microsoft's Fluent Emoji, MIT).

    npm pack @lobehub/fluent-emoji-3d && tar xzf lobehub-fluent-emoji-3d-*.tgz
    python scripts/toy/pick_sprites.py package/assets scripts/assets/sprites

Kept for whoever wants other nouns: the chosen pictures are in the repository. Needs `pip install emoji`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

# noun = emoji name, unless "noun: emoji name"
NOUNS = """
apple: red apple, pear, tangerine, lemon, banana, watermelon, strawberry, pineapple, tomato, coconut, avocado,
eggplant, carrot, mushroom, croissant, pretzel, hamburger, pizza, hot dog, taco, egg, doughnut, cookie,
birthday cake, cupcake, lollipop, teapot, wine glass, beer mug, soccer ball, basketball, football: american
football, baseball, boxing glove, trophy, kite, teddy bear, puzzle piece, joystick, bus, fire engine, tractor,
bicycle, motorcycle, locomotive, airplane, helicopter, rocket, sailboat, flying saucer, anchor, key, hammer,
axe, screwdriver, magnet, gear, light bulb, candle, umbrella, backpack, briefcase, pencil, camera, telephone,
television, radio, alarm clock, guitar, violin, trumpet, drum, accordion, microphone, bell, crown, top hat,
dress, scarf, handbag, ring, lipstick, basket, bucket, chair, bed, balloon, gift: wrapped gift, shield,
envelope, money bag, cactus, palm tree, sunflower, tulip, maple leaf, sun, cloud, snowman, star, fox, panda,
pig, frog, lion, cow, penguin, duck, owl, unicorn, butterfly, snail, turtle, octopus, crab, whale, elephant,
flamingo, spider, castle
"""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("assets", type=Path, help="folder with the package's pictures, named by code point")
    parser.add_argument("output", type=Path, help="folder for the cut-outs, 64 px WebP, named by noun")
    args = parser.parse_args()
    import emoji

    by_name = {d["en"].strip(":").replace("_", " ").lower(): c for c, d in emoji.EMOJI_DATA.items()}
    args.output.mkdir(parents=True, exist_ok=True)
    for entry in " ".join(NOUNS.split()).split(","):
        noun, _, name = (part.strip() for part in entry.partition(":"))
        points = [f"{ord(c):x}" for c in by_name[name or noun]]
        bare = "-".join(p for p in points if p != "fe0f")
        names = ("-".join(points), bare, f"{bare}-fe0f")
        file = next(f for n in names if (f := args.assets / f"{n}.webp").exists())
        with Image.open(file) as picture:
            small = picture.convert("RGBA").resize((64, 64), Image.Resampling.LANCZOS)
        small.save(args.output / f"{noun.replace(' ', '_')}.webp", quality=90, method=6)


if __name__ == "__main__":
    main()
